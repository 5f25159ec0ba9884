"""The sweep requeues tasks with expired leases and ends waits. It grants a grace after times without renewals."""

import asyncio
import re

import pytest

from queue_engine.domain.attempts import Renewal
from queue_engine.domain.tasks import Succeeded, TaskState, TaskStatus, TryAgain
from tests.store.bench import LONG_LEASE_MS, TICK_MS, Bench, spec
from tests.waiting import wait_until_async

HOUR_MS = 3_600_000


async def test_a_task_whose_lease_has_run_out_goes_back_to_the_queue(bench: Bench) -> None:
    started = await bench.submit_and_start("t1")
    swept = await bench.lose("t1")
    assert (swept.requeued, swept.dead, swept.promoted, swept.work) == (1, 0, 0, 1)
    task = await bench.task("t1")
    assert (task.state, task.attempts, task.lost) == (TaskState.QUEUED, 1, 1)

    again = await bench.start(bench.agent("a2"))

    assert (again.attempt, again.lost) == (2, 1)
    assert again.lease.token != started.lease.token
    assert started.is_first
    assert not again.is_first


async def test_a_lease_that_is_not_renewed_runs_out_by_itself(bench: Bench) -> None:
    await bench.submit_and_start("t1", bench.agent(lease_ms=50))
    await bench.steady()

    async def is_lost() -> bool:
        return (await bench.sweep_as_it_is(lease_ms=50)).requeued == 1

    await wait_until_async(is_lost)


async def test_a_lease_that_is_renewed_outlives_many_leases(bench: Bench) -> None:
    agent = bench.agent(lease_ms=200)
    started = await bench.submit_and_start("t1", agent)
    end = started.started_at_ms + 600
    await bench.steady()
    judged = 0

    async def is_over() -> bool:
        nonlocal judged
        began = await bench.probe.now_ms()
        assert await agent.renew([started.lease]) == [Renewal.OK]
        swept = await bench.sweep_as_it_is(lease_ms=200)
        now = await bench.probe.now_ms()
        if now - began < 200:  # else the machine stalled for a lease, and the next round readopts the task
            assert swept.work == 0
            judged += 1
        return now > end and judged >= 3

    await wait_until_async(is_over)


async def test_a_running_task_with_a_lease_is_left_alone(bench: Bench) -> None:
    await bench.submit_and_start("t1")
    assert (await bench.sweep()).work == 0
    assert (await bench.task("t1")).state is TaskState.RUNNING


async def test_a_task_whose_workers_are_lost_too_often_ends(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1", spec=spec(webhook=True))
    for lost in (1, 2):
        await bench.start(agent)
        assert (await bench.lose("t1", max_lost=2)).requeued == 1
        assert (await bench.task("t1")).lost == lost
    last = await bench.start(agent)
    swept = await bench.lose("t1", max_lost=2)

    assert (swept.requeued, swept.dead) == (0, 1)
    task = await bench.task("t1")
    assert (task.state, task.status, task.lost) == (TaskState.DEAD, TaskStatus.FAILED, 3)
    assert task.error == (
        "the worker was lost 3 times while it ran the task, so the task is assumed to be the cause and is not retried"
    )
    assert (await bench.store.tasks.counts(bench.endpoint_id)).failed == 1
    (entry,) = (await bench.probe.stream(bench.partition.outbox)).values()
    assert entry["d"] == f"t:{bench.endpoint_id}:t1"
    assert entry["h"] == "https://hooks.example:443"
    assert (await bench.settle(agent, last, Succeeded(b"1"))).word == "FENCED"
    assert await agent.renew([last.lease]) == [Renewal.FENCED]


async def test_a_task_without_a_webhook_dies_without_a_delivery(bench: Bench) -> None:
    await bench.submit_and_start("t1")
    assert (await bench.lose("t1", max_lost=0)).dead == 1
    assert await bench.probe.stream(bench.partition.outbox) == {}


async def test_lost_workers_use_up_no_attempts_and_attempts_no_lost_workers(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    started = await bench.start(agent)
    await bench.settle(agent, started, TryAgain("busy", 0.0))
    await bench.make_due("t1")
    await bench.sweep()
    started = await bench.start(agent)
    assert (started.attempt, started.lost) == (3, 1)


async def test_a_readoption_gives_the_lost_budget_back(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    for _ in range(5):
        assert (await bench.lose("t1", max_lost=1)).dead == 0
        assert await agent.renew([started.lease]) == [Renewal.READOPTED]
    assert (await bench.task("t1")).lost == 0


async def test_two_sweeps_at_once_reclaim_a_task_once(bench: Bench) -> None:
    await bench.submit_and_start("t1")
    await bench.run_out("t1")
    await bench.steady()
    sweeps = await asyncio.gather(*(bench.sweep_as_it_is() for _ in range(5)))
    assert sum(swept.requeued for swept in sweeps) == 1
    assert (await bench.task("t1")).lost == 1


async def test_a_lease_that_is_renewed_while_the_sweep_runs_is_kept(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.run_out("t1")
    await agent.renew([started.lease])
    assert await bench.store.sweeper._reclaim(bench.member("t1"), 3, TICK_MS) == "OK"
    assert (await bench.task("t1")).state is TaskState.RUNNING


async def test_a_task_that_was_put_off_again_while_the_sweep_runs_is_not_queued(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("busy", 60.0))
    assert await bench.store.sweeper._promote(bench.member("t1")) == "OK"
    assert (await bench.task("t1")).state is TaskState.SCHEDULED


async def test_one_round_takes_on_no_more_than_it_may(bench: Bench) -> None:
    agent = bench.agent()
    for number in range(5):
        await bench.submit_and_start(f"t{number}", agent)
        await bench.run_out(f"t{number}")
    assert [(await bench.sweep(limit=2)).requeued for _ in range(4)] == [2, 2, 1, 0]


async def test_a_lease_or_a_wait_without_its_task_is_removed(bench: Bench) -> None:
    await bench.probe.ask("ZADD", bench.partition.leases, 1, bench.member("nobody"))
    await bench.probe.ask("ZADD", bench.partition.due, 1, bench.member("nobody"))
    assert (await bench.sweep()).work == 0
    assert await bench.probe.scores(bench.partition.leases) == {}
    assert await bench.probe.scores(bench.partition.due) == {}


# Grace


async def test_the_first_sweep_ever_reclaims_nothing(bench: Bench) -> None:
    await bench.submit_and_start("t1")
    await bench.run_out("t1")
    assert (await bench.sweep_as_it_is()).work == 0


@pytest.mark.parametrize(
    ("last_sweep_ms_ago", "what"),
    [(4 * TICK_MS, "the store was away"), (HOUR_MS, "the clock went forward"), (-HOUR_MS, "the clock went back")],
)
async def test_after_a_gap_every_lease_gets_one_lease_of_grace(bench: Bench, last_sweep_ms_ago: int, what: str) -> None:
    await bench.submit_and_start("t1")
    await bench.run_out("t1")
    await _last_sweep(bench, await bench.probe.now_ms() - last_sweep_ms_ago)

    assert [(await bench.sweep_as_it_is()).work for _ in range(3)] == [0, 0, 0], what

    await _end_grace(bench)
    assert (await bench.sweep_as_it_is()).requeued == 1


async def test_a_pause_of_a_few_ticks_is_no_gap(bench: Bench) -> None:
    await bench.submit_and_start("t1")
    await bench.run_out("t1")
    await _last_sweep(bench, await bench.probe.now_ms() - 2 * TICK_MS)
    assert (await bench.sweep_as_it_is()).requeued == 1


async def test_grace_lasts_one_lease(bench: Bench) -> None:
    await bench.submit_and_start("t1")
    await bench.run_out("t1")
    began = await bench.probe.now_ms()
    await bench.sweep_as_it_is(lease_ms=150)

    async def is_reclaimed() -> bool:
        return (await bench.sweep_as_it_is(lease_ms=150)).requeued == 1

    await wait_until_async(is_reclaimed)
    assert await bench.probe.now_ms() >= began + 150


async def test_an_agent_that_beats_within_the_grace_keeps_its_tasks(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.run_out("t1")
    await _last_sweep(bench, await bench.probe.now_ms() - HOUR_MS)
    await bench.sweep_as_it_is()
    assert await agent.renew([started.lease]) == [Renewal.OK]
    await _end_grace(bench)
    assert (await bench.sweep_as_it_is()).work == 0


async def test_a_grace_from_before_a_clock_that_went_back_does_not_last_for_the_step(bench: Bench) -> None:
    await bench.submit_and_start("t1")
    await bench.run_out("t1")
    await bench.steady()
    await bench.probe.ask(
        "HSET", bench.partition.ticks, "sweep:grace", await bench.probe.now_ms() + LONG_LEASE_MS + HOUR_MS
    )
    assert (await bench.sweep_as_it_is()).requeued == 1


async def test_leases_far_in_the_future_are_brought_back_to_one_lease(bench: Bench) -> None:
    agent = bench.agent()
    for task_id in ("t1", "t2"):
        await bench.submit_and_start(task_id, agent)
    now = await bench.probe.now_ms()
    await bench.probe.ask("ZADD", bench.partition.leases, now + HOUR_MS, bench.member("t1"))
    await bench.probe.ask("ZADD", bench.partition.leases, now + 1_000, bench.member("t2"))
    await _last_sweep(bench, now + HOUR_MS)

    await bench.sweep_as_it_is(lease_ms=5_000)

    ends = await bench.probe.scores(bench.partition.leases)
    assert now + 5_000 <= ends[bench.member("t1")] <= await bench.probe.now_ms() + 5_000
    assert ends[bench.member("t2")] == now + 1_000


async def test_tasks_that_are_due_are_queued_even_within_the_grace(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("busy", 60.0))
    await bench.make_due("t1")
    assert (await bench.sweep_as_it_is()).promoted == 1


async def test_a_wait_ends_by_itself(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("busy", 0.05))

    async def is_promoted() -> bool:
        return (await bench.sweep_as_it_is()).promoted == 1

    await wait_until_async(is_promoted)
    assert await bench.probe.now_ms() >= started.started_at_ms + 50


async def _last_sweep(bench: Bench, at_ms: int) -> None:
    await bench.probe.ask("DEL", bench.partition.ticks)
    await bench.probe.ask("HSET", bench.partition.ticks, "sweep", at_ms)


async def _end_grace(bench: Bench) -> None:
    await bench.probe.ask("HSET", bench.partition.ticks, "sweep:grace", await bench.probe.now_ms() - 1)


LOST = re.compile(r"worker w1 did not renew the lease of the attempt for (\d+) s")


async def errors_of(bench: Bench, task_id: str) -> list[str | None]:
    attempts = await bench.store.tasks.attempts(bench.endpoint_id, task_id)
    assert attempts is not None
    return [one.error for one in attempts]


async def lose_now(bench: Bench, *, max_lost: int = 3) -> None:
    """Let the lease of the task `t1` end now, and sweep."""
    now = await bench.probe.now_ms()
    assert await bench.probe.ask("ZADD", bench.partition.leases, "XX", "CH", now, bench.member("t1")) == 1
    await bench.sweep(max_lost=max_lost)


def is_error_of_loss(error: str | None) -> bool:
    """Return True for the sentence with the length of a lease, and what a slow machine adds."""
    found = LOST.fullmatch(error or "")
    return found is not None and LONG_LEASE_MS // 1000 <= int(found[1]) < LONG_LEASE_MS // 1000 + 60


async def test_a_lost_attempt_says_which_worker_did_not_renew_its_lease_and_for_how_long(bench: Bench) -> None:
    agent = bench.agent("w1")
    await bench.submit_and_start("t1", agent)
    await lose_now(bench)
    (lost,) = await errors_of(bench, "t1")
    assert is_error_of_loss(lost), "the attempt is not recorded yet, because it could return"
    await bench.start(agent)
    assert await errors_of(bench, "t1") == [lost, None]
    assert "silent" not in await bench.probe.hash(bench.keys.task("t1"))


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_lost_attempt_that_ends_its_task_has_its_error_too(bench: Bench, is_cancelled: bool) -> None:
    await bench.submit_and_start("t1", bench.agent("w1"))
    await lose_now(bench, max_lost=3 if is_cancelled else 0)
    if is_cancelled:
        await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    (lost,) = await errors_of(bench, "t1")
    assert is_error_of_loss(lost)
    assert "silent" not in await bench.probe.hash(bench.keys.task("t1"))


async def test_an_attempt_that_returns_after_its_lease_has_no_error(bench: Bench) -> None:
    agent = bench.agent("w1")
    started = await bench.submit_and_start("t1", agent)
    await bench.lose("t1")
    assert await agent.renew([started.lease]) == [Renewal.READOPTED]
    assert await errors_of(bench, "t1") == [None]
    assert "silent" not in await bench.probe.hash(bench.keys.task("t1"))
