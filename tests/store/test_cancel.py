"""Cancelling: a waiting task ends at once, a running task after its agent's next heartbeat."""

import pytest

from queue_engine.domain.attempts import Renewal
from queue_engine.domain.tasks import AttemptOutcome, Failed, Succeeded, TaskState, TaskStatus, TryAgain
from queue_engine.store.cancel_requests import place_of
from queue_engine.store.tasks import Cancellation
from tests.store.bench import Bench, spec

CANCELLED_WHILE_RUNNING = "the task was cancelled while it was running"


async def cancel(bench: Bench, task_id: str = "t1") -> Cancellation:
    return await bench.store.tasks.cancel(bench.endpoint_id, task_id)


async def test_a_task_that_waits_ends_at_once(bench: Bench) -> None:
    await bench.submit("t1", spec=spec(webhook=True))
    assert await cancel(bench) is Cancellation.CANCELLED
    task = await bench.task("t1")
    assert (task.state, task.status, task.cancel_requested) == (TaskState.CANCELLED, TaskStatus.FAILED, True)
    assert task.error == "the task was cancelled before it was started"
    assert await bench.agent().claim(10, block_ms=1) == []
    assert len(await (await bench.outbox()).read(10, block_ms=1)) == 1


async def test_an_entry_that_was_read_before_starts_nothing(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    await cancel(bench)
    assert await agent.start(entry, address="x:1") is None
    await agent.put_back(entry)
    assert (await bench.task("t1")).state is TaskState.CANCELLED


async def test_a_task_that_waits_for_another_attempt_ends_at_once(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("busy", 60))
    assert await cancel(bench) is Cancellation.CANCELLED
    assert (await bench.task("t1")).error == "the task was cancelled while it waited for another attempt"
    await bench.sweep()
    assert (await bench.task("t1")).state is TaskState.CANCELLED


async def test_the_agent_of_a_running_task_is_notified_with_each_heartbeat(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    other = await bench.submit_and_start("t2", agent)
    assert await cancel(bench) is Cancellation.REQUESTED
    task = await bench.task("t1")
    assert (task.state, task.cancel_requested) == (TaskState.RUNNING, True)
    for _ in range(2):
        assert await agent.renew([started.lease, other.lease]) == [Renewal.CANCEL, Renewal.OK]


async def test_the_cancellation_of_a_running_task_is_noted_for_those_who_wait_for_it(bench: Bench) -> None:
    """With its worker, for some time, and not that of a waiting task."""
    agent, requests, now = bench.agent(), bench.store.cancel_requests, await bench.probe.now_ms()
    await bench.submit_and_start("t1", agent)
    await bench.submit("waiting")
    await cancel(bench, "waiting")
    assert await requests.read(bench.partition, place_of(now), block_ms=1) == []
    await cancel(bench)
    (found,) = await requests.read(bench.partition, place_of(now), block_ms=1)
    assert (found.endpoint_id, found.task_id, found.worker_id) == (bench.endpoint_id, "t1", agent.worker_id)
    assert await requests.read(bench.partition, found.place, block_ms=1) == []
    assert await bench.probe.ask("PTTL", bench.partition.cancel_requests) > 0


async def test_the_end_of_a_cancelled_task_is_recorded_by_its_agent(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await cancel(bench)
    ended = Failed(CANCELLED_WHILE_RUNNING, TaskState.CANCELLED)
    assert (await bench.settle(agent, started, ended)).word == "OK"
    assert (await bench.settle(agent, started, ended)).word == "ALREADY"
    task = await bench.task("t1")
    assert (task.state, task.status, task.error) == (TaskState.CANCELLED, TaskStatus.FAILED, CANCELLED_WHILE_RUNNING)


async def test_a_result_that_comes_before_the_agent_has_heard_stands(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await cancel(bench)
    assert (await bench.settle(agent, started, Succeeded(b"42"))).word == "OK"
    task = await bench.task("t1")
    assert (task.state, task.output) == (TaskState.SUCCEEDED, b"42")


async def test_a_running_task_that_is_to_be_cancelled_never_waits_again(bench: Bench) -> None:
    agent = bench.agent()
    first = await bench.submit_and_start("t1", agent, spec=spec(webhook=True))
    second = await bench.submit_and_start("t2", agent)
    await bench.submit_and_start("t3", agent)
    for task_id in ("t1", "t2", "t3"):
        await cancel(bench, task_id)
    for _ in range(2):  # the second is a repeat after a lost reply
        word = (await bench.settle(agent, first, TryAgain("busy", 1))).word
        assert word == ("CANCELLED" if _ == 0 else "ALREADY")
    assert await agent.release(second.lease) == "CANCELLED"
    assert await agent.release(second.lease) == "ALREADY"
    assert (await bench.lose("t3")).cancelled == 1
    for task_id, outcome in (
        ("t1", AttemptOutcome.BUSY),
        ("t2", AttemptOutcome.RELEASED),
        ("t3", AttemptOutcome.LOST),
    ):
        task = await bench.task(task_id)
        assert (task.state, task.error) == (TaskState.CANCELLED, CANCELLED_WHILE_RUNNING)
        attempts = await bench.store.tasks.attempts(bench.endpoint_id, task_id)
        assert attempts is not None
        assert [one.outcome for one in attempts] == [outcome]
    assert len(await (await bench.outbox()).read(10, block_ms=1)) == 1


async def test_an_agent_that_lost_a_cancelled_task_is_fenced(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    assert await cancel(bench) is Cancellation.CANCELLED
    assert await agent.renew([started.lease]) == [Renewal.FENCED]
    assert (await bench.settle(agent, started, Succeeded(b"42"))).word == "FENCED"
    attempts = await bench.store.tasks.attempts(bench.endpoint_id, "t1")
    assert attempts is not None
    assert [one.outcome for one in attempts] == [AttemptOutcome.LOST]


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), Failed("no")])
async def test_cancelling_an_ended_task_changes_nothing(bench: Bench, outcome: Succeeded | Failed) -> None:
    before = await bench.finish("t1", outcome=outcome, webhook=True)
    assert await cancel(bench) is Cancellation.ENDED
    assert await bench.task("t1") == before


async def test_cancelling_twice_says_the_same_and_counts_once(bench: Bench) -> None:
    await bench.submit("t1")
    assert [await cancel(bench), await cancel(bench)] == [Cancellation.CANCELLED, Cancellation.ENDED]
    counts = await bench.store.tasks.counts(bench.endpoint_id)
    assert (counts.failed, counts.processing) == (1, 0)


async def test_a_repeated_cancellation_of_a_running_task_is_not_a_change(bench: Bench) -> None:
    await bench.submit_and_start("t1", bench.agent())
    assert [await cancel(bench), await cancel(bench)] == [Cancellation.REQUESTED, Cancellation.REPEATED]
    assert (await bench.task("t1")).cancel_requested


async def test_a_task_that_is_not_there_cannot_be_cancelled(bench: Bench) -> None:
    assert await cancel(bench) is Cancellation.NOT_FOUND
