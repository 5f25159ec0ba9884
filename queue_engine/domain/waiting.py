"""Why a task waits: the decision, and its sentence for people.

`waiting_of` takes what a process knows about a waiting task and returns the first reason that holds, in the order of
`WaitingCode`. The texts are made here only; the API, the command line and the console show them unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from queue_engine.domain.endpoints import DesiredState, Endpoint, EndpointStatus, endpoint_status
from queue_engine.domain.tasks import SUSPECT_AFTER, Attempt, TaskState
from queue_engine.domain.workers import Worker, WorkerStatus

SILENCE_SECONDS = 30.0
"""Minimum time without a report after which a worker is not counted as running. Agents report four times as often."""
OVERDUE_MS = 5000
"""Time after a scheduled task's time at which the sweep, which runs every second, counts as late."""
ROUNDING = 0.000001
"""Part of a token that may be missing, because stored fractions are rounded."""
MAX_REASON_CHARACTERS = 300
"""Limit of the text of a worker or a container in a message."""


class WaitingCode(StrEnum):
    """Reasons for which a task waits. The first that holds is the reason."""

    STORE_READ_ONLY = "STORE_READ_ONLY"
    """The store refuses the writes that begin a task."""
    SCHEDULED = "SCHEDULED"
    """The time of its first run has not come."""
    BACKOFF = "BACKOFF"
    """The time of its next attempt has not come."""
    ENDPOINT_STOPPED = "ENDPOINT_STOPPED"
    ENDPOINT_FAILED = "ENDPOINT_FAILED"
    """All workers crash on start or are not ready in time."""
    PAUSED = "PAUSED"
    """The endpoint's queue is paused."""
    NO_WORKERS = "NO_WORKERS"
    """The endpoint has no worker that runs or starts."""
    WORKERS_STARTING = "WORKERS_STARTING"
    """Workers start, and none runs."""
    SUSPECT = "SUSPECT"
    """Earlier attempts lost their worker or connection, so the task waits for a worker that runs it alone."""
    KEY_LIMIT = "KEY_LIMIT"
    """As many tasks of its fairness key run as may."""
    RATE_LIMIT = "RATE_LIMIT"
    """The endpoint's rate limit lets no attempt begin now."""
    ALL_BUSY = "ALL_BUSY"
    """Other tasks go before it."""
    NEXT = "NEXT"
    """No other task goes before it."""


@dataclass(frozen=True)
class Waiting:
    """The reason for which a task waits. Times are epoch milliseconds of the store's clock."""

    code: WaitingCode
    message: str
    """A sentence with numbers and units."""
    since_ms: int
    """Time since which the task has been queued or scheduled."""
    as_of_ms: int
    """Time at which the task was looked at."""
    until_ms: int | None = None
    """Time at which this reason ends; None if it is not known."""
    ahead: int | None = None
    """Number of tasks that go before it; None with a reason other than ALL_BUSY and NEXT."""
    eta_seconds: float | None = None
    """Time until the tasks before it have begun; None if the workers' run times are not known."""
    is_approximate: bool = False
    """True if `ahead` was estimated."""
    running: int | None = None
    """With KEY_LIMIT, number of tasks of its fairness key that run; next, number of them that may."""
    limit: int | None = None


@dataclass(frozen=True)
class Line:
    """The place of a task in the queue in which it waits: one of new tasks, or one of tasks that came back."""

    is_new: bool
    depth: int
    """Number of tasks in this queue."""
    other_depth: int
    """Number of tasks in the other queue."""
    before: int | None = None
    """Number of tasks before it in this queue, if they were counted."""
    own: int = 0
    """Its number in this queue, in which the numbers do not decrease; the next two are those of the first and the last
    task."""
    first: int = 0
    last: int = 0


@dataclass(frozen=True)
class LaneFacts:
    """Facts about the place of a queued task at an endpoint that has tasks in lanes."""

    before: int | None
    """Number of tasks before it in its lane; None if it waits in the plain queues."""
    lanes: int
    """Number of lanes of its level that take turns. The plain queues have one of the turns of the level normal."""
    level_waiting: int
    """Number of waiting tasks of its level, with this one."""
    higher_waiting: int
    """Number of waiting tasks of the levels above."""
    key_running: int
    """Number of tasks of its fairness key that run, or that an agent has claimed."""
    key_limit: int
    """Limit of the tasks of a fairness key that run; 0 without one."""


@dataclass(frozen=True)
class WaitFacts:
    """Facts of the store about a waiting task. Times are epoch milliseconds of the store's clock."""

    now_ms: int
    state: TaskState
    since_ms: int
    has_started: bool
    """True if the task has had an attempt."""
    losses: int
    """Number of attempts that lost their worker or connection."""
    desired: DesiredState
    has_failed: bool
    """The mark of an endpoint whose workers all crash on start or are not ready in time."""
    wanted_workers: int
    is_paused: bool = False
    starts_per_second: float | None = None
    """Rate limit of the attempts that begin; None without one."""
    tokens: float | None = None
    """Number of attempts that may begin now by the rate limit; None without one."""
    due_ms: int | None = None
    """Time of the next attempt of a scheduled task."""
    latest: Attempt | None = None
    """The latest attempt of a scheduled task that has had one."""
    line: Line | None = None
    """Place of a queued task; None if it waits in a lane."""
    lane: LaneFacts | None = None
    """None if no task of the endpoint waits in a lane."""


@dataclass(frozen=True)
class Crew:
    """The workers of an endpoint, as last read."""

    workers: Sequence[Worker]
    silence_seconds: float = SILENCE_SECONDS
    """Time without a report after which a worker counts as silent."""

    def running(self, now_ms: int) -> list[Worker]:
        """Return the workers that take tasks."""
        return [one for one in self.speaking(now_ms) if one.status is WorkerStatus.RUNNING]

    def speaking(self, now_ms: int) -> list[Worker]:
        """Return the workers without those that counted as running and have stopped reporting."""
        return [one for one in self.workers if not self._is_silent(one, now_ms)]

    def newest_error(self) -> str:
        """Return the error of the worker that was started last, among those with one; else empty."""
        failed = [one for one in self.workers if one.error]
        newest = max(failed, key=lambda one: (one.started_at_ms or one.created_at_ms, one.worker_id), default=None)
        return _cut(newest.error) if newest is not None and newest.error else ""

    def _is_silent(self, worker: Worker, now_ms: int) -> bool:
        if worker.status is not WorkerStatus.RUNNING:
            return False
        latest = worker.last_heartbeat_at_ms or worker.started_at_ms or worker.created_at_ms
        return now_ms - latest > self.silence_seconds * 1000


def waiting_of(
    facts: WaitFacts, crew: Crew, *, store_problem: str = "", platform_problem: str = "", shows_workers: bool = True
) -> Waiting:
    """Return the reason for which a task waits.

    `store_problem` is the reason for which the store refuses writes, empty if it takes them. `platform_problem` is the
    reason for which the platform of the workers does not respond, empty if it does. With `shows_workers` False the
    message has no error of a worker or the platform, because the caller must not read workers.
    """
    errors = crew.newest_error() if shows_workers else ""
    platform = _cut(platform_problem) if shows_workers else ""
    return (
        _of_store(facts, store_problem)
        or _of_time(facts)
        or _of_endpoint(facts, crew, errors)
        or _of_workers(facts, crew, errors, platform)
        or _of_suspicion(facts)
        or _of_key_limit(facts)
        or _of_rate_limit(facts)
        or _of_queue(facts, crew)
    )


def problem_of(endpoint: Endpoint, crew: Crew, *, platform_problem: str) -> str | None:
    """Return why an endpoint has no running worker; None if it has one, should have none, or the reason is not known.

    That is the error of the worker that was started last or, without one, the problem of the platform.
    """
    wants_workers = endpoint.desired is DesiredState.RUNNING and endpoint.config.workers > 0
    if not wants_workers or endpoint.running_workers:
        return None
    return crew.newest_error() or _cut(platform_problem) or None


def _because(facts: WaitFacts, code: WaitingCode, message: str, until_ms: int | None = None) -> Waiting:
    return Waiting(code, message, facts.since_ms, facts.now_ms, until_ms)


def _of_store(facts: WaitFacts, problem: str) -> Waiting | None:
    if not problem:
        return None
    return _because(
        facts, WaitingCode.STORE_READ_ONLY, f"No task can begin, because the store does not take writes: {problem}."
    )


def _of_time(facts: WaitFacts) -> Waiting | None:
    if facts.state is not TaskState.SCHEDULED or facts.due_ms is None:
        return None
    code = WaitingCode.BACKOFF if facts.has_started else WaitingCode.SCHEDULED
    left = facts.due_ms - facts.now_ms
    if not facts.has_started:
        what = "The task is scheduled, and is queued"
    elif facts.latest is None:
        what = "The latest attempt did not end the task, and the next is queued"
    else:
        error = f": {_cut(facts.latest.error)}" if facts.latest.error else ""
        what = f"Attempt {facts.latest.number} ended as {facts.latest.outcome}{error}. The next attempt is queued"
    if left > 0:
        when = f"in {length(left)}."
    elif left > -OVERDUE_MS:
        when = "within a second."
    else:
        when = f"late: its time was {length(-left)} ago, and no controller has queued it yet."
    return _because(facts, code, f"{what} {when}", facts.due_ms)


def _of_endpoint(facts: WaitFacts, crew: Crew, error: str) -> Waiting | None:
    statuses = [one.status for one in crew.speaking(facts.now_ms)]
    status = endpoint_status(facts.desired, facts.has_failed, statuses)
    if status in (EndpointStatus.STOPPING, EndpointStatus.STOPPED):
        return _because(
            facts, WaitingCode.ENDPOINT_STOPPED, "The endpoint is stopped. Its tasks wait until it is started again."
        )
    if status is EndpointStatus.FAILED:
        ended = "All workers of the endpoint crash on start or are not ready in time"
        return _because(facts, WaitingCode.ENDPOINT_FAILED, f"{ended}: {error}" if error else f"{ended}.")
    if facts.is_paused:
        return _because(
            facts, WaitingCode.PAUSED, "The endpoint's queue is paused. Its tasks wait until it is resumed."
        )
    return None


def _of_workers(facts: WaitFacts, crew: Crew, error: str, platform: str) -> Waiting | None:
    if crew.running(facts.now_ms):
        return None
    starting = [one for one in crew.workers if one.status in (WorkerStatus.INITIALIZING, WorkerStatus.FAILED)]
    if starting:
        who = "The only worker is" if len(starting) == 1 else f"None of {len(starting)} workers is"
        not_ready = "not ready yet" if len(starting) == 1 else "ready yet"
        reason = error or platform
        return _because(
            facts, WaitingCode.WORKERS_STARTING, f"{who} {not_ready}: {reason}" if reason else f"{who} {not_ready}."
        )
    silent = [one for one in crew.workers if one.status is WorkerStatus.RUNNING]
    if silent:
        quiet_ms = facts.now_ms - max(one.last_heartbeat_at_ms or one.created_at_ms for one in silent)
        who = counted(len(silent), "worker")
        message = f"No worker runs: the latest report of {who} came {length(quiet_ms)} ago."
        if platform:
            message = f"{message[:-1]}, and {platform}"
    elif facts.wanted_workers:
        message = f"No worker runs or starts, of {facts.wanted_workers} that the endpoint should have."
        if platform:
            message = f"{message[:-1]}: {platform}"
    else:
        message = "The endpoint has 0 workers."
    return _because(facts, WaitingCode.NO_WORKERS, message)


def _of_suspicion(facts: WaitFacts) -> Waiting | None:
    if facts.losses < SUSPECT_AFTER:
        return None
    return _because(
        facts,
        WaitingCode.SUSPECT,
        f"{facts.losses} attempts of the task lost their worker or connection, so it waits until a worker can run it "
        "alone.",
    )


def _of_key_limit(facts: WaitFacts) -> Waiting | None:
    lane = facts.lane
    if lane is None or not lane.key_limit or lane.key_running < lane.key_limit:
        return None
    are = "task of its fairness key runs" if lane.key_running == 1 else "tasks of its fairness key run"
    message = (
        f"{lane.key_running} {are}, of {lane.key_limit} that may run at once. It begins after one of them has ended."
    )
    found = _because(facts, WaitingCode.KEY_LIMIT, message)
    return replace(found, running=lane.key_running, limit=lane.key_limit)


def _of_rate_limit(facts: WaitFacts) -> Waiting | None:
    if facts.starts_per_second is None or facts.tokens is None or facts.tokens >= 1 - ROUNDING:
        return None
    wait_ms = math.ceil((1 - facts.tokens) * 1000 / facts.starts_per_second)
    message = (
        f"The endpoint's rate limit is reached: {_rate(facts.starts_per_second)}. The next task may begin in "
        f"{length(wait_ms)}."
    )
    return _because(facts, WaitingCode.RATE_LIMIT, message, facts.now_ms + wait_ms)


def _of_queue(facts: WaitFacts, crew: Crew) -> Waiting:
    ahead, is_exact = _ahead_at_all(facts)
    running = crew.running(facts.now_ms)
    workers = counted(len(running), "worker")
    if ahead == 0:
        message = f"No task goes before it: the next free slot of {workers} takes it."
        return replace(_because(facts, WaitingCode.NEXT, message), ahead=0, is_approximate=not is_exact)
    rate = starts_per_second(running)
    if rate is not None and facts.starts_per_second is not None:
        rate = min(rate, facts.starts_per_second)
    eta_seconds = None if rate is None else ahead / rate
    about = "" if is_exact else "About "
    line = f"{about}{counted(ahead, 'task')} {'goes' if ahead == 1 else 'go'} before it"
    if rate is None or eta_seconds is None:
        message = f"{line}, and {workers} {'runs' if len(running) == 1 else 'run'}."
    else:
        message = (
            f"{line}. {workers} begin{'s' if len(running) == 1 else ''} {_rate(rate)}, so it begins in about "
            f"{length(eta_seconds * 1000)}."
        )
    return replace(
        _because(facts, WaitingCode.ALL_BUSY, message),
        ahead=ahead,
        eta_seconds=None if eta_seconds is None else round(eta_seconds, 3),
        is_approximate=not is_exact,
    )


def _ahead_at_all(facts: WaitFacts) -> tuple[int, bool]:
    own, is_exact = (0, False) if facts.line is None else ahead_of(facts.line)
    if facts.lane is None:
        return own, is_exact
    before = own if facts.lane.before is None else facts.lane.before
    return ahead_in_lanes(facts.lane, before), False


def ahead_in_lanes(lane: LaneFacts, before: int) -> int:
    """Return about how many tasks go before a task that has `before` tasks before it in its lane.

    Each lane of the level has a turn before the task for each task of its own lane, unless its tasks run out, and
    higher levels go first. The share of the levels below is left out.
    """
    in_level = min(lane.level_waiting - 1, (before + 1) * max(1, lane.lanes) - 1)
    return max(0, in_level) + lane.higher_waiting


def ahead_of(line: Line) -> tuple[int, bool]:
    """Return the number of tasks that go before a task, and True if it is exact.

    Each claim takes half of its tasks from either queue while both have some, and tasks that came back first.
    """
    before, is_exact = _place_in(line)
    if not line.other_depth:
        return before, is_exact
    return before + min(line.other_depth, before + 1 if line.is_new else before), False


def _place_in(line: Line) -> tuple[int, bool]:
    """Return the number of tasks before a task in its own queue, and True if it is exact.

    If no task has left the queue out of turn, the numbers have no gaps, and the place follows from them. Otherwise it
    is interpolated between the first and the last, so that it is never more than the queue is long. Tasks that were
    retried by hand share a number with the task before them.
    """
    if line.before is not None:
        return line.before, True
    span = line.last - line.first
    if span == line.depth - 1:
        return line.own - line.first, True
    if span <= 0:
        return 0, False
    place = round((line.own - line.first) / span * (line.depth - 1))
    is_shared = span < line.depth - 1
    return max(0, min(place, line.depth - 1 if is_shared else line.own - line.first)), False


def starts_per_second(running: Sequence[Worker]) -> float | None:
    """Return the rate at which running workers begin tasks while all of them are busy; None if none is known.

    A worker without a mean run time, because no task of it has ended, is treated as an average one.
    """
    paces = [one.pace for one in running if one.pace is not None]
    measured = [(pace.slots, pace.mean_run_ms) for pace in paces if pace.mean_run_ms]
    if not measured:
        return None
    rate = sum(slots * 1000 / mean_ms for slots, mean_ms in measured)
    slots = sum(slots for slots, _ in measured)
    return rate * (sum(pace.slots for pace in paces) / slots) * (len(running) / len(paces))


def length(milliseconds: float) -> str:
    """Return a length of time with two digits and its unit, such as `420 ms`, `3.2 s`, `45 s` and `12 min`."""
    if milliseconds < 1000:
        return f"{max(1, round(milliseconds))} ms"
    for unit, size, limit in (("s", 1000, 120), ("min", 60_000, 120), ("h", 3_600_000, 48)):
        if milliseconds < size * limit:
            return f"{_two_digits(milliseconds / size)} {unit}"
    return f"{_two_digits(milliseconds / 86_400_000)} days"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{counted(1, 'task') if per_second == 1 else f'{_two_digits(per_second)} tasks'} per second"
    return f"a task every {length(1000 / per_second)}"


def _two_digits(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 10 else f"{number:.0f}"


def _cut(text: str) -> str:
    """Return the text on one line, shortened.

    Of a long text with several lines, such as a container's traceback, the first line and as many of the last ones as
    fit are kept, because the error itself is in these.
    """
    lines = [words for line in text.splitlines() if (words := " ".join(line.split()))]
    whole = " ".join(lines)
    if len(whole) <= MAX_REASON_CHARACTERS:
        return whole
    if len(lines) < 2:
        return _beginning(whole, MAX_REASON_CHARACTERS)
    first = _beginning(lines[0], MAX_REASON_CHARACTERS // 3)
    room = MAX_REASON_CHARACTERS - len(first) - len(" … ")
    last = _beginning(lines[-1], room)
    for line in reversed(lines[1:-1]):
        if len(line) + 1 + len(last) > room:
            break
        last = f"{line} {last}"
    return f"{first} {last}" if len(lines) == 2 else f"{first} … {last}"


def _beginning(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
