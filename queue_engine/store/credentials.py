"""Credentials for container registries. User name and password are stored sealed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from redis.asyncio import Redis

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.credentials import Credential, RegistryAuth, RegistryType
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.ids import is_credential_id
from queue_engine.store import keys
from queue_engine.store.calls import Scripts
from queue_engine.store.resealing import Resealed, worst

SECRETS = ("username", "password")
"""The sealed fields. Each is sealed separately."""
_PUBLIC = ["tenant", "name", "type", "created"]


class Deletion(StrEnum):
    """Result of deleting a credential."""

    OK = "OK"
    NOT_FOUND = "NOT_FOUND"
    IN_USE = "IN_USE"


class CredentialLimitReached(Exception):
    """The tenant has as many credentials as it may have."""


class Endpoints(Protocol):
    """The endpoints of a tenant, to find those that use a credential."""

    async def of_tenant(self, tenant: str) -> list[Endpoint]: ...


class CredentialStore:
    """Registry credentials by tenant. Every method may be called again after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, sealer: Sealer, endpoints: Endpoints) -> None:
        self._redis = redis
        self._scripts = scripts
        self._sealer = sealer
        self._endpoints = endpoints

    async def new_id(self) -> int:
        """Return an id that no credential has."""
        return int(await self._redis.incr(keys.CREDENTIAL_IDS))

    async def create(
        self,
        tenant: str,
        name: str,
        kind: RegistryType,
        auth: RegistryAuth,
        credential_id: int | None = None,
        *,
        limit: int = 0,
    ) -> Credential:
        """Store a new credential.

        `credential_id` is an id from `new_id`; without it a new id is assigned. Raises SecretKeyMissing when there
        is no key to seal it with, and CredentialLimitReached when the tenant has `limit` credentials. 0 means no limit.
        """
        if not self._sealer.has_key:
            raise SecretKeyMissing
        credential_id = credential_id or await self.new_id()
        fields = {"tenant": tenant, "name": name, "type": kind.value}
        secrets = self._sealed(tenant, credential_id, {"username": auth.username, "password": auth.password})
        reply = await self._scripts.create_credential(
            credential=keys.credential(credential_id),
            credentials=keys.credentials_of(tenant),
            credential_id=credential_id,
            max_credentials=limit,
            fields=fields | secrets,
        )
        if reply.word == "FULL":
            raise CredentialLimitReached
        return Credential(credential_id, tenant, name, kind, reply.created_ms)

    async def update(
        self,
        tenant: str,
        credential_id: int,
        *,
        name: str | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> Credential | None:
        """Change the values that are not None. Return None when the tenant has no such credential.

        Running workers are not affected; workers that start later use the new values. Raises SecretKeyMissing.
        """
        if not is_credential_id(credential_id):
            return None
        given = {"username": username, "password": password}
        fields = self._sealed(tenant, credential_id, {key: value for key, value in given.items() if value is not None})
        if name is not None:
            fields["name"] = name
        key = keys.credential(credential_id)
        reply = await self._scripts.update_credential(credential=key, tenant=tenant, fields=fields)
        return await self.get(tenant, credential_id) if reply.word == "OK" else None

    async def get(self, tenant: str, credential_id: int) -> Credential | None:
        """Return the credential; None when it does not exist or belongs to another tenant."""
        if not is_credential_id(credential_id):
            return None
        record = await self._redis.hmget(keys.credential(credential_id), _PUBLIC)  # type: ignore[misc]
        owner, name, kind, created = (value.decode() if value is not None else "" for value in record)
        if owner != tenant or not created:
            return None
        return Credential(credential_id, tenant, name, RegistryType(kind), int(created))

    async def of_tenant(self, tenant: str) -> list[Credential]:
        """Return the tenant's credentials, newest first."""
        ids = await self._redis.zrevrange(keys.credentials_of(tenant), 0, -1)
        found = await asyncio.gather(*(self.get(tenant, int(credential_id)) for credential_id in ids))
        return [credential for credential in found if credential is not None]

    async def open(self, tenant: str, credential_id: int) -> RegistryAuth | None:
        """Return the user name and the password in clear text; None when the tenant has no such credential.

        Raises SecretKeyMissing or SealBroken.
        """
        record = await self._redis.hmget(keys.credential(credential_id), ["tenant", *SECRETS])  # type: ignore[misc]
        owner, *sealed = (value.decode() if value is not None else "" for value in record)
        if owner != tenant:
            return None
        username, password = (
            self._sealer.open(text, seal_context(tenant, credential_id, secret)).decode()
            for secret, text in zip(SECRETS, sealed, strict=True)
        )
        return RegistryAuth(username, password)

    async def use(self, tenant: str, credential_id: int, endpoint_id: str) -> bool:
        """Note that the endpoint is about to use the credential. Return False when the tenant has no such credential.

        Call this before the endpoint is stored. For USE_GRACE_MS the note alone prevents the deletion of the
        credential. After that time the stored endpoint does, for as long as it uses the credential.
        """
        if not is_credential_id(credential_id):
            return False
        reply = await self._scripts.use_credential(
            credential=keys.credential(credential_id),
            users=keys.credential_users(credential_id),
            tenant=tenant,
            endpoint_id=endpoint_id,
        )
        return reply.word == "OK"

    async def release(self, credential_id: int, endpoint_id: str) -> None:
        """Remove the note that the endpoint uses the credential."""
        await self._scripts.release_credential(users=keys.credential_users(credential_id), endpoint_id=endpoint_id)

    async def delete(self, tenant: str, credential_id: int) -> Deletion:
        """Remove the credential, unless an endpoint of the tenant uses it or is about to use it."""
        if await self.get(tenant, credential_id) is None:
            return Deletion.NOT_FOUND
        # The stored endpoints decide. The notes cover the time until an endpoint is stored: when `use` is called
        # after this check, the script finds a recent note.
        if any(one.config.credential_id == credential_id for one in await self._endpoints.of_tenant(tenant)):
            return Deletion.IN_USE
        reply = await self._scripts.delete_credential(
            credential=keys.credential(credential_id),
            users=keys.credential_users(credential_id),
            credentials=keys.credentials_of(tenant),
            tenant=tenant,
            credential_id=credential_id,
        )
        # The credential existed a moment ago. If it is missing now, this call may have removed it and lost the reply.
        return Deletion.OK if reply.word == "NOT_FOUND" else Deletion(reply.word)

    async def last_id(self) -> int:
        """Return the highest id that was assigned; 0 before the first."""
        return int(await self._redis.get(keys.CREDENTIAL_IDS) or 0)

    async def reseal(self, credential_id: int) -> Resealed | None:
        """Seal user name and password with the current key, unless they already are. None without such a credential."""
        results = [await self._reseal(credential_id, secret) for secret in SECRETS]
        return None if None in results else worst(result for result in results if result)

    async def _reseal(self, credential_id: int, secret: str) -> Resealed | None:
        key = keys.credential(credential_id)
        while True:
            tenant, sealed = await self._redis.hmget(key, ["tenant", secret])  # type: ignore[misc]
            if tenant is None or sealed is None:
                return None
            context = seal_context(tenant.decode(), credential_id, secret)
            try:
                renewed = self._sealer.resealed(sealed.decode(), context)
            except SealBroken:
                return Resealed.UNREADABLE
            if renewed == sealed.decode():
                return Resealed.CURRENT
            reply = await self._scripts.reseal_field(
                record=key, field=secret, before=sealed.decode(), after=renewed, has_version=False
            )
            if reply.word == "OK":
                return Resealed.RESEALED

    def _sealed(self, tenant: str, credential_id: int, secrets: Mapping[str, str]) -> dict[str, str]:
        return {
            name: self._sealer.seal(secret.encode(), seal_context(tenant, credential_id, name))
            for name, secret in secrets.items()
        }


def seal_context(tenant: str, credential_id: int, secret: str) -> str:
    """Return the context that a secret is sealed with, so that sealed secrets cannot be swapped in the store."""
    return f"credential:{tenant}:{credential_id}:{secret}"
