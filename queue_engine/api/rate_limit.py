"""How many requests a second one tenant may send to this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from queue_engine.domain.errors import TooManyRequests


class RateLimiter:
    """A token bucket for each tenant: `per_second` on average, and as many at once after a pause. 0 sets no limit.

    Keeps two numbers for each tenant that has a valid key.
    """

    def __init__(self, per_second: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, tenant: str) -> None:
        """Count one request. Raises TooManyRequests, which says when the next one will pass."""
        if self._per_second <= 0:
            return
        now = self._monotonic()
        tokens, filled_at = self._buckets.get(tenant, (self._burst, now))
        tokens = min(self._burst, tokens + (now - filled_at) * self._per_second)
        if tokens < 1:
            self._buckets[tenant] = (tokens, now)
            raise TooManyRequests(
                f"at most {self._per_second:g} requests a second are served",
                scope="tenant",
                retry_after_seconds=math.ceil((1 - tokens) / self._per_second),
            )
        self._buckets[tenant] = (tokens - 1, now)
