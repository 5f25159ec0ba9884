"""Decide if a container is ready, and give the reason: a pure state that probes and responses to tasks change.

The state follows these observations:
- A successful probe: the port is open, or the ready path responds 2xx.
- A response to a task: the container works. A 503 before its first 2xx means that it is still loading, because many
  servers open their port long before their model is loaded. VERDICT_SECONDS after the last 503 the probes decide again.
- A probe without a response: a container that was ready is busy. A server that handles one call at a time accepts no
  connection during a call.
- A refused connection: the container is down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from queue_engine.domain.tasks import NOT_CONNECTED, ContainerResponse
from queue_engine.domain.workers import WorkerStatus

READY_PATH_FAILURES = 3
"""Number of consecutive failures of the ready path after which a worker is no longer ready."""
EXPLAIN_AFTER_SECONDS = 10.0
"""Duration of a start after which the worker's `error` has the reason for waiting."""
MIN_PATIENCE_SECONDS = 5.0
"""Time after which a call is assumed to be executing, because a container that is loading responds 503 sooner."""
VERDICT_SECONDS = 30.0
"""Time for which a 503 means that the container is loading. It is limited because a container that gets no task cannot
show that it has loaded, and an endpoint whose workers are all FAILED gets no tasks."""
UNAVAILABLE = 503


class Finding(Enum):
    """The result of a probe."""

    READY = "ready"
    REFUSED = "refused"
    """No process listens, or the address does not exist."""
    SILENT = "silent"
    """No connection or no response within the timeout. A busy container is silent too."""
    UNREADY = "unready"
    """A response other than 2xx, or an unreadable one."""


@dataclass(frozen=True)
class Probed:
    """A finding, and its description for the worker's `error`."""

    finding: Finding
    text: str


@dataclass(frozen=True)
class Clocks:
    """The clocks that a state reads."""

    monotonic: Callable[[], float]
    """Seconds."""
    wall: Callable[[], datetime]
    """UTC, for texts."""


class Readiness:
    """The readiness of one worker's container.

    `failures_allowed` is the number of consecutive failed probes after which a ready container still counts as ready.
    It is 0 without a ready path, because a single refused connection at the port is conclusive.
    """

    def __init__(self, clocks: Clocks, *, start_timeout_seconds: float, failures_allowed: int = 0) -> None:
        self._clocks = clocks
        self._start_timeout_seconds = start_timeout_seconds
        self._failures_allowed = failures_allowed
        self._start_at = self._unready_since = clocks.monotonic()
        self._was_ready = False
        self._failures = 0
        self._last = Probed(Finding.REFUSED, "the container has just started")
        self._loading: str | None = None
        self._unavailable_at = self._start_at
        self.is_paced = False
        """True if tasks begin with a pause between them, because the last one got 503 or no connection before the
        container's first 2xx."""
        self.patience_seconds = MIN_PATIENCE_SECONDS
        """Time after which a running call is assumed to be executing. It grows when a 503 took longer to arrive."""
        self.is_open = False
        """True if the last probes show that tasks can be sent. While tasks get 503, the worker is still not ready."""
        self.has_served = False
        """True if a task has got 2xx since the start of the container."""

    # Observations

    def note_probe(self, probed: Probed) -> None:
        """Note the result of a probe. The caller omits failures that are explained by a busy container."""
        self._last = probed
        if probed.finding is Finding.READY:
            self._failures, self.is_open, self._was_ready = 0, True, True
            if self._clocks.monotonic() - self._unavailable_at >= VERDICT_SECONDS:
                self._loading = None
            return
        self._failures += 1
        if self.is_open and self._failures > self._failures_allowed:
            self._close(probed)

    def note_response(self, response: ContainerResponse, *, seconds: float, alone: bool) -> bool:
        """Note the result of a task's call, which took `seconds`. `alone`: no other call was running at its end.

        Return True if the call does not count as an attempt of the task. Until the first 2xx, 503 and failures to
        connect do not count, for at most the start timeout.
        """
        if response.error_type == "not_exposed":
            return False  # no request was sent
        if response.error_type is None and response.status is not None and 200 <= response.status < 300:
            self.has_served = True
        self.is_paced = is_unavailable(response) and not self.has_served
        if not self.is_paced:
            self._loading = None
            return False
        self._unavailable_at = self._clocks.monotonic()
        if alone:  # otherwise the container is busy with another call, and may refuse a second one
            self.patience_seconds = max(self.patience_seconds, 2 * seconds)
            self._note_loading(response)
        return not self._is_overdue(self._start_at)

    def note_long_call(self) -> None:
        """Note that a call has been running for longer than `patience_seconds`, so that it is being executed."""
        self._loading = None

    # Conclusions

    @property
    def is_loading(self) -> bool:
        """True if the last task recently got 503 or no connection, and no task has got 2xx since the start."""
        return self._loading is not None

    @property
    def status(self) -> WorkerStatus:
        """INITIALIZING, RUNNING or FAILED. Probes and tasks are still sent to a FAILED container."""
        if self.is_open and not self.is_loading:
            return WorkerStatus.RUNNING
        since = self._start_at if self.is_open else self._unready_since
        return WorkerStatus.FAILED if self._is_overdue(since) else WorkerStatus.INITIALIZING

    @property
    def reason(self) -> str:
        """The reason for the status, for the endpoint's owner."""
        return self._loading if self.is_open and self._loading is not None else self._last.text

    @property
    def error(self) -> str:
        """The reason why the worker is not ready; empty while it runs, and in the first seconds of a start."""
        if self.status is WorkerStatus.RUNNING or (not self.is_loading and not self.needs_explanation):
            return ""
        return self.reason

    @property
    def needs_explanation(self) -> bool:
        """True if the container was ready before, or has been down for longer than a start usually takes."""
        waited = self._clocks.monotonic() - self._unready_since
        return not self.is_open and (self._was_ready or waited >= EXPLAIN_AFTER_SECONDS)

    @property
    def is_refused(self) -> bool:
        """True if no process listened at the last probe."""
        return self._last.finding is Finding.REFUSED

    def _close(self, probed: Probed) -> None:
        self.is_open = False
        self._unready_since = self._clocks.monotonic()
        # If the port was closed, the container was restarted, and may load again without counting attempts. A container
        # that has never served gets no further start timeout, or tasks would be tried without limit.
        if probed.finding is Finding.REFUSED and self.has_served:
            self.has_served = False
            self._start_at = self._unready_since

    def _note_loading(self, response: ContainerResponse) -> None:
        if self._loading is None:
            what = f"answered {response.status}" if response.status is not None else "accepted no connection"
            self._loading = f"the container {what} since {self._clocks.wall():%H:%M:%S} UTC"

    def _is_overdue(self, since: float) -> bool:
        return self._clocks.monotonic() - since >= self._start_timeout_seconds


def is_unavailable(response: ContainerResponse) -> bool:
    """Return True if the container was not up: it responded 503 or accepted no connection."""
    return response.error_type in NOT_CONNECTED or (response.error_type is None and response.status == UNAVAILABLE)
