"""What the controller does next about an endpoint's workers. Pure: values in, actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from queue_engine.controller.backends.base import Observed
from queue_engine.domain.endpoints import Endpoint, Wanted
from queue_engine.domain.workers import Worker, WorkerStatus

FAILED_AFTER_CRASHES = 3
"""A worker that ends so often in a row without having run is FAILED. It is still tried, ever more rarely."""
MAX_RESTART_WAIT_SECONDS = 60.0
STEADY_SECONDS = 10.0
"""A worker that has run and ends after at least that time starts again at once; sooner is a short life."""


@dataclass(frozen=True)
class Record:
    """How one worker fared since this controller leads."""

    started_at: float | None = None
    """Monotonic seconds: when this controller has last started it; None: another one did."""
    crashes: int = 0
    """Times in a row that it ended without having run."""
    short_lives: int = 0
    """Times in a row that it ended without having run, or soon after its start."""
    not_before: float = 0.0
    """Monotonic seconds: it is not started again before."""
    noted_end: int | None = None
    """The run that was last noted to have ended, as `Observed.started_at_ms` tells it: each end counts once."""


FRESH = Record()


@dataclass(frozen=True)
class Create:
    """`count` workers are missing."""

    count: int


@dataclass(frozen=True)
class Restart:
    """A worker that ended by itself is due to be started again."""

    worker: Worker


@dataclass(frozen=True)
class NoteEnd:
    """A worker has ended by itself: say so, and wait before it is started again."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Kill:
    """A worker gives no sign of life: end it by force, to be started again."""

    worker: Worker


@dataclass(frozen=True)
class Drain:
    """A worker is not wanted any more: let it finish, then end it."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Forget:
    """A worker that was drained, or that nobody manages and nobody hears of, is gone."""

    worker: Worker
    status: WorkerStatus
    reason: str


Action = Create | Restart | NoteEnd | Kill | Drain | Forget


@dataclass(frozen=True)
class Situation:
    """All that a plan is made of. Monotonic seconds in `now`, the store's epoch milliseconds in `store_now_ms`."""

    endpoint: Endpoint
    workers: Sequence[Worker]
    observed: Mapping[str, Observed]
    records: Mapping[str, Record]
    now: float
    store_now_ms: int
    silence_seconds: float
    """A worker that was not heard of for longer gives no sign of life."""


def plan(situation: Situation) -> list[Action]:
    """Bring the managed workers to the number and the revision that are wanted, one step at a time."""
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
    missing = wanted_workers(situation.endpoint) - len(managed)
    return [*actions, Create(missing)] if missing > 0 else actions


def wanted_workers(endpoint: Endpoint) -> int:
    """How many workers an endpoint should have now."""
    return endpoint.config.workers if endpoint.wanted is Wanted.RUNNING else 0


def after_end(record: Record, *, had_run: bool, now: float) -> Record:
    """The record of a worker that has just ended by itself. One that had run for a while starts again at once."""
    steady = record.started_at is None or now - record.started_at >= STEADY_SECONDS
    short_lives = 0 if had_run and steady else record.short_lives + 1
    return replace(
        record,
        crashes=0 if had_run else record.crashes + 1,
        short_lives=short_lives,
        not_before=now + restart_wait_seconds(short_lives),
    )


def restart_wait_seconds(short_lives: int) -> float:
    """How long to wait before a worker is started again that has had so many short lives in a row."""
    return 0.0 if short_lives == 0 else min(MAX_RESTART_WAIT_SECONDS, 0.5 * 2.0 ** min(short_lives - 1, 30))


def is_failing(situation: Situation) -> bool:
    """Whether all the workers that the endpoint should have keep crashing on start."""
    current = [worker for worker in situation.workers if worker.revision == situation.endpoint.revision]
    if any(worker.status is WorkerStatus.RUNNING for worker in situation.workers):
        return False
    crashing = [
        worker for worker in current if situation.records.get(worker.worker_id, FRESH).crashes >= FAILED_AFTER_CRASHES
    ]
    return 0 < wanted_workers(situation.endpoint) <= len(crashing)


def _surplus(kept: Sequence[Worker], situation: Situation) -> set[str]:
    """The workers that are one too many: those that do not run first, then idle, outdated and young ones."""
    first_to_go = sorted(kept, key=lambda worker: _worth(worker, situation))
    return {worker.worker_id for worker in first_to_go[: max(0, len(kept) - wanted_workers(situation.endpoint))]}


def _worth(worker: Worker, situation: Situation) -> tuple[bool, int, int, int]:
    return (_runs(worker, situation), worker.running_tasks, worker.revision, -worker.created_at_ms)


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
    # One that is being drained may have been left alone: by a controller that died, or by a backend that failed.
    going = [worker for worker in alive if worker.worker_id in surplus or worker.status is WorkerStatus.STOPPING]
    actions: list[Action] = [Drain(worker, "not wanted") for worker in going]
    stay = [worker for worker in alive if worker not in going]
    silent = [worker for worker in stay if _is_silent(worker, situation)]
    actions += [Kill(worker) for worker in silent]
    outdated = [worker for worker in stay if worker.revision != situation.endpoint.revision and worker not in silent]
    # Their replacements count: the next one goes when the one before has been replaced by one that runs.
    idle_first = sorted(outdated, key=lambda worker: _worth(worker, situation))
    broken = [worker for worker in idle_first if worker.status is not WorkerStatus.RUNNING]
    if broken:
        actions += [Drain(worker, "replaced by a new configuration") for worker in broken]
    elif idle_first and _is_complete(situation):
        actions.append(Drain(idle_first[0], "replaced by a new configuration"))
    return actions


def _is_complete(situation: Situation) -> bool:
    """Whether as many workers as are wanted, and no more, really run."""
    managed = [worker for worker in situation.workers if worker.managed]
    complete = len(managed) == wanted_workers(situation.endpoint)
    return complete and all(_runs(worker, situation) for worker in managed)


def _runs(worker: Worker, situation: Situation) -> bool:
    """Whether it takes tasks. That it is recorded as RUNNING is what it said last: it may have died since."""
    is_running = worker.status is WorkerStatus.RUNNING
    return is_running and _is_alive(worker, situation) and not _is_silent(worker, situation)


def _is_alive(worker: Worker, situation: Situation) -> bool:
    seen = situation.observed.get(worker.worker_id)
    return seen is not None and seen.alive


def _is_silent(worker: Worker, situation: Situation) -> bool:
    started_at = situation.records.get(worker.worker_id, FRESH).started_at
    if started_at is not None and situation.now - started_at <= situation.silence_seconds:
        return False  # it was last heard of before a long wait, and has hardly had the time to say anything
    heard_ms = worker.last_heartbeat_at_ms or worker.created_at_ms
    return situation.store_now_ms - heard_ms > situation.silence_seconds * 1000
