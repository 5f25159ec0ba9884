"""Create tenants, and set their limits: the use cases of operators."""

from __future__ import annotations

from collections.abc import Mapping

from queue_engine.domain.audit import Action, tenant_target
from queue_engine.domain.errors import NotFound, Resource, StateConflict
from queue_engine.domain.principals import Principal
from queue_engine.domain.tenants import Limit, LimitValues, Tenant
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.engine.tenant_limits import TenantLimits
from queue_engine.store.tenants import TenantPage, TenantStore


class Tenants:
    """All tenants, without their data. Each use case raises StoreUnavailable."""

    def __init__(self, tenants: TenantStore, limits: TenantLimits, audit: Audit) -> None:
        self._tenants = tenants
        self._limits = limits
        self._audit = audit

    def limits_of(self, tenant: Tenant) -> LimitValues:
        """Return the limits that apply to the tenant."""
        return tenant.limits(self._limits.defaults)

    async def page(self, *, page: int, size: int) -> TenantPage:
        """Return page number `page` (1 for the first) of the tenants, by name."""
        return await from_store(self._tenants.page(page=page, size=size))

    async def get(self, name: str) -> Tenant:
        """Return the tenant. Raises NotFound."""
        return await found_in_store(self._tenants.get(name), Resource.TENANT)

    async def create(self, principal: Principal, name: str, limits: Mapping[Limit, int | None]) -> Tenant:
        """Create a tenant with these limits. Raises StateConflict if it exists."""
        target, call = tenant_target(name), self._tenants.create(name, limits)
        if not await self._audit.change(principal, Action.CREATE_TENANT, target, call, tenant=name):
            raise StateConflict("name: there is a tenant with this name")
        await self._audit.note(principal, Action.CREATE_TENANT, target, tenant=name)
        return await self.get(name)

    async def set_limits(self, principal: Principal, name: str, limits: Mapping[Limit, int | None]) -> Tenant:
        """Set these limits; None restores the default. Raises NotFound."""
        target, call = tenant_target(name), self._tenants.set_limits(name, limits)
        if not await self._audit.change(principal, Action.SET_TENANT_LIMITS, target, call, tenant=name):
            raise NotFound(Resource.TENANT)
        self._limits.forget(name)
        if limits:
            await self._audit.note(principal, Action.SET_TENANT_LIMITS, target, tenant=name)
        return await self.get(name)
