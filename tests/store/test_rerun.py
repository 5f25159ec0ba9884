"""An ended task runs again by hand: same id, next attempt, fresh budgets, its history kept."""

import pytest

from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import (
    AttemptOutcome,
    DeliveryStatus,
    Failed,
    Outcome,
    Succeeded,
    TaskState,
    TaskStatus,
    TryAgain,
)
from queue_engine.store.tasks import Rerun
from tests.store.bench import DELIVERED, TENANT, Bench, answer, spec


async def rerun(bench: Bench, task_id: str = "t1", call_id: str = "call 1") -> Rerun:
    return await bench.store.tasks.rerun(bench.endpoint_id, task_id, call_id)


async def outcomes(bench: Bench, task_id: str = "t1") -> list[tuple[int, AttemptOutcome]]:
    attempts = await bench.store.tasks.attempts(bench.endpoint_id, task_id)
    assert attempts is not None
    return [(one.number, one.outcome) for one in attempts]


@pytest.mark.parametrize(
    ("outcome", "noted"),
    [
        (Succeeded(b"1"), AttemptOutcome.OK),
        (Failed("no"), AttemptOutcome.ERROR),
        (Failed("late", TaskState.TIMED_OUT), AttemptOutcome.TIMEOUT),
        (Failed("stop", TaskState.CANCELLED), AttemptOutcome.CANCELLED),
    ],
)
async def test_an_ended_task_runs_again(bench: Bench, outcome: Outcome, noted: AttemptOutcome) -> None:
    before = await bench.finish("t1", outcome=outcome)
    assert await rerun(bench) is Rerun.QUEUED
    task = await bench.task("t1")
    assert (task.state, task.status, task.attempts) == (TaskState.QUEUED, TaskStatus.PROCESSING, 1)
    assert (task.number, task.created_at_ms, task.input) == (before.number, before.created_at_ms, before.input)
    assert (task.output, task.error, task.finished_at_ms, task.cancel_requested) == (None, None, None, False)
    agent = bench.agent()
    started = await bench.start(agent)
    assert (started.attempt, started.budget.attempt) == (2, 1)
    assert await outcomes(bench) == [(1, noted), (2, AttemptOutcome.RUNNING)]
    await bench.settle(agent, started, Succeeded(b"2"))
    assert (await bench.task("t1")).output == b"2"
    assert await outcomes(bench) == [(1, noted), (2, AttemptOutcome.OK)]


async def test_the_same_call_again_changes_nothing(bench: Bench) -> None:
    await bench.finish("t1")
    assert await rerun(bench) is Rerun.QUEUED
    assert await rerun(bench) is Rerun.DUPLICATE
    assert await rerun(bench, call_id="call 2") is Rerun.NOT_ENDED
    assert (await bench.store.tasks.counts(bench.endpoint_id)).queued == 1
    agent = bench.agent()
    await bench.settle(agent, await bench.start(agent), Succeeded(b"2"))
    assert await rerun(bench) is Rerun.DUPLICATE
    assert (await bench.task("t1")).state is TaskState.SUCCEEDED


@pytest.mark.parametrize("state", ["queued", "running", "scheduled"])
async def test_a_task_that_has_not_ended_does_not(bench: Bench, state: str) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    if state != "queued":
        started = await bench.start(agent)
        if state == "scheduled":
            await bench.settle(agent, started, TryAgain("busy", 60))
    assert await rerun(bench) is Rerun.NOT_ENDED
    assert (await bench.task("t1")).state == state


async def test_budgets_are_reset_by_a_rerun(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("broke", 0, AttemptOutcome.CONNECTION_LOST))
    await bench.sweep()
    await bench.start(agent)
    await bench.lose("t1", max_lost=0)
    assert (await bench.task("t1")).state is TaskState.DEAD
    await rerun(bench)
    started = await bench.start(agent)
    assert (started.attempt, started.lost, started.connections_lost, started.is_suspect) == (3, 0, 0, False)
    assert (started.budget.attempt, started.budget.max_attempts) == (1, 5)
    assert await outcomes(bench) == [
        (1, AttemptOutcome.CONNECTION_LOST),
        (2, AttemptOutcome.LOST),
        (3, AttemptOutcome.RUNNING),
    ]


async def test_a_task_that_never_began_has_no_attempt_to_note(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    await rerun(bench)
    assert await outcomes(bench) == []
    assert (await bench.start(bench.agent())).attempt == 1


async def test_the_new_result_is_a_new_event_for_the_webhook(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    (entry,) = await outbox.read(10, block_ms=1)
    first = await outbox.open(entry)
    await outbox.settle(entry, answer(), DELIVERED, at_ms=1)
    assert (await bench.task("t1")).status is TaskStatus.DELIVERED

    await rerun(bench)
    task = await bench.task("t1")
    assert (task.delivery_status, task.delivery_attempts, task.delivered_at_ms) == (DeliveryStatus.INIT, 0, None)
    agent = bench.agent()
    await bench.settle(agent, await bench.start(agent), Failed("no"))
    (entry,) = await outbox.read(10, block_ms=1)
    second = await outbox.open(entry)
    assert first is not None
    assert second is not None
    assert first.message_id != second.message_id
    await outbox.settle(entry, answer(), DELIVERED, at_ms=1)


@pytest.mark.parametrize("how", ["ready", "read", "retry", "parked", "given up"])
async def test_a_delivery_of_the_old_result_ends(bench: Bench, how: str) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await bench.bring_delivery_to(how, outbox)
    await rerun(bench)
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    if how == "read":
        assert entry is not None
        assert not (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    assert (await bench.task("t1")).delivery_status is DeliveryStatus.INIT


async def test_an_attempt_of_the_run_before_is_fenced(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, Succeeded(b"1"))
    await rerun(bench)
    assert (await bench.settle(agent, started, Succeeded(b"3"))).word == "FENCED"
    await bench.start(agent)
    assert (await bench.settle(agent, started, Succeeded(b"3"))).word == "FENCED"


async def test_its_data_stays_as_long_as_it_lives(bench: Bench) -> None:
    await bench.finish("t1")
    await rerun(bench)
    for key in (bench.keys.task("t1"), bench.keys.body("t1"), bench.keys.history("t1")):
        assert await bench.probe.ask("PTTL", key) == -1
    assert await bench.purge() == 0


async def test_a_closed_or_full_endpoint_takes_it_no_more_than_new_work(bench: Bench) -> None:
    await bench.finish("t1")
    await bench.probe.ask("HSET", bench.keys.endpoint, "max_queued", 0)
    assert await rerun(bench) is Rerun.FULL
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert await rerun(bench) is Rerun.CLOSED
    assert (await bench.task("t1")).state is TaskState.SUCCEEDED


async def test_a_task_that_is_not_there_cannot_run(bench: Bench) -> None:
    assert await rerun(bench) is Rerun.NOT_FOUND


async def test_the_history_holds_the_latest_attempts(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1", spec=spec())
    for _ in range(55):
        await bench.settle(agent, await bench.start(agent), TryAgain("busy", 0))
        await bench.sweep()
    numbers = [number for number, _ in await outcomes(bench)]
    assert numbers == list(range(6, 56))


async def test_the_deadline_of_the_first_run_does_not_end_the_next(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1", queue_ttl_seconds=0.001)
    started = await bench.start(agent)
    await bench.settle(agent, started, Failed("no"))
    assert await rerun(bench) is Rerun.QUEUED
    started = await bench.start(agent)
    await bench.settle(agent, started, TryAgain("busy", 60))
    assert (await bench.sweep()).expired == 0
    assert (await bench.task("t1")).state is TaskState.SCHEDULED


async def test_a_further_run_that_is_cancelled_before_it_starts_says_so(bench: Bench) -> None:
    await bench.finish("t1")
    await rerun(bench)
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    task = await bench.task("t1")
    assert task.error == "the task was cancelled before it was started"
    assert await outcomes(bench) == [(1, AttemptOutcome.OK)]
