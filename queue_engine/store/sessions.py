"""Sessions of the web console, and the links that begin one. The store holds only their hashes.

A session has no rights of its own. It names an API key by its hash, and each look-up reads the key, so that a session
ends with its key and has the rights that the key has now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.domain.api_keys import ApiKey
from queue_engine.domain.sessions import IDLE_SECONDS, LINK_SECONDS, MAX_SESSIONS_PER_KEY, SESSION_SECONDS
from queue_engine.store import keys
from queue_engine.store.api_keys import ApiKeyStore, hash_of
from queue_engine.store.calls import Scripts


@dataclass(frozen=True)
class _Kind:
    """Sessions, or links."""

    record: Callable[[str], str]
    index: Callable[[str], str]
    life_seconds: int
    idle_seconds: int


_SESSION = _Kind(keys.console_session, keys.console_sessions_of, SESSION_SECONDS, IDLE_SECONDS)
_LINK = _Kind(keys.console_link, keys.console_links_of, LINK_SECONDS, LINK_SECONDS)


class SessionStore:
    """The sessions and links of all API keys. As `KeyRecords`, the place of a session is its hash."""

    def __init__(self, redis: Redis, scripts: Scripts, api_keys: ApiKeyStore) -> None:
        self._redis = redis
        self._scripts = scripts
        self._api_keys = api_keys

    async def create(self, secret: str, key_hash: str) -> int | None:
        """Store a session with this random secret. Return its end; None when the key has ended."""
        return await self._create(_SESSION, secret, key_hash)

    async def create_link(self, token: str, key_hash: str) -> int | None:
        """Store a link with this random token. Return its end; None when the key has ended."""
        return await self._create(_LINK, token, key_hash)

    async def take_link(self, token: str) -> str | None:
        """Remove a link, and return the hash of its key; None when it is unknown, was taken or has expired."""
        stored = await self._redis.getdel(keys.console_link(hash_of(token)))
        return None if stored is None else _key_hash_in(stored)

    async def find(self, session_hash: str) -> ApiKey | None:
        """Return the key of a session; None when the session or its key has ended."""
        return (await self.find_all([session_hash]))[session_hash]

    async def find_all(self, hashes: Sequence[str]) -> Mapping[str, ApiKey | None]:
        """Return the keys of these sessions in two calls, as `find` does for one."""
        if not hashes:
            return {}
        pipeline = self._redis.pipeline(transaction=False)
        for session_hash in hashes:
            pipeline.get(keys.console_session(session_hash))
        replies = await pipeline.execute()
        held = {name: _key_hash_in(stored) for name, stored in zip(hashes, replies, strict=True) if stored is not None}
        found = await self._api_keys.find_all(list(dict.fromkeys(held.values())))
        return {name: found[held[name]] if name in held else None for name in hashes}

    async def note_use(self, session_hash: str) -> None:
        """Record that the session and its key are in use."""
        key = await self.find(session_hash)
        if key is not None:
            await self._scripts.use_session(record=keys.console_session(session_hash), idle_ms=IDLE_SECONDS * 1000)
            await self._api_keys.note_use(key.key_hash)

    async def end(self, secret: str, key_hash: str) -> None:
        """End a session. Safe to repeat."""
        await self._end(key_hash, [hash_of(secret)])

    async def end_all(self, key_hash: str) -> None:
        """End all sessions of a key. Safe to repeat."""
        members = await self._redis.zrange(keys.console_sessions_of(key_hash), 0, -1)
        await self._end(key_hash, [member.decode() for member in members])

    async def _end(self, key_hash: str, hashes: Sequence[str]) -> None:
        await self._scripts.end_sessions(
            index=keys.console_sessions_of(key_hash),
            records=[keys.console_session(session_hash) for session_hash in hashes],
            hashes=hashes,
        )

    async def _create(self, kind: _Kind, secret: str, key_hash: str) -> int | None:
        displaced: list[str] = []
        while True:
            reply = await self._scripts.create_session(
                api_key=keys.api_key(key_hash),
                record=kind.record(hash_of(secret)),
                index=kind.index(key_hash),
                displaced=[kind.record(name) for name in displaced],
                record_hash=hash_of(secret),
                key_hash=key_hash,
                life_ms=kind.life_seconds * 1000,
                idle_ms=kind.idle_seconds * 1000,
                limit=MAX_SESSIONS_PER_KEY,
                displaced_hashes=displaced,
            )
            if reply.word == "GONE":
                return None
            if reply.word == "OK":
                return reply.ends_ms
            # Others may create at the same time, so the first is chosen again until there is room.
            first = await self._redis.zrange(kind.index(key_hash), 0, 0)
            displaced = [name.decode() for name in first]


def _key_hash_in(stored: bytes) -> str:
    return stored.split(b" ", 1)[0].decode()
