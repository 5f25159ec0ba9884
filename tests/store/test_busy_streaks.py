"""Tries that find a worker busy or not connected: their cost, and their records in the history of a task."""

from dataclasses import replace
from typing import Any

import pytest

from queue_engine.domain.tasks import Attempt, AttemptOutcome, Cost, Outcome, Succeeded, TaskState, TryAgain
from tests.store.bench import TENANT, Bench, config, spec

BUSY = TryAgain("the worker's container answered 503", 60, cost=Cost.BUSY, last_error="busy for too long")
NOT_UP = TryAgain("no connection", 60, AttemptOutcome.NO_CONNECTION, Cost.BUSY, "not up for too long")
LOADING = TryAgain("the worker's container answered 503", 0, cost=Cost.NOTHING)
LOST = TryAgain("the connection was lost", 60, AttemptOutcome.CONNECTION_LOST)


async def endpoint_with(bench: Bench, **settings: Any) -> None:
    """Let the bench use an endpoint with these settings."""
    bench.endpoint_id = (await bench.store.endpoints.create(TENANT, config(**settings))).endpoint_id
    bench.endpoint_ids.append(bench.endpoint_id)


async def again(bench: Bench, outcome: Outcome = BUSY) -> str:
    """Start the only task once more and settle it."""
    agent = bench.agent()
    if (await bench.task("t1")).state is TaskState.SCHEDULED:
        await bench.make_due("t1")
        await bench.sweep()
    return (await bench.settle(agent, await bench.start(agent), outcome)).word


async def rows(bench: Bench) -> list[tuple[int, AttemptOutcome, int]]:
    return [(one.number, one.outcome, one.tries) for one in await attempts(bench)]


async def attempts(bench: Bench) -> list[Attempt]:
    found = await bench.store.tasks.attempts(bench.endpoint_id, "t1")
    assert found is not None
    return found


async def wait_seconds(bench: Bench) -> float:
    """Return the time from the latest try to the next."""
    due = await bench.probe.scores(bench.partition.due)
    return (due[bench.member("t1")] - (await bench.task("t1")).updated_at_ms) / 1000


@pytest.mark.parametrize("outcome", [BUSY, NOT_UP, LOADING])
async def test_a_try_that_found_the_worker_unavailable_returns_its_attempt(bench: Bench, outcome: TryAgain) -> None:
    await bench.submit("t1")
    for _ in range(12):
        assert await again(bench, outcome) == "OK"
    assert (await bench.task("t1")).attempts == 0
    assert await again(bench, Succeeded(b"1")) == "OK"
    assert (await bench.task("t1")).attempts == 1
    assert await rows(bench) == [(1, outcome.attempt_outcome, 12), (1, AttemptOutcome.OK, 1)]


async def test_a_busy_streak_costs_an_attempt_each_time_it_has_lasted_for_max_busy_seconds(bench: Bench) -> None:
    await bench.submit("t1")
    for expected in (1, 2):
        await again(bench)
        await bench.let_busy_streak_last("t1")
        await again(bench)
        assert (await bench.task("t1")).attempts == expected
        await again(bench)
        assert (await bench.task("t1")).attempts == expected
    assert await rows(bench) == [(1, AttemptOutcome.BUSY, 2), (2, AttemptOutcome.BUSY, 3), (3, AttemptOutcome.BUSY, 1)]


@pytest.mark.parametrize(
    ("max_busy_seconds", "retry_after_seconds", "expected"),
    [(900, None, 60), (900, 300, 300), (900, 0, 0), (10, 300, 10), (10, None, 10), (10, 3, 3)],
)
async def test_a_wait_within_a_busy_streak_ends_with_max_busy_seconds(
    bench: Bench, max_busy_seconds: float, retry_after_seconds: float | None, expected: float
) -> None:
    await endpoint_with(bench, max_busy_seconds=max_busy_seconds)
    await bench.submit("t1")
    await again(bench, replace(BUSY, retry_after_seconds=retry_after_seconds))
    assert await wait_seconds(bench) == expected


@pytest.mark.parametrize(
    ("max_busy_seconds", "retry_after_seconds", "expected"),
    [(900, 300, 300), (100, 300, 100), (10, 300, 60), (10, None, 60), (0, 300, 60), (0, 3, 3)],
)
async def test_a_wait_after_a_busy_try_that_cost_an_attempt_is_limited_by_max_busy_seconds_or_the_endpoints_delay(
    bench: Bench, max_busy_seconds: float, retry_after_seconds: float | None, expected: float
) -> None:
    await endpoint_with(bench, max_busy_seconds=max_busy_seconds)
    await bench.submit("t1")
    await again(bench)
    await bench.let_busy_streak_last("t1")
    await again(bench, replace(BUSY, retry_after_seconds=retry_after_seconds))
    assert (await bench.task("t1")).attempts >= 1
    assert await wait_seconds(bench) == expected


async def test_max_busy_seconds_of_the_endpoint_apply_at_once(bench: Bench) -> None:
    await endpoint_with(bench, max_busy_seconds=3600)
    await bench.submit("t1")
    await again(bench)
    await bench.probe.ask("HINCRBY", bench.keys.task("t1"), "busy_since", -1800_000)
    await again(bench)
    assert (await bench.task("t1")).attempts == 0
    await bench.probe.ask("HSET", bench.keys.endpoint, "max_busy", "1200")
    await again(bench)
    assert (await bench.task("t1")).attempts == 1


async def test_the_last_attempt_of_a_busy_streak_ends_the_task_once(bench: Bench) -> None:
    await endpoint_with(bench, max_busy_seconds=0, max_attempts=2)
    await bench.submit("t1", spec=spec(webhook=True))
    await again(bench)
    assert (await bench.task("t1")).attempts == 1
    await bench.make_due("t1")
    await bench.sweep()
    agent = bench.agent()
    started = await bench.start(agent)

    settled = await bench.settle(agent, started, BUSY)

    task = await bench.task("t1")
    assert (settled.word, settled.now_ms) == ("FAILED", task.finished_at_ms)
    assert (task.state, task.attempts, task.error) == (TaskState.FAILED, 2, "busy for too long")
    assert len(await bench.probe.stream(bench.partition.outbox)) == 1
    before = await bench.probe.dump()
    assert (await bench.settle(agent, started, BUSY)).word == "ALREADY"
    assert await bench.probe.dump() == before
    assert await rows(bench) == [(1, AttemptOutcome.BUSY, 1), (2, AttemptOutcome.BUSY, 1)]


async def test_a_busy_try_that_is_repeated_changes_nothing(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    for outcome in (BUSY, BUSY):
        await bench.settle(agent, started, outcome)
    before = await bench.probe.dump()
    assert (await bench.settle(agent, started, BUSY)).word == "ALREADY"
    assert await bench.probe.dump() == before
    assert await rows(bench) == [(1, AttemptOutcome.BUSY, 1)]


@pytest.mark.parametrize("ended_by", ["another outcome", "release", "lost worker"])
async def test_what_is_not_busy_ends_the_streak(bench: Bench, ended_by: str) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    await again(bench)
    await bench.let_busy_streak_last("t1")
    if ended_by == "another outcome":
        await again(bench, LOST)
    else:
        await bench.make_due("t1")
        await bench.sweep()
        started = await bench.start(agent)
        assert started.busy_tries == 1
        await (bench.release(agent, started) if ended_by == "release" else bench.lose("t1"))
    spent = (await bench.task("t1")).attempts
    await again(bench)
    assert (await bench.task("t1")).attempts == spent


async def test_a_worker_that_is_loading_neither_extends_nor_ends_a_streak(bench: Bench) -> None:
    await bench.submit("t1")
    await again(bench)
    await again(bench, LOADING)
    await bench.let_busy_streak_last("t1")
    await again(bench, LOADING)
    assert (await bench.task("t1")).attempts == 0
    await again(bench)
    assert (await bench.task("t1")).attempts == 1


async def test_a_streak_from_before_a_step_back_of_the_clock_is_not_endless(bench: Bench) -> None:
    await bench.submit("t1")
    await again(bench)
    await bench.probe.ask("HINCRBY", bench.keys.task("t1"), "busy_since", 10**9)
    await again(bench)
    task, since = await bench.task("t1"), await bench.probe.ask("HGET", bench.keys.task("t1"), "busy_since")
    assert int(since) == task.updated_at_ms


async def test_a_long_streak_leaves_the_other_attempts_in_the_history(bench: Bench) -> None:
    await bench.submit("t1")
    await again(bench, LOST)
    for number in range(130):
        await again(bench, (BUSY, NOT_UP)[number % 2])
    found = await attempts(bench)
    assert [(one.number, one.tries) for one in found] == [(1, 1), (2, 130)]
    assert (found[1].outcome, found[1].error) == (AttemptOutcome.NO_CONNECTION, "no connection")
    assert found[1].ended_at_ms is not None
    assert found[1].started_at_ms <= found[1].ended_at_ms
    assert found[0].ended_at_ms is not None
    assert found[1].started_at_ms >= found[0].ended_at_ms


async def test_a_task_of_a_loading_worker_is_queued_at_once_and_keeps_its_deadline(bench: Bench) -> None:
    await bench.submit("t1", queue_ttl_seconds=3600)
    assert await again(bench, LOADING) == "OK"
    task = await bench.task("t1")
    assert (task.state, task.attempts) == (TaskState.QUEUED, 0)
    assert list(await bench.probe.scores(bench.partition.deadlines)) == [bench.member("t1")]
    await bench.pass_deadline("t1")
    assert (await bench.sweep()).expired == 1


async def test_a_run_by_hand_begins_a_new_streak(bench: Bench) -> None:
    await bench.submit("t1")
    await again(bench)
    await bench.let_busy_streak_last("t1")
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")
    await again(bench)
    assert (await bench.task("t1")).attempts == 0
