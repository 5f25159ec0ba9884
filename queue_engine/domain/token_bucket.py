"""A token bucket, which limits the burst and the average rate."""

from __future__ import annotations


class TokenBucket:
    """Holds up to `burst` tokens, gets `per_second` of them, and is full at first. `now` is monotonic, in seconds."""

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def fill(self, now: float) -> None:
        """Add the tokens of the time since the last call."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled_at) * self._per_second)
        self._filled_at = now

    def take(self, tokens: float = 1.0) -> bool:
        """Take the tokens and return True, or take none and return False if there are too few."""
        if tokens > self._tokens:
            return False
        self._tokens -= tokens
        return True

    def put(self, tokens: float = 1.0) -> None:
        """Return tokens that were taken."""
        self._tokens = min(self._burst, self._tokens + tokens)

    def seconds_until(self, tokens: float = 1.0) -> float:
        """Return the seconds after the last `fill` until the bucket has `tokens` tokens."""
        return max(0.0, tokens - self._tokens) / self._per_second
