"""Authentication: exactly one header with a key that is in the store.

A client sends its API key as `X-Api-Key` or `Authorization: Bearer`, an agent its token as `Authorization: Bearer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Generic

from queue_engine.api.http.failed_keys import FailedKeys
from queue_engine.domain.agent_tokens import TOKEN_FORM, AgentPrincipal
from queue_engine.domain.errors import API_KEY_RULE, Unauthorized
from queue_engine.domain.principals import Principal
from queue_engine.engine.principals import AgentPrincipals, CachedPrincipals, Holder, Principals
from queue_engine.observability import metrics

_AUTHORIZATION = b"authorization"
_KEY_HEADERS = frozenset({b"x-api-key", _AUTHORIZATION})
_TOKEN_HEADERS = frozenset({_AUTHORIZATION})
_BEARER = re.compile(rb"bearer +", re.IGNORECASE)
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_TOKEN = re.compile(TOKEN_FORM.encode())


class HeaderAuthenticator(Generic[Holder]):
    """Finds the principal of a request by one of the header `names`, whose key has the `form`."""

    rule = API_KEY_RULE
    """The rule that a request without a valid key breaks."""

    def __init__(
        self,
        principals: CachedPrincipals[Any, Holder],
        failed: FailedKeys,
        names: frozenset[bytes],
        form: re.Pattern[bytes],
    ) -> None:
        self._principals = principals
        self._failed = failed
        self._names = names
        self._form = form

    async def principal_of(self, headers: Iterable[tuple[bytes, bytes]], address: str = "") -> Holder:
        """Return the principal of the key in `headers` (names in lower case). `address` is the client's.

        Raises Unauthorized, TooManyRequests, StoreUnavailable.
        """
        return await self.principal_of_key(self._only_key(headers), address)

    async def principal_of_key(self, key: str, address: str = "") -> Holder:
        """Return the principal of a key. Raises as `principal_of` does."""
        return self._principals.cached(key) or await self._look_up(key, address)

    async def _look_up(self, key: str, address: str) -> Holder:
        if self._failed.is_unknown(key):
            self._failed.check(address)
            raise self.refused("unknown")
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
            raise self.refused("unknown")
        if is_within:
            self._failed.give_back(address)
        return principal

    def _only_key(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        given = [_key_in(name, value) for name, value in headers if name in self._names]
        if not given:
            raise self.refused("missing")
        if len(given) > 1:
            raise self.refused("repeated")
        if self._form.fullmatch(given[0]) is None:
            raise self.refused("malformed")
        return given[0].decode("ascii")

    def refused(self, reason: str) -> Unauthorized:
        """Count a request that is refused for this reason, and return its error."""
        metrics.auth_failures.labels(reason=reason).inc()
        return Unauthorized(self.rule)


class Authenticator(HeaderAuthenticator[Principal]):
    """Finds the principal of a client's request by its API key."""

    def __init__(self, principals: Principals, failed: FailedKeys) -> None:
        super().__init__(principals, failed, _KEY_HEADERS, _KEY)


class AgentAuthenticator(HeaderAuthenticator[AgentPrincipal]):
    """Finds the principal of an agent's request by its token."""

    rule = "Authorization: one valid agent token is required"

    def __init__(self, principals: AgentPrincipals, failed: FailedKeys) -> None:
        super().__init__(principals, failed, _TOKEN_HEADERS, _TOKEN)


def _key_in(name: bytes, value: bytes) -> bytes:
    """Return the key in a header. An `Authorization` of another scheme is a malformed key."""
    if name != _AUTHORIZATION:
        return value
    scheme = _BEARER.match(value)
    return value[scheme.end() :] if scheme else b""
