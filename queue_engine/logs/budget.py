"""The budget of a log: a number of lines per second, in which a long line counts as several."""

from __future__ import annotations

from queue_engine.domain.token_bucket import TokenBucket

LINES_PER_SECOND = 1000.0
BURST_LINES = 5000.0
BYTES_PER_LINE = 256
"""Length above which a line counts as several."""


def line_budget(now: float) -> TokenBucket:
    """Return the budget of a log; each line costs `line_cost` tokens."""
    return TokenBucket(LINES_PER_SECOND, BURST_LINES, now)


def line_cost(line_bytes: int) -> float:
    """Return the tokens for a line of this size."""
    return max(1.0, line_bytes / BYTES_PER_LINE)
