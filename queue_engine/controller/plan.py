"""What the controller does next about an endpoint's workers. Pure: values in, actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from queue_engine.controller.backends.base import Observed
from queue_engine.domain.endpoints import Endpoint, Wanted
from queue_engine.domain.workers import LIVE_WORKER_STATUSES, Worker, WorkerStatus

FAILED_AFTER_CRASHES = 5
"""Workers of an endpoint that ended in a row without having run: then it is FAILED, and still tried."""
MAX_RESTART_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Lost:
    """A worker has ended by itself: take it off the books."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Stop:
    """A worker is not wanted any more: drain it."""

    worker: Worker


@dataclass(frozen=True)
class Start:
    """`count` workers are missing."""

    count: int


Action = Lost | Stop | Start


def plan(endpoint: Endpoint | None, workers: Sequence[Worker], observed: Mapping[str, Observed]) -> list[Action]:
    """Bring the workers that a controller manages to the number that is wanted. None: the endpoint is gone."""
    managed = [worker for worker in workers if worker.managed]
    lost = [worker for worker in managed if not _alive(worker, observed)]
    alive = [worker for worker in managed if _alive(worker, observed) and worker.status in LIVE_WORKER_STATUSES]
    actions: list[Action] = [Lost(worker, _reason(worker, observed)) for worker in lost]
    surplus = len(alive) - wanted_workers(endpoint)
    if surplus > 0:
        return actions + [Stop(worker) for worker in sorted(alive, key=_first_to_go)[:surplus]]
    if surplus < 0:
        actions.append(Start(-surplus))
    return actions


def wanted_workers(endpoint: Endpoint | None) -> int:
    """How many workers an endpoint should have now."""
    if endpoint is None or endpoint.wanted is not Wanted.RUNNING:
        return 0
    return endpoint.config.workers


def restart_wait_seconds(crashes: int) -> float:
    """How long to wait before workers are started again after `crashes` in a row that never ran."""
    return 0.0 if crashes == 0 else min(MAX_RESTART_WAIT_SECONDS, 0.5 * 2.0 ** (crashes - 1))


def _alive(worker: Worker, observed: Mapping[str, Observed]) -> bool:
    seen = observed.get(worker.worker_id)
    return seen is not None and seen.alive


def _reason(worker: Worker, observed: Mapping[str, Observed]) -> str:
    seen = observed.get(worker.worker_id)
    return (seen.exit_reason if seen else None) or "the worker is gone"


def _first_to_go(worker: Worker) -> tuple[bool, int, int]:
    """Those that do not run yet, then idle ones, then the youngest."""
    return (worker.status is WorkerStatus.RUNNING, worker.running_tasks, -worker.created_at_ms)
