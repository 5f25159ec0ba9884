"""Resolve API keys, and agent tokens, to principals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from queue_engine.domain.agent_tokens import AgentPrincipal
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.engine.key_lookups import Answer, KeyLookup, KeyLookups, Place
from queue_engine.engine.patience import from_store
from queue_engine.store.agent_tokens import TokenPlace, place_of
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
MAX_KEPT_PLACES = 1000
"""Limit of the keys whose place in the store is kept. Unknown ones take the place of others too."""


Holder = TypeVar("Holder")
"""The type of the principals."""
HolderOf = TypeVar("HolderOf", covariant=True)


class StoredKey(Protocol[HolderOf]):
    """The stored data of a key."""

    def principal(self) -> HolderOf:
        """Return the principal of a request with this key."""
        ...


class KeyRecords(KeyLookup[Place, StoredKey[HolderOf]], Protocol[Place, HolderOf]):
    """Keys with the time of their latest use."""

    async def note_use(self, place: Place, /) -> None: ...


@dataclass(frozen=True)
class _Cached(Generic[Holder]):
    principal: Holder
    expires_at: float
    noted_at: float
    """Time of the latest note that the key is in use."""


class CachedPrincipals(Generic[Place, Holder]):
    """Resolves a key to its principal. Valid keys are cached for a second, invalid keys never.

    `place_of` returns the place of a key in the store.
    """

    def __init__(
        self, keys: KeyRecords[Place, Holder], place_of: Callable[[str], Place], monotonic: Callable[[], float]
    ) -> None:
        self._keys = keys
        # Kept, because hashing a key takes a fiftieth of a submit.
        self._place_of = lru_cache(maxsize=MAX_KEPT_PLACES)(place_of)
        self._lookups = KeyLookups(keys, monotonic)
        self._monotonic = monotonic
        self._valid: dict[Place, _Cached[Holder]] = {}
        """Keys that were valid when they were last looked up, the oldest look-up first."""
        self._refreshing: dict[Place, asyncio.Task[None]] = {}

    def cached(self, key: str) -> Holder | None:
        """Return the principal of a key that was valid a moment ago; None if the key must be looked up."""
        return self._cached(self._place_of(key))

    def forget(self, key: str) -> None:
        """Look the key up at its next request, because this process has just ended it."""
        self._valid.pop(self._place_of(key), None)

    async def of_key(self, key: str, *, may_wait: bool = False) -> Holder | None:
        """Return the principal of the key; None if it is unknown, revoked or has expired.

        With `may_wait` a key that was not valid before is looked up with the next batch. Raises StoreUnavailable, and
        with `may_wait` TooManyRequests.
        """
        place = self._place_of(key)
        principal = self._cached(place)
        if principal is not None:
            return principal
        waits = may_wait and place not in self._valid
        answer = await (self._lookups.in_batch(place) if waits else self._lookups.at_once(place))
        return self._cached(place) or await self._accepted(place, answer)

    def _cached(self, place: Place) -> Holder | None:
        cached = self._valid.get(place)
        if cached is None:
            return None
        seconds_left = cached.expires_at - self._monotonic()
        if seconds_left <= 0:
            return None
        if seconds_left <= CACHE_SECONDS - REFRESH_SECONDS and place not in self._refreshing:
            task = self._refreshing[place] = asyncio.create_task(self._refresh(place), name="refresh a key")
            task.add_done_callback(lambda _: self._refreshing.pop(place))
        return cached.principal

    async def _refresh(self, place: Place) -> None:
        with suppress(StoreUnavailable):  # then the key is cached until its end, and the next request meets the error
            await self._accepted(place, await self._lookups.at_once(place))

    async def _accepted(self, place: Place, answer: Answer[StoredKey[Holder]]) -> Holder | None:
        before = self._valid.pop(place, None)
        if answer.key is None:
            return None
        if len(self._valid) >= MAX_CACHED_KEYS:
            del self._valid[next(iter(self._valid))]
        now = answer.asked_at
        is_noted = before is not None and now - before.noted_at < USE_NOTE_SECONDS
        noted_at = before.noted_at if before is not None and is_noted else now
        principal = answer.key.principal()
        # Before the note, so that requests that arrive while it is written do not write it too.
        self._valid[place] = _Cached(principal, now + CACHE_SECONDS, noted_at)
        if not is_noted:
            with suppress(StoreUnavailable):  # a store that refuses writes can still be read
                await from_store(self._keys.note_use(place))
        return principal


class Principals(CachedPrincipals[str, Principal]):
    """Resolves API keys."""

    def __init__(self, keys: KeyRecords[str, Principal], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(keys, hash_of, monotonic)


class AgentPrincipals(CachedPrincipals[TokenPlace, AgentPrincipal]):
    """Resolves agent tokens. Its methods raise ValueError for text that is not a token."""

    def __init__(
        self, tokens: KeyRecords[TokenPlace, AgentPrincipal], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(tokens, place_of, monotonic)
