"""Wait for the store, for a bounded time."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from queue_engine.aio import CommonTimeout
from queue_engine.domain.errors import NotFound, Resource, StoreUnavailable
from queue_engine.store.redis.client import unavailability

T = TypeVar("T")

STORE_SECONDS = 4.0
"""Short enough that a client gets a 503 before its own timeout."""

_TIMEOUT = CommonTimeout(STORE_SECONDS)


async def from_store(call: Awaitable[T]) -> T:
    """Return the result of a call to the store.

    Raises StoreUnavailable if the store is unavailable or does not reply within STORE_SECONDS. A write may still be
    carried out after the timeout; it is one script, so it happens as a whole or not at all.
    """
    try:
        with _TIMEOUT.limit():
            return await call
    except Exception as error:
        unavailable = as_unavailable(error)
        if unavailable is error:
            raise
        raise unavailable from error


async def found_in_store(call: Awaitable[T | None], resource: Resource) -> T:
    """Return the result of a call to the store as `from_store` does. Raises NotFound if it is None."""
    found = await from_store(call)
    if found is None:
        raise NotFound(resource)
    return found


def as_unavailable(error: Exception) -> Exception:
    """Return StoreUnavailable for an error of a store that is unavailable, and any other error itself."""
    reason = unavailability(error)
    return error if reason is None else StoreUnavailable(reason)
