"""Requests that are refused because the store is unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from queue_engine.aio import retry_while_unavailable
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.observability import outages


class RefusedRequests:
    """Logs the outages of the store that requests have met.

    Call `note` for each refused request. The end of an outage must be logged even when no request follows, so `probe`
    is called until it succeeds. `probe` raises StoreUnavailable while the store is unavailable.
    """

    def __init__(self, probe: Callable[[], Awaitable[object]]) -> None:
        self._probe = probe
        self._probing: asyncio.Task[None] | None = None

    def note(self, error: StoreUnavailable) -> None:
        """Note a request that is refused because of `error`."""
        outages.STORE.failed(self, "requests", error.reason)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._wait_for_the_store(), name="probe the store")

    async def _wait_for_the_store(self) -> None:
        await retry_while_unavailable(self._probe, passing=_reason, what="probe")
        outages.STORE.succeeded(self)


def _reason(error: BaseException) -> str | None:
    return error.reason if isinstance(error, StoreUnavailable) else None
