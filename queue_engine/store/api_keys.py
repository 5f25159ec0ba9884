"""API keys: only their hashes are stored."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.store import keys
from queue_engine.store.scripts import ScriptRunner

KEY_PREFIX = "qe_"


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key: never the key itself."""

    key_hash: str
    tenant: str
    name: str
    created_at_ms: int


def new_api_key() -> str:
    """A new random key of 256 bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_of(api_key: str) -> str:
    """SHA-256, hexadecimal. Keys are random, so a slow hash would protect nothing."""
    return hashlib.sha256(api_key.encode()).hexdigest()


class ApiKeyStore:
    """The keys that open the API."""

    def __init__(self, redis: Redis, scripts: ScriptRunner) -> None:
        self._redis = redis
        self._scripts = scripts

    async def put(self, api_key: str, *, tenant: str, name: str) -> ApiKey:
        """Make `api_key` valid for `tenant`. Doing it again changes nothing but the name."""
        seconds, micros = await self._redis.time()
        key_hash = hash_of(api_key)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hset(keys.api_key(key_hash), mapping={"tenant": tenant, "name": name})
        pipeline.hsetnx(keys.api_key(key_hash), "created", str(seconds * 1000 + micros // 1000))
        pipeline.sadd(keys.API_KEYS, key_hash)
        await pipeline.execute()
        await self._scripts.confirm(keys.API_KEYS)
        found = await self._get(key_hash)
        if found is None:
            raise LookupError("the key is gone right after it was stored")
        return found

    async def tenant_of(self, key_hash: str) -> str | None:
        """Whose key this is; None when it is unknown or revoked."""
        tenant = await self._redis.hget(keys.api_key(key_hash), "tenant")  # type: ignore[misc]
        return tenant.decode() if tenant else None

    async def all(self) -> list[ApiKey]:
        """All keys, oldest first."""
        hashes = await self._redis.smembers(keys.API_KEYS)  # type: ignore[misc]
        found = [await self._get(key_hash.decode()) for key_hash in hashes]
        return sorted((key for key in found if key), key=lambda key: key.created_at_ms)

    async def revoke(self, key_hash_prefix: str) -> list[ApiKey]:
        """Revoke the keys whose hash starts with `key_hash_prefix`; returns them."""
        revoked = [key for key in await self.all() if key.key_hash.startswith(key_hash_prefix)]
        for key in revoked:
            await self._redis.delete(keys.api_key(key.key_hash))
            await self._redis.srem(keys.API_KEYS, key.key_hash)  # type: ignore[misc]
        await self._scripts.confirm(keys.API_KEYS)
        return revoked

    async def _get(self, key_hash: str) -> ApiKey | None:
        record = await self._redis.hgetall(keys.api_key(key_hash))  # type: ignore[misc]
        if not record:
            return None
        return ApiKey(key_hash, record[b"tenant"].decode(), record[b"name"].decode(), int(record[b"created"]))
