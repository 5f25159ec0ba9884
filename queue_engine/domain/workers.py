"""Workers: replicas of an endpoint, each a container and the agent beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

MAX_IDLE_REPORT_SECONDS = 3.0
"""Maximum time between two reports of an idle agent. An agent that is started by hand uses it by default."""
REPORTS_PER_SILENCE = 4
"""Minimum number of reports of an idle worker within the time after which it counts as silent."""


PAUSE_PROTOCOL = 2
LANES_PROTOCOL = 3
AGENT_PROTOCOL = LANES_PROTOCOL
"""Number of the rules by which agents of this version claim tasks. Agents that report no number have the first: they do
not notice that a queue is paused or has a rate limit. Agents with the second claim no tasks in lanes."""


@dataclass(frozen=True)
class AgentTimes:
    """Times of agents that call the API, which decides them."""

    lease: timedelta
    """Time without a renewal after which a task is queued again."""
    log_retention: timedelta
    """Time for which a worker's log is kept after the worker's end."""


DEFAULT_AGENT_TIMES = AgentTimes(lease=timedelta(seconds=30), log_retention=timedelta(days=1))


class WorkerStatus(StrEnum):
    """The status of a worker in the API."""

    INITIALIZING = "INITIALIZING"
    """Started, and not ready yet."""
    RUNNING = "RUNNING"
    """Ready: its ready path responds 2xx or, without one, its exposed port accepts connections."""
    STOPPING = "STOPPING"
    """Finishes or releases its tasks, and ends."""
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    """Keeps ending before it is ready, or has exceeded the time limit of its start. It is still restarted."""


def managed_worker_id(endpoint_id: str, suffix: str) -> str:
    """Return the id of a worker that a controller starts."""
    return f"{endpoint_id}-{suffix}"


def endpoint_of_worker(worker_id: str) -> str:
    """Return the endpoint of a worker that a controller has started, from the worker's id."""
    return worker_id.rpartition("-")[0]


LIVE_WORKER_STATUSES = frozenset({WorkerStatus.INITIALIZING, WorkerStatus.RUNNING})


@dataclass(frozen=True)
class Pace:
    """How fast a worker runs tasks, as its agent reports it."""

    slots: int
    """Number of tasks that it runs at the same time."""
    mean_run_ms: float | None = None
    """Moving mean of the time for which a task has a slot; None until a task has ended."""


@dataclass(frozen=True)
class Worker:
    """A worker as recorded in the store. Times are epoch milliseconds of the store's clock."""

    worker_id: str
    endpoint_id: str
    status: WorkerStatus
    created_at_ms: int
    managed: bool
    """True if a controller started it; False for an agent that was started by hand."""
    started_at_ms: int | None = None
    """Time at which its latest start began; None before the first."""
    last_heartbeat_at_ms: int | None = None
    """Time of the last report from the agent of its latest start; None before the first report."""
    running_tasks: int = 0
    restarts: int = 0
    error: str | None = None
    revision: int = 1
    """The endpoint's revision when the worker was started."""
    address: str | None = None
    """`host:port` at which the agent reaches the container."""
    pace: Pace | None = None
    """None if its agent does not report it: that of a service, or of an earlier version."""
    protocol: int = AGENT_PROTOCOL
    """The AGENT_PROTOCOL of the agent that reported last."""

    @property
    def is_outdated(self) -> bool:
        """True while its agent works and has a version that claims tasks of a paused queue."""
        return self._is_working and self.protocol < PAUSE_PROTOCOL

    @property
    def lacks_lanes(self) -> bool:
        """True while its agent works and has a version that claims no tasks in lanes, and does not count their ends."""
        return self._is_working and self.protocol < LANES_PROTOCOL

    @property
    def _is_working(self) -> bool:
        return self.status is WorkerStatus.RUNNING and self.last_heartbeat_at_ms is not None
