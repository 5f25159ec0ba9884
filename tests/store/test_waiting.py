"""The figures of the controller's metrics: workers by status, and what waits, found without reading idle endpoints."""

import asyncio
from dataclasses import replace

import pytest

from queue_engine.controller.waiting_tasks import STOPPED_SECONDS, WaitingTasks
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import Priority, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.observability import metrics
from queue_engine.store.store import Store
from queue_engine.store.sweeper import Waiting
from tests.store.bench import TENANT, Bench, config
from tests.store.probe import Probe
from tests.store.test_due_purges import commands, controller

RUNNING, STOPPED, FAILED = WorkerStatus.RUNNING, WorkerStatus.STOPPED, WorkerStatus.FAILED


async def waiting(bench: Bench) -> list[Waiting]:
    return [one async for one in bench.store.sweeper.waiting()]


async def noted(bench: Bench) -> bool:
    """Return whether the endpoint is among those that may have waiting tasks."""
    return bool(await bench.probe.ask("SISMEMBER", bench.partition.waiting_endpoints, bench.endpoint_id))


async def test_depth_and_oldest_task_are_those_of_both_queues(bench: Bench) -> None:
    assert await waiting(bench) == []
    await bench.submit("t1")
    await bench.submit("t2")
    first = min(int(entry_id.partition("-")[0]) for entry_id in await bench.probe.stream(bench.keys.queue))
    assert await waiting(bench) == [Waiting(bench.endpoint_id, 2, first)]
    agent = bench.agent()
    started = await bench.start(agent)
    (found,) = await waiting(bench)
    assert found.depth == 1
    assert found.oldest_ms is not None
    assert found.oldest_ms >= first
    await bench.settle(agent, started, TryAgain("busy", 60))
    (found,) = await waiting(bench)
    assert (found.depth, found.oldest_ms is None) == (2, False)


async def test_an_endpoint_with_scheduled_tasks_only_has_no_oldest_task(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    assert await waiting(bench) == []
    assert not await noted(bench)
    await bench.settle(agent, started, TryAgain("busy", 60))
    assert await waiting(bench) == [Waiting(bench.endpoint_id, 1, None)]


async def test_an_endpoint_without_waiting_tasks_leaves_the_index_and_comes_back(bench: Bench) -> None:
    for task_id in ("t1", "t2"):
        await bench.finish(task_id)
        assert await noted(bench)
        assert await waiting(bench) == []
        assert not await noted(bench)


@pytest.mark.parametrize("moment", ["read", "left"])
async def test_a_task_that_comes_while_its_endpoint_is_read_is_not_missed(bench: Bench, moment: str) -> None:
    await bench.finish("t1")
    script = {"read": "read_waiting", "left": "leave_waiting"}[moment]
    call = getattr(bench.store.scripts, script)

    async def with_a_new_task(keys: object) -> object:
        await bench.submit("t2")
        return await call(keys)

    setattr(bench.store.scripts, script, with_a_new_task)
    await waiting(bench)
    assert await noted(bench)
    setattr(bench.store.scripts, script, call)
    assert [one.depth for one in await waiting(bench)] == [1]


async def test_tasks_that_no_worker_should_execute_have_no_oldest_one(bench: Bench) -> None:
    await bench.submit("t1")
    endpoints, workers = bench.store.endpoints, bench.store.workers
    await endpoints.update(bench.endpoint_id, TENANT, lambda one: replace(one, workers=0))
    assert await waiting(bench) == [Waiting(bench.endpoint_id, 1, None)]
    await workers.put(bench.endpoint_id, "by-hand", managed=False)
    (found,) = await waiting(bench)
    assert found.oldest_ms is not None
    await endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert await waiting(bench) == [Waiting(bench.endpoint_id, 1, None)]


async def test_a_stopped_endpoint_is_read_once_a_minute(bench: Bench) -> None:
    now = 0.0
    figures = WaitingTasks(bench.store.sweeper.waiting, clock=lambda: now)

    async def depth() -> int:
        return (await figures.read())[bench.endpoint_id].depth

    await bench.submit("t1")
    assert await depth() == 1
    await bench.submit("t2")
    assert await depth() == 2
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert await depth() == 2
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    now = STOPPED_SECONDS - 1
    assert await depth() == 2
    now = STOPPED_SECONDS
    assert await depth() == 1
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.RUNNING)
    await bench.submit("t3")
    now = 2 * STOPPED_SECONDS
    assert await depth() == 2
    await bench.submit("t4")
    assert await depth() == 3


async def test_a_controller_that_does_not_lead_reads_no_endpoint(bench: Bench) -> None:
    await bench.submit("t1")
    follower, leader = controller(bench.store), controller(bench.store)
    await leader._hold_leadership()
    own = await commands(bench.probe, follower._gauges)
    await bench.submit("t2")
    assert await commands(bench.probe, leader._gauges) > own
    assert next(iter(metrics.queue_oldest_task_timestamp.collect())).samples[0].value > 0
    await follower._gauges()
    assert list(metrics.queue_oldest_task_timestamp.collect()) == []


async def test_paused_queues_and_lanes_are_counted(bench: Bench) -> None:
    leader = controller(bench.store)
    await leader._hold_leadership()

    async def figures() -> dict[str, float]:
        await leader._gauges()
        (paused,) = metrics.paused_queues.collect()
        (lanes,) = metrics.queue_lanes.collect()
        found = {sample.labels["state"]: sample.value for sample in lanes.samples}
        return {"paused": paused.samples[0].value, **found}

    assert await figures() == {"paused": 0, "open": 0, "parked": 0}
    await bench.submit("plain")
    assert await figures() == {"paused": 0, "open": 0, "parked": 0}
    await bench.finish("plain")
    await bench.set_key_limit(1)
    for task_id in ("a1", "a2"):
        await bench.submit(task_id, fairness_key="a")
    await bench.submit("low", priority=Priority.LOW)
    assert await figures() == {"paused": 0, "open": 2, "parked": 0}
    agent = bench.agent()
    await bench.start(agent)
    await bench.start(agent)  # `low`, because the key is at its limit
    assert await figures() == {"paused": 0, "open": 0, "parked": 1}
    await bench.store.endpoints.set_paused(bench.endpoint_id, TENANT, paused=True)
    assert await figures() == {"paused": 1, "open": 0, "parked": 1}


async def test_the_first_pause_of_a_queue_with_waiting_tasks_is_known(bench: Bench, store: Store) -> None:
    other = (await store.endpoints.create(TENANT, config())).endpoint_id
    bench.endpoint_ids.append(other)

    async def oldest() -> float:
        leader = controller(store)  # a new one, because figures of paused queues are kept for a minute
        await leader._hold_leadership()
        await leader._gauges()
        (family,) = metrics.oldest_pause_timestamp.collect()
        return family.samples[0].value

    async def pause(endpoint_id: str, *, paused: bool = True) -> float:
        await store.endpoints.set_paused(endpoint_id, TENANT, paused=paused)
        fields = await bench.probe.hash(store.partitions.of(endpoint_id).endpoint)
        return int(fields.get("paused_at", 0)) / 1000

    first = await pause(bench.endpoint_id)
    assert first > 0
    assert await oldest() == 0  # no task waits
    second = await pause(other)
    await bench.submit("a")
    await store.tasks.enqueue(bench.new_task("b", endpoint_id=other))
    assert await oldest() == first
    assert await pause(bench.endpoint_id) == first  # paused already
    assert await pause(bench.endpoint_id, paused=False) == 0
    assert await oldest() == second
    assert await pause(other, paused=False) == 0
    assert await oldest() == 0


async def test_workers_are_counted_by_status(bench: Bench, store: Store) -> None:
    other = (await store.endpoints.create(TENANT, config())).endpoint_id
    bench.endpoint_ids.append(other)
    put, mark, remove = store.workers.put, store.workers.mark, store.workers.remove
    for endpoint_id, name in ((bench.endpoint_id, "a"), (bench.endpoint_id, "b"), (other, "c")):
        await put(endpoint_id, name, managed=True)
        await put(endpoint_id, name, managed=True)
    none = dict.fromkeys(WorkerStatus, 0)
    assert await store.sweeper.workers() == none | {"INITIALIZING": 3}
    await mark(bench.endpoint_id, "a", RUNNING, reason="a test")
    await store.workers.report(other, "c", RUNNING, running_tasks=0, address="x:1")
    await mark(bench.endpoint_id, "b", FAILED, reason="a test")
    await mark(bench.endpoint_id, "b", FAILED, reason="a test")
    assert await store.sweeper.workers() == none | {"RUNNING": 2, "FAILED": 1}
    for _ in range(2):
        await remove(bench.endpoint_id, "a", status=STOPPED)
        await remove(bench.endpoint_id, "b", status=FAILED)
    assert await store.sweeper.workers() == none | {"RUNNING": 1}
    assert await bench.check() == []
    await remove(other, "c")
    assert await store.sweeper.workers() == none


async def test_counts_that_an_older_agent_has_not_changed_are_corrected(bench: Bench) -> None:
    """They are not reported, because a migration goes on as long as something is."""
    store = bench.store
    await store.workers.put(bench.endpoint_id, "a", managed=True)
    await store.workers.put(bench.endpoint_id, "b", managed=True)
    await bench.submit("t1")
    await bench.probe.ask("HSET", bench.keys.workers, "a", "RUNNING")
    await bench.probe.ask("HSET", bench.keys.worker("a"), "status", "RUNNING")
    await bench.probe.ask("DEL", bench.partition.waiting_endpoints)
    assert await store.endpoints.index.restore([bench.endpoint_id]) == 0
    workers = await store.sweeper.workers()
    assert (workers["INITIALIZING"], workers["RUNNING"]) == (1, 1)
    assert [one.depth for one in await waiting(bench)] == [1]


async def test_the_counts_of_a_removed_endpoint_are_not_kept(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "a", managed=True)
    await bench.probe.ask("DEL", bench.keys.workers, bench.keys.worker("a"))  # by an older process
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await bench.store.endpoints.remove(bench.endpoint_id)
    assert sum((await bench.store.sweeper.workers()).values()) == 0
    bench.endpoint_ids.clear()


async def test_the_figures_cost_the_same_with_many_idle_endpoints(store: Store, probe: Probe) -> None:
    running = controller(store)
    await running._hold_leadership()
    await running._gauges()
    alone = await commands(probe, running._gauges)
    await asyncio.gather(*(store.endpoints.create(TENANT, config(workers=0)) for _ in range(200)))
    assert await commands(probe, running._gauges) == alone
