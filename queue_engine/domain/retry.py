"""How long to wait before the next try. Pure: the random number is passed in."""

from __future__ import annotations

from dataclasses import dataclass

TASK_RETRY_DELAYS_SECONDS: tuple[float, ...] = (1, 3, 9, 27, 60)
"""Waits between the attempts of a task whose worker was busy or not up; the last one repeats."""

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


def task_retry_delay(attempt: int, *, luck: float) -> float:
    """Seconds a task waits after its attempt number `attempt` (1 for the first) found the worker busy or down."""
    delays = TASK_RETRY_DELAYS_SECONDS
    return spread(delays[min(attempt, len(delays)) - 1], 0.2, luck)
