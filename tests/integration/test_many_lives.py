"""After many lives and deaths of everything the store holds what is expected, and nothing of the dead."""

import json
from typing import Any

from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import TaskStatus
from queue_engine.store.store import Store
from tests.integration.parts import TENANT, HttpServer, Program, Programs, Reply, new_endpoint, submit
from tests.waiting import wait_until, wait_until_async

LIVES = 3
SECONDS = 120


async def test_processes_and_tasks_that_have_ended_leave_nothing(
    store: Store, programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    receiver.answer = lambda request: Reply(500 if _is_first_attempt(json.loads(request.body)) else 200)
    endpoint_id = await new_endpoint(store, result_retention_seconds=1, webhook=f"{receiver.url}/status")
    for life in range(LIVES):
        await _live_and_die(store, programs, container, f"{receiver.url}/hook", endpoint_id, life)

    _controller(programs)
    agent, delivery = programs.agent(endpoint_id, container.url), programs.delivery()

    async def is_quiet() -> bool:
        counts = await store.tasks.counts(endpoint_id)
        names = await _names_in_groups(store, endpoint_id)
        return counts.total == 0 and len(names) <= 1 and len(await _senders(store, endpoint_id)) == 1

    await wait_until_async(is_quiet, SECONDS, "tasks or names of the dead are left")
    keys = store.partitions.of(endpoint_id)
    [worker] = await store.workers.of_endpoint(endpoint_id)
    indexes = {keys.created, *(keys.finished(status) for status in ("SUCCESS", "FAILED", "DELIVERED"))}
    queues = {keys.queue, keys.retry_queue, keys.turn}
    of_time = {keys.series}  # written at each half minute of the clock
    own = {keys.endpoint, keys.counts, keys.workers, keys.worker(worker.worker_id), *queues}

    async def is_told() -> bool:
        """Status events of the dead and the living are on their way for a while."""
        return await _keys_of(store, endpoint_id) - indexes - of_time == own

    await wait_until_async(is_told, SECONDS, "keys of the dead are left")
    for key in await _present(store, indexes):
        assert await store.redis.xlen(key) == 0

    assert agent.stop() == 0
    await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.DELETED)

    async def is_removed() -> bool:
        return await store.endpoints.get(endpoint_id, None) is None

    await wait_until_async(is_removed, SECONDS, "the endpoint is not removed")
    assert await _keys_of(store, endpoint_id) == set()
    assert delivery.stop() == 0
    assert await _others(store, endpoint_id) == []


async def _live_and_die(
    store: Store, programs: Programs, container: HttpServer, hook: str, endpoint_id: str, life: int
) -> None:
    """A controller, two agents and a delivery process that are killed in the middle of their work."""
    controller = _controller(programs)
    first = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID=f"dies-at-once-{life}")
    for number in range(5):
        await submit(store, endpoint_id, f"early-{life}-{number}", webhook=hook, uri="/run")
    await _until(store, endpoint_id, 3)
    first.kill()
    second = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID=f"dies-later-{life}")
    delivery = programs.delivery(schedule="0.2,0.2,0.2")
    for number in range(5):
        await submit(store, endpoint_id, f"late-{life}-{number}", webhook=hook, uri="/run")
    await wait_until_async(lambda: _is_delivered(store, endpoint_id), SECONDS)
    _kill(second, delivery, controller)


def _controller(programs: Programs) -> Program:
    return programs.controller(QUEUE_ENGINE_WORKER_SILENCE_SECONDS="2", QUEUE_ENGINE_LEADER_LEASE_SECONDS="2")


def _kill(*programs: Program) -> None:
    for program in programs:
        program.kill()
        wait_until(lambda program=program: not program.running)  # type: ignore[misc]


def _is_first_attempt(body: dict[str, Any]) -> bool:
    return body.get("retry_count") == 1


async def _until(store: Store, endpoint_id: str, ended: int) -> None:
    async def is_so() -> bool:
        counts = await store.tasks.counts(endpoint_id)
        return counts.success + counts.delivered >= ended

    await wait_until_async(is_so, SECONDS)


async def _is_delivered(store: Store, endpoint_id: str) -> bool:
    page = await store.tasks.page(endpoint_id, TaskStatus.DELIVERED, page=1, size=10)
    return page.total > 0


async def _names_in_groups(store: Store, endpoint_id: str) -> set[bytes]:
    keys = store.partitions.of(endpoint_id)
    found = [await store.redis.xinfo_consumers(stream, "agents") for stream in (keys.queue, keys.retry_queue)]
    return {one["name"] for consumers in found for one in consumers}


async def _senders(store: Store, endpoint_id: str) -> set[bytes]:
    partition = store.partitions.of(endpoint_id).partition
    consumers = await store.redis.xinfo_consumers(partition.outbox, "delivery")
    return {*(one["name"] for one in consumers), *await store.redis.zrange(partition.senders, 0, -1)}


async def _keys_of(store: Store, endpoint_id: str) -> set[str]:
    """All keys with the endpoint's id as a part of them."""
    return {name for name in await _all_keys(store) if endpoint_id in name.split(":")[2:]}


async def _others(store: Store, endpoint_id: str) -> list[str]:
    """Keys that neither belong to the engine itself nor expire."""
    partition = store.partitions.of(endpoint_id).partition
    fixed = {"{qe}:meta", "{qe}:endpoint-ids", "{qe}:periodic", "{qe}:periodic:leader"} | {
        key
        for one in store.partitions.all()
        for key in (one.outbox, one.senders, one.ticks)
    } | {partition.counts}  # fmt: skip
    return [name for name in await _all_keys(store) if name not in fixed and await store.redis.ttl(name) == -1]


async def _all_keys(store: Store) -> set[str]:
    return {name.decode() for name in await store.redis.keys("*")}


async def _present(store: Store, names: set[str]) -> list[str]:
    return [name for name in names if await store.redis.exists(name)]
