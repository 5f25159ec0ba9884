"""Sender of a request: exactly one `X-Api-Key` or `Authorization: Bearer` header with a key that the store knows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from queue_engine import metrics
from queue_engine.api.patience import from_store
from queue_engine.domain.errors import Unauthorized
from queue_engine.store.api_keys import hash_of

CACHE_SECONDS = 1.0
"""How long a key may still open the API after it was revoked."""
MAX_CACHED_KEYS = 10_000

_KEY_HEADERS = frozenset({b"x-api-key", b"authorization"})
_BEARER = re.compile(rb"bearer +", re.IGNORECASE)
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


class KeyLookup(Protocol):
    """Whose key this is; None when it is unknown or revoked."""

    async def tenant_of(self, key_hash: str) -> str | None: ...


class Authenticator:
    """Finds the tenant. Remembers keys that are valid for a second; those that are not, never."""

    def __init__(self, keys: KeyLookup, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._monotonic = monotonic
        self._valid: dict[str, tuple[str, float]] = {}

    async def tenant_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the tenant whose key is in `headers` (names in lower case). Raises Unauthorized, StoreUnavailable."""
        key_hash = hash_of(_only_key(headers))
        tenant, expires_at = self._valid.get(key_hash, ("", 0.0))
        now = self._monotonic()
        return tenant if now < expires_at else await self._ask(key_hash, now)

    async def _ask(self, key_hash: str, now: float) -> str:
        self._valid.pop(key_hash, None)
        tenant = await from_store(self._keys.tenant_of(key_hash))
        if tenant is None:
            raise _refused("unknown")
        if len(self._valid) >= MAX_CACHED_KEYS:
            self._valid.clear()
        self._valid[key_hash] = (tenant, now + CACHE_SECONDS)
        return tenant


def _only_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = [_key_in(name, value) for name, value in headers if name in _KEY_HEADERS]
    if not given:
        raise _refused("missing")
    if len(given) > 1:
        raise _refused("repeated")
    if _KEY.fullmatch(given[0]) is None:
        raise _refused("malformed")
    return given[0].decode("ascii")


def _key_in(name: bytes, value: bytes) -> bytes:
    """Return the key in a header. An `Authorization` of another scheme is a malformed key."""
    if name == b"x-api-key":
        return value
    scheme = _BEARER.match(value)
    return value[scheme.end() :] if scheme else b""


def _refused(reason: str) -> Unauthorized:
    metrics.auth_failures.labels(reason=reason).inc()
    return Unauthorized()
