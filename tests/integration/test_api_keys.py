"""`/v2/keys` and `/v2/me`: keys that make keys, and what a key says about itself."""

from typing import Any

import httpx
import pytest

from queue_engine import __version__
from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS, hash_of
from tests.api_server import RunningApi, running_api
from tests.waiting import wait_until_async

READER = {"name": "dashboard", "role": "read"}


async def made(api: RunningApi, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/v2/keys", READER | fields)
    assert answer.status_code == 200, answer.text
    key: dict[str, Any] = answer.json()["data"]
    return key


async def listed(api: RunningApi, key: str | None = None, **query: int) -> list[dict[str, Any]]:
    headers = {} if key is None else {"X-Api-Key": key}
    answer = await api.client.get("/v2/keys", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["data"]["items"]
    return items


async def own_keys(api: RunningApi) -> list[str]:
    return [one["id"] for one in await listed(api)]


def refused(answer: httpx.Response, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert text in answer.json()["message"]


async def test_a_new_key_is_shown_once_and_works(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    end = await api.store.now_ms() + 60_000
    key = await made(api, role="submit", endpoints=[endpoint_id], expiresAt=end)
    secret = key.pop("key")
    assert key == {
        "id": hash_of(secret)[:16], "name": "dashboard", "role": "submit", "endpoints": [endpoint_id],
        "createdAt": key["createdAt"], "expiresAt": end, "lastUsedAt": None, "replaced": False,
        "maxSubmitsPerSecond": None,
    }  # fmt: skip
    assert (await listed(api))[0] == key
    assert secret not in (await api.client.get("/v2/keys")).text
    assert not [name for name in await api.store.redis.keys("*") if secret.encode() in name]
    assert (await api.store.redis.hgetall(f"{{qe}}:key:{hash_of(secret)}"))[b"role"] == b"submit"  # type: ignore[misc]
    api.client.headers["X-Api-Key"] = secret
    assert (await api.submit(endpoint_id)).status_code == 200
    refused(await api.client.get("/v2/keys"), 403, "the role submit does not allow this")


async def test_the_latest_use_of_a_key_is_shown(api: RunningApi) -> None:
    key = await made(api)
    before = await api.store.now_ms()
    assert (await api.client.get("/v2/me", headers={"X-Api-Key": key["key"]})).status_code == 200
    used = {one["id"]: one["lastUsedAt"] for one in await listed(api)}[key["id"]]
    assert before <= used <= await api.store.now_ms()


async def test_keys_are_listed_in_pages_of_the_own_tenant(api: RunningApi) -> None:
    await api.new_key("stranger")
    ids = [(await made(api, name=f"key {number}"))["id"] for number in range(4)]
    answer = (await api.client.get("/v2/keys", params={"pageSize": 2, "pageNumber": 2})).json()["data"]
    assert {name: answer[name] for name in ("page", "size", "total", "pages")} == {
        "page": 2, "size": 2, "total": 5, "pages": 3,
    }  # fmt: skip
    seen = [one["id"] for number in (1, 2, 3) for one in await listed(api, pageSize=2, pageNumber=number)]
    assert sorted(seen) == sorted([*ids, hash_of(api.key)[:16]])
    refused(await api.client.get("/v2/keys", params={"pageSize": 0}), 400, "pageSize: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": None}, "name: is required"),
        ({"name": ""}, "name: must be at least 1"),
        ({"name": "a\nb"}, "name: must not have control characters"),
        ({"name": "x" * 101}, "name: must be at most 100"),
        ({"role": None}, "role: is required"),
        ({"role": "operator"}, "role: must be 'read', 'submit', 'operate' or 'admin'"),
        ({"role": "Admin"}, "role: must be "),
        ({"endpoints": []}, "endpoints: must have 1 items or more"),
        ({"endpoints": ["x"]}, "endpoints[0]: must be the id of an endpoint"),
        ({"endpoints": ["7"]}, "endpoints: unknown endpoint 7"),
        ({"endpoints": ["1"] * 101}, "endpoints: must have 100 items or fewer"),
        ({"expiresAt": 1}, "expiresAt: must be in the future"),
        ({"expiresAt": 0}, "expiresAt: must be at least 1"),
        ({"expiresAt": "soon"}, "expiresAt: must be an integer"),
    ],
)
async def test_an_invalid_key_is_refused_with_its_field(api: RunningApi, fields: dict[str, Any], message: str) -> None:
    before = await own_keys(api)
    refused(await api.post("/v2/keys", READER | fields), 400, message)
    assert await own_keys(api) == before


async def test_another_tenants_endpoint_is_unknown(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    api.client.headers["X-Api-Key"] = await api.new_key("stranger")
    refused(await api.post("/v2/keys", READER | {"endpoints": [endpoint_id]}), 400, "unknown endpoint")


@pytest.mark.parametrize("role", [Role.READ, Role.SUBMIT, Role.OPERATE, Role.OPERATOR])
async def test_only_an_admin_makes_keys(api: RunningApi, role: Role) -> None:
    api.client.headers["X-Api-Key"] = await api.new_key(OPERATORS if role is Role.OPERATOR else "default", role=role)
    refused(await api.post("/v2/keys", READER), 403, f"the role {role} does not allow this: it needs admin")


async def test_a_key_for_some_endpoints_makes_no_key_for_others(api: RunningApi) -> None:
    inside, outside = await api.create_endpoint(), await api.create_endpoint(name="outside")
    wide = await made(api, endpoints=[inside, outside])
    limited = (await made(api, role="admin", endpoints=[inside]))["key"]
    api.client.headers["X-Api-Key"] = limited
    refused(await api.post("/v2/keys", READER | {"endpoints": [outside]}), 400, f"unknown endpoint {outside}")
    refused(await api.post("/v2/keys", READER | {"endpoints": [inside, outside]}), 400, f"unknown endpoint {outside}")
    assert (await made(api))["endpoints"] == [inside]
    assert {tuple(one["endpoints"]) for one in await listed(api)} == {(inside,)}
    for key_id in (wide["id"], hash_of(api.key)[:16]):
        refused(await api.client.delete(f"/v2/keys/{key_id}"), 404, "key not found")
        refused(await api.client.post(f"/v2/keys/{key_id}/rotate"), 404, "key not found")
    api.client.headers["X-Api-Key"] = api.key
    assert wide["id"] in await own_keys(api)


async def test_a_key_with_an_end_makes_no_key_that_lives_longer(api: RunningApi) -> None:
    end = await api.store.now_ms() + 60_000
    longer = await made(api)
    key = await made(api, role="admin", expiresAt=end)
    api.client.headers["X-Api-Key"] = key["key"]
    refused(await api.post("/v2/keys", READER | {"expiresAt": end + 1}), 400, "expiresAt: must not be after the end")
    assert (await made(api))["expiresAt"] == end
    assert (await made(api, expiresAt=end - 1))["expiresAt"] == end - 1
    refused(await api.client.post(f"/v2/keys/{longer['id']}/rotate"), 403, "lives longer")
    assert (await api.client.post(f"/v2/keys/{key['id']}/rotate")).json()["data"]["expiresAt"] == end


async def test_a_key_with_a_rate_replaces_no_key_that_is_faster(api: RunningApi) -> None:
    faster = [await made(api), await made(api, maxSubmitsPerSecond=6)]
    slow = await made(api, role="admin", maxSubmitsPerSecond=5)
    api.client.headers["X-Api-Key"] = slow["key"]
    for key in faster:
        refused(await api.client.post(f"/v2/keys/{key['id']}/rotate"), 403, "submit more per second than itself")
    assert (await api.client.post(f"/v2/keys/{slow['id']}/rotate")).json()["data"]["maxSubmitsPerSecond"] == 5


async def test_a_revoked_key_stops_working_and_is_not_listed(api: RunningApi) -> None:
    key = await made(api)
    headers = {"X-Api-Key": key["key"]}
    assert (await api.client.get("/v2/serverless", headers=headers)).status_code == 200
    assert (await api.client.delete(f"/v2/keys/{key['id']}")).json()["data"] is True

    async def is_refused() -> bool:
        return (await api.client.get("/v2/serverless", headers=headers)).status_code == 401

    await wait_until_async(is_refused, message="the revoked key still works")
    assert key["id"] not in await own_keys(api)
    refused(await api.client.delete(f"/v2/keys/{key['id']}"), 404, "key not found")


async def test_a_rotated_key_works_beside_the_new_one_until_the_end_of_the_overlap(api: RunningApi) -> None:
    old = await made(api)
    answer = await api.client.post(f"/v2/keys/{old['id']}/rotate", params={"overlapSeconds": 3600})
    new = answer.json()["data"]
    assert (new["name"], new["role"], new["expiresAt"]) == ("dashboard", "read", None)
    for key in (old, new):
        assert (await api.client.get("/v2/serverless", headers={"X-Api-Key": key["key"]})).status_code == 200
    replaced = next(one for one in await listed(api) if one["id"] == old["id"])
    assert replaced["replaced"]
    assert 0 < replaced["expiresAt"] - await api.store.now_ms() <= 3_600_000
    refused(await api.client.post(f"/v2/keys/{old['id']}/rotate"), 409, "rotated before")

    await api.client.post(f"/v2/keys/{new['id']}/rotate", params={"overlapSeconds": 0})

    async def is_refused() -> bool:
        return (await api.client.get("/v2/serverless", headers={"X-Api-Key": new["key"]})).status_code == 401

    await wait_until_async(is_refused, message="the key without an overlap still works")
    refused(await api.client.post(f"/v2/keys/{old['id']}/rotate?overlapSeconds=604801"), 400, "overlapSeconds: ")


@pytest.mark.parametrize("key_id", ["x", "0" * 15, "0" * 64, "0" * 16, "A" * 16])
async def test_an_unknown_key_is_not_found(api: RunningApi, key_id: str) -> None:
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        answer = await api.client.request(method, f"/v2/keys/{key_id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, 10007)


async def test_another_tenants_key_is_not_found(api: RunningApi) -> None:
    key = await made(api)
    stranger = {"X-Api-Key": await api.new_key("stranger")}
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        answer = await api.client.request(method, f"/v2/keys/{key['id']}{path}", headers=stranger)
        refused(answer, 404, "key not found")
    assert key["id"] in await own_keys(api)
    assert key["id"] not in {one["id"] for one in await listed(api, stranger["X-Api-Key"])}


async def test_a_key_with_a_role_of_a_later_version_is_shown_and_revoked_and_allows_nothing(api: RunningApi) -> None:
    key = await made(api)
    await api.store.redis.hset(f"{{qe}}:key:{hash_of(key['key'])}", "role", "auditor")  # type: ignore[misc]
    headers = {"X-Api-Key": key["key"]}
    for path in ("/v2/me", "/v2/serverless", "/v2/keys"):
        refused(await api.client.get(path, headers=headers), 403, "the role auditor does not allow this")
    assert {one["id"]: one["role"] for one in await listed(api)}[key["id"]] == "auditor"
    refused(
        await api.client.post(f"/v2/keys/{key['id']}/rotate"), 409, "role auditor, which this version does not know"
    )
    limited = await made(api, role="admin", endpoints=[await api.create_endpoint()])
    answer = await api.client.delete(f"/v2/keys/{key['id']}", headers={"X-Api-Key": limited["key"]})
    refused(answer, 404, "key not found")
    assert (await api.client.delete(f"/v2/keys/{key['id']}")).status_code == 200


async def test_a_key_describes_itself(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    key = await made(api, role="operate", endpoints=[endpoint_id], expiresAt=4_102_444_800_000)
    me = (await api.client.get("/v2/me", headers={"X-Api-Key": key["key"]})).json()["data"]
    assert abs(me.pop("time") - await api.store.now_ms()) < 60_000
    assert me == {
        "tenant": "default", "keyId": key["id"], "keyName": "dashboard", "role": "operate",
        "rights": ["identify", "view", "view_task", "submit", "cancel", "operate"],
        "endpoints": [endpoint_id], "expiresAt": 4_102_444_800_000, "version": __version__, "maxSubmitsPerSecond": None,
        "environment": None, "traceUrl": None,
    }  # fmt: skip
    me = (await api.client.get("/v2/me")).json()["data"]
    assert (me["role"], me["endpoints"], me["expiresAt"]) == ("admin", None, None)
    operator = {"X-Api-Key": await api.new_key(OPERATORS, role=Role.OPERATOR)}
    me = (await api.client.get("/v2/me", headers=operator)).json()["data"]
    assert (me["tenant"], me["role"], me["rights"]) == (None, "operator", ["identify", "manage_tenants"])


async def test_the_installation_is_described(valkey_url: str) -> None:
    traces = "https://traces.example/{traceId}?from=1"
    async with running_api(valkey_url, environment="eu staging.2", trace_url=traces) as api:
        me = (await api.client.get("/v2/me")).json()["data"]
    assert (me["environment"], me["traceUrl"]) == ("eu staging.2", traces)
