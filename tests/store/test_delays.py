"""A task with a delay waits for its time, and then with the new tasks."""

import pytest

from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import Succeeded, TaskState, TryAgain
from queue_engine.store.constants import MAX_DELAY_MS
from queue_engine.store.tasks import Cancellation, Rerun, Submission
from tests.store.bench import TENANT, Bench, config, spec

HOUR_MS = 3_600_000


async def later(bench: Bench, **of_time: object) -> dict[str, object]:
    """Return fields of a submission. A `run_at_ms` is given relative to now."""
    now = await bench.probe.now_ms()
    return {name: now + value if name == "run_at_ms" else value for name, value in of_time.items()}  # type: ignore[operator]


async def let_it_pass(bench: Bench, task_id: str = "t1") -> None:
    """End the delay of a task."""
    await bench.make_due(task_id)
    assert (await bench.sweep()).promoted == 1


@pytest.mark.parametrize("of_time", [{"delay_seconds": 3600}, {"run_at_ms": HOUR_MS}])
async def test_a_task_with_a_delay_is_not_queued(bench: Bench, of_time: dict[str, object]) -> None:
    assert await bench.submit("t1", **await later(bench, **of_time)) is Submission.ACCEPTED
    task = await bench.task("t1")
    assert task.state is TaskState.SCHEDULED
    assert task.run_at_ms is not None
    assert abs(task.run_at_ms - task.created_at_ms - HOUR_MS) < 10_000
    assert await bench.probe.scores(bench.partition.due) == {bench.member("t1"): task.run_at_ms}
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts(scheduled=1)
    assert await bench.agent().claim(10, block_ms=1) == []
    assert (await bench.sweep()).work == 0


async def test_a_delay_is_not_shorter_than_asked(bench: Bench) -> None:
    await bench.submit("t1", delay_seconds=0.0101)
    task = await bench.task("t1")
    assert task.run_at_ms == task.created_at_ms + 11


@pytest.mark.parametrize("of_time", [{"delay_seconds": 0}, {"run_at_ms": -1}, {"run_at_ms": -HOUR_MS}])
async def test_a_time_in_the_past_is_now(bench: Bench, of_time: dict[str, object]) -> None:
    await bench.submit("t1", **await later(bench, **of_time))
    task = await bench.task("t1")
    assert (task.state, task.run_at_ms) == (TaskState.QUEUED, None)
    assert (await bench.start(bench.agent())).lease.task_id == "t1"


async def test_a_time_too_far_ahead_is_refused(bench: Bench) -> None:
    before = await bench.probe.snapshot()
    too_late = await later(bench, run_at_ms=MAX_DELAY_MS + 60_000)
    assert await bench.submit("t1", **too_late) is Submission.TOO_LATE
    assert await bench.probe.snapshot() == before
    assert await bench.submit("t1", delay_seconds=MAX_DELAY_MS / 1000) is Submission.ACCEPTED


async def test_a_repeated_submission_does_not_move_the_time(bench: Bench) -> None:
    await bench.submit("t1", delay_seconds=3600)
    due = await bench.probe.scores(bench.partition.due)
    assert await bench.submit("t1", delay_seconds=3600) is Submission.DUPLICATE
    assert await bench.probe.scores(bench.partition.due) == due


async def test_its_first_run_waits_behind_tasks_that_wait(bench: Bench) -> None:
    await bench.submit("t1", delay_seconds=60)
    await bench.submit("t2")
    await let_it_pass(bench)
    agent = bench.agent()
    assert [entry.task_id for entry in await agent.claim(10, block_ms=1)] == ["t2", "t1"]


async def test_a_retry_of_it_waits_with_the_tasks_that_came_back(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1", delay_seconds=60)
    await let_it_pass(bench)
    await bench.settle(agent, await bench.start(agent), TryAgain("busy", 60))
    assert (await bench.task("t1")).state is TaskState.SCHEDULED
    await let_it_pass(bench)
    (entry,) = await agent.claim(10, block_ms=1)
    assert entry.stream == bench.keys.retry_queue
    started = await agent.start(entry, address="x:1")
    assert started is not None
    assert started.attempt == 2
    await bench.settle(agent, started, Succeeded(b"1"))


async def test_the_queue_ttl_counts_from_the_end_of_the_delay(bench: Bench) -> None:
    await bench.submit("t1", delay_seconds=3600, queue_ttl_seconds=30)
    assert await bench.probe.scores(bench.partition.deadlines) == {}
    assert (await bench.task("t1")).queue_ttl_seconds == 30
    await let_it_pass(bench)
    queued_ms = (await bench.task("t1")).updated_at_ms
    assert await bench.probe.scores(bench.partition.deadlines) == {bench.member("t1"): queued_ms + 30_000}
    await bench.pass_deadline("t1")
    assert (await bench.sweep()).expired == 1


async def test_times_are_measured_from_the_end_of_the_delay(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1", delay_seconds=3600)
    due_ms = (await bench.task("t1")).run_at_ms
    await let_it_pass(bench)
    started = await bench.start(agent)
    assert started.queued_at_ms == due_ms
    assert (await bench.settle(agent, started, Succeeded(b"1"))).created_at_ms == due_ms


@pytest.mark.parametrize("again", ["backoff", "by hand", "by hand, never started"])
async def test_the_wait_of_a_later_attempt_begins_when_it_could_run(bench: Bench, again: str) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    created_ms = (await bench.task("t1")).created_at_ms
    if again == "by hand, never started":
        await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    else:
        first = await bench.start(agent)
        assert first.queued_at_ms == created_ms
        outcome = TryAgain("busy", delay_seconds=3600) if again == "backoff" else Succeeded(b"1")
        await bench.settle(agent, first, outcome)
    await _later_than(bench, created_ms)
    if again == "backoff":
        await let_it_pass(bench)
    else:
        assert await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call") is Rerun.QUEUED
    queued_ms = (await bench.task("t1")).updated_at_ms
    assert created_ms < queued_ms
    await _later_than(bench, queued_ms)
    started = await bench.start(agent)
    assert started.queued_at_ms == queued_ms < started.started_at_ms


async def test_a_task_that_an_agent_released_uncalled_has_waited_since_its_submission(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    first = await bench.start(agent)
    await _later_than(bench, first.started_at_ms)
    await agent.release(first.lease, called=False)
    assert (await bench.start(agent)).queued_at_ms == (await bench.task("t1")).created_at_ms


async def _later_than(bench: Bench, time_ms: int) -> None:
    while await bench.probe.now_ms() <= time_ms:
        pass


async def test_it_can_be_cancelled_and_run_at_once_by_hand(bench: Bench) -> None:
    await bench.submit("t1", delay_seconds=3600, spec=spec(webhook=True))
    assert await bench.store.tasks.cancel(bench.endpoint_id, "t1") is Cancellation.CANCELLED
    assert await bench.probe.scores(bench.partition.due) == {}
    task = await bench.task("t1")
    assert (task.state, task.error) == (TaskState.CANCELLED, "the task was cancelled before it was started")
    assert await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call") is Rerun.QUEUED
    task = await bench.task("t1")
    assert (task.state, task.run_at_ms) == (TaskState.QUEUED, None)


async def test_it_counts_as_a_waiting_task(bench: Bench) -> None:
    await bench.store.endpoints.update(bench.endpoint_id, TENANT, lambda _: config(max_queued_tasks=2))
    for task_id in ("t1", "t2"):
        assert await bench.submit(task_id, delay_seconds=60) is Submission.ACCEPTED
    for delay_seconds in (None, 60):
        assert await bench.submit("t3", delay_seconds=delay_seconds) is Submission.FULL


async def test_it_does_not_begin_before_its_time(bench: Bench) -> None:
    """Sweeps as fast as possible, of several controllers, queue a task at its time at the earliest."""
    await bench.submit("t1", delay_seconds=0.3)
    due_ms = (await bench.task("t1")).run_at_ms
    assert due_ms is not None
    await bench.steady()
    while not (await bench.sweep_as_it_is()).promoted:
        pass
    assert (await bench.task("t1")).updated_at_ms >= due_ms


async def test_a_deleted_endpoint_ends_it(bench: Bench) -> None:
    await bench.submit("t1", delay_seconds=3600)
    keys = bench.keys.of_task("t1")
    assert (await bench.store.scripts.end_waiting(keys, error_text="deleted")).word == "OK"
    assert (await bench.task("t1")).state is TaskState.FAILED
    assert await bench.probe.scores(bench.partition.due) == {}
