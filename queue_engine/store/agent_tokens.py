"""Agent tokens. The store holds only their hashes, in the partition of the token's endpoint.

The tokens of managed workers are stored by `WorkerStore.begin_start` and removed with the worker.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis

from queue_engine.domain.agent_tokens import (
    MAX_TOKENS_PER_ENDPOINT,
    TOKEN_ID_CHARACTERS,
    AgentToken,
    TokenHolder,
    holder_of,
)
from queue_engine.store.api_keys import hash_of
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partitions


class TokenRefusal(StrEnum):
    """Reason why a new token was not stored."""

    FULL = "FULL"
    """The endpoint has its maximum number of tokens."""
    NOT_FOUND = "GONE"
    """The tenant has no such endpoint, or it is being deleted."""


@dataclass(frozen=True)
class TokenPlace:
    """The place of a token in the store."""

    holder: TokenHolder
    token_hash: str


def place_of(token: str) -> TokenPlace:
    """Return the place of a token. Raises ValueError for text that is not a token, without repeating it."""
    holder = holder_of(token)
    if holder is None:
        raise ValueError("not an agent token")
    return TokenPlace(holder, hash_of(token))


def token_id_of(token: str) -> str:
    """Return the id by which a token is shown and found."""
    return hash_of(token)[:TOKEN_ID_CHARACTERS]


class AgentTokenStore:
    """The agent tokens of all endpoints. Every method may be repeated after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def create(self, endpoint_id: str, tenant: str, token: str, name: str) -> AgentToken | TokenRefusal:
        """Store the new random `token` for agents of the endpoint that are started by hand. Return it as stored."""
        reply = await self._scripts.create_agent_token(
            self._partitions.of(endpoint_id),
            tenant=tenant,
            token_hash=hash_of(token),
            name=name,
            max_tokens=MAX_TOKENS_PER_ENDPOINT,
        )
        if reply.word != "OK":
            return TokenRefusal(reply.word)
        return AgentToken(TokenHolder(endpoint_id), hash_of(token), tenant, name, reply.created_ms)

    async def find(self, place: TokenPlace) -> AgentToken | None:
        """Return the token at a place; None when it is unknown, or was revoked or replaced."""
        return (await self.find_all([place]))[place]

    async def find_all(self, places: Sequence[TokenPlace]) -> dict[TokenPlace, AgentToken | None]:
        """Return the tokens at these places in one call, as `find` does for one."""
        if not places:
            return {}
        pipeline = self._redis.pipeline(transaction=False)
        for place in places:
            keys = self._partitions.of(place.holder.endpoint_id)
            if place.holder.worker_id is None:
                pipeline.hget(keys.agent_tokens, place.token_hash)
            else:
                pipeline.hget(keys.worker_tokens, place.holder.worker_id)
            pipeline.hget(keys.endpoint, "tenant")
        replies = iter(await pipeline.execute())
        return {
            place: _token_at(place, stored, tenant)
            for place, stored, tenant in zip(places, replies, replies, strict=True)
        }

    async def note_use(self, place: TokenPlace) -> None:
        """Record that the token is in use, at most once a minute. Does nothing for a worker's token."""
        if place.holder.worker_id is None:
            keys = self._partitions.of(place.holder.endpoint_id)
            await self._scripts.use_agent_token(keys, token_hash=place.token_hash)

    async def of_endpoint(self, endpoint_id: str, tenant: str) -> list[AgentToken]:
        """Return all tokens of the tenant's endpoint, newest first."""
        keys = self._partitions.of(endpoint_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(keys.agent_tokens)
        pipeline.hgetall(keys.worker_tokens)
        by_hand, of_workers = await pipeline.execute()
        found = [_token(TokenHolder(endpoint_id), tenant, key.decode(), stored) for key, stored in by_hand.items()]
        found += [
            _worker_token(TokenHolder(endpoint_id, worker_id.decode()), tenant, stored)
            for worker_id, stored in of_workers.items()
        ]
        return sorted(found, key=lambda token: (-token.created_at_ms, token.token_hash))

    async def revoke(self, token: AgentToken) -> None:
        """Revoke a token permanently."""
        await self._scripts.revoke_agent_token(
            self._partitions.of(token.holder.endpoint_id),
            token_hash=token.token_hash,
            worker_id=token.holder.worker_id or "",
        )


def _token_at(place: TokenPlace, stored: bytes | None, tenant: bytes | None) -> AgentToken | None:
    """Return the token at a place from its stored text; None without that or without its endpoint."""
    if stored is None or tenant is None:
        return None
    if place.holder.worker_id is None:
        return _token(place.holder, tenant.decode(), place.token_hash, stored)
    token = _worker_token(place.holder, tenant.decode(), stored)
    return token if hmac.compare_digest(token.token_hash, place.token_hash) else None


def _token(holder: TokenHolder, tenant: str, token_hash: str, stored: bytes) -> AgentToken:
    created, used, name = stored.decode().split(" ", 2)
    return AgentToken(holder, token_hash, tenant, name, int(created), int(used) or None)


def _worker_token(holder: TokenHolder, tenant: str, stored: bytes) -> AgentToken:
    token_hash, created = stored.decode().split(" ")
    return AgentToken(holder, token_hash, tenant, "", int(created))
