"""Workers: one replica of an endpoint, that is a container and the agent beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WorkerStatus(StrEnum):
    """What the API says of a worker."""

    INITIALIZING = "INITIALIZING"
    """Started, and not ready yet."""
    RUNNING = "RUNNING"
    """Ready: its ready path responds 2xx or, without one, its exposed port accepts connections."""
    STOPPING = "STOPPING"
    """Finishes its tasks, or hands them back, and ends."""
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    """Keeps ending before it has run, or has exceeded the time limit of its start. It is still tried."""


LIVE_WORKER_STATUSES = frozenset({WorkerStatus.INITIALIZING, WorkerStatus.RUNNING})


@dataclass(frozen=True)
class Worker:
    """One worker as recorded in the store. Times are epoch milliseconds of the store's clock."""

    worker_id: str
    endpoint_id: str
    status: WorkerStatus
    created_at_ms: int
    managed: bool
    """Whether a controller started it; False for an agent that was started by hand."""
    started_at_ms: int | None = None
    """When its latest start began; None before the first."""
    last_heartbeat_at_ms: int | None = None
    """When the agent of its latest start last reported; None while that has given no sign of life."""
    running_tasks: int = 0
    restarts: int = 0
    error: str | None = None
    revision: int = 1
    """The endpoint's revision that it was started with."""
    address: str | None = None
    """`host:port` of the container as its agent reaches it."""
