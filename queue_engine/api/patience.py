"""Waiting for the store, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from queue_engine.aio import retry_while_unavailable
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.runtime import outages
from queue_engine.store.client import unavailability

T = TypeVar("T")

STORE_SECONDS = 4.0
"""A client gets its 503 before it gives up by itself."""


async def from_store(call: Awaitable[T], *, seconds: float = STORE_SECONDS) -> T:
    """What a store's method answers. Raises StoreUnavailable when it cannot answer now, or not within `seconds`.

    What it was about to write may still be written: every write is one script, done as a whole or not at all.
    """
    try:
        async with asyncio.timeout(seconds):
            return await call
    except Exception as error:
        reason = unavailability(error)
        if reason is None:
            raise
        raise StoreUnavailable(reason) from error


class RefusedRequests:
    """Logs the outages of the store that requests have met.

    A request that was refused is not repeated here, so `probe` is called until it succeeds: the end of an outage is
    logged whether requests come or not.
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
        await retry_while_unavailable(self._probe, passing=unavailability, what="probe")
        outages.STORE.succeeded(self)
