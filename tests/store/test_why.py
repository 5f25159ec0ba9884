"""The store tells what a process needs to say why a task waits."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from queue_engine.domain.attempts import Settled
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import AttemptOutcome, Cost, Succeeded, TaskState, TryAgain
from queue_engine.domain.waiting import Line, WaitFacts, ahead_of
from queue_engine.domain.workers import Pace, WorkerStatus
from queue_engine.store.constants import MAX_COUNTED_PLACES
from tests.store.bench import TENANT, Bench, config

MANY = 3 * MAX_COUNTED_PLACES


async def facts_of(bench: Bench, task_id: str) -> WaitFacts:
    facts = await bench.store.tasks.wait_facts(bench.endpoint_id, task_id)
    assert facts is not None
    return facts


async def line_of(bench: Bench, task_id: str) -> Line:
    line = (await facts_of(bench, task_id)).line
    assert line is not None
    return line


async def test_a_new_task_of_an_endpoint(bench: Bench) -> None:
    await bench.submit("t1")
    facts, task = await facts_of(bench, "t1"), await bench.task("t1")
    assert facts.now_ms >= facts.since_ms == task.created_at_ms
    assert facts == WaitFacts(
        now_ms=facts.now_ms,
        state=TaskState.QUEUED,
        since_ms=task.created_at_ms,
        has_started=False,
        losses=0,
        desired=DesiredState.RUNNING,
        has_failed=False,
        wanted_workers=1,
        line=Line(is_new=True, depth=1, other_depth=0, before=0),
    )


async def test_only_a_task_that_waits_has_facts(bench: Bench) -> None:
    assert await bench.store.tasks.wait_facts(bench.endpoint_id, "t1") is None
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    assert await bench.store.tasks.wait_facts(bench.endpoint_id, "t1") is None
    await bench.settle(agent, started, Succeeded(b"1"))
    assert await bench.store.tasks.wait_facts(bench.endpoint_id, "t1") is None


async def test_the_state_of_the_endpoint(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.store.endpoints.update(bench.endpoint_id, TENANT, lambda _: config(workers=5))
    await bench.store.endpoints.set_failed(bench.endpoint_id, True)
    facts = await facts_of(bench, "t1")
    assert (facts.wanted_workers, facts.has_failed, facts.desired) == (5, True, DesiredState.RUNNING)
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    facts = await facts_of(bench, "t1")
    assert (facts.has_failed, facts.desired) == (False, DesiredState.STOPPED)


@pytest.mark.parametrize("cost", [Cost.ATTEMPT, Cost.BUSY])
async def test_a_task_that_is_retried_has_its_latest_attempt(bench: Bench, cost: Cost) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.settle(agent, started, TryAgain("no room: é", 60, AttemptOutcome.BUSY, cost))
    facts = await facts_of(bench, "t1")
    assert (facts.state, facts.has_started, facts.line) == (TaskState.SCHEDULED, True, None)
    assert facts.due_ms == (await bench.probe.scores(bench.partition.due))[bench.member("t1")]
    assert facts.latest is not None
    assert (facts.latest.number, facts.latest.outcome, facts.latest.error) == (1, "busy", "no room: é")


async def test_lost_workers_and_lost_connections_are_counted_together(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    lost = TryAgain("the connection was lost", 60, AttemptOutcome.CONNECTION_LOST)
    assert await bench.settle(agent, started, lost) == Settled("OK")
    await bench.make_due("t1")
    await bench.sweep()
    await bench.start(agent)
    await bench.lose("t1")
    facts = await facts_of(bench, "t1")
    assert (facts.losses, facts.state) == (2, TaskState.QUEUED)
    assert facts.line == Line(is_new=False, depth=1, other_depth=0, before=0)


async def test_the_tasks_before_a_task_in_a_short_queue_are_counted(bench: Bench) -> None:
    for number in range(MAX_COUNTED_PLACES):
        await bench.submit(f"t{number}")
    await bench.store.tasks.cancel(bench.endpoint_id, "t3")
    for number, before in ((0, 0), (2, 2), (4, 3), (MAX_COUNTED_PLACES - 1, MAX_COUNTED_PLACES - 2)):
        line = await line_of(bench, f"t{number}")
        assert line == Line(is_new=True, depth=MAX_COUNTED_PLACES - 1, other_depth=0, before=before)


async def replace_entries(bench: Bench, entries: Sequence[tuple[str, int | None]]) -> None:
    """Submit a task for each entry of the queue of new tasks, and give it this id and this place among all tasks."""
    made = f"{bench.partition.tag}:made"
    for number, (entry_id, place) in enumerate(entries):
        await bench.submit(f"t{number}")
        fields = ("t", f"t{number}", *(() if place is None else ("n", place)))
        await bench.probe.ask("XADD", made, entry_id, *fields)
        await bench.probe.ask("HSET", bench.keys.task(f"t{number}"), "entry", entry_id)
    await bench.probe.ask("RENAME", made, bench.keys.queue)
    await bench.store.scripts.make_queues(bench.keys)


async def test_the_place_in_a_long_queue_follows_from_the_places_among_all_tasks(bench: Bench) -> None:
    await replace_entries(bench, [(f"{100 + number**2}-0", 500 + number) for number in range(MANY)])
    for number in (0, 1, MANY // 2, MANY - 1):
        line = await line_of(bench, f"t{number}")
        assert line.before is None
        assert ahead_of(line) == (number, True)


async def test_the_place_of_a_submitted_task_is_exact(bench: Bench) -> None:
    for number in range(MANY):
        await bench.submit(f"t{number}")
    for number in (0, 1, MANY // 2, MANY - 1):
        line = await line_of(bench, f"t{number}")
        assert line.before is None
        assert ahead_of(line) == (number, True)


async def test_a_task_whose_delay_is_over_is_behind_the_tasks_before_it(bench: Bench) -> None:
    await bench.submit("later", delay_seconds=60)
    for number in range(MANY):
        await bench.submit(f"t{number}")
    await bench.make_due("later")
    await bench.sweep()
    ahead, _ = ahead_of(await line_of(bench, "later"))
    assert ahead == MANY


async def test_the_place_behind_tasks_that_left_out_of_turn_is_an_estimate(bench: Bench) -> None:
    await replace_entries(bench, [(f"{100 + number**2}-0", 500 + 2 * number) for number in range(MANY)])
    for number in (0, 1, MANY // 2, MANY - 1):
        assert ahead_of(await line_of(bench, f"t{number}")) == (number, False)


async def test_entries_without_a_place_are_placed_by_their_tasks(bench: Bench) -> None:
    await replace_entries(bench, [(f"{100 + number**2}-0", None) for number in range(MANY)])
    for number in (0, 1, MANY // 2, MANY - 1):
        assert ahead_of(await line_of(bench, f"t{number}")) == (number, True)


async def test_entries_that_are_not_in_the_order_of_creation_are_placed_by_their_times(bench: Bench) -> None:
    places = [MANY * 2, *(None for _ in range(MANY - 1))]
    await replace_entries(bench, [(f"{100 + number // 5}-{number % 5}", place) for number, place in enumerate(places)])
    for number in (0, 1, MANY // 2, MANY - 1):
        ahead, is_exact = ahead_of(await line_of(bench, f"t{number}"))
        assert abs(ahead - number) <= 5
        assert not is_exact


async def test_tasks_that_came_back_and_new_tasks_are_told_apart(bench: Bench) -> None:
    agent = bench.agent()
    for started in [await bench.submit_and_start(f"old{number}", agent) for number in range(3)]:
        await agent.release(started.lease)
    for number in range(2):
        await bench.submit(f"new{number}")
    assert await line_of(bench, "old2") == Line(is_new=False, depth=3, other_depth=2, before=2)
    assert await line_of(bench, "new1") == Line(is_new=True, depth=2, other_depth=3, before=1)


async def test_entries_of_both_queues_with_the_same_id_are_told_apart(bench: Bench) -> None:
    agent = bench.agent()
    await agent.release((await bench.submit_and_start("old", agent)).lease)
    entry = (await bench.probe.hash(bench.keys.task("old")))["entry"]
    await replace_entries(bench, [(entry, 1)])
    assert (await line_of(bench, "old")).is_new is False
    assert (await line_of(bench, "t0")).is_new is True


async def test_a_question_changes_nothing(bench: Bench) -> None:
    agent = bench.agent()
    await bench.settle(agent, await bench.submit_and_start("t1", agent), TryAgain("busy", 60))
    for number in range(MANY):
        await bench.submit(f"q{number}")
    before = await bench.probe.snapshot()
    for name in ("t1", "q5"):
        await facts_of(bench, name)
    assert await bench.probe.snapshot() == before


async def test_agents_report_their_pace(bench: Bench) -> None:
    workers = bench.store.workers
    await workers.put(bench.endpoint_id, "w1", managed=False)

    async def reported(pace: Pace | None) -> Pace | None:
        assert await workers.report(
            bench.endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="127.0.0.1:1", pace=pace
        )
        worker = await workers.get(bench.endpoint_id, "w1")
        assert worker is not None
        return worker.pace

    assert await reported(Pace(4)) == Pace(4)
    assert await reported(Pace(4, 12.5)) == Pace(4, 12.5)
    assert await reported(replace(Pace(4, 12.5), mean_run_ms=3_600_000.25)) == Pace(4, 3_600_000.25)
    assert await reported(None) is None  # an agent of an earlier version
