"""Waiting for the store, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.store.redis.client import unavailability

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
