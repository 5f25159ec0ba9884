"""Replace and remove a worker by hand, with real workers; list workers of all endpoints."""

import asyncio
from typing import Any

import httpx
import pytest

from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.workers import Stop
from tests.api_server import RunningApi
from tests.integration.test_api_audit import changes
from tests.integration.test_up import Up, create, wait_for_workers
from tests.waiting import wait_until


@pytest.fixture
def up(shared_up: Up) -> Up:
    return shared_up


def workers_of(up: Up, endpoint_id: int) -> dict[str, str]:
    found: list[dict[str, Any]] = up.get(f"/v2/serverless/{endpoint_id}/workers")
    return {one["workerId"]: one["status"] for one in found}


def order(up: Up, endpoint_id: int, worker_id: str, what: str) -> httpx.Response:
    return up.client.post(f"/v2/serverless/{endpoint_id}/workers/{worker_id}/{what}")


def test_a_worker_is_replaced_and_then_removed(up: Up) -> None:
    endpoint_id = create(up, workers=2)
    wait_for_workers(up, endpoint_id, 2)
    first, second = workers_of(up, endpoint_id)
    assert order(up, endpoint_id, first, "restart").status_code == 200

    def is_replaced() -> bool:
        found = workers_of(up, endpoint_id)
        return len(found) == 2 and first not in found and set(found.values()) == {"RUNNING"}

    wait_until(is_replaced)
    assert second in workers_of(up, endpoint_id)
    assert up.get(f"/v2/serverless/{endpoint_id}")["totalWorkers"] == 2
    for _ in range(2):
        assert order(up, endpoint_id, second, "drain").status_code in (200, 404)
    wait_until(lambda: second not in workers_of(up, endpoint_id))
    assert up.get(f"/v2/serverless/{endpoint_id}")["totalWorkers"] == 1
    wait_until(lambda: list(workers_of(up, endpoint_id).values()) == ["RUNNING"])


async def test_orders_are_recorded_once_and_keep_the_number_of_workers_right(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(workers=3)
    store, base = api.store.workers, f"/v2/serverless/{endpoint_id}"
    for name in ("w-1", "w-2"):
        await store.put(endpoint_id, name, managed=True)
    await store.put(endpoint_id, "mine", managed=False)
    for path in ("w-1/restart", "w-1/restart", "w-1/drain", "w-2/drain", "w-2/drain"):
        assert (await api.client.post(f"{base}/workers/{path}")).status_code == 200, path
    assert {one.status for one in await store.of_endpoint(endpoint_id) if one.managed} == {WorkerStatus.STOPPING}
    assert (await api.client.get(base)).json()["data"]["totalWorkers"] == 2
    by_hand = await api.client.post(f"{base}/workers/mine/restart")
    assert (by_hand.status_code, "started by hand" in by_hand.text) == (409, True)
    assert (await api.client.post(f"{base}/workers/none/drain")).status_code == 404
    target = f"endpoint {endpoint_id}, worker "
    assert (await changes(api))[1:] == [("restart_worker", f"{target}w-1"), ("drain_worker", f"{target}w-2")]


async def test_drains_at_the_same_time_lower_the_number_of_workers_by_one_each(api: RunningApi) -> None:
    """Each stops its worker and lowers the number in one step, which another change of the endpoint lets it repeat."""
    endpoint_id = await api.create_endpoint(workers=9)
    names = [f"w-{number}" for number in range(8)]
    for name in names:
        await api.store.workers.put(endpoint_id, name, managed=True)
    base = f"/v2/serverless/{endpoint_id}"
    orders = [api.client.post(f"{base}/workers/{name}/drain") for name in names * 2]
    patches = [api.client.patch(base, json={"name": f"renamed-{number}"}) for number in range(4)]
    assert {one.status_code for one in await asyncio.gather(*orders, *patches)} == {200}
    assert (await api.client.get(base)).json()["data"]["totalWorkers"] == 1
    assert {one.status for one in await api.store.workers.of_endpoint(endpoint_id)} == {WorkerStatus.STOPPING}


async def test_a_drain_that_is_repeated_after_a_lost_reply_lowers_the_number_of_workers_once(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(workers=3)
    await api.store.workers.put(endpoint_id, "w-1", managed=True)
    for _ in range(2):
        drain = api.store.endpoints.drain_worker(endpoint_id, "w-1", "default", reason="drained", call_id="one")
        assert await drain is Stop.OK
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]["totalWorkers"] == 2


async def test_workers_of_all_endpoints_are_listed_in_pages(api: RunningApi) -> None:
    ids = [await api.create_endpoint(name=f"e{number}") for number in range(3)]
    for endpoint_id in ids:
        for name in ("a", "b"):
            await api.store.workers.put(endpoint_id, f"{endpoint_id}-{name}", managed=True)
    seen: list[str] = []
    query: dict[str, str] = {"pageSize": "1"}
    while True:
        page = (await api.client.get("/v2/workers", params=query)).json()["data"]
        assert len(page["items"]) in (0, 2)
        seen += [one["endpointId"] for one in page["items"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert seen == [endpoint_id for endpoint_id in reversed(ids) for _ in range(2)]
    limited = {"X-Api-Key": await api.new_key("default", endpoints=frozenset({ids[1]}))}
    assert {one["endpointId"] for one in await listed(api, limited)} == {ids[1]}
    assert await listed(api, {"X-Api-Key": await api.new_key("other")}) == []
    wrong = await api.client.get("/v2/workers", params={"cursor": "x"})
    assert (wrong.status_code, wrong.json()["message"]) == (400, "cursor: must be the nextCursor of a page")


async def listed(api: RunningApi, headers: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.client.get("/v2/workers", headers=headers)).json()["data"]["items"]
    return found
