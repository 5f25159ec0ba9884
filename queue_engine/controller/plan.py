"""Plan the next actions of the controller for an endpoint's workers. Pure: the input is values, the output actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from queue_engine.aio import Backoff
from queue_engine.backends.base import Observed, Phase
from queue_engine.domain.endpoints import DesiredState, Endpoint
from queue_engine.domain.workers import MAX_IDLE_REPORT_SECONDS, REPORTS_PER_SILENCE, Worker, WorkerStatus

FAILED_AFTER_CRASHES = 3
"""Number of consecutive ends without having run after which a worker is FAILED. It is still restarted, with backoff."""
RESTART_BACKOFF = Backoff(0.5, 60.0)
START_PLACE_SECONDS = 30.0
"""Maximum time for which a start without a sign of life counts as starting, so that starts which hang do not block all
others."""
STEADY_SECONDS = 10.0
"""Minimum lifetime of a worker that is restarted at once after it has run. A shorter one is a short life."""


BY_HAND_SILENCE_SECONDS = MAX_IDLE_REPORT_SECONDS * REPORTS_PER_SILENCE
"""Minimum silence of an agent that was started by hand. It does not know the controller's `worker_silence_seconds`, so
it reports every MAX_IDLE_REPORT_SECONDS when idle."""
SOON = 0.0
"""Seconds until the next look, when it is in the next round."""
CALM_SECONDS = 60.0
"""Time until the next look at a worker about which only a change in the backend or of its record can decide."""
START_PHASES = frozenset({Phase.WAITING, Phase.STARTING})
EXPLAINED_PHASES = START_PHASES | {Phase.UNKNOWN}
"""The phases whose reason is shown until the worker runs."""


@dataclass(frozen=True)
class Record:
    """The history of one worker since this controller leads."""

    started_at: float | None = None
    """Monotonic time of the last start by this controller; None if another one started the worker."""
    crashes: int = 0
    """Number of consecutive ends without having run."""
    short_lives: int = 0
    """Number of consecutive ends without having run, or soon after the start."""
    not_before: float = 0.0
    """Monotonic time before which the worker is not restarted."""
    noted_end: int | None = None
    """The run whose end was noted last, so that each end counts once."""
    noted_reason: str | None = None
    """The reason that was recorded last for a start that waits or takes long; None if there is none."""
    running_since: float | None = None
    """Monotonic time since which the worker is seen in the phase `running`; None in other phases."""
    heard_early: tuple[int, float] | None = None
    """Time of the worker's latest report, when it is later than the store's clock because the clock stepped back, and
    the monotonic time at which the controller saw it first."""
    is_located: bool = False
    """True if this controller has started the worker or seen it in the backend. Other workers may exist in a part of
    the platform that was not listed yet."""


FRESH = Record()


@dataclass(frozen=True)
class Create:
    """`count` workers are missing."""

    count: int


@dataclass(frozen=True)
class Restart:
    """A worker that ended unexpectedly is due to be restarted."""

    worker: Worker


@dataclass(frozen=True)
class Resume:
    """The backend has a start that it does not go on with, such as that of another controller: let it go on."""

    worker: Worker
    run: int


@dataclass(frozen=True)
class NoteReason:
    """A start waits or takes long, or no longer does: record the status and the reason. None removes the reason."""

    worker: Worker
    status: WorkerStatus
    reason: str | None


@dataclass(frozen=True)
class NoteEnd:
    """A worker has ended unexpectedly: record it, and wait before the restart."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Kill:
    """A worker gives no sign of life: kill it, so that it is restarted."""

    worker: Worker
    reason: str
    never_spoke: bool = False
    """True if the worker gave no sign of life since its start."""


@dataclass(frozen=True)
class Drain:
    """A worker is no longer desired: let it finish its tasks, then stop it."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Forget:
    """A worker has ended after a drain, or is unmanaged and silent: remove its record."""

    worker: Worker
    status: WorkerStatus
    reason: str


OfWorker = Restart | Resume | NoteReason | NoteEnd | Kill | Drain | Forget
Action = Create | OfWorker


@dataclass(frozen=True)
class Situation:
    """The input of a plan. `now` is in monotonic seconds, `store_now_ms` in epoch milliseconds of the store."""

    endpoint: Endpoint
    workers: Sequence[Worker]
    observed: Mapping[str, Observed]
    records: Mapping[str, Record]
    now: float
    store_now_ms: int
    silence_seconds: float
    """Time after the last report at which a worker counts as silent."""
    start_timeout_seconds: float
    """Time after which a start that waits or takes long is FAILED. Also the time without a first report after which a
    worker in the phase `running` counts as silent."""
    unlisted: frozenset[str] = frozenset()
    """Ids of workers in `observed` that may exist in a part of the platform that was not listed yet."""

    def seen(self, worker: Worker) -> Observed | None:
        """Return the state of a worker in the backend; None if it does not exist there."""
        return self.observed.get(worker.worker_id)

    def record(self, worker: Worker) -> Record:
        """Return the history of a worker: always fresh if it is unmanaged, because its id may be that of any other."""
        return self.records.get(worker.worker_id, FRESH) if worker.managed else FRESH


@dataclass(frozen=True)
class Start:
    """The start of a worker, due or in progress."""

    tenant: str
    endpoint_id: str
    worker_id: str


def plan(situation: Situation) -> list[Action]:
    """Return the next actions that bring the managed workers to the desired number and revision."""
    managed = [worker for worker in situation.workers if worker.managed]
    actions: list[Action] = [
        Forget(worker, WorkerStatus.FAILED, "no sign of life")
        for worker in situation.workers
        if not worker.managed and _is_silent(worker, situation)
    ]
    ended = [worker for worker in managed if not _is_alive(worker, situation)]
    kept = [worker for worker in managed if worker.status is not WorkerStatus.STOPPING]
    surplus = _surplus(kept, situation)
    actions += _of_ended(ended, surplus, situation)
    actions += _of_alive([worker for worker in managed if worker not in ended], surplus, situation)
    missing = desired_workers(situation.endpoint) - len(managed)
    return [*actions, Create(missing)] if missing > 0 else actions


def next_look(situation: Situation, actions: Sequence[Action], silence_seconds: float) -> float | None:
    """Return the seconds until the endpoint must be looked at again, 0 for the next round.

    None if only a change makes it necessary: of the endpoint, of a worker's status, or of what the backend observes.
    `silence_seconds` is the usual limit, because the one in the situation may become shorter before the next look.
    """
    if actions or any(worker.revision != situation.endpoint.revision for worker in situation.workers if worker.managed):
        return SOON
    waits = [_next_look_at(worker, situation, silence_seconds) for worker in situation.workers]
    return max(SOON, min(waits)) if waits else None


def _next_look_at(worker: Worker, situation: Situation, silence_seconds: float) -> float:
    """Return the seconds until something may have to be done about a worker that does not change."""
    if worker.managed:
        seen = situation.seen(worker)
        if seen is None or not seen.alive:
            return situation.record(worker).not_before - situation.now
        if _takes_a_place(worker, situation):
            return SOON  # in each round, because the backend has few places
        if seen.phase in EXPLAINED_PHASES and worker.status is WorkerStatus.INITIALIZING:
            return situation.endpoint.config.start_timeout_seconds - _start_age_seconds(worker, situation)
        if seen.phase is not Phase.RUNNING:
            return CALM_SECONDS
        if worker.last_heartbeat_at_ms is None:
            return situation.endpoint.config.start_timeout_seconds - _unheard_seconds(worker, situation)
    return _silence_of(worker, silence_seconds) - _unheard_seconds(worker, situation)


def starts_under_way(situation: Situation) -> list[Start]:
    """Return the starts that occupy a place of the backend: recent starts whose worker gave no sign of life yet."""
    endpoint = situation.endpoint
    return [
        Start(endpoint.tenant, endpoint.endpoint_id, worker.worker_id)
        for worker in situation.workers
        if _takes_a_place(worker, situation)
    ]


def next_starts(due: Sequence[Start], under_way: Sequence[Start], places: int) -> list[Start]:
    """Choose the due starts that begin now, so that at most `places` starts are in progress.

    Each place goes to the tenant, and then to its endpoint, with the fewest starts in progress; the order of `due`
    breaks ties. So a hundred workers of one tenant do not block a worker of another.
    """
    chosen: list[Start] = []
    by_tenant = Counter(start.tenant for start in under_way)
    by_endpoint = Counter(start.endpoint_id for start in under_way)
    waiting = list(due)
    while waiting and len(under_way) + len(chosen) < places:
        start = min(waiting, key=lambda one: (by_tenant[one.tenant], by_endpoint[one.endpoint_id]))
        waiting.remove(start)
        chosen.append(start)
        by_tenant[start.tenant] += 1
        by_endpoint[start.endpoint_id] += 1
    return chosen


def desired_workers(endpoint: Endpoint) -> int:
    """Return the number of workers that an endpoint should have now."""
    return endpoint.config.workers if endpoint.desired is DesiredState.RUNNING else 0


def after_end(record: Record, *, had_run: bool, now: float, retry_helps: bool = True) -> Record:
    """Return the record of a worker that has just ended unexpectedly.

    A worker that had run for at least STEADY_SECONDS is restarted at once, other ones after a backoff. If a new start
    would fail in the same way, the worker is FAILED at once and the backoff is the longest.
    """
    record = replace(record, noted_reason=None, running_since=None)
    if not retry_helps:
        crashes = max(record.crashes + 1, FAILED_AFTER_CRASHES)
        not_before = now + RESTART_BACKOFF.max_seconds
        return replace(record, crashes=crashes, short_lives=record.short_lives + 1, not_before=not_before)
    steady = record.started_at is None or now - record.started_at >= STEADY_SECONDS
    short_lives = 0 if had_run and steady else record.short_lives + 1
    return replace(
        record,
        crashes=0 if had_run else record.crashes + 1,
        short_lives=short_lives,
        not_before=now + (RESTART_BACKOFF.delay_after(short_lives) if short_lives else 0.0),
    )


def is_failing(situation: Situation) -> bool:
    """Return True if all desired workers are FAILED or keep crashing on start."""
    current = [worker for worker in situation.workers if worker.revision == situation.endpoint.revision]
    if any(worker.status is WorkerStatus.RUNNING for worker in situation.workers):
        return False
    failed = [
        worker
        for worker in current
        if worker.status is WorkerStatus.FAILED or situation.record(worker).crashes >= FAILED_AFTER_CRASHES
    ]
    return 0 < desired_workers(situation.endpoint) <= len(failed)


def _surplus(kept: Sequence[Worker], situation: Situation) -> set[str]:
    """Return the ids of the surplus workers: first those that do not run, then idle, outdated and young ones."""
    first_to_go = sorted(kept, key=lambda worker: _worth(worker, situation))
    return {worker.worker_id for worker in first_to_go[: max(0, len(kept) - desired_workers(situation.endpoint))]}


def _worth(worker: Worker, situation: Situation) -> tuple[bool, bool, int, int, int]:
    """Return the sort key of a worker: workers with the lowest key are removed first.

    The last report of a dead or silent worker does not count. A RUNNING idle worker is kept rather than an INITIALIZING
    one with a task, because that task's call may still end with 503. Without the RUNNING worker, all tasks might then
    wait until the model is loaded.
    """
    speaks = _is_alive(worker, situation) and not _is_silent(worker, situation)
    tasks = worker.running_tasks if speaks else 0
    return (_runs(worker, situation), speaks, tasks, worker.revision, -worker.created_at_ms)


def _of_ended(ended: Sequence[Worker], surplus: set[str], situation: Situation) -> list[Action]:
    actions: list[Action] = []
    for worker in ended:
        seen = situation.seen(worker)
        unwanted = worker.worker_id in surplus or worker.revision != situation.endpoint.revision
        if worker.status is WorkerStatus.STOPPING or unwanted:
            actions.append(Forget(worker, WorkerStatus.STOPPED, "stopped"))
        elif seen is not None:
            actions.append(NoteEnd(worker, seen.reason or "ended"))
        elif situation.now >= situation.record(worker).not_before:
            actions.append(Restart(worker))
    return actions


def _of_alive(alive: Sequence[Worker], surplus: set[str], situation: Situation) -> list[Action]:
    # STOPPING workers are drained again, because the controller that drained them may have died, or its backend failed.
    going = [worker for worker in alive if worker.worker_id in surplus or worker.status is WorkerStatus.STOPPING]
    actions: list[Action] = [Drain(worker, "no longer desired") for worker in going]
    stay = [worker for worker in alive if worker not in going]
    kills = _of_silent(stay, situation)
    actions += kills
    killed = [kill.worker for kill in kills]
    outdated = [worker for worker in stay if worker.revision != situation.endpoint.revision and worker not in killed]
    current = [worker for worker in stay if worker.revision == situation.endpoint.revision and worker not in killed]
    actions += [action for worker in current if (action := _of_start(worker, situation)) is not None]
    # A rolling replacement: the next worker is drained only after the replacement of the previous one runs.
    idle_first = sorted(outdated, key=lambda worker: _worth(worker, situation))
    broken = [worker for worker in idle_first if worker.status is not WorkerStatus.RUNNING]
    if broken:
        actions += [Drain(worker, "replaced by a new configuration") for worker in broken]
    elif idle_first and _is_complete(situation):
        actions.append(Drain(idle_first[0], "replaced by a new configuration"))
    return actions


def _of_silent(workers: Sequence[Worker], situation: Situation) -> list[Kill]:
    """Return the kills of silent workers. Only an agent of a worker in the phase `running` has to report."""
    kills: list[Kill] = []
    for worker in workers:
        if not _is_in(worker, situation, Phase.RUNNING):
            continue
        unheard_seconds = _unheard_seconds(worker, situation)
        if worker.last_heartbeat_at_ms is None:
            if unheard_seconds > situation.start_timeout_seconds:
                limit = f"{situation.start_timeout_seconds:g} s"
                kills.append(Kill(worker, f"gave no sign of life within {limit} of its start", never_spoke=True))
        elif unheard_seconds > situation.silence_seconds:
            kills.append(Kill(worker, "gave no sign of life"))
    return kills


def _of_start(worker: Worker, situation: Situation) -> Resume | NoteReason | None:
    """Return the action for a worker whose start waits or takes long, or has just come to an end."""
    seen, record = situation.observed[worker.worker_id], situation.record(worker)
    if seen.phase in START_PHASES and seen.is_interrupted:
        return Resume(worker, seen.run)
    # The reason of the latest crash stays until the worker runs.
    if record.crashes >= FAILED_AFTER_CRASHES or worker.status is WorkerStatus.RUNNING:
        return None
    if seen.phase in EXPLAINED_PHASES:
        return _note_of_start(worker, seen, situation)
    is_over = seen.phase is Phase.RUNNING and worker.status is WorkerStatus.INITIALIZING
    return NoteReason(worker, worker.status, None) if is_over and record.noted_reason is not None else None


def _note_of_start(worker: Worker, seen: Observed, situation: Situation) -> NoteReason | None:
    limit_seconds = situation.start_timeout_seconds
    is_late = _start_age_seconds(worker, situation) > limit_seconds
    reason = seen.reason or (f"has not started within {limit_seconds:g} s" if is_late else None)
    status = WorkerStatus.FAILED if is_late or not seen.retry_helps else worker.status
    is_noted = status is worker.status and reason == situation.record(worker).noted_reason
    # A FAILED worker keeps its reason. After a gap between rounds it is not late for a while.
    is_kept = reason is None and status is WorkerStatus.FAILED
    return None if is_noted or is_kept else NoteReason(worker, status, reason)


def _is_complete(situation: Situation) -> bool:
    """Return True if exactly the desired number of workers runs."""
    managed = [worker for worker in situation.workers if worker.managed]
    complete = len(managed) == desired_workers(situation.endpoint)
    return complete and all(_runs(worker, situation) for worker in managed)


def _runs(worker: Worker, situation: Situation) -> bool:
    """Return True if the worker takes tasks. Its status RUNNING is not enough, because it may have died since."""
    if worker.status is not WorkerStatus.RUNNING or _is_in(worker, situation, Phase.ENDING):
        return False
    return _is_alive(worker, situation) and not _is_silent(worker, situation)


def heard_early(worker: Worker, situation: Situation) -> tuple[int, float] | None:
    """Return the `heard_early` of the worker's record after a look at it.

    After a step back of the store's clock, the report before the step would count as recent for as long as the step.
    """
    beat_ms, before = worker.last_heartbeat_at_ms, situation.record(worker).heard_early
    if before is not None and before[0] == beat_ms:
        return before
    return (beat_ms, situation.now) if beat_ms is not None and beat_ms > situation.store_now_ms else None


def _is_alive(worker: Worker, situation: Situation) -> bool:
    seen = situation.seen(worker)
    return seen is not None and seen.alive


def _is_in(worker: Worker, situation: Situation, phase: Phase) -> bool:
    seen = situation.seen(worker)
    return seen is not None and seen.phase is phase


def _takes_a_place(worker: Worker, situation: Situation) -> bool:
    """Return True if the worker's recent start occupies a place of the backend: its agent has not reported since.

    A start that waits, for example for a GPU, does not slow down others.
    """
    is_starting = worker.managed and worker.last_heartbeat_at_ms is None and _is_alive(worker, situation)
    is_recent = _start_age_seconds(worker, situation) <= START_PLACE_SECONDS
    return is_starting and is_recent and not _is_in(worker, situation, Phase.WAITING)


def _unheard_seconds(worker: Worker, situation: Situation) -> float:
    """Return the time for which the worker's agent has not reported, but only since the worker is in the phase
    `running`: before, the agent did not have to report, or could not."""
    quiet_seconds = _quiet_seconds(worker, situation)
    running_since = situation.record(worker).running_since
    return quiet_seconds if running_since is None else min(quiet_seconds, situation.now - running_since)


def _start_age_seconds(worker: Worker, situation: Situation) -> float:
    started_at_ms = worker.created_at_ms if worker.started_at_ms is None else worker.started_at_ms
    return (situation.store_now_ms - started_at_ms) / 1000


def _is_silent(worker: Worker, situation: Situation) -> bool:
    """Return True if the agent's last report is too long ago. A managed worker that has not reported yet is starting,
    not silent."""
    if worker.managed and worker.last_heartbeat_at_ms is None:
        return False
    return _quiet_seconds(worker, situation) > _silence_of(worker, situation.silence_seconds)


def _quiet_seconds(worker: Worker, situation: Situation) -> float:
    """Return the time since the last report of the worker's agent or, without one, since the worker's start."""
    if worker.last_heartbeat_at_ms is not None:
        quiet_seconds = (situation.store_now_ms - worker.last_heartbeat_at_ms) / 1000
        early = situation.record(worker).heard_early
        return quiet_seconds if early is None else max(quiet_seconds, situation.now - early[1])
    if worker.managed:
        return _start_age_seconds(worker, situation)
    return (situation.store_now_ms - worker.created_at_ms) / 1000


def _silence_of(worker: Worker, silence_seconds: float) -> float:
    return silence_seconds if worker.managed else max(silence_seconds, BY_HAND_SILENCE_SECONDS)
