"""Read the state of the installation: all of it for operators, and a tenant's part for its keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.system import SystemFacts, Warned, for_tenants, warnings_of
from queue_engine.domain.tenants import Limit
from queue_engine.engine.patience import from_store
from queue_engine.engine.refreshed import Refreshed
from queue_engine.engine.tenant_limits import TenantLimits

CACHE_SECONDS = 5.0
"""Time for which a process uses the facts that it has read, however many clients ask."""
_ALL = "all"


class Installation(Protocol):
    """The store, its servers and the processes that use it."""

    async def system_facts(self) -> SystemFacts: ...


@dataclass(frozen=True)
class SystemState:
    """The state of the installation, as far as a principal may see it."""

    warnings: Sequence[Warned]
    now_ms: int
    facts: SystemFacts | None
    """None for keys of tenants."""
    use: Mapping[Limit, tuple[int, int]] | None
    """Use and value of the tenant's limits; None for operators, and for keys that do not see the tenant."""


class System:
    """The state of the installation."""

    def __init__(
        self, installation: Installation, limits: TenantLimits, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._facts: Refreshed[SystemFacts] = Refreshed(
            lambda _: from_store(installation.system_facts()), CACHE_SECONDS, monotonic=monotonic
        )

    async def state(self, principal: Principal) -> SystemState:
        """Return the state. Raises StoreUnavailable."""
        facts = await self._facts.recent(_ALL)
        warnings = warnings_of(facts)
        if Right.MANAGE_TENANTS in principal.rights:
            return SystemState(warnings, facts.now_ms, facts, None)
        use = await self._limits.use_of(principal.tenant) if Right.VIEW_TENANT in principal.rights else None
        return SystemState(for_tenants(warnings), facts.now_ms, None, use)
