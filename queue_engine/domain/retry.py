"""How long to wait before the next try. Pure: the random number is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TASK_RETRY_DELAYS_SECONDS: tuple[float, ...] = (1, 3, 9, 27, 60)
"""Waits between the attempts of a task; the last one repeats."""

MAX_CONTAINER_RETRY_AFTER_SECONDS = 300
"""A container cannot put its task off for longer than this."""

DELIVERY_DELAYS_SECONDS: tuple[float, ...] = (5, 15, 45, 135, 405, 1215, 3645, 10935, 21600, 21600, 21600)
"""Waits between the attempts of a delivery: 12 attempts over 22.5 hours."""


@dataclass(frozen=True)
class Schedule:
    """A list of waits in seconds, each spread by `± jitter` (a fraction) so that retries do not come in step."""

    delays_seconds: tuple[float, ...]
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if any(delay < 0 for delay in self.delays_seconds):
            raise ValueError("a delay must be 0 seconds or more")
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter must be at least 0 and below 1")

    @property
    def max_attempts(self) -> int:
        """Attempts in all: the first one and one after each wait."""
        return len(self.delays_seconds) + 1

    @property
    def longest_seconds(self) -> float:
        """All the waits together, each at its longest."""
        return sum(self.delays_seconds) * (1 + self.jitter)

    def delay_after(self, attempt: int, *, luck: float) -> float | None:
        """Seconds to wait after the failed attempt number `attempt` (1 for the first); None when it was the last.

        `luck` is a random number in [0, 1).
        """
        if attempt > len(self.delays_seconds):
            return None
        return spread(self.delays_seconds[attempt - 1], self.jitter, luck)


def spread(delay_seconds: float, jitter: float, luck: float) -> float:
    """`delay_seconds` moved by up to `± jitter` of itself; `luck` in [0, 1) chooses where."""
    return delay_seconds * (1 + jitter * (2 * luck - 1))


class RetryOn(StrEnum):
    """What may come of an attempt that is worth another one."""

    NO_CONNECTION = "no_connection"
    """The worker's container is not up: the task has not begun."""
    CONNECTION_LOST = "connection_lost"
    """The connection broke before the whole response came. One that cannot be understood is not retried."""
    TOO_MANY_REQUESTS = "429"
    UNAVAILABLE = "503"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    GATEWAY_TIMEOUT = "504"
    TIMEOUT = "timeout"
    """No answer within the execution timeout."""


DEFAULT_RETRY_ON = frozenset(
    {RetryOn.NO_CONNECTION, RetryOn.CONNECTION_LOST, RetryOn.TOO_MANY_REQUESTS, RetryOn.UNAVAILABLE}
)


@dataclass(frozen=True)
class TaskRetryPolicy:
    """Which attempts of an endpoint's tasks are followed by another one, and after how many seconds."""

    on: frozenset[RetryOn] = DEFAULT_RETRY_ON
    delays_seconds: tuple[float, ...] = TASK_RETRY_DELAYS_SECONDS
    """The wait after each attempt, spread by ± 20 %; the last one repeats."""

    def delay_after(self, attempt: int, *, luck: float) -> float:
        """Seconds to wait after attempt number `attempt` (1 for the first); `luck` in [0, 1) spreads them."""
        return spread(self.delays_seconds[min(attempt, len(self.delays_seconds)) - 1], 0.2, luck)


def container_retry_after(value: str | None) -> float | None:
    """Seconds by a container's `Retry-After` in whole seconds, clamped; None for none, a date and nonsense."""
    if value is None or not (value.isascii() and value.isdigit() and len(value) <= 12):
        return None
    return float(min(int(value), MAX_CONTAINER_RETRY_AFTER_SECONDS))
