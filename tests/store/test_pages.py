"""Lists are complete and in order at every offset, and counts equal the numbers of tasks."""

import asyncio
from random import Random

import pytest

from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import Failed, Succeeded, TaskState, TaskStatus, TryAgain
from tests.store.bench import Bench, spec
from tests.store.consistency import BLOCK, FAN, LEVELS

ALL_KINDS = [None, *TaskStatus]


async def test_the_lists_of_an_endpoint_without_tasks_are_empty(bench: Bench) -> None:
    for status in ALL_KINDS:
        page = await bench.store.tasks.page(bench.endpoint_id, status, page=1, size=10)
        assert (page.items, page.total) == ((), 0)
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts()


async def test_every_kind_of_list_shows_its_tasks_newest_first(bench: Bench) -> None:
    expected = await _one_of_each(bench)
    for status in ALL_KINDS:
        page = await bench.store.tasks.page(bench.endpoint_id, status, page=1, size=100)
        assert [task.task_id for task in page.items] == expected[status], status
        assert page.total == len(expected[status])
        assert status is None or {task.status for task in page.items} == {status}


async def test_the_counts_say_where_the_tasks_are(bench: Bench) -> None:
    await _one_of_each(bench)
    counts = await bench.store.tasks.counts(bench.endpoint_id)
    assert counts == TaskCounts(queued=1, running=1, scheduled=1, success=2, delivered=1, failed=2)
    assert (counts.processing, counts.total) == (3, 8)
    assert await bench.store.sweeper.waiting_and_running() == {"queued": 1, "running": 1, "scheduled": 1}


async def test_pages_put_together_are_the_whole_list(bench: Bench) -> None:
    for number in range(7):
        await bench.finish(f"t{number}")
    for status in (None, TaskStatus.SUCCESS):
        for size in (1, 2, 3, 7, 8):
            assert await _walk(bench, status, size) == [f"t{number}" for number in reversed(range(7))]


async def test_pages_of_tasks_under_way_put_together_are_the_whole_list(bench: Bench) -> None:
    for number in range(7):
        await bench.submit(f"t{number}")
    assert await _walk(bench, TaskStatus.PROCESSING, 3) == [f"t{number}" for number in reversed(range(7))]


@pytest.mark.parametrize("status", ALL_KINDS)
async def test_a_page_beyond_the_end_is_empty_and_knows_the_total(bench: Bench, status: TaskStatus | None) -> None:
    expected = await _one_of_each(bench)
    for number in (100, 10**9):
        page = await bench.store.tasks.page(bench.endpoint_id, status, page=number, size=10)
        assert (page.items, page.total) == ((), len(expected[status]))


async def test_a_brief_task_shows_its_state_and_error_and_hides_the_rest(bench: Bench) -> None:
    await bench.submit("t1", spec=spec(webhook=True, headers={"X-Token": "hidden"}, auth_key="hidden"))
    agent = bench.agent()
    await bench.settle(agent, await bench.start(agent), Failed("it broke"))
    page = await bench.store.tasks.page(bench.endpoint_id, None, page=1, size=10)
    (task,) = page.items
    assert (task.state, task.error, task.input, task.output) == (TaskState.FAILED, "it broke", None, None)
    assert task.spec == spec(webhook=True)


async def test_an_output_is_only_in_the_detail(bench: Bench) -> None:
    await bench.finish("t1")
    page = await bench.store.tasks.page(bench.endpoint_id, TaskStatus.SUCCESS, page=1, size=10)
    assert page.items[0].output is None
    assert (await bench.task("t1")).output == b"42"


@pytest.mark.parametrize("gone", [{0}, {9}, {4, 5}, {0, 3, 9}, set(range(9)), set(range(1, 10))])
async def test_gaps_that_retention_leaves_do_not_show(bench: Bench, gone: set[int]) -> None:
    """Tasks end in another order than they were submitted in, so retention removes entries in the middle."""
    agent = bench.agent()
    attempts = [await bench.submit_and_start(f"t{number}", agent) for number in range(10)]
    for number in gone:
        await bench.settle(agent, attempts[number], Succeeded(b"1"))
    assert await bench.purge() == len(gone)
    left = [f"t{number}" for number in reversed(range(10)) if number not in gone]
    for size in (1, 3, 10):
        assert await _walk(bench, None, size) == left
        assert await _walk(bench, TaskStatus.PROCESSING, size) == left


async def test_tasks_submitted_after_a_gap_are_listed_first(bench: Bench) -> None:
    agent = bench.agent()
    attempts = [await bench.submit_and_start(f"t{number}", agent) for number in range(3)]
    await bench.settle(agent, attempts[1], Succeeded(b"1"))
    await bench.purge()
    await bench.submit("t3")
    assert await _walk(bench, None, 2) == ["t3", "t2", "t0"]


@pytest.mark.parametrize("before", [0, 30, BLOCK - 3, *(BLOCK * FAN**level - 60 * level for level in range(1, LEVELS))])
async def test_any_page_is_the_slice_of_a_list_whatever_came_and_went(bench: Bench, before: int) -> None:
    """Tasks are added, ended and removed in any order. `before` is the number of tasks removed before the test."""
    await _as_if_gone(bench, before)
    created: list[str] = []
    ended: dict[TaskStatus, list[str]] = {TaskStatus.SUCCESS: [], TaskStatus.FAILED: []}
    for number in range(6):
        created = await _come_and_go(bench, created, ended, Random(before + number), f"{number}_")
        lists: list[tuple[TaskStatus | None, list[str]]] = [(None, created), *ended.items()]
        for status, expected in lists:
            for size in (1, 7, 100):
                for page in {1, 2, len(expected) // size // 2, len(expected) // size + 1} - {0}:
                    await _expect_page(bench, status, expected[::-1], page, size)
        assert await bench.check() == []


async def _come_and_go(
    bench: Bench, created: list[str], ended: dict[TaskStatus, list[str]], random: Random, prefix: str
) -> list[str]:
    """Some tasks more, and some less; the lists have them oldest first. Returns the new order of creation."""
    agent = bench.agent()
    names = [f"{prefix}{number}" for number in range(random.randint(1, 120))]
    await asyncio.gather(*(bench.submit(name) for name in names))
    starts = [await agent.start(entry, address="x:1") for entry in await agent.claim(1000, block_ms=1)]
    random.shuffle(starts)
    for started in starts:
        assert started is not None
        status = random.choice([TaskStatus.SUCCESS, TaskStatus.FAILED])
        outcome = Succeeded(b"1") if status is TaskStatus.SUCCESS else Failed("no")
        assert (await bench.settle(agent, started, outcome)).word == "OK"
        ended[status].append(started.lease.task_id)
    gone: set[str] = set()
    for status, share in ((TaskStatus.SUCCESS, random.random()), (TaskStatus.FAILED, random.choice([0, 1]))):
        leaving = [name for name in ended[status] if random.random() < share]
        await _take_out(bench, status, leaving)
        ended[status] = [name for name in ended[status] if name not in leaving]
        gone.update(leaving)
    return [name for name in [*created, *names] if name not in gone]


async def _expect_page(bench: Bench, status: TaskStatus | None, newest_first: list[str], page: int, size: int) -> None:
    found = await bench.store.tasks.page(bench.endpoint_id, status, page=page, size=size)
    expected = newest_first[(page - 1) * size : page * size]
    assert [task.task_id for task in found.items] == expected, (status, page, size)
    assert found.total == len(newest_first)


async def test_pages_stay_right_while_tasks_come_and_go(bench: Bench) -> None:
    """No page repeats a task or fails, and tasks that are never removed are listed at the end."""

    async def churn() -> None:
        for number in range(60):
            await bench.finish(f"c{number}")
            if number % 5 == 0:
                await bench.purge()

    async def look() -> None:
        for _ in range(60):
            for status in ALL_KINDS:
                page = await bench.store.tasks.page(bench.endpoint_id, status, page=1, size=5)
                ids = [task.task_id for task in page.items]
                assert len(ids) == len(set(ids)) <= 5

    await asyncio.gather(churn(), look())


async def _one_of_each(bench: Bench) -> dict[TaskStatus | None, list[str]]:
    """Submit tasks in every place; return the expected content of each list."""
    agent = bench.agent()
    await bench.finish("success1")
    await bench.finish("delivered", webhook=True)
    await bench.deliver(await bench.outbox())
    await bench.finish("failed1", outcome=Failed("no"))
    await bench.finish("success2")
    await bench.finish("failed2", outcome=Failed("no", TaskState.TIMED_OUT))
    started = await bench.submit_and_start("scheduled", agent)
    await bench.settle(agent, started, TryAgain("busy", 60.0))
    await bench.submit_and_start("running", agent)
    await bench.submit("queued")
    return {
        None: ["queued", "running", "scheduled", "failed2", "success2", "failed1", "delivered", "success1"],
        TaskStatus.PROCESSING: ["queued", "running", "scheduled"],
        TaskStatus.SUCCESS: ["success2", "success1"],
        TaskStatus.DELIVERED: ["delivered"],
        TaskStatus.FAILED: ["failed2", "failed1"],
    }


async def _walk(bench: Bench, status: TaskStatus | None, size: int) -> list[str]:
    """Return the ids on all pages."""
    ids: list[str] = []
    page = 1
    while (found := await bench.store.tasks.page(bench.endpoint_id, status, page=page, size=size)).items:
        assert len(found.items) <= size
        ids += [task.task_id for task in found.items]
        page += 1
    assert found.total == len(ids)
    return ids


async def _as_if_gone(bench: Bench, number: int) -> None:
    """Pretend that this number of tasks was submitted, has ended with every status and was removed."""
    if number:
        for index in ("all", "success", "failed"):
            await bench.probe.ask("HSET", bench.keys.counts, f"seq:{index}", number)


async def _take_out(bench: Bench, status: TaskStatus, task_ids: list[str]) -> None:
    """Let retention remove these tasks, as if they had ended first."""
    found = await bench.probe.hashes([bench.keys.task(task_id) for task_id in task_ids])
    purges = (
        bench.store.sweeper._purge(bench.keys, status, fields["fin"], task_id, fields["seq"])
        for task_id, fields in zip(task_ids, found, strict=True)
    )
    assert set(await asyncio.gather(*purges)) <= {"PURGED"}
