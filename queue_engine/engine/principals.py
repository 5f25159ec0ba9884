"""Resolve API keys to principals."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from queue_engine.domain.principals import Principal, Role
from queue_engine.engine.patience import from_store
from queue_engine.store.api_keys import hash_of

CACHE_SECONDS = 1.0
"""How long a revoked key may still be accepted."""
MAX_CACHED_KEYS = 10_000


class KeyLookup(Protocol):
    """Finds the tenant of a key. None means an unknown or revoked key."""

    async def tenant_of(self, key_hash: str) -> str | None: ...


class Principals:
    """Resolves a key to its principal. Valid keys are cached for a second, invalid keys never."""

    def __init__(self, keys: KeyLookup, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._monotonic = monotonic
        self._valid: dict[str, tuple[Principal | None, float]] = {}

    async def of_key(self, api_key: str) -> Principal | None:
        """Return the principal of the key, or None if the key is unknown or revoked. Raises StoreUnavailable."""
        key_hash = hash_of(api_key)
        principal, expires_at = self._valid.get(key_hash, (None, 0.0))
        now = self._monotonic()
        return principal if now < expires_at else await self._ask(key_hash, now)

    async def _ask(self, key_hash: str, now: float) -> Principal | None:
        self._valid.pop(key_hash, None)
        tenant = await from_store(self._keys.tenant_of(key_hash))
        if tenant is None:
            return None
        if len(self._valid) >= MAX_CACHED_KEYS:
            self._valid.clear()
        principal = Principal(tenant, Role.ADMIN, key_hash)
        self._valid[key_hash] = (principal, now + CACHE_SECONDS)
        return principal
