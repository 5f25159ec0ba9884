"""Deletions of endpoints: in turns by tenant, in rounds of a limited time, and each again when it can go on."""

import itertools

from queue_engine.controller.deletions import AT_ONCE, MAX_WAIT_MS, MIN_WAIT_MS, ROUND_SECONDS, Deleter
from queue_engine.domain.endpoints import DesiredState
from queue_engine.store.constants import MAX_DELETION_MS
from queue_engine.store.keys import Partition
from queue_engine.store.store import Store
from tests.store.bench import TENANT, Bench, config
from tests.store.probe import Probe

OTHER = "other"


async def deleted(store: Store, partition: Partition, tenant: str, count: int) -> list[str]:
    """Create endpoints of the partition, and order their deletion."""
    ids: list[str] = []
    while len(ids) < count:
        endpoint_id = await store.endpoints.new_id()
        if store.partitions.of(endpoint_id).partition == partition:
            await store.endpoints.create(tenant, config(workers=0), endpoint_id)
            await store.endpoints.set_desired_state(endpoint_id, tenant, DesiredState.DELETED)
            ids.append(endpoint_id)
    return ids


async def due_at(store: Store, probe: Probe, endpoint_id: str) -> float | None:
    return (await probe.scores(store.partitions.of(endpoint_id).partition.deletions)).get(endpoint_id)


def round_that_is_over_at_once(store: Store) -> Deleter:
    """Return a deleter for which ROUND_SECONDS pass between any two looks at the clock."""
    times = itertools.count(0.0, ROUND_SECONDS)
    return Deleter(store, clock=lambda: next(times))


async def test_a_tenant_with_many_deletions_does_not_delay_another(store: Store) -> None:
    partition = store.partitions.all()[0]
    many = await deleted(store, partition, TENANT, 3 * AT_ONCE)
    (theirs,) = await deleted(store, partition, OTHER, 1)
    assert await round_that_is_over_at_once(store).step(partition) == AT_ONCE
    left = await store.endpoints.ids()
    assert theirs not in left
    assert len(set(left) & set(many)) == 2 * AT_ONCE + 1


async def test_deletions_that_had_no_turn_are_due_in_the_next_round(store: Store) -> None:
    partition = store.partitions.all()[0]
    await deleted(store, partition, TENANT, AT_ONCE + 3)
    deleter = round_that_is_over_at_once(store)
    assert await deleter.step(partition) == AT_ONCE
    assert await deleter.step(partition) == 3


async def test_more_deletions_than_are_taken_at_once_hide_those_of_another_tenant_for_a_round(
    store: Store, probe: Probe
) -> None:
    partition = store.partitions.all()[0]
    many = await deleted(store, partition, TENANT, 5)
    theirs = await deleted(store, partition, OTHER, 1)
    for time_ms, endpoint_id in enumerate([*many, *theirs]):
        await probe.ask("ZADD", partition.deletions, time_ms, endpoint_id)
    first = await store.deletions.take(partition, limit=4)
    assert [one.endpoint_id for one in first.due] == many[:4]
    await store.deletions.plan(partition, first, dict.fromkeys(many[:4], 0))
    second = await store.deletions.take(partition, limit=4)
    assert [one.endpoint_id for one in second.due][:2] == [many[4], *theirs]


async def test_a_round_ends_a_page_of_tasks_of_each_endpoint_and_goes_on_later(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.submit("t2")
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await round_that_is_over_at_once(bench.store).step(bench.partition) == 0
    assert await bench.probe.scores(bench.keys.live) == {}
    assert await Deleter(bench.store).step(bench.partition) == 1


async def test_an_endpoint_with_workers_waits_and_goes_on_when_the_last_one_ends(bench: Bench) -> None:
    store, deleter = bench.store, Deleter(bench.store)
    for worker_id in ("w1", "w2"):
        await store.workers.put(bench.endpoint_id, worker_id, managed=True)
    await store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await deleter.step(bench.partition) == 0
    assert (await store.deletions.take(bench.partition)).due == ()
    await store.workers.remove(bench.endpoint_id, "w1")
    assert (await store.deletions.take(bench.partition)).due == ()
    await store.workers.remove(bench.endpoint_id, "w2")
    assert await deleter.step(bench.partition) == 1


async def test_the_end_of_the_last_worker_during_a_round_makes_the_endpoint_due(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    taken = await bench.store.deletions.take(bench.partition)
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    await bench.store.deletions.plan(bench.partition, taken, {bench.endpoint_id: MAX_WAIT_MS})
    assert [one.endpoint_id for one in (await bench.store.deletions.take(bench.partition)).due] == [bench.endpoint_id]


async def test_the_wait_for_a_delivery_grows_with_the_age_of_the_deletion(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    store, deleter = bench.store, Deleter(bench.store)
    await store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    for age_ms, wait_ms in ((0, MIN_WAIT_MS), (40_000, 10_000), (3_600_000, MAX_WAIT_MS)):
        before = await bench.probe.now_ms()
        await bench.probe.ask("HSET", bench.keys.endpoint, "updated", before - age_ms)
        await bench.probe.ask("ZADD", bench.partition.deletions, 1, bench.endpoint_id)
        assert await deleter.step(bench.partition) == 0
        due = await due_at(store, bench.probe, bench.endpoint_id)
        assert due is not None
        passed = await bench.probe.now_ms() - before
        assert wait_ms <= due - before <= wait_ms + 1.25 * passed


async def test_a_deletion_that_was_planned_before_a_step_back_of_the_clock_is_due(bench: Bench) -> None:
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    late = await bench.probe.now_ms() + 2 * MAX_DELETION_MS
    await bench.probe.ask("ZADD", bench.partition.deletions, late, bench.endpoint_id)
    assert await Deleter(bench.store).step(bench.partition) == 1


async def test_a_plan_does_not_bring_back_an_endpoint_that_was_removed(bench: Bench) -> None:
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    taken = await bench.store.deletions.take(bench.partition)
    assert await bench.store.endpoints.remove(bench.endpoint_id)
    await bench.store.deletions.plan(bench.partition, taken, {bench.endpoint_id: 0})
    assert await due_at(bench.store, bench.probe, bench.endpoint_id) is None
