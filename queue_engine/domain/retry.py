"""Backoff before retries. The functions are pure: the random number is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TASK_RETRY_DELAYS_SECONDS: tuple[float, ...] = (1, 3, 9, 27, 60)
"""Waits between the attempts of a task; the last one repeats."""

MAX_CONTAINER_RETRY_AFTER_SECONDS = 300
"""Maximum delay that a container can ask for."""

DELIVERY_DELAYS_SECONDS: tuple[float, ...] = (5, 15, 45, 135, 405, 1215, 3645, 10935, 21600, 21600, 21600)
"""Waits between the attempts of a delivery: 12 attempts over 22.5 hours."""


@dataclass(frozen=True)
class Schedule:
    """A list of waits in seconds. Each is spread by `± jitter` (a fraction), so that retries do not synchronize."""

    delays_seconds: tuple[float, ...]
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if any(delay < 0 for delay in self.delays_seconds):
            raise ValueError("a delay must be 0 seconds or more")
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter must be at least 0 and below 1")

    @property
    def max_attempts(self) -> int:
        """Return the total number of attempts: the first, and one after each wait."""
        return len(self.delays_seconds) + 1

    @property
    def longest_seconds(self) -> float:
        """Return the sum of all waits, each with its maximum jitter."""
        return sum(self.delays_seconds) * (1 + self.jitter)

    def delay_after(self, attempt: int, *, luck: float) -> float | None:
        """Return the seconds to wait after failed attempt number `attempt` (1 for the first); None after the last.

        `luck` is a random number in [0, 1).
        """
        if attempt > len(self.delays_seconds):
            return None
        return spread(self.delays_seconds[attempt - 1], self.jitter, luck)


def spread(delay_seconds: float, jitter: float, luck: float) -> float:
    """Return `delay_seconds` with a jitter of up to `± jitter` of itself. `luck` in [0, 1) selects the value."""
    return delay_seconds * (1 + jitter * (2 * luck - 1))


class RetryOn(StrEnum):
    """Outcomes of an attempt that a retry policy can name."""

    NO_CONNECTION = "no_connection"
    """The worker's container is not reachable, so the task has not started."""
    CONNECTION_LOST = "connection_lost"
    """The connection broke before the response was complete. A response that cannot be parsed is not retried."""
    TOO_MANY_REQUESTS = "429"
    UNAVAILABLE = "503"
    CONFLICT = "409"
    """The container is busy, where it has this status for that, as cog does. Elsewhere 409 is a failure, so it is not
    retried by default."""
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    GATEWAY_TIMEOUT = "504"
    TIMEOUT = "timeout"
    """No response within the execution timeout."""


DEFAULT_RETRY_ON = frozenset(
    {RetryOn.NO_CONNECTION, RetryOn.CONNECTION_LOST, RetryOn.TOO_MANY_REQUESTS, RetryOn.UNAVAILABLE}
)


@dataclass(frozen=True)
class TaskRetryPolicy:
    """The outcomes for which an endpoint's tasks are retried, and the delay before each retry."""

    on: frozenset[RetryOn] = DEFAULT_RETRY_ON
    delays_seconds: tuple[float, ...] = TASK_RETRY_DELAYS_SECONDS
    """The wait after each attempt, spread by ± 20 %; the last one repeats."""

    def delay_after(self, attempt: int, *, luck: float) -> float:
        """Return the seconds to wait after attempt number `attempt` (from 1). `luck` in [0, 1) sets the jitter."""
        return spread(self.delays_seconds[min(attempt, len(self.delays_seconds)) - 1], 0.2, luck)


def container_retry_after(value: str | None) -> float | None:
    """Return a container's `Retry-After` in seconds, clamped. None if it is missing, a date or malformed."""
    if value is None or not (value.isascii() and value.isdigit() and len(value) <= 12):
        return None
    return float(min(int(value), MAX_CONTAINER_RETRY_AFTER_SECONDS))
