"""The controller purges the endpoints that have something to remove, and looks at no other endpoint."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from queue_engine.controller.controller import Controller, ControllerConfig
from queue_engine.controller.waiting_tasks import WaitingTasks
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import Failed, TaskStatus
from queue_engine.store.constants import CONSUMERS_MS, PURGE_HOLD_MS, REMOVED_MS
from queue_engine.store.store import Store
from queue_engine.store.sweeper import PURGED_PAGES, Purged, Tidied
from tests.store.bench import TENANT, Bench, config, spec
from tests.store.probe import Probe
from tests.waiting import wait_until_async


async def due_at(bench: Bench) -> float | None:
    """Return when the endpoint is purged next."""
    return (await bench.probe.scores(bench.partition.due_purges)).get(bench.endpoint_id)


async def make_due(bench: Bench) -> None:
    assert await bench.probe.ask("ZADD", bench.partition.due_purges, "XX", "CH", 1, bench.endpoint_id) == 1


async def purge_due(bench: Bench) -> Purged:
    return await bench.store.sweeper.purge_due(bench.partition, limit=100)


async def set_retention(bench: Bench, seconds: int) -> None:
    """Change the retention, as an older process does that does not know the index."""
    await bench.probe.ask("HSET", bench.keys.endpoint, "retention", seconds)


def controller(store: Store) -> Controller:
    config = ControllerConfig(
        controller_id="c", jobs_redis_url="", lease_seconds=30, max_lost=3, leader_lease_seconds=15, grace_seconds=1
    )

    def make_no_reconciler() -> None:
        raise AssertionError("no controller leads here")

    return Controller(config, store, None, make_no_reconciler)  # type: ignore[arg-type]


async def test_the_first_ended_task_sets_the_time_and_later_ones_do_not(bench: Bench) -> None:
    assert await due_at(bench) is None
    first = await bench.finish("t1")
    endpoint = await bench.store.endpoints.get(bench.endpoint_id, TENANT)
    assert endpoint is not None
    assert first.finished_at_ms is not None
    expiry = first.finished_at_ms + endpoint.config.result_retention_seconds * 1000 + 1
    assert await due_at(bench) == expiry
    await bench.finish("t2")
    await bench.finish("t3", outcome=Failed("no"))
    assert await due_at(bench) == expiry
    assert await purge_due(bench) == Purged(endpoints=0, tasks=0)


async def test_a_purge_sets_the_time_of_the_next_task_and_none_without_tasks(bench: Bench) -> None:
    await bench.finish("t1")
    kept = await bench.finish("t2", outcome=Failed("no"))
    assert kept.finished_at_ms is not None
    await make_due(bench)
    assert await purge_due(bench) == Purged(endpoints=1, tasks=0)
    await bench.purge()
    await make_due(bench)
    assert await purge_due(bench) == Purged(endpoints=1, tasks=0)
    assert await due_at(bench) is None


async def test_tasks_whose_retention_is_over_are_removed_when_they_are_due(bench: Bench) -> None:
    await bench.finish("t1")
    ended = (await bench.finish("t2", outcome=Failed("no"))).finished_at_ms
    await set_retention(bench, 0)

    async def is_over() -> bool:
        return ended is not None and await bench.probe.now_ms() > ended

    await wait_until_async(is_over)
    await make_due(bench)
    assert await purge_due(bench) == Purged(endpoints=1, tasks=2)
    assert await due_at(bench) is None


async def test_an_endpoint_with_many_expired_tasks_is_due_again_at_once(bench: Bench) -> None:
    pages = 0

    async def one_task_a_page(endpoint_id: str, *, before_ms: int, limit: int = 1000) -> int:
        nonlocal pages
        pages += 1
        return 1

    await bench.finish("t1")
    await set_retention(bench, 0)
    await make_due(bench)
    bench.store.sweeper.purge = one_task_a_page  # type: ignore[method-assign]
    assert await purge_due(bench) == Purged(endpoints=1, tasks=PURGED_PAGES)
    assert pages == PURGED_PAGES
    due = await due_at(bench)
    assert due is not None
    assert due <= await bench.probe.now_ms() + 1
    await set_retention(bench, 60)


@pytest.mark.parametrize("seconds", [60, 10_000_000], ids=["shorter", "longer"])
async def test_another_retention_makes_the_endpoint_due(bench: Bench, seconds: int) -> None:
    ended = (await bench.finish("t1")).finished_at_ms
    assert ended is not None
    update = bench.store.endpoints.update
    await update(bench.endpoint_id, TENANT, lambda one: replace(one, result_retention_seconds=seconds))
    due = await due_at(bench)
    assert due is not None
    assert due <= await bench.probe.now_ms()
    assert await purge_due(bench) == Purged(endpoints=1, tasks=0)
    assert await due_at(bench) == ended + seconds * 1000 + 1
    await update(bench.endpoint_id, TENANT, lambda one: replace(one, workers=5))
    assert await due_at(bench) == ended + seconds * 1000 + 1


async def test_a_change_of_retention_without_ended_tasks_makes_nothing_due(bench: Bench) -> None:
    await bench.store.endpoints.update(bench.endpoint_id, TENANT, lambda one: replace(one, result_retention_seconds=60))
    assert await due_at(bench) is None


async def test_a_task_that_ended_in_the_future_is_noticed_and_then_expires_as_of_now(bench: Bench) -> None:
    """The clock was set back after the end of the task."""
    await bench.finish("t1")
    stream, now = bench.keys.finished(TaskStatus.SUCCESS), await bench.probe.now_ms()
    (entry,) = (await bench.probe.stream(stream)).values()
    await bench.probe.ask("DEL", stream)
    await bench.probe.ask("XADD", stream, f"1-{now + 3_600_000}", *(part for pair in entry.items() for part in pair))
    await bench.probe.ask("ZADD", bench.partition.due_purges, now + 7_200_000, bench.endpoint_id)
    await bench.store.endpoints.index.restore([bench.endpoint_id])
    assert await purge_due(bench) == Purged(endpoints=1, tasks=0)
    endpoint = await bench.store.endpoints.get(bench.endpoint_id, TENANT)
    due = await due_at(bench)
    assert endpoint is not None
    assert due is not None
    retention_ms = endpoint.config.result_retention_seconds * 1000
    assert now + retention_ms < due <= await bench.probe.now_ms() + retention_ms + 1
    assert await bench.purge() == 1


async def test_a_missing_time_is_restored(bench: Bench) -> None:
    await bench.finish("t1")
    due = await due_at(bench)
    await bench.probe.ask("DEL", bench.partition.due_purges)
    await bench.store.endpoints.index.restore([bench.endpoint_id])
    assert await due_at(bench) == due


# Consumers of agents that have ended


async def test_a_removed_worker_makes_its_consumers_be_looked_at(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=False)
    await bench.agent("w1").claim(1, block_ms=1)
    before = await bench.probe.now_ms()
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    due = await due_at(bench)
    assert due is not None
    assert before + REMOVED_MS <= due <= await bench.probe.now_ms() + REMOVED_MS
    await bench.agent("w1").claim(1, block_ms=1)  # the agent reads once more before it learns of its end
    await make_due(bench)
    assert await purge_due(bench) == Purged(endpoints=1, tasks=0)
    assert await bench.store.redis.xinfo_consumers(bench.keys.queue, "agents") == []
    assert await due_at(bench) is None


async def test_consumers_with_entries_are_looked_at_until_another_agent_has_these(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.agent("w1").claim(1, block_ms=1)
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    await make_due(bench)
    await purge_due(bench)
    due = await due_at(bench)
    assert due is not None
    assert due <= await bench.probe.now_ms() + CONSUMERS_MS
    heir = bench.agent("heir")
    await bench.store.workers.put(bench.endpoint_id, "heir", managed=False)
    (entry,) = await heir.claim_abandoned(1, idle_ms=0)
    await heir.start(entry, address="x:1")
    await make_due(bench)
    await purge_due(bench)
    assert await due_at(bench) is None
    assert [one["name"] for one in await bench.store.redis.xinfo_consumers(bench.keys.queue, "agents")] == [b"heir"]


async def test_a_worker_that_is_removed_during_a_purge_is_looked_at_again(bench: Bench) -> None:
    """Its agent reads once more before it learns of its end, after the purge has looked for consumers."""
    tidy = bench.store.sweeper.tidy

    async def tidy_and_remove(endpoint_id: str) -> Tidied:
        tidied = await tidy(endpoint_id)
        await bench.store.workers.remove(endpoint_id, "w1")
        return tidied

    await bench.store.workers.put(bench.endpoint_id, "w1", managed=False)
    await bench.store.workers.put(bench.endpoint_id, "w2", managed=False)
    await bench.store.workers.remove(bench.endpoint_id, "w2")
    await make_due(bench)
    bench.store.sweeper.tidy = tidy_and_remove  # type: ignore[method-assign]
    assert await purge_due(bench) == Purged(endpoints=1, tasks=0)
    due = await due_at(bench)
    assert due is not None
    assert due <= await bench.probe.now_ms() + REMOVED_MS


async def test_an_endpoint_is_due_again_when_the_controller_that_purged_it_has_died(bench: Bench) -> None:
    await bench.finish("t1")
    await make_due(bench)
    assert (await bench.store.scripts.take_purges(bench.partition, limit=100)).endpoint_ids == [bench.endpoint_id]
    assert await purge_due(bench) == Purged(endpoints=0, tasks=0)
    due = await due_at(bench)
    assert due is not None
    assert due <= await bench.probe.now_ms() + PURGE_HOLD_MS


async def test_a_longer_retention_applies_to_the_next_page_of_a_purge(bench: Bench) -> None:
    limits: list[int] = []

    async def one_task_a_page(endpoint_id: str, *, before_ms: int, limit: int = 1000) -> int:
        limits.append(before_ms)
        await set_retention(bench, 3600)
        return 1 if len(limits) < 2 else 0

    await bench.finish("t1")
    await set_retention(bench, 0)
    await make_due(bench)
    bench.store.sweeper.purge = one_task_a_page  # type: ignore[method-assign]
    await purge_due(bench)
    first, second = limits
    assert first - second == 3_600_000


# Deletion, and what idle endpoints cost

Job = Callable[[Controller], Awaitable[int]]


async def commands(probe: Probe, job: Callable[[], Awaitable[int]]) -> int:
    """Return how many commands the server runs for a job, those inside scripts too."""
    await probe.ask("CONFIG", "RESETSTAT")
    await job()
    stats = await probe.redis.info("commandstats")
    return sum(one["calls"] for name, one in stats.items() if not name.startswith(("cmdstat_config", "cmdstat_info")))


async def gauges(running: Controller) -> int:
    """Read what a leading controller exports as gauges."""
    sweeper = running._store.sweeper
    await sweeper.waiting_and_running()
    await sweeper.workers()
    return len(await WaitingTasks(sweeper.waiting).read())


@pytest.mark.parametrize(
    "job",
    [Controller.sweep, Controller.purge, Controller.delete, gauges],
    ids=["sweep", "purge", "delete", "gauges"],
)
async def test_a_round_costs_the_same_with_many_idle_endpoints(store: Store, probe: Probe, job: Job) -> None:
    running = controller(store)
    await job(running)
    alone = await commands(probe, lambda: job(running))
    await asyncio.gather(*(store.endpoints.create(TENANT, config(workers=0)) for _ in range(200)))
    await job(running)
    assert await commands(probe, lambda: job(running)) == alone


async def test_endpoints_are_deleted_together_and_others_are_not_touched(store: Store, probe: Probe) -> None:
    ids = [(await store.endpoints.create(TENANT, config())).endpoint_id for _ in range(12)]
    deleted, kept, busy = ids[:10], ids[10], ids[11]
    bench = Bench(store, deleted[0], probe)
    await bench.finish("ended")
    await bench.submit("queued", spec=spec())
    await store.workers.put(busy, "w1", managed=True)
    for endpoint_id in (*deleted, busy):
        await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.DELETED)
    running = controller(store)
    assert await running.delete() == len(deleted)
    assert sorted(await store.endpoints.ids(), key=int) == [kept, busy]
    assert await running.delete() == 0
    await store.workers.remove(busy, "w1")
    assert await running.delete() == 1
    assert await store.endpoints.ids() == [kept]
    left = {name for name in await probe.keys() if not name.startswith("{qe}")}
    partition = store.partitions.of(kept).partition
    groups = {one.outbox for one in store.partitions.all()} | {one.counts for one in store.partitions.all()}
    of_kept = store.partitions.of(kept)
    ours = {
        partition.endpoints,
        partition.due_checks,
        of_kept.endpoint,
        of_kept.queue,
        of_kept.retry_queue,
        of_kept.turn,
        of_kept.counts,
    }
    assert left - groups == ours
