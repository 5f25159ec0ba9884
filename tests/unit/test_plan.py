"""What the controller does next about an endpoint's workers: values in, actions out. Times are plain numbers."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.backends.base import Observed, Phase
from queue_engine.controller.plan import (
    BY_HAND_SILENCE_SECONDS,
    CALM_SECONDS,
    FAILED_AFTER_CRASHES,
    FRESH,
    SOON,
    START_PLACE_SECONDS,
    STEADY_SECONDS,
    Action,
    Create,
    Drain,
    Forget,
    Kill,
    NoteEnd,
    NoteReason,
    Record,
    Restart,
    Resume,
    Situation,
    Start,
    after_end,
    is_failing,
    next_look,
    next_starts,
    plan,
    starts_under_way,
)
from queue_engine.domain.endpoints import DesiredState, Endpoint, EndpointConfig, Resource, ServiceMode
from queue_engine.domain.workers import Worker, WorkerStatus
from tests.examples import examples

NOW = 1_000.0
STORE_NOW_MS = 5_000_000
SILENCE = 30.0
START_TIMEOUT = 600.0
REVISION = 3
INITIALIZING, RUNNING, STOPPING = WorkerStatus.INITIALIZING, WorkerStatus.RUNNING, WorkerStatus.STOPPING
ALIVE = Observed(run=1, phase=Phase.RUNNING, started_at_ms=1)
DEAD = Observed(run=1, phase=Phase.ENDED, started_at_ms=1, reason="container exited with status 3")


def endpoint(workers: int = 1, wanted: DesiredState = DesiredState.RUNNING, revision: int = REVISION) -> Endpoint:
    config = EndpointConfig("e", "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), workers, 20)
    return Endpoint("7", "t", config, wanted, failed=False, created_at_ms=0, updated_at_ms=0, revision=revision)


@dataclass(frozen=True)
class Seen:
    """One worker as the store, the backend and this controller know it."""

    status: WorkerStatus = RUNNING
    observed: Observed | None = ALIVE
    managed: bool = True
    running_tasks: int = 0
    revision: int = REVISION
    age_ms: int = 1000
    heard_ms_ago: int | None = 500
    """None: not since its start."""
    started_ms_ago: int = 1000
    record: Record = FRESH

    def worker(self, worker_id: str) -> Worker:
        return Worker(
            worker_id,
            "7",
            self.status,
            STORE_NOW_MS - self.age_ms,
            self.managed,
            started_at_ms=STORE_NOW_MS - self.started_ms_ago,
            last_heartbeat_at_ms=None if self.heard_ms_ago is None else STORE_NOW_MS - self.heard_ms_ago,
            running_tasks=self.running_tasks,
            revision=self.revision,
        )


def situation(of: Endpoint, *workers: Seen) -> Situation:
    """The workers are called w0, w1, …"""
    named = {f"w{number}": seen for number, seen in enumerate(workers)}
    return Situation(
        of,
        [seen.worker(name) for name, seen in named.items()],
        {name: seen.observed for name, seen in named.items() if seen.observed is not None},
        {name: seen.record for name, seen in named.items() if seen.record != FRESH},
        NOW,
        STORE_NOW_MS,
        SILENCE,
        START_TIMEOUT,
    )


def told(actions: Sequence[Action]) -> list[str]:
    """The actions in short: `create 2`, `drain w0`, …"""
    texts = []
    for action in actions:
        name = type(action).__name__.lower()
        texts.append(f"{name} {action.count}" if isinstance(action, Create) else f"{name} {action.worker.worker_id}")
    return sorted(texts)


def steps(of: Endpoint, *workers: Seen) -> list[str]:
    return told(plan(situation(of, *workers)))


# The number of workers


@pytest.mark.parametrize(("wanted", "there", "expected"), [(2, 0, ["create 2"]), (3, 2, ["create 1"]), (2, 2, [])])
def test_what_is_missing_is_created(wanted: int, there: int, expected: list[str]) -> None:
    assert steps(endpoint(wanted), *[Seen()] * there) == expected


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("one that does not run yet", [Seen(), Seen(INITIALIZING)]),
        ("one that has died as RUNNING", [Seen(running_tasks=0), Seen(running_tasks=1, observed=DEAD)]),
        ("one that is silent", [Seen(), Seen(running_tasks=1, heard_ms_ago=31_000)]),
        ("one that has died with a task", [Seen(INITIALIZING), Seen(INITIALIZING, running_tasks=1, observed=DEAD)]),
        ("an idle one that starts", [Seen(INITIALIZING, running_tasks=1), Seen(INITIALIZING)]),
        ("one that may be loading, before an idle one that runs", [Seen(), Seen(INITIALIZING, running_tasks=1)]),
        ("an idle one", [Seen(running_tasks=1), Seen()]),
        ("an idle one before an outdated one", [Seen(running_tasks=1, revision=2), Seen()]),
        ("an outdated one", [Seen(), Seen(revision=2)]),
        ("a young one", [Seen(age_ms=9000), Seen(age_ms=1000)]),
        ("a failed one", [Seen(), Seen(WorkerStatus.FAILED, observed=None, record=Record(0.0, 3, 3, NOW + 9))]),
    ],
)
def test_of_two_workers_where_one_is_desired_the_lesser_is_stopped(name: str, workers: list[Seen]) -> None:
    gone = [action for action in steps(endpoint(1), *workers) if action in ("drain w1", "forget w1")]
    assert len(gone) == 1, name
    assert not {"drain w0", "kill w0", "forget w0"} & set(steps(endpoint(1), *workers))


@pytest.mark.parametrize("wanted", [DesiredState.STOPPED, DesiredState.DELETED])
def test_a_stopped_or_deleted_endpoint_has_all_its_workers_drained(wanted: DesiredState) -> None:
    workers = [Seen(), Seen(INITIALIZING), Seen(running_tasks=2)]
    assert steps(endpoint(3, wanted), *workers) == ["drain w0", "drain w1", "drain w2"]


@pytest.mark.parametrize("wanted", [DesiredState.STOPPED, DesiredState.DELETED])
@pytest.mark.parametrize("observed", [DEAD, None])
def test_what_has_ended_of_a_stopped_endpoint_is_forgotten(wanted: DesiredState, observed: Observed | None) -> None:
    waiting = Record(0.0, 5, 5, NOW + 60)
    assert steps(endpoint(1, wanted), Seen(observed=observed, record=waiting)) == ["forget w0"]


def test_a_draining_worker_still_counts_and_is_replaced_once_it_has_ended() -> None:
    assert steps(endpoint(1), Seen(STOPPING, observed=None)) == ["forget w0"]
    assert steps(endpoint(1)) == ["create 1"]
    assert "create 1" not in steps(endpoint(1), Seen(STOPPING))


def test_a_worker_whose_drain_was_left_alone_is_drained_again() -> None:
    assert steps(endpoint(1), Seen(STOPPING)) == ["drain w0"]
    assert steps(endpoint(1), Seen(STOPPING, heard_ms_ago=90_000)) == ["drain w0"]


# Workers that end by themselves


def test_the_end_of_a_worker_is_noted_with_its_reason_and_it_starts_again_when_its_wait_is_over() -> None:
    assert plan(situation(endpoint(1), Seen(observed=DEAD))) == [
        NoteEnd(Seen(observed=DEAD).worker("w0"), "container exited with status 3")
    ]
    assert steps(endpoint(1), Seen(INITIALIZING, None, record=Record(0.0, 1, 1, NOW + 0.1))) == []
    assert steps(endpoint(1), Seen(INITIALIZING, None, record=Record(0.0, 1, 1, NOW))) == ["restart w0"]


def test_a_worker_of_another_controller_is_started_again_here() -> None:
    assert steps(endpoint(1), Seen(RUNNING, observed=None)) == ["restart w0"]


def test_an_ended_worker_of_an_older_revision_makes_room_for_a_new_one() -> None:
    assert steps(endpoint(1), Seen(INITIALIZING, None, revision=2)) == ["forget w0"]
    assert steps(endpoint(1), Seen(RUNNING, DEAD, revision=2)) == ["forget w0"]


def test_waits_double_up_to_a_minute() -> None:
    records = [after_end(replace(FRESH, short_lives=count), had_run=False, now=NOW) for count in (*range(11), 10**6)]
    assert [record.not_before - NOW for record in records] == [0.5, 1, 2, 4, 8, 16, 32, *[60] * 5]


def test_a_worker_that_ran_for_a_while_starts_again_at_once() -> None:
    record = after_end(Record(started_at=NOW - STEADY_SECONDS, crashes=2, short_lives=4), had_run=True, now=NOW)
    assert (record.crashes, record.short_lives, record.not_before) == (0, 0, NOW)


def test_a_worker_that_runs_and_soon_dies_again_and_again_waits_ever_longer_and_is_not_failed() -> None:
    record, now, waits = FRESH, NOW, []
    for _ in range(5):
        record = after_end(replace(record, started_at=now), had_run=True, now=now + 1)
        waits.append(record.not_before - (now + 1))
        now = record.not_before
    assert waits == [0.5, 1, 2, 4, 8]
    assert record.crashes == 0


def test_ends_without_having_run_are_crashes() -> None:
    record = FRESH
    for _ in range(3):
        record = after_end(record, had_run=False, now=NOW)
    assert (record.crashes, record.not_before) == (3, NOW + 2)
    assert after_end(record, had_run=True, now=NOW).crashes == 0


# Failing endpoints

CRASHED = Seen(WorkerStatus.FAILED, None, record=Record(0.0, FAILED_AFTER_CRASHES, 3, NOW + 9))


@pytest.mark.parametrize(
    ("of", "workers", "expected"),
    [
        (endpoint(2), [CRASHED, CRASHED], True),
        (endpoint(2), [CRASHED, replace(CRASHED, record=Record(0.0, FAILED_AFTER_CRASHES - 1))], True),
        (endpoint(2), [CRASHED, Seen(INITIALIZING, record=Record(0.0, FAILED_AFTER_CRASHES - 1))], False),
        (endpoint(1), [Seen(WorkerStatus.FAILED)], True),
        (endpoint(2), [Seen(WorkerStatus.FAILED), Seen(INITIALIZING)], False),
        (endpoint(2), [CRASHED], False),
        (endpoint(1), [CRASHED, Seen(RUNNING)], False),
        (endpoint(1), [CRASHED, Seen(RUNNING, None, managed=False)], False),
        (endpoint(1), [replace(CRASHED, revision=2)], False),
        (endpoint(0), [CRASHED], False),
        (endpoint(0), [], False),
        (endpoint(1, DesiredState.STOPPED), [CRASHED], False),
    ],
)
def test_an_endpoint_fails_while_all_that_it_should_have_crashes(
    of: Endpoint, workers: list[Seen], expected: bool
) -> None:
    assert is_failing(situation(of, *workers)) is expected


# Silence


def test_a_silent_worker_is_killed_to_be_started_again() -> None:
    assert steps(endpoint(1), Seen(heard_ms_ago=30_000)) == []
    assert steps(endpoint(1), Seen(heard_ms_ago=30_001)) == ["kill w0"]
    assert steps(endpoint(1), Seen(INITIALIZING, heard_ms_ago=30_001)) == ["kill w0"]


STARTING = Seen(INITIALIZING, heard_ms_ago=None)


@pytest.mark.parametrize("status", [INITIALIZING, WorkerStatus.FAILED])
@pytest.mark.parametrize(
    ("started_ms_ago", "expected"), [(31_000, []), (600_000, []), (600_001, ["kill w0"]), (9_000_000, ["kill w0"])]
)
def test_a_start_is_no_silence_until_its_timeout(
    status: WorkerStatus, started_ms_ago: int, expected: list[str]
) -> None:
    starting = Seen(status, heard_ms_ago=None, started_ms_ago=started_ms_ago, age_ms=90_000_000)
    assert steps(endpoint(1), starting) == expected


def test_a_start_that_was_killed_says_that_it_never_spoke() -> None:
    never, once = replace(STARTING, started_ms_ago=600_001), Seen(heard_ms_ago=30_001)
    assert plan(situation(endpoint(1), never)) == [
        Kill(never.worker("w0"), "gave no sign of life within 600 s of its start", never_spoke=True)
    ]
    assert plan(situation(endpoint(1), once)) == [Kill(once.worker("w0"), "gave no sign of life")]


def test_a_worker_that_is_failed_and_reports_is_left_to_become_ready() -> None:
    assert steps(endpoint(1), Seen(WorkerStatus.FAILED, started_ms_ago=9_000_000)) == []


@pytest.mark.parametrize(
    ("name", "worker", "expected"),
    [
        ("without a sign", STARTING, 1),
        ("with a sign", Seen(INITIALIZING), 0),
        ("that has ended", replace(STARTING, observed=DEAD), 0),
        ("that waits", replace(STARTING, observed=None), 0),
        ("by hand", replace(STARTING, managed=False), 0),
        ("that hangs", replace(STARTING, started_ms_ago=30_001), 0),
        ("that pulls its image", replace(STARTING, observed=replace(ALIVE, phase=Phase.STARTING)), 1),
        ("that waits for a GPU", replace(STARTING, observed=replace(ALIVE, phase=Phase.WAITING)), 0),
    ],
)
def test_a_start_takes_a_place_until_its_first_sign_but_not_for_long(name: str, worker: Seen, expected: int) -> None:
    assert len(starts_under_way(situation(endpoint(1), worker))) == expected, name


def test_the_time_to_report_begins_when_the_agent_runs() -> None:
    waited = replace(STARTING, started_ms_ago=9_000_000)
    assert steps(endpoint(1), replace(waited, record=Record(NOW - 9000, running_since=NOW - 600))) == []
    assert steps(endpoint(1), replace(waited, record=Record(NOW - 9000, running_since=NOW - 601))) == ["kill w0"]


# Phases of a start

OURS = Record(started_at=NOW - 5)


def start_in(phase: Phase, reason: str | None = None, *, retry_helps: bool = True, **seen: Any) -> Seen:
    """A worker whose start this controller has begun, in a phase of it."""
    observed = replace(ALIVE, phase=phase, reason=reason, retry_helps=retry_helps)
    return replace(Seen(INITIALIZING, observed, heard_ms_ago=None, record=OURS), **seen)


def note(worker: Seen) -> tuple[WorkerStatus, str | None] | None:
    """The status and the reason that are recorded for the only worker of an endpoint, if nothing else is done."""
    actions = plan(situation(endpoint(1), worker))
    assert all(isinstance(action, NoteReason) for action in actions), actions
    return next(((action.status, action.reason) for action in actions if isinstance(action, NoteReason)), None)


PULLS = "pulling 3.1 of 8.4 GB"


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING, Phase.UNKNOWN])
@pytest.mark.parametrize("heard_ms_ago", [None, 31_000, 9_000_000])
def test_a_worker_that_waits_or_starts_is_never_killed_for_silence(phase: Phase, heard_ms_ago: int | None) -> None:
    worker = start_in(phase, heard_ms_ago=heard_ms_ago, started_ms_ago=90_000_000)
    assert "kill w0" not in steps(endpoint(1), worker)
    assert steps(endpoint(1), replace(worker, status=RUNNING)) == []


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING, Phase.UNKNOWN])
def test_the_reason_of_a_start_is_noted_once_and_when_it_changes(phase: Phase) -> None:
    assert note(start_in(phase, PULLS)) == (INITIALIZING, PULLS)
    assert note(start_in(phase, PULLS, record=replace(OURS, noted_reason=PULLS))) is None
    assert note(start_in(phase, "pulling 3.2 of 8.4 GB", record=replace(OURS, noted_reason=PULLS))) is not None
    assert note(start_in(phase)) is None
    assert note(start_in(phase, record=replace(OURS, noted_reason=PULLS))) == (INITIALIZING, None)


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING, Phase.UNKNOWN])
def test_a_start_beyond_its_timeout_is_failed_with_its_reason_and_not_ended(phase: Phase) -> None:
    assert note(start_in(phase, PULLS, started_ms_ago=600_000)) == (INITIALIZING, PULLS)
    late = start_in(phase, PULLS, started_ms_ago=600_001, record=replace(OURS, noted_reason=PULLS))
    assert note(late) == (WorkerStatus.FAILED, PULLS)
    assert note(replace(late, status=WorkerStatus.FAILED)) is None
    assert note(start_in(phase, started_ms_ago=600_001)) == (WorkerStatus.FAILED, "has not started within 600 s")
    failed = start_in(
        phase, status=WorkerStatus.FAILED, record=replace(OURS, noted_reason="has not started within 9 s")
    )
    assert note(failed) is None


def test_a_start_that_cannot_succeed_is_failed_at_once() -> None:
    assert note(start_in(Phase.WAITING, "no such node", retry_helps=False)) == (WorkerStatus.FAILED, "no such node")


def test_the_reason_of_a_start_is_removed_when_the_worker_runs() -> None:
    noted = replace(OURS, noted_reason=PULLS)
    assert note(start_in(Phase.RUNNING, record=noted)) == (INITIALIZING, None)
    assert note(start_in(Phase.RUNNING)) is None
    assert note(start_in(Phase.RUNNING, record=noted, status=RUNNING, heard_ms_ago=1)) is None


def test_the_reason_of_the_crashes_of_a_failed_worker_stays_while_it_starts_again() -> None:
    crashed = replace(OURS, crashes=FAILED_AFTER_CRASHES)
    assert note(start_in(Phase.STARTING, PULLS, status=WorkerStatus.FAILED, record=crashed)) is None


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING])
@pytest.mark.parametrize("record", [FRESH, OURS])
def test_a_start_that_the_backend_does_not_go_on_with_is_resumed(phase: Phase, record: Record) -> None:
    """Also one of this controller: a platform may carry out a call after its timeout."""
    start = start_in(phase, record=record)
    assert steps(endpoint(1), start) == []
    interrupted = replace(start, observed=replace(ALIVE, phase=phase, is_interrupted=True))
    assert plan(situation(endpoint(1), interrupted)) == [Resume(interrupted.worker("w0"), run=1)]


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.ENDING, Phase.UNKNOWN])
def test_a_worker_of_an_earlier_controller_is_adopted(phase: Phase) -> None:
    assert steps(endpoint(1), Seen(observed=replace(ALIVE, phase=phase))) == []


def test_a_worker_that_somebody_else_ends_does_not_run() -> None:
    """No outdated worker is drained until it is replaced."""
    assert steps(endpoint(2), OLD, Seen(observed=replace(ALIVE, phase=Phase.ENDING))) == []


def test_an_end_after_which_no_retry_helps_fails_the_worker_with_the_longest_wait() -> None:
    record = after_end(FRESH, had_run=False, now=NOW, retry_helps=False)
    assert (record.crashes, record.not_before) == (FAILED_AFTER_CRASHES, NOW + 60)
    record = after_end(record, had_run=False, now=NOW, retry_helps=False)
    assert (record.crashes, record.not_before) == (FAILED_AFTER_CRASHES + 1, NOW + 60)


def due(*names: str) -> list[Start]:
    """`a1.2` is the third worker of the tenant a's first endpoint."""
    return [Start(name[0], name.partition(".")[0], name) for name in names]


CROWD = due(*(f"a1.{number}" for number in range(100)))


@pytest.mark.parametrize(
    ("waiting", "under_way", "places", "expected"),
    [
        (CROWD, [], 2, ["a1.0", "a1.1"]),
        (CROWD + due("b2.0"), [], 2, ["a1.0", "b2.0"]),
        (CROWD + due("b2.0"), CROWD[:3], 4, ["b2.0"]),
        (CROWD + due("a3.0"), CROWD[:3], 4, ["a3.0"]),
        (CROWD[4:] + due("b2.0", "b3.0"), CROWD[:4], 4, []),
        (CROWD[:2] + due("b2.0", "b3.0", "b3.1"), [], 4, ["a1.0", "b2.0", "b3.0", "a1.1"]),
        (CROWD[:1], [], 9, ["a1.0"]),
        ([], CROWD[:9], 4, []),
    ],
)
def test_places_are_shared_between_tenants_and_their_endpoints(
    waiting: list[Start], under_way: list[Start], places: int, expected: list[str]
) -> None:
    assert [start.worker_id for start in next_starts(waiting, under_way, places)] == expected


def test_an_unmanaged_worker_is_left_alone_until_it_is_silent() -> None:
    assert steps(endpoint(0), Seen(managed=False, observed=None)) == []
    assert steps(endpoint(0, DesiredState.STOPPED), Seen(managed=False, observed=None)) == []
    [action] = plan(situation(endpoint(0), Seen(managed=False, observed=None, heard_ms_ago=30_001)))
    assert action == Forget(
        Seen(managed=False, heard_ms_ago=30_001).worker("w0"), WorkerStatus.FAILED, "no sign of life"
    )


def test_an_agent_that_was_started_by_hand_has_time_for_its_own_reports() -> None:
    """It does not know that the controller's limit is shorter than the time between two of its reports."""

    def silent_for(heard_ms_ago: int, *, managed: bool) -> list[Action]:
        seen = Seen(managed=managed, observed=ALIVE if managed else None, heard_ms_ago=heard_ms_ago)
        return plan(replace(situation(endpoint(int(managed)), seen), silence_seconds=1.0))

    own_ms = int(1000 * BY_HAND_SILENCE_SECONDS)
    assert [type(action) for action in silent_for(1001, managed=True)] == [Kill]
    assert silent_for(own_ms, managed=False) == []
    assert [type(action) for action in silent_for(own_ms + 1, managed=False)] == [Forget]


def test_an_unmanaged_worker_does_not_count_as_a_desired_one() -> None:
    assert steps(endpoint(1), Seen(managed=False, observed=None)) == ["create 1"]


# Replacing workers

OLD = Seen(revision=2)


def test_outdated_workers_are_drained_one_at_a_time_idle_ones_first() -> None:
    assert steps(endpoint(3), replace(OLD, running_tasks=2), replace(OLD, running_tasks=1), OLD) == ["drain w2"]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("is being drained", replace(OLD, status=STOPPING)),
        ("does not run yet", Seen(INITIALIZING)),
        ("has died and is still recorded as RUNNING", Seen(observed=DEAD)),
        ("is started again, and still recorded as RUNNING", Seen(observed=None)),
        ("is silent", Seen(heard_ms_ago=31_000)),
        ("crashes", CRASHED),
    ],
)
def test_no_outdated_worker_is_drained_while_another_one(name: str, other: Seen) -> None:
    assert "drain w0" not in steps(endpoint(2), OLD, other), name


def test_outdated_workers_that_do_not_run_are_replaced_at_once() -> None:
    old = replace(OLD, status=INITIALIZING)
    assert steps(endpoint(3), OLD, old, old) == ["drain w1", "drain w2"]


def test_the_only_worker_is_replaced_too() -> None:
    assert steps(endpoint(1), OLD) == ["drain w0"]


# From any situation

statuses = st.sampled_from(WorkerStatus)
records = st.one_of(
    st.just(FRESH),
    st.builds(
        Record,
        started_at=st.sampled_from([None, NOW - 100, NOW - 5]),
        crashes=st.integers(0, 12),
        short_lives=st.integers(0, 12),
        not_before=st.sampled_from([0.0, NOW, NOW + 3, NOW + 60]),
    ),
)
managed_workers = st.builds(
    Seen,
    status=statuses,
    observed=st.sampled_from([ALIVE, DEAD, None, *(replace(ALIVE, phase=phase, reason="because") for phase in Phase)]),
    running_tasks=st.integers(0, 1),
    revision=st.sampled_from([REVISION, 2]),
    age_ms=st.sampled_from([1_000, 9_000]),
    heard_ms_ago=st.sampled_from([0, 31_000, None]),
    started_ms_ago=st.sampled_from([590_000, 601_000]),
    record=records,
)
unmanaged_workers = st.builds(
    Seen,
    status=statuses,
    observed=st.none(),
    managed=st.just(False),
    heard_ms_ago=st.sampled_from([0, 31_000]),
)
endpoints = st.builds(endpoint, st.integers(0, 4), st.sampled_from(DesiredState))
crowds = st.builds(operator.add, st.lists(managed_workers, max_size=5), st.lists(unmanaged_workers, max_size=1))


def really_runs(seen: Seen) -> bool:
    heard_ms_ago = seen.started_ms_ago if seen.heard_ms_ago is None else seen.heard_ms_ago
    return seen.managed and seen.status is RUNNING and seen.observed == ALIVE and heard_ms_ago <= SILENCE * 1000


@given(endpoints, crowds)
def test_no_worker_gets_two_actions(of: Endpoint, workers: list[Seen]) -> None:
    targets = [one.worker.worker_id for one in plan(situation(of, *workers)) if not isinstance(one, Create)]
    assert len(targets) == len(set(targets))


@given(endpoints, crowds)
def test_a_running_worker_stays_when_two_or_more_are_desired(of: Endpoint, workers: list[Seen]) -> None:
    if of.desired is not DesiredState.RUNNING or of.config.workers < 2:
        return
    before = {f"w{number}" for number, seen in enumerate(workers) if really_runs(seen)}
    ended = {
        action.worker.worker_id
        for action in plan(situation(of, *workers))
        if isinstance(action, Drain | Kill | NoteEnd | Forget)
    }
    assert bool(before - ended) is bool(before)
    if len(before) <= of.config.workers:
        assert len(before & ended) <= 1


@given(endpoints, crowds)
def test_as_many_are_created_as_are_missing_and_never_besides_a_surplus(of: Endpoint, workers: list[Seen]) -> None:
    wanted = of.config.workers if of.desired is DesiredState.RUNNING else 0
    there = sum(seen.managed for seen in workers)
    created = [action.count for action in plan(situation(of, *workers)) if isinstance(action, Create)]
    assert created == ([wanted - there] if wanted > there else [])


@dataclass
class World:
    """The simplest backend, agents and store that carry actions out; one round is a second.

    Containers take `start_rounds` until they run, a drain takes `drain_rounds`.
    """

    of: Endpoint
    workers: dict[str, Worker]
    observed: dict[str, Observed]
    records: dict[str, Record]
    start_rounds: int
    drain_rounds: int
    now: float = NOW
    store_now_ms: int = STORE_NOW_MS
    created: int = 0
    draining: dict[str, int] = field(default_factory=dict)
    starting: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_crowd(cls, of: Endpoint, workers: list[Seen], start_rounds: int, drain_rounds: int) -> "World":
        at_first = situation(of, *workers)
        named = {worker.worker_id: worker for worker in at_first.workers}
        return cls(of, named, dict(at_first.observed), dict(at_first.records), start_rounds, drain_rounds)

    def round(self) -> list[Action]:
        of = situation(self.of)
        actions = plan(
            replace(
                of,
                workers=list(self.workers.values()),
                observed=dict(self.observed),
                records=dict(self.records),
                now=self.now,
                store_now_ms=self.store_now_ms,
            )
        )
        for action in actions:
            self._carry_out(action)
        self._pass_a_second()
        return actions

    def running(self) -> int:
        return sum(
            worker.managed and worker.status is RUNNING and self._alive(worker.worker_id)
            for worker in self.workers.values()
        )

    def is_as_wanted(self) -> bool:
        wanted = self.of.config.workers if self.of.desired is DesiredState.RUNNING else 0
        managed = [worker for worker in self.workers.values() if worker.managed]
        fit = [worker for worker in managed if worker.revision == self.of.revision and worker.status is RUNNING]
        alive = {worker_id for worker_id in self.observed if self._alive(worker_id)}
        return len(managed) == len(fit) == wanted and alive == {worker.worker_id for worker in fit}

    def _alive(self, worker_id: str) -> bool:
        return worker_id in self.observed and self.observed[worker_id].alive

    def _carry_out(self, action: Action) -> None:
        match action:
            case Create(count):
                for _ in range(count):
                    self.created += 1
                    worker_id = f"new{self.created}"
                    self.workers[worker_id] = Worker(
                        worker_id, "7", INITIALIZING, self.store_now_ms, True, revision=self.of.revision
                    )
                    self._start(worker_id)
            case Restart(worker) | Resume(worker, _):
                self._start(worker.worker_id)
            case NoteReason(worker, status, reason):
                self.workers[worker.worker_id] = replace(self.workers[worker.worker_id], status=status)
                record = self.records.get(worker.worker_id, FRESH)
                self.records[worker.worker_id] = replace(record, noted_reason=reason)
            case NoteEnd(worker, _):
                record = self.records.get(worker.worker_id, FRESH)
                self.records[worker.worker_id] = after_end(record, had_run=worker.status is RUNNING, now=self.now)
                self.observed.pop(worker.worker_id)
                self._mark(worker.worker_id, INITIALIZING)
            case Kill(worker, _, _):
                self.observed.pop(worker.worker_id, None)
                self._mark(worker.worker_id, INITIALIZING)
            case Drain(worker, _):
                self._mark(worker.worker_id, STOPPING)
                self.draining.setdefault(worker.worker_id, self.drain_rounds)
            case Forget(worker, _, _):
                self.observed.pop(worker.worker_id, None)
                del self.workers[worker.worker_id]

    def _start(self, worker_id: str) -> None:
        self.records[worker_id] = replace(self.records.get(worker_id, FRESH), started_at=self.now)
        self.observed[worker_id] = ALIVE
        self.starting[worker_id] = self.start_rounds
        self.workers[worker_id] = replace(
            self.workers[worker_id], started_at_ms=self.store_now_ms, last_heartbeat_at_ms=None
        )

    def _mark(self, worker_id: str, status: WorkerStatus) -> None:
        self.workers[worker_id] = replace(
            self.workers[worker_id], status=status, last_heartbeat_at_ms=self.store_now_ms
        )

    def _pass_a_second(self) -> None:
        self.now += 1
        self.store_now_ms += 1000
        for worker_id, seen in self.observed.items():
            if seen.phase in (Phase.WAITING, Phase.STARTING):  # its agent begins, and reports
                self.starting.setdefault(worker_id, 1)
            if seen.phase is not Phase.ENDED:
                self.observed[worker_id] = DEAD if seen.phase is Phase.ENDING else ALIVE
        for worker_id in list(self.draining):
            self.draining[worker_id] -= 1
            if self.draining[worker_id] <= 0:
                del self.draining[worker_id]
                self.observed.pop(worker_id, None)
        for worker_id, worker in list(self.workers.items()):
            was_silent = self.store_now_ms - (worker.last_heartbeat_at_ms or 0) > SILENCE * 1000
            if self._alive(worker_id) and (worker_id in self.starting or not was_silent):
                self._report(worker_id)

    def _report(self, worker_id: str) -> None:
        """Its agent says how it is. What a controller has decided stands."""
        self.starting[worker_id] = self.starting.get(worker_id, 0) - 1
        status = RUNNING if self.starting[worker_id] <= 0 else INITIALIZING
        self._mark(worker_id, STOPPING if self.workers[worker_id].status is STOPPING else status)


@examples(500)
@given(endpoints, crowds, st.integers(1, 4), st.integers(1, 6))
def test_the_desired_number_is_reached_from_any_situation_and_kept(
    of: Endpoint, workers: list[Seen], start_rounds: int, drain_rounds: int
) -> None:
    world = World.of_crowd(of, workers, start_rounds, drain_rounds)
    quiet_rounds = 0
    for _ in range(200):
        quiet_rounds = 0 if world.round() else quiet_rounds + 1
        # Agents that were started by hand are silent in this world: all of them are forgotten. A worker whose phase is
        # unknown is silent only from the next round on.
        if world.is_as_wanted() and quiet_rounds > 1 and all(one.managed for one in world.workers.values()):
            break
    assert world.is_as_wanted(), world.workers
    assert all(worker.managed for worker in world.workers.values())
    assert world.round() == []


@given(st.integers(2, 5), st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))
def test_a_rolling_replacement_takes_one_worker_away_at_a_time(
    count: int, wanted: int, start_rounds: int, drain_rounds: int
) -> None:
    world = World.of_crowd(endpoint(wanted), [OLD] * count, start_rounds, drain_rounds)
    for number in range(150):
        replaced = [
            action
            for action in world.round()
            if isinstance(action, Drain) and action.worker.status is RUNNING and "replaced" in action.reason
        ]
        assert len(replaced) <= 1
        assert world.running() >= min(count, wanted - 1), number
    assert world.is_as_wanted()
    assert not {f"w{number}" for number in range(count)} & set(world.workers)


# The time of the next look

PULLING = replace(ALIVE, phase=Phase.STARTING)


def look_after(of: Endpoint, *workers: Seen) -> float | None:
    found = situation(of, *workers)
    return next_look(found, plan(found), SILENCE)


@pytest.mark.parametrize(
    ("of", "workers", "expected"),
    [
        (endpoint(0), [], None),
        (endpoint(1, DesiredState.STOPPED), [], None),
        (endpoint(1), [], SOON),
        (endpoint(2), [Seen(), Seen(heard_ms_ago=4000)], 26.0),
        (endpoint(0), [Seen(managed=False, observed=None, heard_ms_ago=None, age_ms=29_000)], 1.0),
        (endpoint(1), [Seen(heard_ms_ago=30_000)], SOON),
        (endpoint(1), [Seen(heard_ms_ago=None)], SOON),
        (endpoint(1), [Seen(heard_ms_ago=None, started_ms_ago=int(1000 * START_PLACE_SECONDS))], SOON),
        (endpoint(1), [Seen(INITIALIZING, heard_ms_ago=None, started_ms_ago=500_000)], 1300.0),
        (endpoint(1), [Seen(INITIALIZING, heard_ms_ago=1000)], 29.0),
        (endpoint(1), [Seen(INITIALIZING, None, record=Record(not_before=NOW + 8))], 8.0),
        (endpoint(1), [Seen(INITIALIZING, None, record=Record(not_before=NOW - 8))], SOON),
        (endpoint(2), [Seen(INITIALIZING, None, record=Record(not_before=NOW + 80)), Seen()], 29.5),
        (endpoint(1), [Seen(STOPPING), Seen()], SOON),
        (endpoint(2), [Seen(revision=1), Seen(INITIALIZING)], SOON),
        (endpoint(1), [Seen(INITIALIZING, PULLING, heard_ms_ago=1000, started_ms_ago=500_000, record=OURS)], 1300.0),
        (endpoint(1), [Seen(WorkerStatus.FAILED, PULLING, started_ms_ago=500_000, record=OURS)], CALM_SECONDS),
        (endpoint(1), [Seen(observed=replace(ALIVE, phase=Phase.UNKNOWN), heard_ms_ago=90_000)], CALM_SECONDS),
    ],
    ids=[
        "nothing to do", "stopped", "a missing worker", "healthy workers", "by hand, silent in a second",
        "silent in a moment", "a start", "a start that still has a place", "a start without a place", "not ready",
        "waits for its restart", "due to restart", "the earliest of two", "a drain", "a replacement under way",
        "a pull", "a pull beyond its timeout", "not known",
    ],
)  # fmt: skip
def test_an_endpoint_is_looked_at_when_something_may_have_to_be_done(
    of: Endpoint, workers: list[Seen], expected: float | None
) -> None:
    assert look_after(of, *workers) == expected
