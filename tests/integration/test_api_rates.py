"""Rate limits of submissions: of an endpoint, an API key and a tenant, in all API processes together."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS, hash_of
from tests.api_server import TASK, RunningApi, running_api


@asynccontextmanager
async def _client(api: RunningApi, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, headers={"X-Api-Key": key}, timeout=60) as client:
        yield client


async def _until_refused(
    clients: Sequence[httpx.AsyncClient], path: str
) -> tuple[list[httpx.Response], httpx.Response]:
    """Submit with all clients at once until one is refused. Return the accepted responses, and a refused one."""
    accepted: list[httpx.Response] = []
    while True:
        answers = await asyncio.gather(*(client.post(path, json=TASK) for client in clients for _ in range(10)))
        refused = [answer for answer in answers if answer.status_code != 200]
        accepted += [answer for answer in answers if answer.status_code == 200]
        if refused:
            return accepted, refused[0]


async def test_an_endpoint_over_its_limit_refuses_with_the_limit_and_a_time(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxSubmitsPerSecond=2)
    first = await api.submit(endpoint_id)
    assert (first.status_code, first.headers["RateLimit-Policy"]) == (200, '"endpoint";q=2;w=1')
    assert first.headers["RateLimit"] == '"endpoint";r=1;t=1'
    accepted, refused = await _until_refused([api.client], f"/v2/serverless/{endpoint_id}/tasks")
    assert (refused.status_code, refused.json()["code"]) == (429, 429)
    message = "maxSubmitsPerSecond: the endpoint takes at most 2 submissions per second"
    assert refused.json() == {"message": message, "code": 429, "data": None}
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["RateLimit-Policy"] == '"endpoint";q=2;w=1'
    assert refused.headers["RateLimit"] == '"endpoint";r=0;t=1'
    counted = data_of(await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/count"))
    assert counted["total"] == 1 + len(accepted)
    page = (await api.client.get("/metrics")).text
    assert re.search(r'limit_refusals_total{limit="endpointSubmitsPerSecond"} [1-9]', page)


def data_of(answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    data: dict[str, object] = answer.json()["data"]
    return data


async def test_an_endpoints_limit_is_shown_changed_and_cleared(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    path = f"/v2/serverless/{endpoint_id}"
    assert data_of(await api.client.get(path))["maxSubmitsPerSecond"] is None
    assert data_of(await api.client.patch(path, json={"maxSubmitsPerSecond": 1}))["maxSubmitsPerSecond"] == 1
    await _until_refused([api.client], f"{path}/tasks")
    assert data_of(await api.client.patch(path, json={"maxSubmitsPerSecond": None}))["maxSubmitsPerSecond"] is None
    answers = [await api.submit(endpoint_id) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert not [name for answer in answers for name in answer.headers if name.startswith("ratelimit")]


@pytest.mark.parametrize("value", [0, -1, 1.5, "5", 1_000_001])
async def test_a_wrong_limit_of_an_endpoint_is_refused(api: RunningApi, value: object) -> None:
    answer = await api.client.post("/v2/serverless", json={"maxSubmitsPerSecond": value})
    assert answer.status_code == 400
    assert "maxSubmitsPerSecond: must be" in answer.json()["message"]


async def test_a_repeated_submission_counts_and_says_so(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxSubmitsPerSecond=2)
    first, second = await api.submit(endpoint_id, taskId="a"), await api.submit(endpoint_id, taskId="a")
    assert (second.status_code, second.json()) == (200, first.json())
    assert second.headers["RateLimit"].startswith('"endpoint";r=')
    assert data_of(await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/count"))["total"] == 1


async def test_a_key_has_its_limit_at_all_processes_and_other_keys_have_none(valkey_url: str) -> None:
    async with running_api(valkey_url) as api, running_api(valkey_url) as second:
        path = f"/v2/serverless/{await api.create_endpoint()}/tasks"
        key = data_of(await api.post("/v2/keys", {"name": "ci", "role": "submit", "maxSubmitsPerSecond": 3}))
        assert key["maxSubmitsPerSecond"] == 3
        async with _client(api, str(key["key"])) as one, _client(second, str(key["key"])) as other:
            accepted, refused = await _until_refused([one, other], path)
            assert data_of(await one.get("/v2/me"))["maxSubmitsPerSecond"] == 3
        assert len(accepted) >= 3
        assert accepted[0].headers["RateLimit-Policy"] == '"key";q=3;w=1'
        assert refused.json()["message"] == "maxSubmitsPerSecond: the API key may submit at most 3 tasks per second"
        assert (refused.headers["Retry-After"], refused.headers["RateLimit"]) == ("1", '"key";r=0;t=1')
        assert (await api.client.post(path, json=TASK)).status_code == 200


async def test_a_key_shares_its_limit_with_the_keys_that_it_makes(api: RunningApi) -> None:
    """With their children, and with those that replace them."""
    first = data_of(await api.post("/v2/keys", {"name": "admin", "role": "admin", "maxSubmitsPerSecond": 3}))
    child = await _made_by(api, first, {"name": "child", "role": "admin"})
    grandchild = await _made_by(api, child, {"name": "grandchild", "role": "submit", "maxSubmitsPerSecond": 3})
    rotated = data_of(await api.client.post(f"/v2/keys/{grandchild['id']}/rotate"))
    after = await _made_by(api, data_of(await api.client.post(f"/v2/keys/{first['id']}/rotate")), {"name": "later"})
    for key in (child, grandchild, rotated, after):
        stored = await api.store.api_keys.find(hash_of(str(key["key"])))
        assert stored is not None
        assert (key["maxSubmitsPerSecond"], stored.principal().bucket_id) == (3, first["id"])


async def test_keys_that_share_a_limit_submit_together_no_faster_than_one(api: RunningApi) -> None:
    path = f"/v2/serverless/{await api.create_endpoint()}/tasks"
    first = data_of(await api.post("/v2/keys", {"name": "admin", "role": "admin", "maxSubmitsPerSecond": 1}))
    keys = [first, *[await _made_by(api, first, {"name": "child"}) for _ in range(7)]]
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(
        *(api.client.post(path, json=TASK, headers={"X-Api-Key": str(key["key"])}) for key in keys)
    )
    passed = asyncio.get_running_loop().time() - began
    assert 1 <= sum(answer.status_code == 200 for answer in answers) <= 1 + passed


@pytest.mark.parametrize("limit", [2, 4])
async def test_a_key_with_a_limit_makes_no_key_with_another_one(api: RunningApi, limit: int) -> None:
    first = data_of(await api.post("/v2/keys", {"name": "admin", "role": "admin", "maxSubmitsPerSecond": 3}))
    async with _client(api, str(first["key"])) as client:
        refused = await client.post("/v2/keys", json={"name": "child", "role": "submit", "maxSubmitsPerSecond": limit})
    assert refused.status_code == 400
    rule = "must be left out, or be the limit of your key, which both share"
    assert refused.json()["message"] == f"maxSubmitsPerSecond: {rule}"


async def test_a_key_without_a_limit_makes_keys_with_buckets_of_their_own(api: RunningApi) -> None:
    for limit in (3, None):
        key = data_of(await api.post("/v2/keys", {"name": "ci", "role": "submit", "maxSubmitsPerSecond": limit}))
        stored = await api.store.api_keys.find(hash_of(str(key["key"])))
        assert stored is not None
        assert stored.principal().bucket_id == key["id"]


async def _made_by(api: RunningApi, maker: dict[str, object], body: dict[str, object]) -> dict[str, object]:
    async with _client(api, str(maker["key"])) as client:
        return data_of(await client.post("/v2/keys", json={"role": "submit"} | body))


async def test_a_tenants_limit_and_those_below_it_are_all_named(api: RunningApi) -> None:
    operator = await api.new_key(OPERATORS, role=Role.OPERATOR)
    async with _client(api, operator) as client:
        limits = {"limits": {"submitsPerSecond": 1000}}
        assert (await client.patch("/v2/tenants/default", json=limits)).status_code == 200
    endpoint_id = await api.create_endpoint(maxSubmitsPerSecond=100)
    key = await api.new_key("default", max_submits_per_second=10)
    async with _client(api, key) as client:
        answer = await client.post(f"/v2/serverless/{endpoint_id}/tasks", json=TASK)
    policy = '"key";q=10;w=1, "tenant";q=1000;w=1, "endpoint";q=100;w=1'
    assert (answer.status_code, answer.headers["RateLimit-Policy"]) == (200, policy)
    assert answer.headers["RateLimit"] == '"key";r=9;t=1, "tenant";r=999;t=1, "endpoint";r=99;t=1'
