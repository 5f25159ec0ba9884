"""Limit the requests that a tenant may send to this process in a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from queue_engine.domain.errors import TooManyRequests
from queue_engine.domain.token_bucket import TokenBucket


class RateLimiter:
    """A token bucket for each tenant: `per_second` on average, with a burst of the same size. 0 sets no limit.

    Keeps one bucket for each tenant that has a valid key.
    """

    def __init__(self, per_second: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._monotonic = monotonic
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, tenant: str) -> None:
        """Count one request. Raises TooManyRequests, with the time until the next request is allowed."""
        if self._per_second <= 0:
            return
        now = self._monotonic()
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = self._buckets[tenant] = TokenBucket(self._per_second, self._burst, now)
        bucket.fill(now)
        if not bucket.take():
            raise TooManyRequests(
                f"at most {self._per_second:g} requests a second are served",
                scope="tenant",
                retry_after_seconds=math.ceil(bucket.seconds_until()),
            )
