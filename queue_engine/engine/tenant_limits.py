"""The limits of tenants, and the admission of submissions by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from queue_engine.domain.errors import QuotaReached, RateLimitReached, StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.domain.rates import RateState
from queue_engine.domain.tenants import Limit, LimitValues
from queue_engine.engine.patience import from_store
from queue_engine.engine.refreshed import Refreshed
from queue_engine.store.tenants import TenantStore
from queue_engine.store.usage import Usage, UsageStore

REFRESH_SECONDS = 1.0
"""Age at which limits and use of a tenant that submits are read again, so that both apply within two seconds."""
MEMORY_REFRESH_SECONDS = 5.0
"""Age at which the store's `maxmemory` is read again. It changes only when an operator changes it."""
FULL_RETRY_SECONDS = 5
"""`Retry-After` of a tenant with too many waiting tasks or deliveries. An earlier retry would rarely succeed."""
STORED_RETRY_SECONDS = 60
"""`Retry-After` of a tenant with too many stored bytes, which fall as the retention of results ends."""


@dataclass(frozen=True)
class Reached:
    """A limit that a tenant has reached."""

    limit: Limit
    value: int
    retry_after_seconds: int | None = None

    def error(self, rule: str = "the tenant has at most") -> QuotaReached:
        """Return the error of the tenant."""
        message = f"{self.limit}: {rule} {self.value}"
        return QuotaReached(message, limit=self.limit, retry_after_seconds=self.retry_after_seconds)


@dataclass(frozen=True)
class _Standing:
    """The limits of a tenant that apply to submissions, and the quotas that it has reached."""

    submits_per_second: int = 0
    stored_bytes: Reached | None = None
    """Refuses everything that is stored: every submission too."""
    waiting_tasks: Reached | None = None
    """Refuses every submission."""
    waiting_deliveries: Reached | None = None
    """Refuses submissions with a webhook."""

    def refusal(self, *, has_webhook: bool) -> Reached | None:
        return self.stored_bytes or self.waiting_tasks or (self.waiting_deliveries if has_webhook else None)


def _no_room(standing: _Standing) -> Reached | None:
    return standing.stored_bytes


class StoreFacts(Protocol):
    """Facts of the store on which the default limit of stored bytes depends."""

    async def max_memory(self) -> int: ...

    async def has_one_tenant(self) -> bool: ...


class TenantLimits:
    """The limits of each tenant: those that an operator has set, and `defaults` for the others.

    Totals of a tenant are added up at most once a second in each process, so they may be exceeded by the submissions of
    two seconds. Limits and totals that cannot be read refuse nothing, so that an unavailable server of a cluster does
    not block work on the others.
    """

    def __init__(
        self,
        tenants: TenantStore,
        usage: UsageStore,
        facts: StoreFacts,
        defaults: LimitValues,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenants = tenants
        self._usage = usage
        self._facts = facts
        self.defaults = defaults
        self._standings = Refreshed(self._read, REFRESH_SECONDS, monotonic=monotonic)
        self._memory = Refreshed(lambda _: from_store(facts.max_memory()), MEMORY_REFRESH_SECONDS, monotonic=monotonic)

    async def of(self, tenant: str) -> LimitValues:
        """Return the limits of the tenant as stored now. Raises StoreUnavailable."""
        return {**self.defaults, **await from_store(self._tenants.overrides(tenant))}

    def forget(self, tenant: str) -> None:
        """Apply changed limits to the next submission in this process."""
        self._standings.forget(tenant)

    async def check_workers(self, tenant: str, wanted: int, *, before: int = 0) -> None:
        """Check that an endpoint may have `wanted` workers in place of `before`. Stopped endpoints count too.

        Fewer workers are always allowed. Raises QuotaReached.
        """
        if wanted <= before:
            return
        try:
            limits = await self.of(tenant)
        except StoreUnavailable:
            return
        of_endpoint, of_tenant = limits[Limit.WORKERS_PER_ENDPOINT] or 0, limits[Limit.WORKERS] or 0
        if of_endpoint and wanted > of_endpoint:
            raise Reached(Limit.WORKERS_PER_ENDPOINT, of_endpoint).error("an endpoint of the tenant has at most")
        if of_tenant and (await self._use(tenant)).workers - before + wanted > of_tenant:
            raise Reached(Limit.WORKERS, of_tenant).error()

    async def use_of(self, tenant: str) -> dict[Limit, tuple[int, int]]:
        """Return what the tenant uses and may use, for the limits whose use is summed up; 0: no limit.

        Raises StoreUnavailable if the limits cannot be read.
        """
        limits, use = await self.of(tenant), await self._use(tenant)
        return {
            Limit.WORKERS: (use.workers, limits[Limit.WORKERS] or 0),
            Limit.STORED_BYTES: (use.stored_bytes, await self._max_stored_bytes(limits)),
            Limit.WAITING_TASKS: (use.waiting_tasks, limits[Limit.WAITING_TASKS] or 0),
            Limit.WAITING_DELIVERIES: (use.waiting_deliveries, limits[Limit.WAITING_DELIVERIES] or 0),
        }

    async def check_room(self, tenant: str) -> None:
        """Check that the tenant may store more. Raises QuotaReached."""
        await self._check(tenant, _no_room)

    async def _check(self, tenant: str, refusal_of: Callable[[_Standing], Reached | None]) -> _Standing:
        """Return the standing of a tenant that has reached no quota, as `refusal_of` finds. Raises QuotaReached."""
        try:
            standing = self._standings.kept(tenant)
            if standing is None:
                standing = await from_store(self._standings.get(tenant))
            if refusal_of(standing):
                standing = await from_store(self._standings.recent(tenant))  # an old value must not refuse anything
        except StoreUnavailable:
            return _Standing()
        if refusal := refusal_of(standing):
            raise refusal.error()
        return standing

    async def admit_submission(
        self, principal: Principal, *, has_webhook: bool, is_repeated: bool = False
    ) -> Sequence[RateState]:
        """Return the rate limits of the principal's key and tenant that apply, after taking a token from each.

        Quotas do not apply to a repeated submission. Limits that are not set cost no call of the store. Raises
        RateLimitReached, QuotaReached, StoreUnavailable.
        """

        def refusal_of(found: _Standing) -> Reached | None:
            return None if is_repeated else found.refusal(has_webhook=has_webhook)

        standing = await self._check(principal.tenant, refusal_of)
        key_limit, tenant_limit = principal.max_submits_per_second or 0, standing.submits_per_second
        if not key_limit and not tenant_limit:
            return ()
        bucket, limits = principal.bucket_id, {"key_limit": key_limit, "tenant_limit": tenant_limit}
        taken = await from_store(self._tenants.take_submit(principal.tenant, bucket, **limits))
        if taken.refused_by is not None:
            raise RateLimitReached(taken.refused_by)
        return taken.states

    async def _read(self, tenant: str) -> _Standing:
        limits = await self.of(tenant)
        stored_bytes = await self._max_stored_bytes(limits)
        tasks, deliveries = limits[Limit.WAITING_TASKS] or 0, limits[Limit.WAITING_DELIVERIES] or 0
        submits = limits[Limit.SUBMITS_PER_SECOND] or 0
        if not (stored_bytes or tasks or deliveries):
            return _Standing(submits)
        use = await self._use(tenant)
        return _Standing(
            submits,
            _reached(Limit.STORED_BYTES, use.stored_bytes, stored_bytes, STORED_RETRY_SECONDS),
            _reached(Limit.WAITING_TASKS, use.waiting_tasks, tasks, FULL_RETRY_SECONDS),
            _reached(Limit.WAITING_DELIVERIES, use.waiting_deliveries, deliveries, FULL_RETRY_SECONDS),
        )

    async def _use(self, tenant: str) -> Usage:
        """Return the sums over the tenant's endpoints, without those that cannot be read."""
        total, pages = Usage(), self._usage.pages(tenant)
        with suppress(StoreUnavailable):
            while page := await from_store(anext(pages, None)):
                total += page
        return total

    async def _max_stored_bytes(self, limits: LimitValues) -> int:
        """Return the limit of stored bytes: by default half of the store's memory, so that one tenant cannot fill it.

        A single tenant has no limit by default. 0 means no limit, also while the store's memory is not known.
        """
        limit = limits[Limit.STORED_BYTES]
        if limit is not None:
            return limit
        try:
            if await from_store(self._facts.has_one_tenant()):
                return 0
            return await self._memory.get("") // 2
        except StoreUnavailable:
            return 0


def _reached(limit: Limit, used: int, value: int, retry_after_seconds: int) -> Reached | None:
    """Return the limit if the tenant uses `value` of something or more; None below it and without a limit."""
    return Reached(limit, value, retry_after_seconds) if value and used >= value else None
