"""Authentication: exactly one `X-Api-Key` or `Authorization: Bearer` header, with a key that is in the store."""

from __future__ import annotations

import re
from collections.abc import Iterable

from queue_engine.api.http.failed_keys import FailedKeys
from queue_engine.domain.errors import Unauthorized
from queue_engine.domain.principals import Principal
from queue_engine.engine.principals import Principals
from queue_engine.observability import metrics

_KEY_HEADERS = frozenset({b"x-api-key", b"authorization"})
_BEARER = re.compile(rb"bearer +", re.IGNORECASE)
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


class Authenticator:
    """Finds the principal of a request."""

    def __init__(self, principals: Principals, failed: FailedKeys) -> None:
        self._principals = principals
        self._failed = failed

    async def principal_of(self, headers: Iterable[tuple[bytes, bytes]], address: str = "") -> Principal:
        """Return the principal of the key in `headers` (names in lower case). `address` is the client's.

        Raises Unauthorized, TooManyRequests, StoreUnavailable.
        """
        key = _only_key(headers)
        return self._principals.cached(key) or await self._look_up(key, address)

    async def _look_up(self, key: str, address: str) -> Principal:
        if self._failed.is_unknown(key):
            self._failed.check(address)
            raise _refused("unknown")
        is_within = self._failed.take(address)
        try:
            principal = await self._principals.of_key(key, may_wait=not is_within)
        except Exception:  # not a cancellation: a client that disconnects has still cost a look-up
            if is_within:
                self._failed.give_back(address)
            raise
        if principal is None:
            self._failed.note_unknown(key)
            if not is_within:
                self._failed.check(address)
            raise _refused("unknown")
        if is_within:
            self._failed.give_back(address)
        return principal


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
