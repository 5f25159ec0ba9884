"""Create, list, rotate and revoke the API keys of a tenant.

No principal makes a key with more rights, more endpoints or a later end than its own key has. A key for some endpoints
sees and revokes only keys whose rights and endpoints are a part of its own.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.domain.api_keys import (
    MAX_KEYS_PER_TENANT,
    ApiKey,
    Grant,
    has_access_of,
    lives_as_long_as,
    submits_as_slowly_as,
)
from queue_engine.domain.audit import Action, key_target, rotation_target
from queue_engine.domain.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaReached,
    Resource,
    StateConflict,
    StoreUnavailable,
    Unauthorized,
)
from queue_engine.domain.field_errors import FieldError, raise_for
from queue_engine.domain.principals import Principal
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import from_store
from queue_engine.store.api_keys import ApiKeyStore, Creation, KeyPage, Rotation, hash_of, id_of
from queue_engine.store.endpoints import EndpointStore

_OTHER_LIMIT: FieldError = ("maxSubmitsPerSecond", "must be left out, or be the limit of your key, which both share")
_TOO_LATE: FieldError = ("expiresAt", "must not be after the end of your key")


@dataclass(frozen=True)
class NewKey:
    """A key that was just created. The key itself is not stored, so it cannot be read again."""

    stored: ApiKey
    secret: str


class Keys:
    """The API keys of each tenant.

    Each use case raises StoreUnavailable. Use cases that take a key's id also raise NotFound.
    """

    def __init__(self, keys: ApiKeyStore, endpoints: EndpointStore, audit: Audit) -> None:
        self._keys = keys
        self._endpoints = endpoints
        self._audit = audit

    async def page(self, principal: Principal, *, page: int, size: int) -> KeyPage:
        """Return page number `page` (1 for the first) of the keys that the principal may manage, newest first."""
        if principal.endpoints is None:
            return await from_store(self._keys.page_of(principal.tenant, page=page, size=size))
        every = await from_store(self._keys.page_of(principal.tenant, page=1, size=MAX_KEYS_PER_TENANT))
        own = [key for key in every.keys if has_access_of(principal, key)]
        return KeyPage(own[(page - 1) * size : page * size], len(own))

    async def create(self, principal: Principal, grant: Grant) -> NewKey:
        """Create a key. Endpoints, end and limit that `grant` does not have are those of the principal's key.

        A limit of submissions is shared, so that a key cannot have its limit once more by making another key.

        Raises InvalidRequest, Forbidden, QuotaReached, and Unauthorized if the principal's key has ended since.
        """
        granted = _inherited(principal, grant)
        raise_for(await self._field_errors(principal, granted))
        if not has_access_of(principal, granted):
            raise Forbidden("no key makes a key with more rights than its own")
        secret = new_api_key()
        target = key_target(id_of(secret))
        call = self._keys.create(secret, principal.tenant, granted, principal)
        match await self._audit.change(principal, Action.CREATE_KEY, target, call):
            case Creation.REFUSED:
                raise Unauthorized
            case Creation.PAST:
                raise InvalidRequest("expiresAt", "must be in the future")
            case Creation.FULL:
                raise _full()
        await self._audit.note(principal, Action.CREATE_KEY, target)
        expected = ApiKey(
            hash_of(secret),
            principal.tenant,
            granted.name,
            _now_ms(),
            role=granted.role,
            endpoints=granted.endpoints,
            expires_at_ms=granted.expires_at_ms,
            max_submits_per_second=granted.max_submits_per_second,
            bucket=granted.bucket,
        )
        return NewKey(await self._stored(expected), secret)

    async def rotate(self, principal: Principal, key_id: str, *, overlap_seconds: int) -> NewKey:
        """Replace a key by a new one with the same rights and the same end. The old key ends after the overlap.

        Raises Forbidden for a key that lives longer than the principal's, StateConflict, QuotaReached, and Unauthorized
        if the principal's key has ended since.
        """
        key = await self._find(principal, key_id)
        _check_may_replace(principal, key)
        secret = new_api_key()
        target = rotation_target(key_id, id_of(secret))
        call = self._keys.rotate(key, secret, overlap_ms=overlap_seconds * 1000, maker=principal)
        match await self._audit.change(principal, Action.ROTATE_KEY, target, call):
            case Rotation.REFUSED:
                raise Unauthorized
            case Rotation.NOT_FOUND:
                raise NotFound(Resource.KEY)
            case Rotation.ROTATED:
                raise StateConflict("the key has been rotated before; rotate the key that replaces it")
            case Rotation.FULL:
                raise _full()
        await self._audit.note(principal, Action.ROTATE_KEY, target)
        expected = replace(
            key,
            key_hash=hash_of(secret),
            created_at_ms=_now_ms(),
            last_used_at_ms=None,
            origin=key.origin or key.key_id,
        )
        return NewKey(await self._stored(expected), secret)

    async def revoke(self, principal: Principal, key_id: str) -> None:
        """Revoke a key permanently. All processes refuse it within two seconds."""
        target, call = key_target(key_id), self._keys.revoke_key(await self._find(principal, key_id))
        await self._audit.change(principal, Action.REVOKE_KEY, target, call)
        await self._audit.note(principal, Action.REVOKE_KEY, target)

    async def _field_errors(self, principal: Principal, granted: Grant) -> list[FieldError]:
        """Return the errors of well-formed fields that the principal may not grant."""
        errors = [] if lives_as_long_as(principal, granted) else [_TOO_LATE]
        own_limit = principal.max_submits_per_second
        errors += [] if own_limit in (None, granted.max_submits_per_second) else [_OTHER_LIMIT]
        ids = sorted(granted.endpoints or (), key=int)
        found = await asyncio.gather(*(self._is_visible(principal, endpoint_id) for endpoint_id in ids))
        unknown = [endpoint_id for endpoint_id, is_visible in zip(ids, found, strict=True) if not is_visible]
        return errors + [("endpoints", f"unknown endpoint {endpoint_id}") for endpoint_id in unknown]

    async def _find(self, principal: Principal, key_id: str) -> ApiKey:
        key = await from_store(self._keys.find_of(principal.tenant, key_id))
        if key is None or not has_access_of(principal, key):
            raise NotFound(Resource.KEY)
        return key

    async def _stored(self, expected: ApiKey) -> ApiKey:
        """Return the new key as stored; `expected` if it cannot be read, because only this response has the secret."""
        try:
            key = await from_store(self._keys.find(expected.key_hash))
        except StoreUnavailable:
            return expected
        if key is None:
            raise NotFound(Resource.KEY)
        return key

    async def _is_visible(self, principal: Principal, endpoint_id: str) -> bool:
        if not principal.sees_endpoint(endpoint_id):
            return False
        return await from_store(self._endpoints.get(endpoint_id, principal.tenant)) is not None


def _check_may_replace(principal: Principal, key: ApiKey) -> None:
    """Raise StateConflict or Forbidden if a new key with the properties of `key` could allow more than the own one."""
    if not key.has_known_role:
        raise StateConflict(f"the key has the role {key.role}, which this version does not know")
    if not lives_as_long_as(principal, key):
        raise Forbidden("no key makes a key that lives longer than itself")
    if not submits_as_slowly_as(principal, key):
        raise Forbidden("no key makes a key that may submit more per second than itself")


def _inherited(principal: Principal, grant: Grant) -> Grant:
    """Return `grant` with the limits of the own key where it has none, and with the bucket of a shared limit."""
    return replace(
        grant,
        endpoints=principal.endpoints if grant.endpoints is None else grant.endpoints,
        expires_at_ms=principal.expires_at_ms if grant.expires_at_ms is None else grant.expires_at_ms,
        max_submits_per_second=(
            principal.max_submits_per_second if grant.max_submits_per_second is None else grant.max_submits_per_second
        ),
        bucket=None if principal.max_submits_per_second is None else principal.bucket_id,
    )


def _now_ms() -> int:
    """Return the time on the clock of this process, for a key whose time on the store's clock cannot be read."""
    return int(time.time() * 1000)


def _full() -> QuotaReached:
    return QuotaReached(f"keys: a tenant has at most {MAX_KEYS_PER_TENANT}", limit="keys")
