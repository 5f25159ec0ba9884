"""The circuit breaker of a destination: decide when it is paused, and when it is tried again.

    CLOSED ──consecutive connection errors or timeouts──► OPEN: the destination is parked
      ▲                                                   │  ▲
      │ any HTTP response                                 │  │ the probe fails: a longer pause
      │                                            the pause is over
      │                                                   ▼  │
      └────────────────────────────────────────── one PROBE at a time

For example, the fifth consecutive timeout opens the breaker for ten seconds. Then one delivery is sent as a probe. If
it fails, the next probe is due after twenty seconds. If a response arrives, even a 500, the destination is alive and
the breaker closes. The destination counts as recovering until it has sent eight consecutive responses.

A receiver can ask for a pause too. `Retry-After` holds the destination for that time, up to five minutes. Consecutive
410 responses open the breaker like timeouts, but the destination does not count as recovering, because it responds.

Pure: times are monotonic seconds passed in as `now`.
"""

from __future__ import annotations

from dataclasses import dataclass

from queue_engine.aio import Backoff
from queue_engine.delivery.responses import GONE
from queue_engine.net import error_types

DESTINATION_ERRORS = frozenset(
    {
        error_types.DNS_ERROR,
        error_types.CONNECT_REFUSED,
        error_types.CONNECT_TIMEOUT,
        error_types.TLS_ERROR,
        error_types.READ_TIMEOUT,
        error_types.RESET,
        error_types.BAD_RESPONSE,
    }
)
"""Error types that count against the destination: timeouts, connection errors, and a response that is not HTTP."""

NEUTRAL_ERRORS = frozenset({error_types.BLOCKED_ADDRESS, error_types.INVALID_REQUEST, error_types.INTERNAL})
"""Error types of attempts that sent no request to the destination. All other error types are HTTP responses."""

PARKING = Backoff(10.0, 300.0)


@dataclass(frozen=True)
class BreakerLimits:
    """The parameters of a `Breaker`."""

    opens_after: int = 5
    """Number of consecutive timeouts and connection errors that opens the breaker."""
    parking: Backoff = PARKING
    """Pause before the first probe, and after each probe that fails."""
    responses_to_recover: int = 8
    """Number of consecutive HTTP responses with which a destination recovers from a timeout or connection error."""
    max_hold_seconds: float = 300.0
    """Maximum time for which a `Retry-After` pauses a destination, so that a wrong one is noticed by a probe."""


@dataclass
class Breaker:
    """The breaker of one destination, with the history of its attempts."""

    limits: BreakerLimits
    has_succeeded: bool = False
    """True after the first delivery."""
    _errors: int = 0
    """Number of consecutive timeouts and connection errors."""
    _responses_missing: int = 0
    """Number of HTTP responses until the destination has recovered."""
    _probe_at: float | None = None
    """The time when the pause ends; None while the breaker is closed."""
    _probing: bool = False
    """True while a probe is in flight."""
    _pauses: int = 0
    """Number of consecutive pauses: the first one, and one after each failed probe."""
    _gone: int = 0
    """Number of consecutive 410 responses."""
    _is_held: bool = False
    """True if the receiver has asked for the pause, which only a probe or the receiver's next wish ends."""

    @property
    def is_open(self) -> bool:
        """True if the destination is parked."""
        return self._probe_at is not None

    @property
    def is_recovering(self) -> bool:
        """True if too few responses have followed the latest timeout or connection error."""
        return self._responses_missing > 0

    @property
    def has_history(self) -> bool:
        """True if a destination that is forgotten now would be treated differently afterwards."""
        return self.has_succeeded or self.is_recovering or self.is_open or self._gone > 0

    @property
    def errors(self) -> int:
        """Number of consecutive timeouts and connection errors, or of consecutive 410 responses."""
        return max(self._errors, self._gone)

    @property
    def next_probe_at(self) -> float | None:
        """The time of the next probe; None while the breaker is closed or a probe is in flight."""
        return None if self._probing else self._probe_at

    def may_probe(self, now: float) -> bool:
        """Return True if a probe may start."""
        return self.next_probe_at is not None and self.next_probe_at <= now

    def end_pause(self, now: float) -> None:
        """Allow a probe now, because an operator wants one. Does nothing while the breaker is closed."""
        if self._probe_at is not None:
            self._probe_at = min(self._probe_at, now)

    def start_probe(self) -> None:
        """Allow no other probe until the end of this one is recorded."""
        self._probing = True

    def record(self, error_type: str | None, now: float, *, is_probe: bool, hold_seconds: float = 0.0) -> bool:
        """Record the end of an attempt; `error_type` is None for a delivery.

        `hold_seconds` is the pause for which the response asks. Return True if a response arrived or a pause began.
        """
        if is_probe:
            self._probing = False
        if error_type in NEUTRAL_ERRORS:
            return False
        if error_type in DESTINATION_ERRORS:
            return self._record_error(now, is_probe=is_probe)
        self._gone = self._gone + 1 if error_type == GONE else 0
        if self._gone >= self.limits.opens_after:
            return self._record_too_many_410(now, is_probe=is_probe)
        self._record_response(delivered=error_type is None, is_probe=is_probe)
        if hold_seconds > 0:
            self._hold(now, hold_seconds)
        return True

    def _record_error(self, now: float, *, is_probe: bool) -> bool:
        self._errors += 1
        self._responses_missing = self.limits.responses_to_recover
        # While the breaker is open only probes count, so that attempts which began before do not prolong the pause.
        pauses = is_probe if self.is_open else self._errors >= self.limits.opens_after
        if pauses:
            self._pause(now)
        return pauses

    def _record_too_many_410(self, now: float, *, is_probe: bool) -> bool:
        self._errors = 0
        pauses = is_probe or not self.is_open  # as for timeouts, attempts that began before do not prolong it
        if pauses:
            self._pause(now)
        return pauses

    def _pause(self, now: float) -> None:
        self._is_held = False
        self._pauses += 1
        self._probe_at = now + self.limits.parking.delay_after(self._pauses)

    def _hold(self, now: float, seconds: float) -> None:
        self._is_held = True
        self._probe_at = max(self._probe_at or 0.0, now + min(seconds, self.limits.max_hold_seconds))

    def _record_response(self, *, delivered: bool, is_probe: bool) -> None:
        self._errors = 0
        self._responses_missing = max(0, self._responses_missing - 1)
        self.has_succeeded = self.has_succeeded or delivered
        if is_probe or not self._is_held:  # a response to an attempt from before does not end the pause
            self._probe_at = None
            self._pauses = 0
            self._is_held = False
