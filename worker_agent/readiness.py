"""Whether a container is ready, and why not: a pure state that probes and responses to tasks change.

Three observations decide. A probe shows that the port is open, or that the ready path responds 2xx. A response to a
task shows that the container works, or, with 503 before its first 2xx, that it is still loading: many servers open
their port long before their model is loaded. After VERDICT_SECONDS without another 503 the probes decide again. A probe
without a response shows that a container which was ready is busy: a server that takes one call at a time accepts no
connection during a call. A refused connection shows that it is down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from queue_engine.domain.tasks import NOT_CONNECTED, ContainerResponse
from queue_engine.domain.workers import WorkerStatus

READY_PATH_FAILURES = 3
"""Failures of the ready path in a row after which a worker that was ready no longer is."""
EXPLAIN_AFTER_SECONDS = 10.0
"""How long a start may take before the worker's `error` says what it waits for."""
MIN_PATIENCE_SECONDS = 5.0
"""A call that lasts for longer is being executed, because a container that is loading responds 503 sooner."""
VERDICT_SECONDS = 30.0
"""How long a 503 shows that the container is loading. A container that gets no task has no other way to show that it
has loaded, and an endpoint all of whose workers are FAILED gets none."""
UNAVAILABLE = 503


class Finding(Enum):
    """What a probe found."""

    READY = "ready"
    REFUSED = "refused"
    """Nothing listens, or the address does not exist."""
    SILENT = "silent"
    """No connection or no response within the time limit: a busy container is silent too."""
    UNREADY = "unready"
    """A response other than 2xx, or none that can be read."""


@dataclass(frozen=True)
class Probed:
    """A finding, and in words what was found, for the worker's `error`."""

    finding: Finding
    text: str


@dataclass(frozen=True)
class Clocks:
    """Where a state reads the time."""

    monotonic: Callable[[], float]
    """Seconds."""
    wall: Callable[[], datetime]
    """UTC, for texts."""


class Readiness:
    """The state of one worker's container.

    `failures_allowed`: failed probes in a row that a container which was ready survives. A refused connection at the
    port itself needs no second one, so it is 0 without a ready path.
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
        """Tasks begin with a pause between them, because the last one met 503 or no connection before the first 2xx."""
        self.patience_seconds = MIN_PATIENCE_SECONDS
        """A call in flight for longer is being executed: grows when 503 took longer to come."""
        self.is_open = False
        """The last probes say that tasks can be sent. With 503 to these the worker is not ready all the same."""
        self.has_served = False
        """A task has got 2xx since the start of the container."""

    # Observations

    def note_probe(self, probed: Probed) -> None:
        """Take a probe into account; the caller leaves out failures that a busy container explains."""
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
        """Take a task's call into account, which took so long. `alone`: no other call was in flight at its end.

        Return whether it costs the task no attempt: until the first 2xx, 503 and no connection do not, for at most the
        start timeout.
        """
        if response.error_type == "not_exposed":
            return False  # nothing was sent
        if response.error_type is None and response.status is not None and 200 <= response.status < 300:
            self.has_served = True
        self.is_paced = is_unavailable(response) and not self.has_served
        if not self.is_paced:
            self._loading = None
            return False
        self._unavailable_at = self._clocks.monotonic()
        if alone:  # else the container works on another call, and refuses a second one
            self.patience_seconds = max(self.patience_seconds, 2 * seconds)
            self._note_loading(response)
        return not self._is_overdue(self._start_at)

    def note_long_call(self) -> None:
        """Take into account that a call has been in flight for longer than `patience_seconds`: it is being executed."""
        self._loading = None

    # Conclusions

    @property
    def is_loading(self) -> bool:
        """The last task met 503 or no connection lately, and none has got 2xx since the start."""
        return self._loading is not None

    @property
    def status(self) -> WorkerStatus:
        """INITIALIZING, RUNNING or FAILED. One that is FAILED is still tried."""
        if self.is_open and not self.is_loading:
            return WorkerStatus.RUNNING
        since = self._start_at if self.is_open else self._unready_since
        return WorkerStatus.FAILED if self._is_overdue(since) else WorkerStatus.INITIALIZING

    @property
    def reason(self) -> str:
        """Why the worker has its status, for the endpoint's owner."""
        return self._loading if self.is_open and self._loading is not None else self._last.text

    @property
    def error(self) -> str:
        """The reason once it matters: empty while the worker runs, and in the first seconds of a start."""
        if self.status is WorkerStatus.RUNNING or (not self.is_loading and not self.needs_explanation):
            return ""
        return self.reason

    @property
    def needs_explanation(self) -> bool:
        """Whether the container is down for longer than a start usually takes."""
        waited = self._clocks.monotonic() - self._unready_since
        return not self.is_open and (self._was_ready or waited >= EXPLAIN_AFTER_SECONDS)

    @property
    def is_refused(self) -> bool:
        """Whether nothing listened at the last probe."""
        return self._last.finding is Finding.REFUSED

    def _close(self, probed: Probed) -> None:
        self.is_open = False
        self._unready_since = self._clocks.monotonic()
        # Where nothing listens any longer, what listens next is another start. One that never served gets no further
        # time at no cost to its tasks.
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
    """Return whether a call met a container that is not up: 503 or no connection."""
    return response.error_type in NOT_CONNECTED or (response.error_type is None and response.status == UNAVAILABLE)
