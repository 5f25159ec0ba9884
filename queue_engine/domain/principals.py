"""Principals: holders of API keys. Each call is made for a principal.

A key has a role, a role has rights, and each call needs one right. ROLE_RIGHTS is the only table of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from types import MappingProxyType


class Right(StrEnum):
    """The permission that a call needs."""

    IDENTIFY = "identify"
    """Read the own key's data."""
    VIEW = "view"
    """Read endpoints, workers, logs, and all tasks."""
    VIEW_TENANT = "view_tenant"
    """Read data that belongs to no single endpoint, such as the list of credentials."""
    VIEW_TASK = "view_task"
    """Read a task by its id. A key with the role `submit` reads only the tasks that it has submitted."""
    SUBMIT = "submit"
    """Submit tasks, and send requests to ALB endpoints."""
    CANCEL = "cancel"
    """Cancel tasks. A key with the role `submit` cancels only the tasks that it has submitted."""
    OPERATE = "operate"
    """Retry tasks and deliveries; scale, start and stop endpoints."""
    MANAGE = "manage"
    """Change and delete endpoints, delete tasks, read and rotate signing secrets, and manage keys."""
    MANAGE_TENANT = "manage_tenant"
    """Create endpoints, manage credentials, and read the audit log."""
    MANAGE_TENANTS = "manage_tenants"
    """Create tenants, and set their limits."""


class Role(StrEnum):
    """The calls that a key allows."""

    READ = "read"
    """Read all data of the tenant except secrets, keys and the audit log."""
    SUBMIT = "submit"
    """Submit tasks, send requests to ALB endpoints, and read and cancel the tasks that this key has submitted."""
    OPERATE = "operate"
    """Read, submit, cancel and retry; scale, start and stop endpoints."""
    ADMIN = "admin"
    """All calls inside one tenant."""
    OPERATOR = "operator"
    """Manage tenants, without access to their data. Such a key belongs to no tenant."""


TENANT_ROLES = tuple(role for role in Role if role is not Role.OPERATOR)
"""The roles of keys that belong to a tenant."""

_READ = {Right.IDENTIFY, Right.VIEW, Right.VIEW_TENANT, Right.VIEW_TASK}
_SUBMIT = {Right.IDENTIFY, Right.VIEW_TASK, Right.SUBMIT, Right.CANCEL}
_OPERATE = {*_READ, *_SUBMIT, Right.OPERATE}

ROLE_RIGHTS: Mapping[str, frozenset[Right]] = MappingProxyType(
    {
        Role.READ: frozenset(_READ),
        Role.SUBMIT: frozenset(_SUBMIT),
        Role.OPERATE: frozenset(_OPERATE),
        Role.ADMIN: frozenset({*_OPERATE, Right.MANAGE, Right.MANAGE_TENANT}),
        Role.OPERATOR: frozenset({Right.IDENTIFY, Right.MANAGE_TENANTS}),
    }
)
TENANT_WIDE = frozenset({Right.VIEW_TENANT, Right.MANAGE_TENANT})
"""Rights that a key with a list of endpoints does not have, because what they concern belongs to no endpoint."""


def role_in(text: str) -> str:
    """Return the role with this name. The name of a role that only a later version has stays text."""
    return Role(text) if text in ROLE_RIGHTS else text


def rights_of(role: str, endpoints: AbstractSet[str] | None) -> frozenset[Right]:
    """Return the rights of a key with this role and this list of endpoints; None means all endpoints.

    A role that only a later version has gives no rights.
    """
    rights = ROLE_RIGHTS.get(role, frozenset())
    return rights if endpoints is None else rights - TENANT_WIDE


@cache
def roles_with(right: Right) -> tuple[Role, ...]:
    """Return the roles that have a right, in the order of their definition."""
    return tuple(role for role in Role if right in ROLE_RIGHTS[role])


@dataclass(frozen=True)
class Principal:
    """The holder of a valid API key. Use cases show and change only data of the principal's tenant."""

    tenant: str
    """Empty for an operator's key."""
    role: str
    """A Role, or a role that only a later version has."""
    key_id: str
    """The id of the key, which is the beginning of its hash."""
    key_name: str = ""
    endpoints: frozenset[str] | None = None
    """The ids of the only endpoints that the key gives access to; None means all endpoints of the tenant."""
    expires_at_ms: int | None = None
    submitter: str = ""
    """The id by which tasks that this key has submitted are recognized. It stays the same when the key is rotated."""
    max_submits_per_second: int | None = None
    """Limit of submissions with the key; None means no limit."""
    bucket: str = ""
    """The bucket of this limit; empty for that of the key itself, which a rotated key keeps."""
    address: str = ""
    """The network address of the client, for the audit log."""
    key_hash: str = field(default="", compare=False, repr=False)
    """The hash of the key, by which scripts check that the key is still valid."""

    @property
    def bucket_id(self) -> str:
        """The name of the bucket of the key's limit of submissions."""
        return self.bucket or self.submitter or self.key_id

    @cached_property
    def rights(self) -> frozenset[Right]:
        return rights_of(self.role, self.endpoints)

    def sees_endpoint(self, endpoint_id: str) -> bool:
        """Return True if the key's list of endpoints has this endpoint. Does not compare tenants."""
        return self.endpoints is None or endpoint_id in self.endpoints

    @property
    def sees_only_own_tasks(self) -> bool:
        """True if the principal may only read the tasks that it has submitted."""
        return Right.VIEW not in self.rights
