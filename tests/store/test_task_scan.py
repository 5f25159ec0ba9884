"""Filters over many tasks: the work of a call, entries without times, steps of the clock, and damaged data."""

from dataclasses import replace

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.tasks import Failed, TaskState, TaskStatus
from queue_engine.store.codec import TaskSpecs
from queue_engine.store.task_scan import DEFAULT_LIMITS, ScanLimits, TaskScan
from tests.store.bench import SECRET_KEY, Bench

QUEUED = TaskFilters(state=frozenset({TaskState.QUEUED}))
FAILED = TaskFilters(state=frozenset({TaskState.FAILED}))


def scan_of(bench: Bench, limits: ScanLimits = DEFAULT_LIMITS, seconds_per_look: float = 0.0) -> TaskScan:
    """Return a scan whose clock advances by `seconds_per_look` each time that it is read."""
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += seconds_per_look
        return now

    store = bench.store
    specs = TaskSpecs(Sealer(SECRET_KEY))
    return TaskScan(store.redis, store.scripts, store.partitions, specs, limits, monotonic=monotonic)


async def walk(bench: Bench, scan: TaskScan, filters: TaskFilters, *, oldest_first: bool = False) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = await scan.ids(bench.endpoint_id, filters, after=after, limit=3, oldest_first=oldest_first)
        found += page.task_ids
        after = page.next
        if after is None:
            return found


async def submit_many(bench: Bench, count: int, prefix: str = "t") -> list[str]:
    names = [f"{prefix}{number}" for number in range(count)]
    for name in names:
        await bench.submit(name)
    return names


async def test_a_call_looks_at_a_limited_number_of_tasks(bench: Bench) -> None:
    await submit_many(bench, 12)
    scan = scan_of(bench, ScanLimits(scanned=5, first_piece=2, piece=4))
    page = await scan.ids(bench.endpoint_id, TaskFilters(input="absent"), after=None, limit=10)
    assert (page.task_ids, page.scanned) == ((), 5)
    assert page.next == 8
    page = await scan.ids(bench.endpoint_id, TaskFilters(input="absent"), after=page.next, limit=10)
    assert (page.next, page.scanned) == (3, 5)
    page = await scan.ids(bench.endpoint_id, TaskFilters(input="absent"), after=page.next, limit=10)
    assert (page.next, page.scanned) == (None, 2)


async def test_a_call_ends_after_its_time_but_reads_at_least_a_piece(bench: Bench) -> None:
    await submit_many(bench, 9)
    scan = scan_of(bench, ScanLimits(seconds=0.05, first_piece=3, piece=3), seconds_per_look=1.0)
    page = await scan.ids(bench.endpoint_id, TaskFilters(input="absent"), after=None, limit=1)
    assert (page.next, page.scanned) == (7, 3)


async def test_a_page_that_fills_looks_at_few_tasks(bench: Bench) -> None:
    names = await submit_many(bench, 200)
    page = await bench.store.task_scan.ids(bench.endpoint_id, TaskFilters(), after=None, limit=10)
    assert page.task_ids == tuple(reversed(names[-10:]))
    assert page.scanned == 10


async def test_tasks_that_have_not_ended_are_read_from_their_own_index(bench: Bench) -> None:
    await bench.submit("waiting")
    agent = bench.agent()
    started = await bench.start(agent)
    for number in range(40):
        await bench.finish(f"t{number}")
    assert started.lease.task_id == "waiting"
    running = TaskFilters(state=frozenset({TaskState.RUNNING}))
    page = await bench.store.task_scan.ids(bench.endpoint_id, running, after=None, limit=10)
    assert (page.task_ids, page.next, page.scanned) == (("waiting",), None, 1)


async def test_few_ended_tasks_are_found_without_a_look_at_the_others(bench: Bench) -> None:
    for number in range(3):
        await bench.finish(f"f{number}", outcome=Failed("no"))
        for other in range(5):
            await bench.finish(f"t{number}_{other}")
    page = await bench.store.task_scan.ids(bench.endpoint_id, FAILED, after=None, limit=10)
    assert (page.task_ids, page.next, page.scanned) == (("f2", "f1", "f0"), None, 3)


async def test_many_ended_tasks_are_found_in_the_index_of_all_tasks(bench: Bench) -> None:
    for number in range(5):
        await bench.finish(f"f{number}", outcome=Failed("no"))
        await bench.submit(f"q{number}")
        await bench.store.tasks.cancel(bench.endpoint_id, f"q{number}")
    scan = scan_of(bench, ScanLimits(sorted=9))
    page = await scan.ids(bench.endpoint_id, FAILED, after=None, limit=10)
    assert (page.task_ids, page.scanned) == (("f4", "f3", "f2", "f1", "f0"), 10)


async def test_a_period_is_found_without_a_look_at_the_tasks_before_and_after_it(bench: Bench) -> None:
    await submit_many(bench, 30)
    times = await set_creation_times(bench, [100_000 * number for number in range(1, 31)])
    for created_after, created_before in ((10, 12), (1, 2), (28, 29), (5, 5)):
        filters = TaskFilters(created_after=times[created_after], created_before=times[created_before])
        page = await bench.store.task_scan.ids(bench.endpoint_id, filters, after=None, limit=100)
        assert page.task_ids == tuple(f"t{number}" for number in reversed(range(created_after, created_before)))
        assert page.scanned <= created_before - created_after + 1


@pytest.mark.parametrize("has_times", [lambda number: number >= 10, lambda number: number % 3 == 0, lambda _: False])
async def test_entries_of_an_earlier_version_have_the_time_of_their_task(bench: Bench, has_times: object) -> None:
    assert callable(has_times)
    names = await submit_many(bench, 20)
    times = await set_creation_times(bench, [100_000 * number for number in range(1, 21)], has_times)
    for first in (0, 7, 12):
        for last in range(first, 20, 4):
            filters = TaskFilters(created_after=times[first], created_before=times[last])
            page = await bench.store.task_scan.ids(bench.endpoint_id, filters, after=None, limit=100, oldest_first=True)
            assert page.task_ids == tuple(names[first:last])
            assert page.scanned <= last - first + 1


async def test_a_step_back_of_the_clock_by_two_seconds_hides_no_task(bench: Bench) -> None:
    names = await submit_many(bench, 16)
    before = [100_000 + 500 * number for number in range(8)]
    await set_creation_times(bench, [*before, *(before[-1] - 2000 + 500 * number for number in range(8))])
    tasks = [await bench.task(name) for name in names]
    for time in range(99_500, 107_000, 500):
        for filters in (TaskFilters(created_after=time), TaskFilters(created_before=time)):
            expected = [
                task.task_id
                for task in tasks
                if (filters.created_after is None or task.created_at_ms >= time)
                and (filters.created_before is None or task.created_at_ms < time)
            ]
            assert await walk(bench, bench.store.task_scan, filters, oldest_first=True) == expected


async def test_a_task_whose_data_has_expired_is_skipped(bench: Bench) -> None:
    names = await submit_many(bench, 4)
    await bench.probe.ask("DEL", bench.keys.task("t1"))
    for filters in (TaskFilters(), QUEUED, TaskFilters(created_after=1)):
        assert await walk(bench, bench.store.task_scan, filters) == [names[3], names[2], names[0]]
    await bench.probe.ask("FLUSHALL")
    bench.endpoint_ids.clear()


async def test_filters_are_stored_and_restored(bench: Bench) -> None:
    filters = TaskFilters(
        status=TaskStatus.FAILED, state=frozenset({TaskState.DEAD, TaskState.FAILED}), created_after=5
    )
    assert TaskFilters.from_dict(filters.to_dict()) == filters
    assert replace(filters, input="x") != filters
    assert TaskFilters().is_empty
    assert not filters.is_empty


async def set_creation_times(bench: Bench, times: list[int], has_time: object = lambda _: True) -> list[int]:
    """Give the tasks these times of creation, and their entries too if `has_time` of their index says so."""
    assert callable(has_time)
    redis, created = bench.store.redis, bench.keys.created
    entries = await redis.xrange(created)
    await redis.delete(created)
    for index, ((entry, fields), time) in enumerate(zip(entries, times, strict=True)):
        place = entry.partition(b"-")[0].decode()
        await redis.xadd(created, fields, id=f"{place}-{time if has_time(index) else 1}")
        await redis.hset(bench.keys.task(fields[b"t"].decode()), "created", str(time))  # type: ignore[misc]
    return times
