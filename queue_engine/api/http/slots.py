"""Limit what each tenant has in progress at the same time in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from queue_engine.domain.errors import TooManyRequests

RETRY_AFTER_SECONDS = 1


class TenantSlots:
    """At most `limit` of `what` for each tenant; 0 sets no limit. `setting` is the variable that the message names."""

    def __init__(self, limit: int, what: str, setting: str) -> None:
        self._limit = limit
        self._what = what
        self._setting = setting
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, tenant: str) -> Iterator[None]:
        """Take a slot for the block. Raises TooManyRequests when all are taken."""
        if self._limit and self._taken[tenant] >= self._limit:
            raise TooManyRequests(
                f"at most {self._limit} {self._what} of a tenant are served at the same time ({self._setting})",
                scope="tenant",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
