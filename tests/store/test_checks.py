"""The leading controller looks at endpoints that have changed, or whose time has come, and at no others."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.checks import HOLD_MS, TAKEN_PER_PARTITION
from queue_engine.store.constants import MAX_CHECK_MS
from queue_engine.store.keys import Partition
from queue_engine.store.store import Store
from tests.store.bench import TENANT, Bench, config
from tests.store.probe import Probe

RUNNING, INITIALIZING = WorkerStatus.RUNNING, WorkerStatus.INITIALIZING


async def take(store: Store) -> list[str]:
    return [one.endpoint_id for one in (await store.checks.take()).taken]


async def look(bench: Bench, wait_seconds: float | None = 60) -> None:
    """Take what is due, and plan it for later."""
    for taken in (await bench.store.checks.take()).taken:
        await bench.store.checks.plan(taken, wait_seconds)
    assert await take(bench.store) == []


async def due_at(bench: Bench) -> float | None:
    return (await bench.probe.scores(bench.partition.due_checks)).get(bench.endpoint_id)


async def report(bench: Bench, status: WorkerStatus = RUNNING, **given: object) -> None:
    fields: dict[str, object] = {"running_tasks": 0, "address": "x:1"}
    await bench.store.workers.report(bench.endpoint_id, "w1", status, **(fields | given))  # type: ignore[arg-type]


Change = Callable[[Bench], Awaitable[object]]
CHANGES: dict[str, Change] = {
    "more workers": lambda bench: bench.store.endpoints.update(
        bench.endpoint_id, TENANT, lambda one: replace(one, workers=5)
    ),
    "stop": lambda bench: bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED),
    "delete": lambda bench: bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED),
    "new worker": lambda bench: bench.store.workers.put(bench.endpoint_id, "w2", managed=False),
    "end of a worker": lambda bench: bench.store.workers.remove(bench.endpoint_id, "w1"),
    "status by the controller": lambda bench: bench.store.workers.mark(
        bench.endpoint_id, "w1", WorkerStatus.FAILED, reason="a test"
    ),
    "status by the agent": lambda bench: report(bench, INITIALIZING),
    "order": lambda bench: bench.store.checks.hasten([bench.endpoint_id]),
    "new leader": lambda bench: bench.store.checks.hasten_all(set()),
    "resync": lambda bench: bench.store.endpoints.index.restore([bench.endpoint_id]),
}
NO_CHANGES: dict[str, Change] = {
    "report of the same status": lambda bench: report(bench, running_tasks=3),
    "stop that is repeated": lambda bench: bench.store.endpoints.set_desired_state(
        bench.endpoint_id, TENANT, DesiredState.RUNNING
    ),
    "a task": lambda bench: bench.finish("t1"),
}


async def healthy(bench: Bench) -> None:
    """Give the endpoint a worker that runs, and plan the next look for later."""
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await report(bench)
    await look(bench)


async def test_a_new_endpoint_is_due(store: Store) -> None:
    ids = {(await store.endpoints.create(TENANT, config())).endpoint_id for _ in range(10)}
    assert set(await take(store)) == ids


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_makes_the_endpoint_due(bench: Bench, change: Change) -> None:
    await healthy(bench)
    await change(bench)
    assert await take(bench.store) == [bench.endpoint_id]


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES.keys())
async def test_nothing_that_workers_do_not_depend_on_makes_the_endpoint_due(bench: Bench, change: Change) -> None:
    await healthy(bench)
    await change(bench)
    assert await take(bench.store) == []


async def test_the_first_report_after_a_start_makes_the_endpoint_due(bench: Bench) -> None:
    await healthy(bench)
    await bench.store.workers.begin_start(bench.endpoint_id, "w1")
    await report(bench, run=1)
    assert await take(bench.store) == [bench.endpoint_id]
    await look(bench)
    await report(bench, run=1)
    assert await take(bench.store) == []


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_while_the_endpoint_is_looked_at_is_not_missed(bench: Bench, change: Change) -> None:
    await healthy(bench)
    await bench.store.checks.hasten([bench.endpoint_id])
    (taken,) = (await bench.store.checks.take()).taken
    await change(bench)
    await bench.store.checks.plan(taken, 60)
    assert await take(bench.store) == [bench.endpoint_id]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_after_the_hold_of_a_long_look_is_not_missed(bench: Bench, change: Change) -> None:
    await healthy(bench)
    await bench.store.checks.hasten([bench.endpoint_id])
    (taken,) = (await bench.store.checks.take()).taken
    ended_ms = await bench.probe.now_ms() - 1000
    await bench.probe.ask("ZADD", bench.partition.due_checks, ended_ms, bench.endpoint_id)
    await change(bench)
    await bench.store.checks.plan(replace(taken, held_until_ms=ended_ms), 60)
    assert await take(bench.store) == [bench.endpoint_id]


async def test_an_endpoint_is_due_again_after_its_wait(bench: Bench) -> None:
    (taken,) = (await bench.store.checks.take()).taken
    before = await bench.probe.now_ms()
    await bench.store.checks.plan(taken, 0.0105)
    due = await due_at(bench)
    assert due is not None
    assert before + 11 <= due <= await bench.probe.now_ms() + 11


async def test_a_look_is_at_most_a_minute_away(bench: Bench) -> None:
    (taken,) = (await bench.store.checks.take()).taken
    await bench.store.checks.plan(taken, 3600)
    due = await due_at(bench)
    assert due is not None
    assert due <= await bench.probe.now_ms() + MAX_CHECK_MS


async def test_a_look_that_was_planned_before_a_step_back_of_the_clock_is_due(bench: Bench) -> None:
    await look(bench)
    await bench.probe.ask("ZADD", bench.partition.due_checks, await bench.probe.now_ms() + 3_600_000, bench.endpoint_id)
    assert await take(bench.store) == [bench.endpoint_id]
    assert await take(bench.store) == []


async def test_an_endpoint_that_is_taken_and_not_planned_is_due_again_after_the_hold(bench: Bench) -> None:
    before = await bench.probe.now_ms()
    (taken,) = (await bench.store.checks.take()).taken
    assert await take(bench.store) == []
    assert before + HOLD_MS <= taken.held_until_ms <= await bench.probe.now_ms() + HOLD_MS
    assert await due_at(bench) == taken.held_until_ms
    await bench.probe.ask("ZADD", bench.partition.due_checks, 1, bench.endpoint_id)
    (again,) = (await bench.store.checks.take()).taken
    await bench.store.checks.plan(replace(taken, held_until_ms=1), 60)
    assert await due_at(bench) == again.held_until_ms


async def test_an_endpoint_without_workers_leaves_the_index_and_one_with_workers_does_not(bench: Bench) -> None:
    await look(bench, None)
    assert await due_at(bench) is None
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=False)
    await look(bench, None)
    assert await due_at(bench) is not None


async def test_an_endpoint_that_does_not_exist_leaves_the_index(bench: Bench, store: Store) -> None:
    await look(bench)
    await store.checks.hasten(["999"])
    (taken,) = (await store.checks.take()).taken
    assert taken.endpoint_id == "999"
    await store.checks.plan(taken, None)
    assert await take(bench.store) == []
    scores = [await bench.probe.scores(partition.due_checks) for partition in store.partitions.all()]
    assert [endpoint_id for one in scores for endpoint_id in one] == [bench.endpoint_id]


async def test_a_removed_endpoint_leaves_the_index(bench: Bench) -> None:
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await bench.store.endpoints.remove(bench.endpoint_id)
    assert await due_at(bench) is None
    bench.endpoint_ids.clear()


async def test_many_due_endpoints_are_taken_in_turn(store: Store, probe: Probe) -> None:
    count = 2 * TAKEN_PER_PARTITION + 3
    (partition, *_) = store.partitions.all()
    entries = [part for number in range(count) for part in (number + 1, f"{number}")]
    await probe.ask("ZADD", partition.due_checks, *entries)
    rounds = [await take(store) for _ in range(4)]
    assert [len(ids) for ids in rounds] == [TAKEN_PER_PARTITION, TAKEN_PER_PARTITION, 3, 0]
    assert [endpoint_id for ids in rounds for endpoint_id in ids] == [str(number) for number in range(count)]


async def test_all_planned_looks_are_hastened(store: Store, probe: Probe) -> None:
    now = await probe.now_ms()
    for partition in store.partitions.all():
        entries = [part for number in range(1500) for part in (now + 60_000, f"{number}")]
        await probe.ask("ZADD", partition.due_checks, *entries)
    assert await take(store) == []
    await store.checks.hasten_all(set())
    later = await probe.now_ms()
    for partition in store.partitions.all():
        assert await probe.ask("ZCOUNT", partition.due_checks, "-inf", later) == 1500
        assert set(await probe.scores(partition.due_checks)) == {str(number) for number in range(1500)}


async def test_pages_have_the_endpoints_of_a_partition_only_while_it_has_workers(bench: Bench) -> None:
    entries = [part for number in range(1500) for part in (1, f"1{number:06}")]
    await bench.probe.ask("ZADD", bench.partition.due_checks, *entries)

    async def read() -> set[str]:
        pages = bench.store.checks.pages_with_workers(bench.partition)
        return {endpoint_id async for page in pages for endpoint_id in page}

    assert await read() == set()
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    assert await read() == {bench.endpoint_id, *entries[1::2]}
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    assert await read() == set()


async def test_looks_are_hastened_once_although_a_partition_is_unavailable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller repeats the call in each round, without another look at the endpoints of the other partitions."""
    other = next(one for one in bench.store.partitions.all() if one != bench.partition)
    hasten_in = bench.store.checks._hasten_all_in
    asked: list[Partition] = []

    async def fail_for_other(partition: Partition, done: set[Partition]) -> None:
        asked.append(partition)
        if partition == other:
            raise ConnectionError
        await hasten_in(partition, done)

    monkeypatch.setattr(bench.store.checks, "_hasten_all_in", fail_for_other)
    done: set[Partition] = set()
    await healthy(bench)
    with pytest.raises(ConnectionError):
        await bench.store.checks.hasten_all(done)
    assert await take(bench.store) == [bench.endpoint_id]
    assert set(bench.store.partitions.all()) - done == {other}

    asked.clear()
    with pytest.raises(ConnectionError):
        await bench.store.checks.hasten_all(done)
    assert asked == [other]
    assert await take(bench.store) == []


async def test_the_workers_of_many_endpoints_are_read_together(store: Store) -> None:
    ids = [(await store.endpoints.create(TENANT, config())).endpoint_id for _ in range(120)]
    put = store.workers.put
    await asyncio.gather(*(put(one, f"{one}-{name}", managed=True) for one in ids[1:] for name in ("a", "b")))
    found = await store.workers.of_endpoints([*ids, "999"])
    assert {one: sorted(worker.worker_id for worker in workers) for one, workers in found.items()} == {
        one: [f"{one}-a", f"{one}-b"] for one in ids[1:]
    }
    assert await store.workers.of_endpoint(ids[0]) == []
    assert list(await store.endpoints.read([*ids, "999"])) == ids
