"""Resolve API keys to principals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.engine.key_lookups import Answer, KeyLookup, KeyLookups
from queue_engine.engine.patience import from_store
from queue_engine.store.api_keys import hash_of

CACHE_SECONDS = 1.0
"""How long a revoked or expired key may still be accepted."""
REFRESH_SECONDS = 0.5
"""Age of a cached key at which its next request starts a look-up without waiting for it. So requests of a key in use do
not wait for the store. Before, one a second did, which was the 99th percentile at 50 requests a second."""
REVOCATION_SECONDS = 2.0
"""Time after which every process refuses a key that was revoked: CACHE_SECONDS and the look-up."""
USE_NOTE_SECONDS = 60.0
"""Minimum time between two notes by this process that a key is in use. The store applies the same to all processes."""
MAX_CACHED_KEYS = 10_000


class KeyRecords(KeyLookup, Protocol):
    """Keys with the time of their latest use."""

    async def note_use(self, key_hash: str) -> None: ...


@dataclass(frozen=True)
class _Cached:
    principal: Principal
    expires_at: float
    noted_at: float
    """Time of the latest note that the key is in use."""


class Principals:
    """Resolves a key to its principal. Valid keys are cached for a second, invalid keys never."""

    def __init__(self, keys: KeyRecords, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._lookups = KeyLookups(keys, monotonic)
        self._monotonic = monotonic
        self._valid: dict[str, _Cached] = {}
        """Keys that were valid when they were last looked up, the oldest look-up first."""
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    def cached(self, api_key: str) -> Principal | None:
        """Return the principal of a key that was valid a moment ago; None if the key must be looked up."""
        return self._cached(hash_of(api_key))

    async def of_key(self, api_key: str, *, may_wait: bool = False) -> Principal | None:
        """Return the principal of the key; None if it is unknown, revoked or has expired.

        With `may_wait` a key that was not valid before is looked up with the next batch. Raises StoreUnavailable, and
        with `may_wait` TooManyRequests.
        """
        key_hash = hash_of(api_key)
        principal = self._cached(key_hash)
        if principal is not None:
            return principal
        waits = may_wait and key_hash not in self._valid
        answer = await (self._lookups.in_batch(key_hash) if waits else self._lookups.at_once(key_hash))
        return self._cached(key_hash) or await self._accepted(key_hash, answer)

    def _cached(self, key_hash: str) -> Principal | None:
        cached = self._valid.get(key_hash)
        if cached is None:
            return None
        seconds_left = cached.expires_at - self._monotonic()
        if seconds_left <= 0:
            return None
        if seconds_left <= CACHE_SECONDS - REFRESH_SECONDS and key_hash not in self._refreshing:
            task = self._refreshing[key_hash] = asyncio.create_task(self._refresh(key_hash), name="refresh a key")
            task.add_done_callback(lambda _: self._refreshing.pop(key_hash))
        return cached.principal

    async def _refresh(self, key_hash: str) -> None:
        with suppress(StoreUnavailable):  # then the key is cached until its end, and the next request meets the error
            await self._accepted(key_hash, await self._lookups.at_once(key_hash))

    async def _accepted(self, key_hash: str, answer: Answer) -> Principal | None:
        before = self._valid.pop(key_hash, None)
        if answer.key is None:
            return None
        if len(self._valid) >= MAX_CACHED_KEYS:
            del self._valid[next(iter(self._valid))]
        now = answer.asked_at
        is_noted = before is not None and now - before.noted_at < USE_NOTE_SECONDS
        noted_at = before.noted_at if before is not None and is_noted else now
        principal = answer.key.principal()
        # Before the note, so that requests that arrive while it is written do not write it too.
        self._valid[key_hash] = _Cached(principal, now + CACHE_SECONDS, noted_at)
        if not is_noted:
            with suppress(StoreUnavailable):  # a store that refuses writes can still be read
                await from_store(self._keys.note_use(key_hash))
        return principal
