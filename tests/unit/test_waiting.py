"""Why a task waits: from what is known about it to the code and the sentence."""

from dataclasses import replace

import pytest

from queue_engine.domain.endpoints import DesiredState, Endpoint, EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import Attempt, AttemptOutcome, TaskState
from queue_engine.domain.waiting import (
    MAX_REASON_CHARACTERS,
    Crew,
    LaneFacts,
    Line,
    WaitFacts,
    Waiting,
    WaitingCode,
    ahead_in_lanes,
    ahead_of,
    length,
    problem_of,
    starts_per_second,
    waiting_of,
)
from queue_engine.domain.workers import Pace, Worker, WorkerStatus

NOW = 1_800_000_000_000
FIRST = Line(is_new=True, depth=1, other_depth=0, before=0)
QUEUED = WaitFacts(
    now_ms=NOW,
    state=TaskState.QUEUED,
    since_ms=NOW - 5000,
    has_started=False,
    losses=0,
    desired=DesiredState.RUNNING,
    has_failed=False,
    wanted_workers=2,
    line=FIRST,
)
BUSY_TRY = Attempt(2, "w1", AttemptOutcome.BUSY, NOW - 4000, NOW - 3000, "the worker's container answered 503:\n full")
SCHEDULED = replace(
    QUEUED, state=TaskState.SCHEDULED, has_started=True, due_ms=NOW + 27_000, latest=BUSY_TRY, line=None
)


def worker(
    name: str = "w1",
    status: WorkerStatus = WorkerStatus.RUNNING,
    *,
    slots: int | None = 4,
    mean_run_ms: float | None = 2000,
    error: str | None = None,
    reported_ms_ago: int | None = 1000,
    started_ms_ago: int = 60_000,
) -> Worker:
    return Worker(
        worker_id=name,
        endpoint_id="7",
        status=status,
        created_at_ms=NOW - 3_600_000,
        managed=True,
        started_at_ms=NOW - started_ms_ago,
        last_heartbeat_at_ms=None if reported_ms_ago is None else NOW - reported_ms_ago,
        error=error,
        pace=None if slots is None else Pace(slots, mean_run_ms),
    )


RUNS = worker()
STARTS = worker("w2", WorkerStatus.INITIALIZING, error="pulling 3.1 of 8.4 GB", reported_ms_ago=None)
CRASHES = worker("w3", WorkerStatus.FAILED, error="the container exited with status 3")
DRAINS = worker("w4", WorkerStatus.STOPPING)
SILENT = worker("w5", reported_ms_ago=42_000)


def behind(number: int, **changes: object) -> WaitFacts:
    """Return the facts about a task behind others in the queue of new tasks."""
    line = Line(is_new=True, depth=number + 1, other_depth=0, before=number)
    return replace(QUEUED, line=line, **changes)  # type: ignore[arg-type]


def in_lane(before: int | None, lane: dict[str, int] | None = None, *, line: Line | None = None) -> WaitFacts:
    """Return the facts about a task of an endpoint with three lanes of its level, 20 waiting tasks in them, and 5 tasks
    of higher levels."""
    known = {"lanes": 3, "level_waiting": 20, "higher_waiting": 5, "key_running": 0, "key_limit": 0}
    facts = LaneFacts(before, **(known | (lane or {})))
    return replace(QUEUED, line=line, lane=facts)


AT_LIMIT = {"key_running": 2, "key_limit": 2}


@pytest.mark.parametrize(
    ("facts", "workers", "code", "message"),
    [
        (
            replace(SCHEDULED, has_started=False, latest=None), [], WaitingCode.SCHEDULED,
            "The task is scheduled, and is queued in 27 s.",
        ),
        (
            replace(SCHEDULED, has_started=False, latest=None, due_ms=NOW - 300), [RUNS], WaitingCode.SCHEDULED,
            "The task is scheduled, and is queued within a second.",
        ),
        (
            replace(SCHEDULED, has_started=False, latest=None, due_ms=NOW - 90_000), [RUNS], WaitingCode.SCHEDULED,
            "The task is scheduled, and is queued late: its time was 90 s ago, and no controller has queued it yet.",
        ),
        (
            SCHEDULED, [RUNS], WaitingCode.BACKOFF,
            "Attempt 2 ended as busy: the worker's container answered 503: full. The next attempt is queued in 27 s.",
        ),
        (
            replace(SCHEDULED, latest=replace(BUSY_TRY, error=None)), [], WaitingCode.BACKOFF,
            "Attempt 2 ended as busy. The next attempt is queued in 27 s.",
        ),
        (
            replace(QUEUED, desired=DesiredState.STOPPED), [RUNS], WaitingCode.ENDPOINT_STOPPED,
            "The endpoint is stopped. Its tasks wait until it is started again.",
        ),
        (
            replace(QUEUED, desired=DesiredState.STOPPED, has_failed=True), [], WaitingCode.ENDPOINT_STOPPED,
            "The endpoint is stopped. Its tasks wait until it is started again.",
        ),
        (
            replace(QUEUED, has_failed=True), [CRASHES, SILENT], WaitingCode.ENDPOINT_FAILED,
            "All workers of the endpoint crash on start or are not ready in time: the container exited with status 3",
        ),
        (
            replace(QUEUED, has_failed=True), [], WaitingCode.ENDPOINT_FAILED,
            "All workers of the endpoint crash on start or are not ready in time.",
        ),
        (
            replace(QUEUED, is_paused=True), [], WaitingCode.PAUSED,
            "The endpoint's queue is paused. Its tasks wait until it is resumed.",
        ),
        (
            behind(3, tokens=0.25, starts_per_second=0.5), [RUNS], WaitingCode.RATE_LIMIT,
            "The endpoint's rate limit is reached: a task every 2 s. The next task may begin in 1.5 s.",
        ),
        (
            behind(3, tokens=1, starts_per_second=0.5), [RUNS], WaitingCode.ALL_BUSY,
            "3 tasks go before it. 1 worker begins a task every 2 s, so it begins in about 6 s.",
        ),
        (
            replace(QUEUED, wanted_workers=0), [], WaitingCode.NO_WORKERS,
            "The endpoint has 0 workers.",
        ),
        (
            QUEUED, [], WaitingCode.NO_WORKERS,
            "No worker runs or starts, of 2 that the endpoint should have.",
        ),
        (
            QUEUED, [DRAINS], WaitingCode.NO_WORKERS,
            "No worker runs or starts, of 2 that the endpoint should have.",
        ),
        (
            QUEUED, [SILENT, DRAINS], WaitingCode.NO_WORKERS,
            "No worker runs: the latest report of 1 worker came 42 s ago.",
        ),
        (
            QUEUED, [STARTS], WaitingCode.WORKERS_STARTING,
            "The only worker is not ready yet: pulling 3.1 of 8.4 GB",
        ),
        (
            QUEUED, [replace(CRASHES, started_at_ms=1), STARTS, DRAINS], WaitingCode.WORKERS_STARTING,
            "None of 2 workers is ready yet: pulling 3.1 of 8.4 GB",
        ),
        (
            QUEUED, [replace(STARTS, error=None), SILENT], WaitingCode.WORKERS_STARTING,
            "The only worker is not ready yet.",
        ),
        (
            behind(3, losses=2), [RUNS, STARTS], WaitingCode.SUSPECT,
            "2 attempts of the task lost their worker or connection, so it waits until a worker can run it alone.",
        ),
        (
            in_lane(4, AT_LIMIT), [RUNS], WaitingCode.KEY_LIMIT,
            "2 tasks of its fairness key run, of 2 that may run at once. It begins after one of them has ended.",
        ),
        (
            replace(in_lane(0, {"key_running": 1, "key_limit": 1}), tokens=0, starts_per_second=1), [RUNS],
            WaitingCode.KEY_LIMIT,
            "1 task of its fairness key runs, of 1 that may run at once. It begins after one of them has ended.",
        ),
        (
            replace(in_lane(0, AT_LIMIT), losses=2), [RUNS], WaitingCode.SUSPECT,
            "2 attempts of the task lost their worker or connection, so it waits until a worker can run it alone.",
        ),
        (
            replace(in_lane(0, AT_LIMIT), is_paused=True), [RUNS], WaitingCode.PAUSED,
            "The endpoint's queue is paused. Its tasks wait until it is resumed.",
        ),
        (
            in_lane(1, {"key_running": 1, "key_limit": 2}), [RUNS], WaitingCode.ALL_BUSY,
            "About 10 tasks go before it. 1 worker begins 2 tasks per second, so it begins in about 5 s.",
        ),
        (
            in_lane(None, line=replace(FIRST, before=1, depth=2)), [RUNS], WaitingCode.ALL_BUSY,
            "About 10 tasks go before it. 1 worker begins 2 tasks per second, so it begins in about 5 s.",
        ),
        (
            in_lane(0, {"lanes": 1, "higher_waiting": 0}), [RUNS], WaitingCode.NEXT,
            "No task goes before it: the next free slot of 1 worker takes it.",
        ),
        (
            behind(1), [worker(slots=1, mean_run_ms=60_000)], WaitingCode.ALL_BUSY,
            "1 task goes before it. 1 worker begins a task every 60 s, so it begins in about 60 s.",
        ),
        (
            behind(120), [RUNS, replace(RUNS, worker_id="w9"), STARTS], WaitingCode.ALL_BUSY,
            "120 tasks go before it. 2 workers begin 4 tasks per second, so it begins in about 30 s.",
        ),
        (
            behind(120), [worker(slots=None)], WaitingCode.ALL_BUSY,
            "120 tasks go before it, and 1 worker runs.",
        ),
        (
            replace(QUEUED, line=Line(is_new=True, depth=1, other_depth=9, before=0)), [RUNS], WaitingCode.ALL_BUSY,
            "About 1 task goes before it. 1 worker begins 2 tasks per second, so it begins in about 500 ms.",
        ),
        (
            QUEUED, [RUNS], WaitingCode.NEXT,
            "No task goes before it: the next free slot of 1 worker takes it.",
        ),
    ],
)  # fmt: skip
def test_the_first_reason_that_holds_is_given(
    facts: WaitFacts, workers: list[Worker], code: WaitingCode, message: str
) -> None:
    waiting = waiting_of(facts, Crew(workers))
    assert (waiting.code, waiting.message) == (code, message)
    assert (waiting.since_ms, waiting.as_of_ms) == (facts.since_ms, NOW)
    if code is WaitingCode.RATE_LIMIT:
        assert waiting.until_ms == NOW + 1500
    else:
        assert waiting.until_ms == (facts.due_ms if code in (WaitingCode.SCHEDULED, WaitingCode.BACKOFF) else None)
    assert (waiting.ahead is not None) == (code in (WaitingCode.ALL_BUSY, WaitingCode.NEXT))


def test_a_limit_of_a_key_tells_its_numbers() -> None:
    waiting = waiting_of(in_lane(0, {"key_running": 3, "key_limit": 2}), Crew([RUNS]))
    assert (waiting.running, waiting.limit, waiting.ahead) == (3, 2, None)


@pytest.mark.parametrize(
    ("before", "lanes", "level", "higher", "ahead"),
    [
        (0, 1, 1, 0, 0),  # alone
        (0, 1, 9, 0, 0),  # first of its lane, which is the only one
        (3, 1, 9, 0, 3),
        (0, 10, 50, 0, 9),  # each other lane has a turn
        (2, 10, 50, 0, 29),
        (4, 10, 12, 0, 11),  # others have too few tasks for that many turns
        (0, 1, 1, 7, 7),  # behind a higher level
        (2, 3, 30, 7, 15),
        (0, 0, 1, 0, 0),  # its lane is parked, or has just been emptied
    ],
)
def test_the_lanes_of_a_level_take_turns_behind_the_levels_above(
    before: int, lanes: int, level: int, higher: int, ahead: int
) -> None:
    assert ahead_in_lanes(LaneFacts(before, lanes, level, higher, 0, 0), before) == ahead


@pytest.mark.parametrize("facts", [SCHEDULED, replace(QUEUED, desired=DesiredState.STOPPED), QUEUED])
def test_a_store_that_takes_no_writes_is_the_first_reason(facts: WaitFacts) -> None:
    waiting = waiting_of(facts, Crew([RUNS]), store_problem="it is a read-only replica")
    assert waiting.code is WaitingCode.STORE_READ_ONLY
    assert waiting.message == "No task can begin, because the store does not take writes: it is a read-only replica."


@pytest.mark.parametrize("facts", [replace(QUEUED, has_failed=True), QUEUED])
def test_errors_of_workers_are_for_those_who_may_read_workers(facts: WaitFacts) -> None:
    crew = Crew([CRASHES])
    shown, hidden = waiting_of(facts, crew), waiting_of(facts, crew, shows_workers=False)
    assert "exited with status 3" in shown.message
    assert "exited" not in hidden.message
    assert hidden.code is shown.code


QUIET_START = replace(STARTS, error=None)
TRACEBACK = "\n".join(
    [
        "container exited with status 3",
        *[f'  File "/srv/library/module_{number}.py", line {number}, in call_{number}' for number in range(40)],
        "    raise RuntimeError(text)",
        "    ^^^^^^^^^^^^^^^^^^^^^^^^",
        "RuntimeError: the weights are not there",
    ]
)
AWAY = "the container engine cannot be reached: No such file or directory"


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ([], f"No worker runs or starts, of 2 that the endpoint should have: {AWAY}"),
        ([SILENT], f"No worker runs: the latest report of 1 worker came 42 s ago, and {AWAY}"),
        ([QUIET_START], f"The only worker is not ready yet: {AWAY}"),
        ([CRASHES], "The only worker is not ready yet: the container exited with status 3"),
    ],
)
def test_the_problem_of_the_platform_is_the_reason_without_an_error_of_a_worker(
    workers: list[Worker], message: str
) -> None:
    shown = waiting_of(QUEUED, Crew(workers), platform_problem=AWAY)
    hidden = waiting_of(QUEUED, Crew(workers), platform_problem=AWAY, shows_workers=False)
    assert shown.message == message
    assert hidden.code is shown.code
    assert "engine" not in hidden.message


def test_a_task_before_a_running_worker_does_not_wait_for_the_platform() -> None:
    assert waiting_of(QUEUED, Crew([RUNS]), platform_problem=AWAY).code is WaitingCode.NEXT


def an_endpoint(*statuses: WorkerStatus, workers: int = 2, desired: DesiredState = DesiredState.RUNNING) -> Endpoint:
    config = EndpointConfig("e", "image", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), workers, 20)
    return Endpoint("7", "t", config, desired, failed=False, created_at_ms=0, updated_at_ms=0, worker_statuses=statuses)


@pytest.mark.parametrize(
    ("endpoint", "workers", "platform", "problem"),
    [
        (an_endpoint(), [], AWAY, AWAY),
        (an_endpoint(WorkerStatus.INITIALIZING), [QUIET_START], AWAY, AWAY),
        (an_endpoint(WorkerStatus.FAILED), [CRASHES], AWAY, "the container exited with status 3"),
        (an_endpoint(WorkerStatus.FAILED), [CRASHES], "", "the container exited with status 3"),
        (an_endpoint(WorkerStatus.INITIALIZING), [QUIET_START], "", None),
        (an_endpoint(WorkerStatus.RUNNING, WorkerStatus.FAILED), [RUNS, CRASHES], AWAY, None),
        (an_endpoint(workers=0), [], AWAY, None),
        (an_endpoint(desired=DesiredState.STOPPED), [], AWAY, None),
    ],
)
def test_an_endpoint_without_a_running_worker_has_the_reason(
    endpoint: Endpoint, workers: list[Worker], platform: str, problem: str | None
) -> None:
    assert problem_of(endpoint, Crew(workers), platform_problem=platform) == problem


def test_a_long_error_is_shortened() -> None:
    crew = Crew([replace(CRASHES, error="x" * 5000)])
    assert len(waiting_of(QUEUED, crew).message) < 400


def test_the_time_of_a_worker_that_takes_long_to_report_is_the_lease() -> None:
    assert waiting_of(QUEUED, Crew([SILENT], silence_seconds=60)).code is WaitingCode.NEXT


@pytest.mark.parametrize(
    ("line", "ahead", "is_exact"),
    [
        (Line(is_new=True, depth=10, other_depth=0, before=4), 4, True),
        (Line(is_new=True, depth=100, other_depth=0, own=540, first=500, last=599), 40, True),
        # Half of the tasks between the ends have left the queue.
        (Line(is_new=True, depth=50, other_depth=0, own=540, first=500, last=599), 20, False),
        (Line(is_new=True, depth=50, other_depth=0, own=500, first=500, last=599), 0, False),
        (Line(is_new=True, depth=50, other_depth=0, own=599, first=500, last=599), 49, False),
        # There are at most as many tasks before it as numbers before its own.
        (Line(is_new=True, depth=99, other_depth=0, own=501, first=500, last=599), 1, False),
        # More tasks than numbers, because many were retried by hand.
        (Line(is_new=True, depth=101, other_depth=0, own=502, first=500, last=502), 100, False),
        (Line(is_new=True, depth=50, other_depth=0, own=7, first=7, last=7), 0, False),
        # Half of each claim is tasks that came back, and they go first.
        (Line(is_new=True, depth=10, other_depth=100, before=0), 1, False),
        (Line(is_new=True, depth=10, other_depth=100, before=4), 9, False),
        (Line(is_new=True, depth=10, other_depth=2, before=4), 6, False),
        (Line(is_new=False, depth=10, other_depth=100, before=0), 0, False),
        (Line(is_new=False, depth=10, other_depth=100, before=4), 8, False),
        (Line(is_new=False, depth=10, other_depth=1, before=4), 5, False),
    ],
)
def test_the_number_of_tasks_before_a_task(line: Line, ahead: int, is_exact: bool) -> None:
    assert ahead_of(line) == (ahead, is_exact)


@pytest.mark.parametrize(
    ("workers", "rate"),
    [
        ([], None),
        ([worker(slots=None)], None),
        ([worker(mean_run_ms=None)], None),
        ([worker(slots=4, mean_run_ms=2000)], 2.0),
        ([worker(slots=4, mean_run_ms=2000), worker(slots=1, mean_run_ms=500)], 4.0),
        # A worker that has ended no task is as fast as the others, and one whose agent tells nothing is an average one.
        ([worker(slots=4, mean_run_ms=2000), worker(slots=8, mean_run_ms=None)], 6.0),
        ([worker(slots=4, mean_run_ms=2000), worker(slots=None)], 4.0),
    ],
)
def test_the_rate_of_the_workers(workers: list[Worker], rate: float | None) -> None:
    assert starts_per_second(workers) == (None if rate is None else pytest.approx(rate))


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1 ms"), (420, "420 ms"), (1000, "1 s"), (3210, "3.2 s"), (45_000, "45 s"), (119_000, "119 s"),
        (120_000, "2 min"), (720_000, "12 min"), (3_600_000 * 3, "3 h"), (86_400_000 * 4, "4 days"),
    ],
)  # fmt: skip
def test_lengths_of_time_have_a_unit(milliseconds: float, text: str) -> None:
    assert length(milliseconds) == text


def test_a_long_error_of_a_worker_keeps_its_first_and_its_last_lines() -> None:
    message = waiting_of(QUEUED, Crew([replace(CRASHES, error=TRACEBACK)])).message
    shown = message.removeprefix("The only worker is not ready yet: ")
    assert len(shown) <= MAX_REASON_CHARACTERS
    assert shown.startswith("container exited with status 3 … ")
    assert " raise RuntimeError(text) " in shown
    assert shown.endswith(" RuntimeError: the weights are not there")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("x" * 400, "x" * 299 + "…"),
        ("first\n" + "x" * 400, "first " + "x" * 291 + "…"),
        ("y" * 400 + "\n\nlast\n", "y" * 99 + "… last"),
        ("y" * 400 + "\nmiddle\n" + "x" * 400, "y" * 99 + "… … " + "x" * 196 + "…"),
        ("first\n \n  second\tword", "first second word"),
    ],
    ids=["one line", "long last line", "long first line", "long lines", "short"],
)
def test_an_error_of_a_worker_is_one_short_line(error: str, shown: str) -> None:
    message = waiting_of(QUEUED, Crew([replace(CRASHES, error=error)])).message
    assert message == f"The only worker is not ready yet: {shown}"


def test_a_reason_is_a_value() -> None:
    assert waiting_of(QUEUED, Crew([RUNS])) == Waiting(
        WaitingCode.NEXT,
        "No task goes before it: the next free slot of 1 worker takes it.",
        since_ms=NOW - 5000,
        as_of_ms=NOW,
        ahead=0,
    )
