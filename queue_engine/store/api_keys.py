"""API keys. The store holds only their hashes.

A key with less than all rights inside its tenant, or with an end, is *limited*. Its record has the tenant in another
field, so that a process of an older version, which does not know limits, refuses the key: see `create_api_key.lua`. The
store removes the record of a key at its end; the indexes are tidied when the keys are listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis

from queue_engine.domain.api_keys import KEY_ID_CHARACTERS, MAX_KEYS_PER_TENANT, ApiKey, Grant
from queue_engine.domain.principals import Principal, Role, role_in
from queue_engine.store import keys
from queue_engine.store.calls import Scripts
from queue_engine.store.endpoint_index import is_indexed

HASH_CHARACTERS = 64
FIRST_TENANT = "default"
"""The tenant of the key that the operator configures."""
OPERATORS = ""
"""The tenant in the records of operators' keys. No tenant has this name."""
KEYS_PER_READ = 200


class Creation(StrEnum):
    """Result of storing a new key."""

    OK = "OK"
    PAST = "PAST"
    """The key would have expired already."""
    FULL = "FULL"
    """The tenant has its maximum number of keys."""
    REFUSED = "REFUSED"
    """The maker's key has ended."""


class Rotation(StrEnum):
    """Result of replacing a key."""

    OK = "OK"
    ROTATED = "ROTATED"
    """The key has been rotated before."""
    FULL = "FULL"
    NOT_FOUND = "GONE"
    REFUSED = "REFUSED"
    """The maker's key has ended."""


@dataclass(frozen=True)
class KeyPage:
    """A page of a tenant's keys."""

    keys: Sequence[ApiKey]
    total: int


def hash_of(api_key: str) -> str:
    """Return the SHA-256 of a key in hexadecimal. Keys are random, so a slow hash would not add security."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def id_of(api_key: str) -> str:
    """Return the id by which a key is shown and found."""
    return hash_of(api_key)[:KEY_ID_CHARACTERS]


class ApiKeyStore:
    """The API keys of all tenants."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def put(self, api_key: str, *, tenant: str, name: str) -> ApiKey | None:
        """Make `api_key` valid for `tenant`, and return it as stored. A key that already exists is not changed.

        Return None when the key was revoked or is limited: it stays so.
        """
        key_hash = hash_of(api_key)
        stored = await self._scripts.put_api_key(
            api_key=keys.api_key(key_hash),
            api_keys=keys.API_KEYS,
            revoked=keys.REVOKED_API_KEYS,
            configured=keys.CONFIGURED_API_KEYS,
            tenants=keys.TENANTS,
            tenant_keys=keys.api_keys_of(tenant),
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
        if stored is None and (limited := await self.find(hash_of(api_key))) is not None:
            return (
                f"the first API key (QUEUE_ENGINE_API_KEY) is a key with the role {limited.role} or with other limits "
                "already and is not changed. `queue-engine keys create` makes another key"
            )
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

    async def create(self, api_key: str, tenant: str, grant: Grant, maker: Principal | None = None) -> Creation:
        """Store the new random key `api_key`. An operator's key has the tenant OPERATORS. Safe to repeat.

        `maker` is the principal of the request, whose key must still be valid; None on the command line.
        """
        key_hash = hash_of(api_key)

        async def attempt() -> Creation:
            reply = await self._scripts.create_api_key(
                api_key=keys.api_key(key_hash),
                api_keys=keys.API_KEYS,
                revoked=keys.REVOKED_API_KEYS,
                tenants=keys.TENANTS,
                tenant_keys=keys.api_keys_of(tenant),
                key_hash=key_hash,
                tenant=tenant,
                is_limited=grant.is_limited,
                expires_ms=grant.expires_at_ms,
                max_keys=MAX_KEYS_PER_TENANT,
                **_maker_arguments(maker),
                fields=_fields_of(grant),
            )
            return Creation(reply.word)

        result = await attempt()
        return await attempt() if result is Creation.FULL and await self._tidy(tenant) else result

    async def rotate(self, key: ApiKey, new_key: str, *, overlap_ms: int, maker: Principal | None = None) -> Rotation:
        """Replace `key` by `new_key`, which has the same rights and the same end. Safe to repeat with the same keys.

        The old key stays valid for `overlap_ms`, and not beyond its own end. `maker` is as in `create`.
        """
        new_hash = hash_of(new_key)

        async def attempt() -> Rotation:
            reply = await self._scripts.rotate_api_key(
                api_key=keys.api_key(key.key_hash),
                new_key=keys.api_key(new_hash),
                api_keys=keys.API_KEYS,
                revoked=keys.REVOKED_API_KEYS,
                tenant_keys=keys.api_keys_of(key.tenant),
                key_hash=key.key_hash,
                new_hash=new_hash,
                tenant=key.tenant,
                origin=key.key_id,
                overlap_ms=overlap_ms,
                max_keys=MAX_KEYS_PER_TENANT,
                **_maker_arguments(maker),
            )
            return Rotation(reply.word)

        result = await attempt()
        return await attempt() if result is Rotation.FULL and await self._tidy(key.tenant) else result

    async def find(self, key_hash: str) -> ApiKey | None:
        """Return the key with this hash; None when it is unknown, revoked or has expired."""
        return _key_from(key_hash, await self._redis.hgetall(keys.api_key(key_hash)))  # type: ignore[misc]

    async def find_all(self, hashes: Sequence[str]) -> dict[str, ApiKey | None]:
        """Return the keys with these hashes in one call, as `find` does for one."""
        if not hashes:
            return {}
        pipeline = self._redis.pipeline(transaction=False)
        for key_hash in hashes:
            pipeline.hgetall(keys.api_key(key_hash))
        records = await pipeline.execute()
        return {key_hash: _key_from(key_hash, record) for key_hash, record in zip(hashes, records, strict=True)}

    async def note_use(self, key_hash: str) -> None:
        """Record that the key is in use, at most once a minute."""
        await self._scripts.use_api_key(api_key=keys.api_key(key_hash))

    async def all(self) -> list[ApiKey]:
        """Return all keys of all tenants, oldest first. Reads all keys."""
        found = [key async for page in self._pages() for key in page]
        return sorted(found, key=lambda key: key.created_at_ms)

    async def page_of(self, tenant: str, *, page: int, size: int) -> KeyPage:
        """Return page number `page` (1 for the first) of the tenant's keys, newest first."""
        index = keys.api_keys_of(tenant)
        while True:
            hashes = await self._redis.zrevrange(index, (page - 1) * size, page * size - 1)
            found = await self.find_all([key_hash.decode() for key_hash in hashes])
            if None not in found.values():
                return KeyPage([key for key in found.values() if key], await self._redis.zcard(index))
            await self._forget(tenant, [key_hash for key_hash, key in found.items() if key is None])

    async def find_of(self, tenant: str, key_id: str) -> ApiKey | None:
        """Return the tenant's key with this id; None when there is none."""
        hashes = await self._redis.zrange(keys.api_keys_of(tenant), 0, -1)
        for key_hash in hashes:
            if key_hash.decode().startswith(key_id):
                return await self.find(key_hash.decode())
        return None

    async def revoke(self, key_hash_prefix: str) -> list[ApiKey]:
        """Revoke the keys whose hash starts with `key_hash_prefix` permanently, and return them. Reads all keys.

        A complete hash also revokes a valid key that is missing in the list, which an older version could leave. Safe
        to repeat after an interruption.
        """
        found = [key for key in await self.all() if key.key_hash.startswith(key_hash_prefix)]
        if not found and len(key_hash_prefix) == HASH_CHARACTERS and (stray := await self.find(key_hash_prefix)):
            found = [stray]
        for key in found:
            await self.revoke_key(key)
        return found

    async def revoke_key(self, key: ApiKey) -> None:
        """Revoke a key permanently. Safe to repeat."""
        await self._scripts.revoke_api_key(
            api_key=keys.api_key(key.key_hash),
            api_keys=keys.API_KEYS,
            revoked=keys.REVOKED_API_KEYS,
            ended=keys.ended_api_keys_of(key.tenant),
            configured=keys.CONFIGURED_API_KEYS,
            tenant_keys=keys.api_keys_of(key.tenant),
            key_hash=key.key_hash,
        )

    async def index_keys(self) -> None:
        """Add the keys that an older version has stored to the indexes of tenants and of each tenant's keys.

        Reads all keys, unless that has been done since the data has a format whose processes write the indexes. Safe to
        repeat.
        """
        found, done = await self._redis.hmget(keys.META, [keys.FORMAT, keys.KEYS_INDEXED])  # type: ignore[misc]
        if done:
            return
        await self._index_keys()
        if is_indexed(found):
            await self._redis.hset(keys.META, keys.KEYS_INDEXED, "1")  # type: ignore[misc]

    async def _index_keys(self) -> None:
        async for page in self._pages():
            pipeline = self._redis.pipeline(transaction=False)
            for key in page:
                pipeline.zadd(keys.api_keys_of(key.tenant), {key.key_hash: key.created_at_ms})
                if key.tenant != OPERATORS:
                    pipeline.sadd(keys.TENANTS, key.tenant)
            await pipeline.execute()

    async def has_one_tenant(self) -> bool:
        """Return True if there was never a second tenant.

        A tenant without a valid key counts too, because its endpoints keep running.
        """
        return int(await self._redis.scard(keys.TENANTS)) <= 1  # type: ignore[misc]

    async def _pages(self) -> AsyncIterator[list[ApiKey]]:
        """Yield all keys in pages. A key may be in more than one page while keys are added and removed."""
        cursor, seen = 0, set[str]()
        while True:
            cursor, hashes = await self._redis.sscan(keys.API_KEYS, cursor, count=KEYS_PER_READ)
            fresh = [name for key_hash in hashes if (name := key_hash.decode()) not in seen]
            seen.update(fresh)
            yield [key for key in (await self.find_all(fresh)).values() if key is not None]
            if not int(cursor):
                return

    async def _tidy(self, tenant: str) -> bool:
        """Remove the tenant's expired keys from the indexes. Return True if there were any."""
        hashes = await self._redis.zrange(keys.api_keys_of(tenant), 0, -1)
        found = await self.find_all([key_hash.decode() for key_hash in hashes])
        ended = [key_hash for key_hash, key in found.items() if key is None]
        if ended:
            await self._forget(tenant, ended)
        return bool(ended)

    async def _forget(self, tenant: str, ended: Sequence[str]) -> None:
        """Remove keys without a record from the indexes."""
        await self._scripts.forget_api_keys(
            api_keys=keys.API_KEYS,
            revoked=keys.REVOKED_API_KEYS,
            ended=keys.ended_api_keys_of(tenant),
            configured=keys.CONFIGURED_API_KEYS,
            tenant_keys=keys.api_keys_of(tenant),
            key_hashes=ended,
        )


def _maker_arguments(maker: Principal | None) -> dict[str, Any]:
    """Return the arguments by which a script checks the key of the request."""
    if maker is None:
        return {"makers": [], "maker_role": "", "maker_endpoints": ""}
    return {
        "makers": [keys.api_key(maker.key_hash)],
        "maker_role": str(maker.role),
        "maker_endpoints": "" if maker.endpoints is None else _endpoints_text(maker.endpoints),
    }


def _endpoints_text(endpoints: AbstractSet[str]) -> str:
    return ",".join(sorted(endpoints, key=int))


def _fields_of(grant: Grant) -> dict[str, str]:
    """Return the fields of a new key. A field that is left out has its default."""
    fields = {"name": grant.name}
    if grant.role is not Role.ADMIN:
        fields["role"] = grant.role.value
    if grant.endpoints is not None:
        fields["endpoints"] = _endpoints_text(grant.endpoints)
    if grant.max_submits_per_second is not None:
        fields["submits"] = str(grant.max_submits_per_second)
    if grant.bucket is not None:
        fields["bucket"] = grant.bucket
    return fields


def _key_from(key_hash: str, record: Mapping[bytes, bytes]) -> ApiKey | None:
    """Return the key of a record. The field `owner` has precedence, because only a limited key has it."""
    fields = {name.decode(): value.decode() for name, value in record.items()}
    tenant = fields.get("owner", fields.get("tenant"))
    if tenant is None:
        return None
    endpoints = fields.get("endpoints")
    return ApiKey(
        key_hash,
        tenant,
        fields.get("name", ""),
        int(fields.get("created", 0)),
        role=role_in(fields.get("role", Role.ADMIN)),
        endpoints=None if endpoints is None else frozenset(endpoints.split(",")),
        expires_at_ms=int(fields["expires"]) if "expires" in fields else None,
        last_used_at_ms=int(fields["used"]) if "used" in fields else None,
        origin=fields.get("origin"),
        is_replaced="replaced" in fields,
        max_submits_per_second=int(fields["submits"]) if "submits" in fields else None,
        bucket=fields.get("bucket"),
    )
