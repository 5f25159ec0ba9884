"""Keys and tenants: nobody gets in without a key, and nobody sees another's things."""

import logging
from typing import Any

import httpx
import pytest

from queue_engine.engine.principals import CACHE_SECONDS
from queue_engine.store.api_keys import hash_of
from tests.api_server import ENDPOINT, TASK, RunningApi, running_api
from tests.waiting import wait_until_async

CALLS = [
    ("POST", "/v2/serverless"),
    ("GET", "/v2/serverless"),
    ("GET", "/v2/serverless/{id}"),
    ("GET", "/v2/serverless/{id}/workers"),
    ("GET", "/v2/serverless/{id}/webhook-secret"),
    ("POST", "/v2/serverless/{id}/webhook-secret/rotate"),
    ("POST", "/v2/serverless/{id}/tasks"),
    ("GET", "/v2/serverless/{id}/tasks"),
    ("GET", "/v2/serverless/{id}/tasks/count"),
    ("GET", "/v2/serverless/{id}/tasks/{task}"),
    ("GET", "/v2/serverless/{id}/tasks/{task}/deliveries"),
    ("GET", "/v2/serverless/{id}/tasks/{task}/attempts"),
    ("POST", "/v2/serverless/{id}/tasks/{task}/cancel"),
    ("POST", "/v2/serverless/{id}/tasks/{task}/retry"),
    ("DELETE", "/v2/serverless/{id}/tasks/{task}"),
    ("POST", "/v2/container-registry-auths"),
    ("GET", "/v2/container-registry-auths"),
    *((method, "/v2/container-registry-auths/1") for method in ("GET", "PATCH", "DELETE")),
]
BODIES = {"/v2/serverless": ENDPOINT, "/v2/serverless/{id}/tasks": TASK}
UNAUTHORIZED = {"message": "X-Api-Key: one valid API key is required", "code": 40101, "data": None}


async def _call(
    api: RunningApi, call: tuple[str, str], headers: list[tuple[str, str]], *, endpoint_id: str = "1", task: str = "a"
) -> httpx.Response:
    """Send exactly these headers, by the connections of the test's client, because a client takes longer to make."""
    method, template = call
    url = f"{api.url}{template.format(id=endpoint_id, task=task)}"
    body = BODIES.get(template) if method == "POST" else None
    return await api.client.send(httpx.Request(method, url, headers=headers, json=body))


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
async def test_without_one_valid_key_every_call_gets_the_same_response(api: RunningApi, call: tuple[str, str]) -> None:
    key = ("X-Api-Key", api.key)
    before = await api.keys_stored()
    bad: list[list[tuple[str, str]]] = [
        [],
        [("X-Api-Key", "")],
        [("X-Api-Key", "nobody")],
        [("X-Api-Key", "x" * 10_240)],
        [("X-Api-Key", api.key + "x")],
        [("X-Api-Key", f"{api.key} {api.key}")],
        [("X-Api-Key", f"{api.key}, {api.key}")],
        [key, key],
        [key, ("x-api-key", "nobody")],
        [("X-Api-Key", "nobody"), key],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", api.key)],
        [("Authorization", f"Basic {api.key}")],
        [("Authorization", f"Bearer{api.key}")],
        [("Authorization", f"Bearer\t{api.key}")],
        [("Authorization", f"Bearer {api.key}x")],
        [("Authorization", f"Bearer {api.key} {api.key}")],
        [("Authorization", f"Bearer {api.key}, Bearer {api.key}")],
        [("Authorization", f"Bearer {api.key}"), ("Authorization", f"Bearer {api.key}")],
        [key, ("Authorization", f"Bearer {api.key}")],
        [key, ("Authorization", "Bearer nobody")],
        [key, ("Authorization", "")],
        [key, ("Authorization", "Basic eDp5")],
        [("X-Api-Key", "*")],
        [("X-Api-Key", hash_of(api.key))],
    ]
    for headers in bad:
        answer = await _call(api, call, headers)
        assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED), headers
    assert await api.keys_stored() == before


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_a_bearer_token_opens_what_the_key_header_opens(api: RunningApi, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {api.key}"}
    async with httpx.AsyncClient(base_url=api.url, headers=headers) as client:
        assert (await client.post("/v2/serverless", json=ENDPOINT)).status_code == 200
        assert (await client.post("/v2/serverless/1/tasks", json=TASK)).status_code == 200
        assert (await client.get("/v2/serverless/1/tasks")).json()["data"]["total"] == 1


DELIVERY = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
WRITES = [
    call
    for call in [
        *CALLS,
        ("PATCH", "/v2/serverless/{id}"),
        ("DELETE", "/v2/serverless/{id}"),
        ("PUT", "/v2/serverless/{id}/workers?count=3"),
        ("PUT", "/v2/serverless/{id}/workers/3"),
        ("POST", "/v2/serverless/{id}/start"),
        ("POST", "/v2/serverless/{id}/stop"),
    ]
    if call[0] != "GET"
]


@pytest.mark.parametrize("call", WRITES, ids=" ".join)
async def test_a_webhook_delivery_changes_nothing(api: RunningApi, call: tuple[str, str]) -> None:
    endpoint_id = await api.create_endpoint()
    await api.submit(endpoint_id, taskId="a")
    before = await _seen(api)
    for extra in ([], [("X-Api-Key", api.key)], [("x-api-key", api.key), ("Webhook-Id", "")]):
        answer = await _call(api, call, [*DELIVERY.items(), *extra])
        assert (answer.status_code, answer.json()["code"]) == (400, 10001)
        assert answer.json()["message"].startswith("webhook-id: ")
    assert await _seen(api) == before


async def _seen(api: RunningApi) -> list[Any]:
    """Return the endpoint, its task and its list of tasks, without the time at which the task was looked at."""
    seen = [(await api.client.get(f"/v2/serverless/1{path}")).json() for path in ("", "/tasks/a", "/tasks")]
    del seen[1]["data"]["waiting"]["asOf"]
    return seen


async def test_reading_with_a_webhook_id_and_writing_with_another_header_pass(api: RunningApi) -> None:
    key = ("X-Api-Key", api.key)
    assert (await _call(api, ("GET", "/v2/serverless"), [key, *DELIVERY.items()])).status_code == 200
    assert (await _call(api, ("POST", "/v2/serverless"), [key, ("webhook_id", "1")])).status_code == 200


async def test_a_key_in_the_query_opens_nothing(api: RunningApi) -> None:
    async with httpx.AsyncClient(base_url=api.url) as client:
        for name in ("X-Api-Key", "apiKey", "api_key"):
            assert (await client.get("/v2/serverless", params={name: api.key})).status_code == 401


@pytest.mark.parametrize("call", [call for call in CALLS if "{id}" in call[1]], ids=" ".join)
async def test_anothers_endpoint_looks_like_one_that_never_was(api: RunningApi, call: tuple[str, str]) -> None:
    endpoint_id = await api.create_endpoint()
    await api.submit(endpoint_id, taskId="a")
    stranger = [("X-Api-Key", await api.new_key("stranger"))]
    before = await api.keys_stored()
    anothers = await _call(api, call, stranger, endpoint_id=endpoint_id)
    never_was = await _call(api, call, stranger, endpoint_id="123456")
    assert (anothers.status_code, anothers.json()["code"]) == (404, 14000)
    assert anothers.json() == never_was.json()
    assert await api.keys_stored() == before


async def test_a_list_holds_ones_own_endpoints_only(api: RunningApi) -> None:
    mine = await api.create_endpoint()
    stranger = [("X-Api-Key", await api.new_key("stranger"))]
    theirs = (await _call(api, ("POST", "/v2/serverless"), stranger)).json()["data"]["id"]
    listed = (await _call(api, ("GET", "/v2/serverless"), stranger)).json()["data"]
    assert [one["id"] for one in listed] == [theirs]
    listed = (await api.client.get("/v2/serverless")).json()["data"]
    assert [one["id"] for one in listed] == [mine]


async def test_two_keys_of_one_tenant_see_the_same(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    second = [("X-Api-Key", await api.new_key("default"))]
    assert (await _call(api, ("GET", "/v2/serverless/{id}"), second, endpoint_id=endpoint_id)).status_code == 200


async def test_a_revoked_key_stops_working_within_a_second(api: RunningApi) -> None:
    key = await api.new_key("default")
    headers = [("X-Api-Key", key)]
    assert (await _call(api, ("GET", "/v2/serverless"), headers)).status_code == 200
    assert await api.store.api_keys.revoke(hash_of(key))

    async def refused() -> bool:
        return (await _call(api, ("GET", "/v2/serverless"), headers)).status_code == 401

    await wait_until_async(refused, CACHE_SECONDS + 1, "the revoked key still works")


async def test_a_tenant_over_its_rate_gets_a_retry_after(valkey_url: str) -> None:
    async with running_api(valkey_url, rate_limit_per_second=2) as api:
        stranger = [("X-Api-Key", await api.new_key("stranger"))]
        answers = [await api.client.get("/v2/serverless") for _ in range(6)]
        refused = [one for one in answers if one.status_code == 429]
        assert refused
        assert (refused[0].json()["code"], refused[0].headers["Retry-After"]) == (429, "1")
        assert (await _call(api, ("GET", "/v2/serverless"), stranger)).status_code == 200
        assert (await api.client.get("/healthz")).status_code == 200
        assert 'queue_engine_rate_limited_total{scope="tenant"}' in (await api.client.get("/metrics")).text


async def test_secrets_are_in_no_response_log_metric_or_stored_value(
    api: RunningApi, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "canary-5b7d"
    key = f"key-{canary}"
    await api.store.api_keys.put(key, tenant="default", name="test")
    api.client.headers["X-Api-Key"] = key
    answers = []

    async def keep(answer: httpx.Response) -> None:
        await answer.aread()
        answers.append(answer)

    api.client.event_hooks["response"] = [keep]
    with caplog.at_level(logging.DEBUG):
        endpoint_id = await api.create_endpoint(environmentVars=[{"key": "A", "value": canary}])
        secrets = {"webhook": "http://a.example/", "webhookAuthKey": canary, "headers": {"X-Secret": canary}}
        await api.submit(endpoint_id, taskId="a", **secrets)
        await api.submit(endpoint_id, taskId="a", **secrets, input=2)
        await api.submit(endpoint_id, **secrets, workerPort=0)
        await api.submit(endpoint_id, **secrets | {"webhookAuthKey": f"{canary}\n"})
        await api.submit(endpoint_id, **secrets | {"headers": {"X-Secret": f"{canary}\n"}})
        await api.post("/v2/serverless", ENDPOINT | {"environmentVars": [{"key": "A", "value": f"{canary}\x00"}]})
        await api.post("/v2/serverless", ENDPOINT | {"environmentVars": [{"key": "A", "value": [canary]}]})
        for path in (f"/v2/serverless/{endpoint_id}", f"/v2/serverless/{endpoint_id}/tasks/a", "/metrics", "/nope"):
            await api.client.get(path)
        await api.client.get("/v2/serverless", headers={"X-Api-Key": key + "x"})
    assert len(answers) == 13
    assert not any(canary in answer.text or canary in str(answer.headers) for answer in answers)
    ours = [record for record in caplog.records if record.name.startswith(("queue_engine", "uvicorn"))]
    assert not any(canary in str(vars(record)) for record in ours)
    for stored in await api.store.redis.keys("*"):
        assert canary.encode() not in stored + (await api.store.redis.dump(stored) or b"")


async def test_a_second_tenant_gets_no_workers_while_all_would_run_as_one_user(api: RunningApi) -> None:
    stranger = [("X-Api-Key", await api.new_key("stranger"))]
    mine = await api.create_endpoint()
    theirs = (await _call(api, ("POST", "/v2/serverless"), stranger)).json()["data"]["id"]
    await api.store.one_tenant.note("the controller is not root")
    refused = {"message": "the controller is not root", "code": 12001, "data": None}
    start = ("POST", "/v2/serverless/{id}/start")
    assert (await _call(api, start, stranger, endpoint_id=theirs)).status_code == 200  # it is started already
    assert (await _call(api, ("POST", "/v2/serverless/{id}/stop"), stranger, endpoint_id=theirs)).status_code == 200
    for call in (("POST", "/v2/serverless"), start):
        answer = await _call(api, call, stranger, endpoint_id=theirs)
        assert (answer.status_code, answer.json()) == (409, refused)
    assert (await _call(api, start, stranger, endpoint_id="123456")).status_code == 404
    await api.create_endpoint()
    for action in ("stop", "start"):
        assert (await api.client.post(f"/v2/serverless/{mine}/{action}")).status_code == 200
    assert await api.store.endpoints.get(theirs, "stranger") is not None
