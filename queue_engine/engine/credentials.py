"""Create, read, change and delete credentials for registries."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.audit import Action, credential_target
from queue_engine.domain.credentials import Credential, RegistryAuth, RegistryType
from queue_engine.domain.errors import NotFound, Resource, StateConflict
from queue_engine.domain.field_errors import FieldError, raise_for
from queue_engine.domain.principals import Principal
from queue_engine.domain.tenants import Limit
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import from_store
from queue_engine.engine.secret_fields import secret_errors
from queue_engine.engine.tenant_limits import Reached, TenantLimits
from queue_engine.store.credentials import CredentialLimitReached, CredentialStore, Deletion

T = TypeVar("T")


class Credentials:
    """The credentials of each tenant.

    Each use case raises StoreUnavailable. Use cases that take an id also raise NotFound.
    """

    def __init__(self, credentials: CredentialStore, sealer: Sealer, limits: TenantLimits, audit: Audit) -> None:
        self._credentials = credentials
        self._sealer = sealer
        self._limits = limits
        self._audit = audit

    async def all(self, principal: Principal) -> list[Credential]:
        """Return the tenant's credentials, newest first."""
        return await from_store(self._credentials.of_tenant(principal.tenant))

    async def get(self, principal: Principal, credential_id: int) -> Credential:
        return _found(await from_store(self._credentials.get(principal.tenant, credential_id)))

    async def create(self, principal: Principal, name: str, kind: RegistryType, auth: RegistryAuth) -> Credential:
        """Store a credential. Raises InvalidRequest, and QuotaReached at the tenant's limit of credentials."""
        raise_for(self.creation_errors())
        limit = (await self._limits.of(principal.tenant))[Limit.CREDENTIALS] or 0
        credential_id = await from_store(self._credentials.new_id())
        call = self._credentials.create(principal.tenant, name, kind, auth, credential_id, limit=limit)
        try:
            created = await self._change(principal, Action.CREATE_CREDENTIAL, credential_id, call)
        except CredentialLimitReached:
            raise Reached(Limit.CREDENTIALS, limit).error() from None
        await self._note(principal, Action.CREATE_CREDENTIAL, created.credential_id)
        return created

    def creation_errors(self) -> list[FieldError]:
        """Return the errors that every new credential has on this server. `create` raises them."""
        return secret_errors(self._sealer, "password")

    async def update(
        self,
        principal: Principal,
        credential_id: int,
        *,
        name: str | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> Credential:
        """Change the values that are not None. Workers that start later use the new values. Raises InvalidRequest."""
        raise_for(self.change_errors(username, password))
        call = self._credentials.update(
            principal.tenant, credential_id, name=name, username=username, password=password
        )
        changed = _found(await self._change(principal, Action.UPDATE_CREDENTIAL, credential_id, call))
        await self._note(principal, Action.UPDATE_CREDENTIAL, credential_id)
        return changed

    def change_errors(self, username: str | None, password: str | None) -> list[FieldError]:
        """Return the errors that well-formed changes have on this server. `update` raises them."""
        secret = "username" if username is not None else None if password is None else "password"
        return secret_errors(self._sealer, secret)

    async def delete(self, principal: Principal, credential_id: int) -> None:
        """Delete the credential. Raises StateConflict while an endpoint uses it."""
        call = self._credentials.delete(principal.tenant, credential_id)
        match await self._change(principal, Action.DELETE_CREDENTIAL, credential_id, call):
            case Deletion.NOT_FOUND:
                raise NotFound(Resource.CREDENTIAL)
            case Deletion.IN_USE:
                raise StateConflict("the credential is used by an endpoint")
            case Deletion.OK:
                await self._note(principal, Action.DELETE_CREDENTIAL, credential_id)

    async def _change(self, principal: Principal, action: Action, credential_id: int, call: Awaitable[T]) -> T:
        return await self._audit.change(principal, action, credential_target(credential_id), call)

    async def _note(self, principal: Principal, action: Action, credential_id: int) -> None:
        await self._audit.note(principal, action, credential_target(credential_id))


def _found(credential: Credential | None) -> Credential:
    if credential is None:
        raise NotFound(Resource.CREDENTIAL)
    return credential
