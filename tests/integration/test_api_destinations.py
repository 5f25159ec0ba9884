"""`/v2/destinations`: what a real delivery process has noted, and an order that ends a pause."""

from typing import Any

from queue_engine.domain.destinations import DestinationNote, Standing, origin_of
from queue_engine.domain.tasks import DeliveryStatus
from queue_engine.store.keys import STANDINGS
from queue_engine.store.standings import TenantNote
from tests.api_server import SECRET_KEY, RunningApi
from tests.integration.parts import HttpServer, Programs, Reply, new_endpoint, replies
from tests.integration.test_api_audit import changes
from tests.integration.test_delivery import delivery_at, end_task
from tests.waiting import wait_until_async

HOOKS = "https://hooks.example.net:443"
PATH = "/v2/destinations"


async def listed(api: RunningApi, key: str | None = None) -> list[dict[str, Any]]:
    answer = await api.client.get(PATH, headers={"X-Api-Key": key or api.key})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_a_destination_that_is_held_is_noted_and_resumed(
    api: RunningApi, programs: Programs, receiver: HttpServer
) -> None:
    store = api.store
    await store.prepare()
    assert await listed(api) == []
    receiver.answer = replies(Reply(429, b"", {"Retry-After": "300"}), Reply())
    programs.delivery(QUEUE_ENGINE_SECRET_KEY=SECRET_KEY)
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, "first", webhook=f"{receiver.url}/hook")
    await delivery_at(store, endpoint_id, DeliveryStatus.FAILED, "first")
    names = [f"later_{number}" for number in range(5)]
    for name in names:
        await end_task(store, endpoint_id, name, webhook=f"{receiver.url}/hook")

    async def all_wait() -> dict[str, Any] | None:
        found = await listed(api)
        return found[0] if found and found[0]["waiting"] == len(names) else None

    noted = await wait_until_async(all_wait)
    assert noted is not None
    assert (noted["destination"], noted["standing"]) == (receiver.url, "PARKED")
    assert noted["lastError"] == "rate_limited"
    assert noted["nextAttemptAt"] - noted["lastErrorAt"] > 200_000
    one = await api.client.get(f"{PATH}/{origin_of(receiver.url)}")
    assert one.json()["data"]["standing"] == "PARKED"
    assert len(receiver.requests) == 1

    done = await api.client.post(f"{PATH}/{origin_of(receiver.url)}/resume")
    assert (done.status_code, done.json()["data"]) == (200, {"processes": 1})
    for name in names:
        task = await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, name)
        assert task.delivery_attempts == 1

    async def is_clean() -> bool:
        return await listed(api) == [] and not await store.redis.exists(STANDINGS)

    await wait_until_async(is_clean)
    assert (await changes(api))[-1] == ("resume_destination", f"destination {receiver.url}")


async def test_a_tenant_sees_and_resumes_only_its_own_destinations(api: RunningApi) -> None:
    note = DestinationNote(HOOKS, Standing.PARKED, waiting=3)
    await api.store.standings.write("one", [TenantNote("default", note)])
    other = await api.new_key("other")
    assert [one["destination"] for one in await listed(api)] == [HOOKS]
    assert await listed(api, other) == []
    headers = {"X-Api-Key": other}
    found = await api.client.get(f"{PATH}/{origin_of(HOOKS)}", headers=headers)
    assert found.json()["data"]["standing"] == "GOOD"
    done = await api.client.post(f"{PATH}/{origin_of(HOOKS)}/resume", headers=headers)
    assert done.json()["data"] == {"processes": 0}
    assert await api.store.standings.write("one", [TenantNote("default", note)]) == []


async def test_a_key_that_is_limited_to_endpoints_neither_sees_nor_resumes_destinations(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    headers = {"X-Api-Key": await api.new_key("default", endpoints=frozenset({endpoint_id}))}
    for method, path in (("GET", PATH), ("POST", f"{PATH}/{origin_of(HOOKS)}/resume")):
        answer = await api.client.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, 40301), path


async def test_a_wrong_origin_is_refused(api: RunningApi) -> None:
    wrongs = ("hooks.example.net", "https:hooks.example.net", "ftp:x:21", "https:x:99999", "https:x%20y:1")
    for wrong in (*wrongs, "https:a_b:443"):
        for method, path in (("GET", f"{PATH}/{wrong}"), ("POST", f"{PATH}/{wrong}/resume")):
            answer = await api.client.request(method, path)
            assert answer.status_code == 400, (path, answer.text)
            assert answer.json()["message"].startswith("origin: must "), answer.text
