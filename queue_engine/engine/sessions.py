"""Sessions of the web console: begin one with an API key or with a link, find its principal, and end it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from queue_engine.crypto.api_keys import new_session_half
from queue_engine.domain.errors import Unauthorized
from queue_engine.domain.principals import Principal
from queue_engine.domain.sessions import SessionHalves, is_link_token
from queue_engine.engine.patience import from_store
from queue_engine.engine.principals import CachedPrincipals
from queue_engine.store.api_keys import hash_of
from queue_engine.store.sessions import SessionStore

LINK_RULE = "login: the link has expired or was used; `queue-engine console` makes another"


@dataclass(frozen=True)
class NewSession:
    """A session that was just created. Its halves are not stored, so they cannot be read again."""

    halves: SessionHalves
    ends_at_ms: int


@dataclass(frozen=True)
class NewLink:
    """A link that was just created."""

    token: str
    ends_at_ms: int


class SessionPrincipals(CachedPrincipals[str, Principal]):
    """Resolves the secrets of sessions to the principals of their keys."""

    def __init__(self, sessions: SessionStore, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sessions, hash_of, monotonic)


class Sessions:
    """The sessions of the web console. Each use case raises StoreUnavailable."""

    def __init__(self, sessions: SessionStore, principals: SessionPrincipals) -> None:
        self._sessions = sessions
        self.principals = principals

    async def begin(self, principal: Principal) -> NewSession:
        """Begin a session of the principal's key. Raises Unauthorized if the key has ended since."""
        return await self._begin(principal.key_hash, None)

    async def begin_by_link(self, token: str) -> NewSession:
        """Begin a session by a link, which is used up. Raises Unauthorized for one that is unknown, used or expired."""
        key_hash = await from_store(self._sessions.take_link(token)) if is_link_token(token) else None
        if key_hash is None:
            raise Unauthorized(LINK_RULE)
        return await self._begin(key_hash, LINK_RULE)

    async def create_link(self, principal: Principal) -> NewLink:
        """Create a link that begins one session of the principal's key. Raises Unauthorized if the key has ended."""
        token = new_session_half()
        ends_at_ms = await from_store(self._sessions.create_link(token, principal.key_hash))
        if ends_at_ms is None:
            raise Unauthorized
        return NewLink(token, ends_at_ms)

    async def end(self, principal: Principal, halves: SessionHalves, *, everywhere: bool) -> None:
        """End the session, or all sessions of its key."""
        if everywhere:
            await from_store(self._sessions.end_all(principal.key_hash))
        else:
            await from_store(self._sessions.end(halves.secret, principal.key_hash))
            self.principals.forget(halves.secret)

    async def _begin(self, key_hash: str, rule: str | None) -> NewSession:
        halves = SessionHalves(new_session_half(), new_session_half())
        ends_at_ms = await from_store(self._sessions.create(halves.secret, key_hash))
        if ends_at_ms is None:
            raise Unauthorized if rule is None else Unauthorized(rule)
        return NewSession(halves, ends_at_ms)
