"""Tenants and their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from redis.asyncio import Redis

from queue_engine.domain.rates import RateScope, RateState
from queue_engine.domain.tenants import Limit, Tenant
from queue_engine.store import keys
from queue_engine.store.call_ids import new_call_id
from queue_engine.store.calls import Scripts


@dataclass(frozen=True)
class TenantPage:
    """A page of the tenants."""

    tenants: Sequence[Tenant]
    total: int


@dataclass(frozen=True)
class TakenSubmit:
    """The rate limits of a submission by key and tenant after a token was taken, or the one that refuses it."""

    states: Sequence[RateState] = ()
    refused_by: RateState | None = None


class TenantStore:
    """The tenants: those that were created, and those that have or had an API key."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: keys.Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def create(self, name: str, limits: Mapping[Limit, int | None] = MappingProxyType({})) -> bool:
        """Create a tenant with these limits; None is the default. Return False if it exists.

        A repeated call after a lost reply has no further effect.
        """
        reply = await self._scripts.create_tenant(
            tenants=keys.TENANTS,
            tenant=keys.tenant(name),
            name=name,
            call_id=new_call_id(),
            limits={limit.value: value for limit, value in limits.items() if value is not None},
        )
        return reply.word == "OK"

    async def set_limits(self, name: str, limits: Mapping[Limit, int | None]) -> bool:
        """Set these limits; None restores the default. Return False if there is no such tenant. Safe to repeat."""
        if not limits:
            return await self.get(name) is not None
        fields = {limit.value: "" if value is None else str(value) for limit, value in limits.items()}
        reply = await self._scripts.set_tenant_limits(
            tenants=keys.TENANTS, tenant=keys.tenant(name), name=name, limits=fields
        )
        return reply.word == "OK"

    async def overrides(self, name: str) -> Mapping[Limit, int]:
        """Return the limits of the tenant that an operator has set; none for an unknown tenant."""
        return _overrides(await self._redis.hgetall(keys.tenant(name)))  # type: ignore[misc]

    async def take_submit(self, name: str, key_id: str, *, key_limit: int, tenant_limit: int) -> TakenSubmit:
        """Take a token for a submission from the buckets of an API key and its tenant. Limits are tokens per second.

        0 means no limit. Takes no token when one of the buckets is empty.
        """
        reply = await self._scripts.take_submit(
            rates=self._partitions.rates_of(name), key_id=key_id, key_limit=key_limit, tenant_limit=tenant_limit
        )
        if reply.word == "KEY":
            return TakenSubmit(refused_by=RateState(RateScope.KEY, key_limit, 0))
        if reply.word == "TENANT":
            return TakenSubmit(refused_by=RateState(RateScope.TENANT, tenant_limit, 0))
        states = (
            RateState(RateScope.KEY, key_limit, reply.key_left),
            RateState(RateScope.TENANT, tenant_limit, reply.tenant_left),
        )
        return TakenSubmit(tuple(state for state in states if state.per_second))

    async def get(self, name: str) -> Tenant | None:
        """Return the tenant, or None."""
        if not await self._redis.sismember(keys.TENANTS, name):  # type: ignore[misc]
            return None
        return _tenant(name, await self._redis.hgetall(keys.tenant(name)))  # type: ignore[misc]

    async def page(self, *, page: int, size: int) -> TenantPage:
        """Return page number `page` (1 for the first) of the tenants by name. Reads the names of all tenants."""
        names = sorted([name.decode() async for name in self._redis.sscan_iter(keys.TENANTS, count=1000)])
        names = list(dict.fromkeys(names))  # a scan may return a member twice
        shown = names[(page - 1) * size : page * size]
        return TenantPage(await self._read(shown), len(names))

    async def _read(self, names: Sequence[str]) -> list[Tenant]:
        if not names:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(keys.tenant(name))
        return [_tenant(name, record) for name, record in zip(names, await pipeline.execute(), strict=True)]


def _tenant(name: str, record: Mapping[bytes, bytes]) -> Tenant:
    created = record.get(b"created")
    return Tenant(name, None if created is None else int(created), _overrides(record))


def _overrides(record: Mapping[bytes, bytes]) -> dict[Limit, int]:
    return {limit: int(record[name]) for limit in Limit if (name := limit.value.encode()) in record}
