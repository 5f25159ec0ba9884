"""Plan the next actions of the controller for an endpoint's workers. Pure: the input is values, the output actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from queue_engine.aio import Backoff
from queue_engine.backends.base import Observed
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
    """`Observed.started_at_ms` of the run whose end was noted last, so that each end counts once."""


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


Action = Create | Restart | NoteEnd | Kill | Drain | Forget


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
    """Time after a start without a report at which a worker counts as silent."""


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
    if worker.managed and not _is_alive(worker, situation):
        return situation.records.get(worker.worker_id, FRESH).not_before - situation.now
    if _is_starting(worker, situation):
        age_seconds = _start_age_seconds(worker, situation)
        # Looked at in each round, because the start takes one of the backend's places. There are few.
        is_in_place = age_seconds <= START_PLACE_SECONDS
        return SOON if is_in_place else situation.endpoint.config.start_timeout_seconds - age_seconds
    heard_ms = worker.created_at_ms if worker.last_heartbeat_at_ms is None else worker.last_heartbeat_at_ms
    return _silence_of(worker, silence_seconds) - (situation.store_now_ms - heard_ms) / 1000


def starts_under_way(situation: Situation) -> list[Start]:
    """Return the starts that occupy a place of the backend: recent starts whose worker gave no sign of life yet."""
    endpoint = situation.endpoint
    return [
        Start(endpoint.tenant, endpoint.endpoint_id, worker.worker_id)
        for worker in situation.workers
        if _is_starting(worker, situation) and _start_age_seconds(worker, situation) <= START_PLACE_SECONDS
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


def after_end(record: Record, *, had_run: bool, now: float) -> Record:
    """Return the record of a worker that has just ended unexpectedly.

    A worker that had run for at least STEADY_SECONDS is restarted at once, other ones after a backoff.
    """
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
        if worker.status is WorkerStatus.FAILED
        or situation.records.get(worker.worker_id, FRESH).crashes >= FAILED_AFTER_CRASHES
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
        record = situation.records.get(worker.worker_id, FRESH)
        unwanted = worker.worker_id in surplus or worker.revision != situation.endpoint.revision
        if worker.status is WorkerStatus.STOPPING or unwanted:
            actions.append(Forget(worker, WorkerStatus.STOPPED, "stopped"))
        elif worker.worker_id in situation.observed:
            actions.append(NoteEnd(worker, situation.observed[worker.worker_id].exit_reason or "ended"))
        elif situation.now >= record.not_before:
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
    # A rolling replacement: the next worker is drained only after the replacement of the previous one runs.
    idle_first = sorted(outdated, key=lambda worker: _worth(worker, situation))
    broken = [worker for worker in idle_first if worker.status is not WorkerStatus.RUNNING]
    if broken:
        actions += [Drain(worker, "replaced by a new configuration") for worker in broken]
    elif idle_first and _is_complete(situation):
        actions.append(Drain(idle_first[0], "replaced by a new configuration"))
    return actions


def _of_silent(workers: Sequence[Worker], situation: Situation) -> list[Kill]:
    kills: list[Kill] = []
    for worker in workers:
        if _is_starting(worker, situation):
            if _start_age_seconds(worker, situation) > situation.start_timeout_seconds:
                limit = f"{situation.start_timeout_seconds:g} s"
                kills.append(Kill(worker, f"gave no sign of life within {limit} of its start", never_spoke=True))
        elif _is_silent(worker, situation):
            kills.append(Kill(worker, "gave no sign of life"))
    return kills


def _is_complete(situation: Situation) -> bool:
    """Return True if exactly the desired number of workers runs."""
    managed = [worker for worker in situation.workers if worker.managed]
    complete = len(managed) == desired_workers(situation.endpoint)
    return complete and all(_runs(worker, situation) for worker in managed)


def _runs(worker: Worker, situation: Situation) -> bool:
    """Return True if the worker takes tasks. Its status RUNNING is not enough, because it may have died since."""
    is_running = worker.status is WorkerStatus.RUNNING
    return is_running and _is_alive(worker, situation) and not _is_silent(worker, situation)


def _is_alive(worker: Worker, situation: Situation) -> bool:
    seen = situation.observed.get(worker.worker_id)
    return seen is not None and seen.alive


def _is_starting(worker: Worker, situation: Situation) -> bool:
    """Return True if the worker's processes run and its agent has not reported since this start."""
    return worker.managed and worker.last_heartbeat_at_ms is None and _is_alive(worker, situation)


def _start_age_seconds(worker: Worker, situation: Situation) -> float:
    started_at_ms = worker.created_at_ms if worker.started_at_ms is None else worker.started_at_ms
    return (situation.store_now_ms - started_at_ms) / 1000


def _is_silent(worker: Worker, situation: Situation) -> bool:
    """Return True if the agent's last report is too long ago. A managed worker that has not reported yet is starting,
    not silent."""
    heard_ms = worker.last_heartbeat_at_ms
    if heard_ms is None:
        if worker.managed:
            return False
        heard_ms = worker.created_at_ms
    return situation.store_now_ms - heard_ms > _silence_of(worker, situation.silence_seconds) * 1000


def _silence_of(worker: Worker, silence_seconds: float) -> float:
    return silence_seconds if worker.managed else max(silence_seconds, BY_HAND_SILENCE_SECONDS)
