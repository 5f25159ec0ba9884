"""What the controller does next about an endpoint's workers. Pure: values in, actions out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from queue_engine.aio import Backoff
from queue_engine.backends.base import Observed
from queue_engine.domain.endpoints import DesiredState, Endpoint
from queue_engine.domain.workers import Worker, WorkerStatus

FAILED_AFTER_CRASHES = 3
"""A worker that ends so often in a row without having run is FAILED. It is still tried, ever more rarely."""
RESTART_BACKOFF = Backoff(0.5, 60.0)
START_PLACE_SECONDS = 30.0
"""A start without a sign of life takes one of the backend's places for at most that long, so that starts that hang do
not keep all others waiting."""
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
    reason: str
    never_spoke: bool = False
    """It gave none since its start."""


@dataclass(frozen=True)
class Drain:
    """Let a worker finish that is no longer desired, then end it."""

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
    """A worker that has reported and then did not for longer gives no sign of life."""
    start_timeout_seconds: float
    """A worker that has not reported so long after its start gives no sign of life."""


@dataclass(frozen=True)
class Start:
    """Start of a worker that is due or under way."""

    tenant: str
    endpoint_id: str
    worker_id: str


def plan(situation: Situation) -> list[Action]:
    """Bring the managed workers to the number and the revision that are desired, one step at a time."""
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


def starts_under_way(situation: Situation) -> list[Start]:
    """Return the starts that take one of the backend's places: those that lately began and gave no sign of life yet."""
    endpoint = situation.endpoint
    return [
        Start(endpoint.tenant, endpoint.endpoint_id, worker.worker_id)
        for worker in situation.workers
        if _is_starting(worker, situation) and _start_age_seconds(worker, situation) <= START_PLACE_SECONDS
    ]


def next_starts(due: Sequence[Start], under_way: Sequence[Start], places: int) -> list[Start]:
    """Choose which of the starts that are due begin now, so that no more than `places` are under way.

    Each place goes to the tenant, then to its endpoint, with the fewest starts under way; the order of `due` decides
    between equals. So a hundred workers of one tenant do not block the one of another.
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
    """The record of a worker that has just ended by itself. One that had run for a while starts again at once."""
    steady = record.started_at is None or now - record.started_at >= STEADY_SECONDS
    short_lives = 0 if had_run and steady else record.short_lives + 1
    return replace(
        record,
        crashes=0 if had_run else record.crashes + 1,
        short_lives=short_lives,
        not_before=now + (RESTART_BACKOFF.delay_after(short_lives) if short_lives else 0.0),
    )


def is_failing(situation: Situation) -> bool:
    """Return whether all workers of the desired number are FAILED or keep crashing on start."""
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
    """The workers that are one too many: those that do not run first, then idle, outdated and young ones."""
    first_to_go = sorted(kept, key=lambda worker: _worth(worker, situation))
    return {worker.worker_id for worker in first_to_go[: max(0, len(kept) - desired_workers(situation.endpoint))]}


def _worth(worker: Worker, situation: Situation) -> tuple[bool, bool, int, int, int]:
    """Return what workers are ordered by: the least go first. What a dead or silent one said last does not count.

    An idle worker that runs stays before one that is INITIALIZING with a task. Such a call has not lasted long enough
    to tell it from one more 503: without the other worker all tasks might wait until the model is loaded.
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
    # One that is being drained may have been left alone: by a controller that died, or by a backend that failed.
    going = [worker for worker in alive if worker.worker_id in surplus or worker.status is WorkerStatus.STOPPING]
    actions: list[Action] = [Drain(worker, "not wanted") for worker in going]
    stay = [worker for worker in alive if worker not in going]
    kills = _of_silent(stay, situation)
    actions += kills
    killed = [kill.worker for kill in kills]
    outdated = [worker for worker in stay if worker.revision != situation.endpoint.revision and worker not in killed]
    # Their replacements count: the next one goes when the one before has been replaced by one that runs.
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
    """Return whether exactly the desired number of workers runs."""
    managed = [worker for worker in situation.workers if worker.managed]
    complete = len(managed) == desired_workers(situation.endpoint)
    return complete and all(_runs(worker, situation) for worker in managed)


def _runs(worker: Worker, situation: Situation) -> bool:
    """Whether it takes tasks. That it is recorded as RUNNING is what it said last: it may have died since."""
    is_running = worker.status is WorkerStatus.RUNNING
    return is_running and _is_alive(worker, situation) and not _is_silent(worker, situation)


def _is_alive(worker: Worker, situation: Situation) -> bool:
    seen = situation.observed.get(worker.worker_id)
    return seen is not None and seen.alive


def _is_starting(worker: Worker, situation: Situation) -> bool:
    """Return whether the worker runs and its agent has not reported since this start."""
    return worker.managed and worker.last_heartbeat_at_ms is None and _is_alive(worker, situation)


def _start_age_seconds(worker: Worker, situation: Situation) -> float:
    started_at_ms = worker.created_at_ms if worker.started_at_ms is None else worker.started_at_ms
    return (situation.store_now_ms - started_at_ms) / 1000


def _is_silent(worker: Worker, situation: Situation) -> bool:
    """Return whether the agent reported and then did not for too long; a start is not silence."""
    heard_ms = worker.last_heartbeat_at_ms
    if heard_ms is None:
        if worker.managed:
            return False
        heard_ms = worker.created_at_ms
    return situation.store_now_ms - heard_ms > situation.silence_seconds * 1000
