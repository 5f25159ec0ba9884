"""Every route with every role, with another tenant's key, with ended keys, and outside the key's list of endpoints."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from queue_engine.api.agent.routes import AgentRoute
from queue_engine.api.http.operations import DescribedRoute, Operation
from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS, hash_of
from tests.api_server import ENDPOINT, TASK, RunningApi, running_api
from tests.waiting import wait_until_async

READ, SUBMIT, OPERATE, ADMIN, OPERATOR = Role.READ, Role.SUBMIT, Role.OPERATE, Role.ADMIN, Role.OPERATOR
VIEWERS = {READ, OPERATE, ADMIN}
SUBMITTERS = {SUBMIT, OPERATE, ADMIN}
ANY = VIEWERS | SUBMITTERS
OPERATING = {OPERATE, ADMIN}
ADMINS = {ADMIN}
OPERATOR_ONLY = {OPERATOR}

PUBLIC = {"show_index", "is_alive", "is_ready", "show_metrics", "show_openapi", "show_docs"}
ALB = {f"forward_{method}" for method in ("get", "post", "put", "patch", "delete", "head", "options")}

# Not made from the code: a route that is missing here, or that allows another role, fails.
ROLES: dict[str, set[Role]] = {
    **dict.fromkeys(("submit_task", "submit_batch", "clone_task"), SUBMITTERS),
    "list_tasks": VIEWERS,
    "count_tasks": VIEWERS,
    "export_tasks": VIEWERS,
    "list_errors": VIEWERS,
    **dict.fromkeys(("get_series", "get_series_of_all"), VIEWERS),
    **dict.fromkeys(("get_task", "wait_for_tasks", "list_deliveries", "list_attempts"), ANY),
    **dict.fromkeys(("get_task_input", "get_task_output"), ANY),
    "cancel_task": SUBMITTERS,
    "retry_task": OPERATING,
    **dict.fromkeys(("retry_delivery", "redeliver_result", "recover_deliveries", "cancel_recovery"), OPERATING),
    **dict.fromkeys(("list_given_up", "get_recovery"), VIEWERS),
    **dict.fromkeys(("list_destinations", "get_destination"), VIEWERS),
    **dict.fromkeys(("resume_destination", "test_webhook"), OPERATING),
    "delete_task": ADMINS,
    **dict.fromkeys(("start_operation", "cancel_operation"), OPERATING),
    **dict.fromkeys(("list_operations", "get_operation", "list_all_operations"), VIEWERS),
    "create_endpoint": ADMINS,
    "list_endpoints": VIEWERS,
    "get_endpoint": VIEWERS,
    "update_endpoint": ADMINS,
    "delete_endpoint": ADMINS,
    **dict.fromkeys(("start_endpoint", "stop_endpoint", "scale_endpoint", "scale_endpoint_by_path"), OPERATING),
    **dict.fromkeys(("pause_endpoint", "resume_endpoint"), OPERATING),
    **dict.fromkeys(("list_workers", "list_all_workers"), VIEWERS),
    **dict.fromkeys(("restart_worker", "drain_worker"), OPERATING),
    **dict.fromkeys(("get_webhook_secret", "rotate_webhook_secret"), ADMINS),
    **dict.fromkeys(("get_logs", "get_endpoint_logs"), VIEWERS),
    "list_credentials": VIEWERS,
    "get_credential": VIEWERS,
    **dict.fromkeys(("create_credential", "update_credential", "delete_credential"), ADMINS),
    **dict.fromkeys(ALB, SUBMITTERS),
    "show_me": set(Role),
    "create_console_link": set(Role),
    **dict.fromkeys(("list_templates", "get_catalogue"), VIEWERS),
    "get_system": set(Role),
    **dict.fromkeys(("follow_events", "search"), ANY),
    **dict.fromkeys(("create_key", "list_keys", "rotate_key", "revoke_key"), ADMINS),
    **dict.fromkeys(("create_agent_token", "list_agent_tokens", "revoke_agent_token"), ADMINS),
    "list_changes": ADMINS,
    **dict.fromkeys(("create_tenant", "list_tenants", "get_tenant", "limit_tenant"), OPERATOR_ONLY),
}
TENANT_WIDE = {
    "create_endpoint",
    "list_changes",
    *("list_destinations", "get_destination", "resume_destination"),
    *("create_credential", "list_credentials", "get_credential", "update_credential", "delete_credential"),
}
"""Routes that a key with a list of endpoints may not use."""
LISTS = {"list_endpoints", "list_all_workers", "list_credentials", "list_all_operations"}

UNKNOWN = {
    "id": "987654", "taskId": "none", "workerId": "none", "count": "1", "path": "x", "keyId": "0" * 16,
    "tokenId": "0" * 16, "tenantName": "none", "operationId": "none", "origin": "https:none:443",
}  # fmt: skip
"""Values of path parameters, of things that do not exist."""
RECOVER = {"since": 0}
WAIT = {"taskIds": ["a"], "wait": 0}
START = {"action": "cancel", "taskIds": ["a"]}
CREDENTIAL = {"name": "a", "type": "PRIVATE", "username": "robot", "password": "secret"}

FORBIDDEN, NOT_FOUND, UNAUTHORIZED = (403, 40301), (404, 14000), (401, 40101)


def routes_of(api: RunningApi) -> list[DescribedRoute]:
    routes = [route for route in api.app.routes if isinstance(route, Route)]
    described = [route for route in routes if isinstance(route, DescribedRoute)]
    assert routes == described, "a route declares no right"
    # The console's own routes have sessions: see test_console.py.
    return [one for one in described if not isinstance(one, AgentRoute) and not one.path.startswith("/console")]


def is_of_an_endpoint(route: DescribedRoute) -> bool:
    return route.path.startswith(("/v2/serverless/{id}", "/e/{id}"))


def with_key(api: RunningApi) -> Iterator[DescribedRoute]:
    return (route for route in routes_of(api) if route.name not in PUBLIC)


async def call(api: RunningApi, route: DescribedRoute, key: str | None, **ids: str) -> httpx.Response:
    """Send a request to the route. Ids that are not given are of things that do not exist."""
    path = route.path_format.format(**{name: (UNKNOWN | ids)[name] for name in route.param_convertors})
    (method,) = route.methods or set[str]()
    body = {"submit_task": TASK, "wait_for_tasks": WAIT, "recover_deliveries": RECOVER, "start_operation": START}.get(
        route.name
    )
    headers = {} if key is None else {"X-Api-Key": key}
    async with httpx.AsyncClient(base_url=api.url, headers=headers) as client:
        return await client.request(method, path, json=body, params={"count": "1"})


def result_of(answer: httpx.Response) -> tuple[int, int]:
    """Return status and code. The response to HEAD has no body, so its code is 0."""
    return answer.status_code, answer.json()["code"] if answer.content else 0


def assert_is(answer: httpx.Response, expected: tuple[int, int], route: DescribedRoute) -> None:
    status, code = result_of(answer)
    assert status == expected[0], (route.name, answer.text)
    expected_code = 0 if answer.request.method == "HEAD" else expected[1]
    assert code == expected_code, (route.name, answer.text)


async def key_of(api: RunningApi, role: Role, **limits: Any) -> str:
    return await api.new_key(OPERATORS if role is OPERATOR else "default", role=role, **limits)


def test_a_route_without_a_right_fails_at_start() -> None:
    async def handler(_: Any) -> Any:
        raise NotImplementedError

    with pytest.raises(TypeError, match="right"):
        Operation("GET", "/v2/x", handler, summary="x", tag="x")  # type: ignore[call-arg]


async def test_the_table_of_roles_has_every_route(api: RunningApi) -> None:
    assert {route.name for route in routes_of(api)} == ROLES.keys() | PUBLIC


@pytest.mark.parametrize("role", Role)
async def test_a_role_allows_its_calls_and_no_others(api: RunningApi, role: Role) -> None:
    before = await api.keys_stored()
    key = await key_of(api, role)
    for route in with_key(api):
        answer = await call(api, route, key)
        if role in ROLES[route.name]:
            assert answer.status_code not in (401, 403), (route.name, answer.text)
        else:
            assert_is(answer, FORBIDDEN, route)
            assert f"the role {role} does not allow this" in answer.text or not answer.content
    # The new key, its index, the set of limited keys, and a link with its index. The calls have created nothing else.
    assert await api.keys_stored() <= before + 5


async def test_no_role_allows_the_calls_of_agents(api: RunningApi) -> None:
    calls = [route for route in api.app.routes if isinstance(route, AgentRoute)]
    assert len(calls) == 11
    for key in [None, *[await key_of(api, role) for role in Role]]:
        for route in calls:
            assert_is(await call(api, route, key), UNAUTHORIZED, route)


async def test_routes_without_a_key_take_any_key(api: RunningApi) -> None:
    keys = [None, "nobody", await key_of(api, READ), await key_of(api, OPERATOR)]
    for route in routes_of(api):
        if route.name in PUBLIC:
            assert [(await call(api, route, key)).status_code for key in keys] == [200] * 4


async def test_ended_keys_and_no_key_open_nothing(valkey_url: str) -> None:
    async with running_api(valkey_url, unknown_keys_per_minute=0) as api:
        endpoint_id = await api.create_endpoint()
        expired = await key_of(api, ADMIN, expires_at_ms=await api.store.now_ms() + 1000)
        revoked = {role: await key_of(api, role) for role in Role}
        for key in revoked.values():
            await api.store.api_keys.revoke(hash_of(key))

        async def has_ended() -> bool:
            return await api.store.api_keys.find(hash_of(expired)) is None

        await wait_until_async(has_ended, message="the key does not expire")
        for route in with_key(api):
            for ended in (None, "nobody", expired, *revoked.values()):
                assert_is(await call(api, route, ended, id=endpoint_id), UNAUTHORIZED, route)


async def test_an_expired_key_stops_working_although_it_was_cached(api: RunningApi) -> None:
    key = await key_of(api, ADMIN, expires_at_ms=await api.store.now_ms() + 1000)
    headers = {"X-Api-Key": key}
    assert (await api.client.get("/v2/serverless", headers=headers)).status_code == 200

    async def is_refused() -> bool:
        return (await api.client.get("/v2/serverless", headers=headers)).status_code == 401

    await wait_until_async(is_refused, message="the expired key still works")


async def test_another_tenants_key_sees_nothing(api: RunningApi) -> None:
    endpoint_id, alb = await api.create_endpoint(), await api.create_endpoint(serviceMode="ALB")
    await api.submit(endpoint_id, taskId="a")
    before = (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()
    stranger = await api.new_key("stranger")
    for route in with_key(api):
        if is_of_an_endpoint(route):
            one = alb if route.name in ALB else endpoint_id
            assert_is(await call(api, route, stranger, id=one, taskId="a"), NOT_FOUND, route)
        elif route.name in LISTS:
            listed = (await call(api, route, stranger)).json()["data"]
            assert (listed["items"] if isinstance(listed, dict) else listed) == []
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}")).json() == before


@pytest.mark.parametrize("role", [READ, SUBMIT, OPERATE, ADMIN])
async def test_an_endpoint_outside_the_keys_list_does_not_exist(api: RunningApi, role: Role) -> None:
    inside, outside = await api.create_endpoint(), await api.create_endpoint(name="outside")
    alb = await api.create_endpoint(serviceMode="ALB")
    await api.submit(outside, taskId="a")
    before = (await api.client.get(f"/v2/serverless/{outside}")).json()
    key = await key_of(api, role, endpoints=frozenset({inside}))
    for route in with_key(api):
        one = alb if route.name in ALB else outside
        answer = await call(api, route, key, id=one, taskId="a")
        if role not in ROLES[route.name] or route.name in TENANT_WIDE:
            assert_is(answer, FORBIDDEN, route)
        elif is_of_an_endpoint(route):
            assert_is(answer, NOT_FOUND, route)
    assert (await api.client.get(f"/v2/serverless/{outside}")).json() == before
    listed = await api.client.get("/v2/serverless", headers={"X-Api-Key": key})
    if role is not SUBMIT:
        assert [one["id"] for one in listed.json()["data"]] == [inside]


async def test_a_key_for_some_endpoints_works_on_these(api: RunningApi) -> None:
    inside = await api.create_endpoint()
    api.client.headers["X-Api-Key"] = await key_of(api, ADMIN, endpoints=frozenset({inside}))
    assert (await api.submit(inside, taskId="a")).status_code == 200
    base = f"/v2/serverless/{inside}"
    assert (await api.client.get(f"{base}/tasks/a")).status_code == 200
    assert (await api.client.patch(base, json={"name": "renamed"})).json()["data"]["name"] == "renamed"
    answer = await api.post("/v2/serverless", ENDPOINT)
    assert result_of(answer) == FORBIDDEN
    assert "limited to some endpoints" in answer.text


async def test_a_key_for_some_endpoints_gives_them_no_other_credential(api: RunningApi) -> None:
    present, other = [
        (await api.post("/v2/container-registry-auths", CREDENTIAL)).json()["data"]["id"] for _ in range(2)
    ]
    inside = await api.create_endpoint(containerRegistryAuthId=present)
    path = f"/v2/serverless/{inside}"
    admin = {"X-Api-Key": api.client.headers["X-Api-Key"]}
    api.client.headers["X-Api-Key"] = await key_of(api, ADMIN, endpoints=frozenset({inside}))
    for rest in ({}, {"workers": -1}):
        refused = [
            await api.client.patch(path, json={"containerRegistryAuthId": one} | rest) for one in (other, other + 1000)
        ]
        assert [result_of(answer) for answer in refused] == [FORBIDDEN] * 2
        assert refused[0].json()["message"] == refused[1].json()["message"]
    changed = await api.client.patch(path, json={"containerRegistryAuthId": present, "name": "renamed"})
    assert (changed.status_code, changed.json()["data"]["containerRegistryAuthId"]) == (200, present)
    unused = await api.client.delete(f"/v2/container-registry-auths/{other}", headers=admin)
    assert unused.status_code == 200


async def test_a_submit_key_reads_and_cancels_only_its_own_tasks(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    base = f"/v2/serverless/{endpoint_id}/tasks"
    await api.submit(endpoint_id, taskId="admins")
    keys = [await key_of(api, SUBMIT) for _ in range(2)]
    for number, key in enumerate(keys):
        api.client.headers["X-Api-Key"] = key
        assert (await api.submit(endpoint_id, taskId=f"own_{number}")).status_code == 200
    for path in ("", "/attempts", "/deliveries"):
        assert (await api.client.get(f"{base}/own_1{path}")).status_code == 200
        for other in ("own_0", "admins", "none"):
            assert result_of(await api.client.get(f"{base}/{other}{path}")) == (404, 24011)
    for other in ("own_0", "admins"):
        assert result_of(await api.client.post(f"{base}/{other}/cancel")) == (404, 24011)
    assert (await api.client.post(f"{base}/own_1/cancel")).json()["data"]["state"] == "cancelled"

    api.client.headers["X-Api-Key"] = api.key
    states = {one["taskId"]: one["state"] for one in (await api.client.get(base)).json()["data"]["items"]}
    assert states == {"admins": "queued", "own_0": "queued", "own_1": "cancelled"}
    assert "submitter" not in (await api.client.get(f"{base}/own_0")).text


async def test_a_rotated_submit_key_still_reads_its_tasks(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    old = await key_of(api, SUBMIT)
    api.client.headers["X-Api-Key"] = old
    await api.submit(endpoint_id, taskId="own")
    stored = await api.store.api_keys.find(hash_of(old))
    assert stored is not None
    await api.store.api_keys.rotate(stored, "qe_new", overlap_ms=60_000)
    for key in (old, "qe_new"):
        answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/own", headers={"X-Api-Key": key})
        assert answer.status_code == 200


async def test_an_operate_key_operates(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    api.client.headers["X-Api-Key"] = await key_of(api, OPERATE)
    base = f"/v2/serverless/{endpoint_id}"
    assert (await api.submit(endpoint_id, taskId="a")).status_code == 200
    for method, path in (
        ("POST", "/tasks/a/cancel"), ("POST", "/tasks/a/retry"), ("GET", "/tasks"), ("PUT", "/workers?count=2"),
        ("POST", "/stop"), ("POST", "/start"),
    ):  # fmt: skip
        assert (await api.client.request(method, base + path)).status_code == 200, path
