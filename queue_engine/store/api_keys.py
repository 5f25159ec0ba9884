"""API keys. The store holds only their hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.store import keys
from queue_engine.store.calls import Scripts

HASH_CHARACTERS = 64
FIRST_TENANT = "default"
"""The tenant of the key that the operator configures."""


@dataclass(frozen=True)
class ApiKey:
    """The stored data of an API key: its hash, never the key itself."""

    key_hash: str
    tenant: str
    name: str
    created_at_ms: int


def hash_of(api_key: str) -> str:
    """Return the SHA-256 of a key in hexadecimal. Keys are random, so a slow hash would not add security."""
    return hashlib.sha256(api_key.encode()).hexdigest()


class ApiKeyStore:
    """The API keys of all tenants."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def put(self, api_key: str, *, tenant: str, name: str) -> ApiKey | None:
        """Make `api_key` valid for `tenant`, and return it as stored. A key that already exists is not changed.

        Return None when the key was revoked: it stays revoked.
        """
        key_hash = hash_of(api_key)
        stored = await self._scripts.put_api_key(
            api_key=keys.api_key(key_hash),
            api_keys=keys.API_KEYS,
            revoked=keys.REVOKED_API_KEYS,
            tenants=keys.TENANTS,
            key_hash=key_hash,
            tenant=tenant,
            name=name,
        )
        if stored.word == "REVOKED":
            return None
        return ApiKey(key_hash, stored.tenant, stored.name, stored.created_ms)

    async def put_first(self, api_key: str) -> str | None:
        """Make the operator's first key (QUEUE_ENGINE_API_KEY) valid. Return the reason when that is not possible."""
        stored = await self.put(api_key, tenant=FIRST_TENANT, name="first key")
        if stored is None:
            return (
                "the first API key (QUEUE_ENGINE_API_KEY) was revoked and stays revoked, so the API refuses it. "
                "`queue-engine keys create` makes another key"
            )
        if stored.tenant != FIRST_TENANT:
            return (
                f"the first API key (QUEUE_ENGINE_API_KEY) is a key of tenant {stored.tenant!r} already and is not "
                f"changed, so it has no access to tenant {FIRST_TENANT!r}"
            )
        return None

    async def tenant_of(self, key_hash: str) -> str | None:
        """Return the tenant of the key with this hash; None when the key is unknown or revoked."""
        tenant = await self._redis.hget(keys.api_key(key_hash), "tenant")  # type: ignore[misc]
        return tenant.decode() if tenant else None

    async def all(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        hashes = await self._redis.smembers(keys.API_KEYS)  # type: ignore[misc]
        found = [await self._get(key_hash.decode()) for key_hash in hashes]
        return sorted((key for key in found if key), key=lambda key: key.created_at_ms)

    async def revoke(self, key_hash_prefix: str) -> list[ApiKey]:
        """Revoke the keys whose hash starts with `key_hash_prefix` permanently, and return them.

        A complete hash also revokes a valid key that is missing in the list, which an older version could leave. Safe
        to repeat after an interruption.
        """
        found = [key for key in await self.all() if key.key_hash.startswith(key_hash_prefix)]
        if not found and len(key_hash_prefix) == HASH_CHARACTERS and (stray := await self._get(key_hash_prefix)):
            found = [stray]
        for key in found:
            await self._scripts.revoke_api_key(
                api_key=keys.api_key(key.key_hash),
                api_keys=keys.API_KEYS,
                revoked=keys.REVOKED_API_KEYS,
                key_hash=key.key_hash,
            )
        return found

    async def note_tenants(self) -> None:
        """Record the tenants of keys that an older version has stored. Reads all keys. Safe to repeat."""
        tenants = {key.tenant for key in await self.all()}
        if tenants:
            await self._redis.sadd(keys.TENANTS, *tenants)  # type: ignore[misc]

    async def has_one_tenant(self) -> bool:
        """Return True if there was never a second tenant.

        A tenant without a valid key counts too, because its endpoints keep running.
        """
        return int(await self._redis.scard(keys.TENANTS)) <= 1  # type: ignore[misc]

    async def _get(self, key_hash: str) -> ApiKey | None:
        record = await self._redis.hgetall(keys.api_key(key_hash))  # type: ignore[misc]
        if b"tenant" not in record:
            return None
        name, created = record.get(b"name", b""), record.get(b"created", b"0")
        return ApiKey(key_hash, record[b"tenant"].decode(), name.decode(), int(created))
