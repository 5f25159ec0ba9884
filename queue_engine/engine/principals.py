"""Resolve API keys to principals."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from queue_engine.domain.api_keys import ApiKey
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.engine.patience import from_store
from queue_engine.store.api_keys import hash_of

CACHE_SECONDS = 1.0
"""How long a revoked or expired key may still be accepted."""
USE_NOTE_SECONDS = 60.0
"""Minimum time between two notes by this process that a key is in use. The store applies the same to all processes."""
MAX_CACHED_KEYS = 10_000


class KeyLookup(Protocol):
    """Finds keys by their hash. None means an unknown, revoked or expired key."""

    async def find(self, key_hash: str) -> ApiKey | None: ...

    async def note_use(self, key_hash: str) -> None: ...


@dataclass(frozen=True)
class _Cached:
    principal: Principal
    expires_at: float
    noted_at: float
    """Time of the latest note that the key is in use."""


class Principals:
    """Resolves a key to its principal. Valid keys are cached for a second, invalid keys never."""

    def __init__(self, keys: KeyLookup, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._monotonic = monotonic
        self._valid: dict[str, _Cached] = {}

    async def of_key(self, api_key: str) -> Principal | None:
        """Return the principal of the key; None if it is unknown, revoked or has expired. Raises StoreUnavailable."""
        key_hash = hash_of(api_key)
        cached = self._valid.get(key_hash)
        now = self._monotonic()
        return cached.principal if cached and now < cached.expires_at else await self._ask(key_hash, cached, now)

    async def _ask(self, key_hash: str, cached: _Cached | None, now: float) -> Principal | None:
        self._valid.pop(key_hash, None)
        key = await from_store(self._keys.find(key_hash))
        if key is None:
            return None
        if len(self._valid) >= MAX_CACHED_KEYS:
            self._valid.clear()
        is_noted = cached is not None and now - cached.noted_at < USE_NOTE_SECONDS
        noted_at = cached.noted_at if cached is not None and is_noted else now
        principal = key.principal()
        # Before the note, so that requests that arrive while it is written do not write it too.
        self._valid[key_hash] = _Cached(principal, now + CACHE_SECONDS, noted_at)
        if not is_noted:
            with suppress(StoreUnavailable):  # a store that refuses writes can still be read
                await from_store(self._keys.note_use(key_hash))
        return principal
