"""Limits of tenants while a part of the store is unavailable: what cannot be read refuses nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from queue_engine.domain.errors import QuotaReached
from queue_engine.domain.principals import Principal, Role
from queue_engine.domain.tenants import DEFAULT_LIMITS, Limit, LimitValues
from queue_engine.engine.tenant_limits import MEMORY_REFRESH_SECONDS, REFRESH_SECONDS, TenantLimits
from queue_engine.store import usage
from queue_engine.store.keys import Partitions
from queue_engine.store.usage import Usage, UsageStore

OWNER = Principal("acme", Role.ADMIN, "key of the owner")
AWAY = RedisConnectionError("connection refused")


class Parts:
    """The parts of a store that limits are read from. `away` has the names of those that are unavailable."""

    def __init__(self, limits: LimitValues, *, pages: Sequence[Usage] = (), memory: int = 0) -> None:
        self.limits = limits
        self.memory = memory
        self.use = list(pages)
        self.away: set[str] = set()
        self.now = 0.0
        self.checked = TenantLimits(self, self, self, DEFAULT_LIMITS, monotonic=lambda: self.now)  # type: ignore[arg-type]

    def _reach(self, part: str) -> None:
        if part in self.away:
            raise AWAY

    async def overrides(self, tenant: str) -> LimitValues:
        self._reach("limits")
        return self.limits

    async def has_one_tenant(self) -> bool:
        self._reach("tenants")
        return False

    async def max_memory(self) -> int:
        self._reach("memory")
        return self.memory

    async def pages(self, tenant: str) -> AsyncIterator[Usage]:
        for number, page in enumerate(self.use):
            self._reach(f"page {number}")
            yield page

    async def is_admitted(self) -> bool:
        """Let old values be read again, and return True if a submission is admitted."""
        self.now += MEMORY_REFRESH_SECONDS + REFRESH_SECONDS
        for _ in range(2):  # the first use may get the value from before
            try:
                await self.checked.admit_submission(OWNER, has_webhook=True)
            except QuotaReached:
                return False
            for _ in range(10):  # let reads in the background end
                await asyncio.sleep(0)
        return True


FULL = Usage(workers=5, stored_bytes=600, waiting_tasks=7)


async def test_a_tenant_whose_limits_cannot_be_read_is_admitted() -> None:
    parts = Parts({Limit.WAITING_TASKS: 7, Limit.WORKERS: 5}, pages=[FULL])
    assert not await parts.is_admitted()
    parts.away = {"limits"}
    assert await parts.is_admitted()
    await parts.checked.check_room("acme")
    await parts.checked.check_workers("acme", 6)


async def test_a_tenant_whose_use_cannot_be_read_is_admitted() -> None:
    parts = Parts({Limit.WAITING_TASKS: 7, Limit.WORKERS: 5}, pages=[FULL])
    parts.away = {"page 0"}
    assert await parts.is_admitted()
    await parts.checked.check_workers("acme", 5)


async def test_pages_before_one_that_cannot_be_read_count() -> None:
    parts = Parts({Limit.WAITING_TASKS: 7, Limit.WORKERS: 5}, pages=[FULL, FULL])
    parts.away = {"page 1"}
    assert not await parts.is_admitted()
    with pytest.raises(QuotaReached, match="workers: the tenant has at most 5"):
        await parts.checked.check_workers("acme", 1)


async def test_memory_that_was_never_read_is_no_limit() -> None:
    parts = Parts({}, pages=[FULL], memory=1000)
    parts.away = {"memory"}
    assert await parts.is_admitted()
    parts.away = set()
    assert not await parts.is_admitted()


async def test_other_limits_apply_while_the_memory_was_never_read() -> None:
    parts = Parts({Limit.WAITING_TASKS: 7}, pages=[FULL])
    parts.away = {"memory"}
    assert not await parts.is_admitted()


async def test_memory_that_cannot_be_read_again_limits_by_its_last_value() -> None:
    parts = Parts({}, pages=[FULL], memory=1000)
    assert not await parts.is_admitted()
    parts.away = {"memory"}
    assert not await parts.is_admitted()


async def test_a_tenant_is_admitted_while_the_number_of_tenants_cannot_be_read() -> None:
    parts = Parts({}, pages=[FULL], memory=1000)
    parts.away = {"tenants"}
    assert await parts.is_admitted()


class Partitioned:
    """Scripts and an index of a cluster with one endpoint in each partition. Some partitions are away, some hang."""

    def __init__(self, away: set[int], hanging: set[int]) -> None:
        self.partitions = Partitions(4)
        ids: dict[int, str] = {}
        for number in range(1, 1000):
            ids.setdefault(self.partitions.of(str(number)).partition.index, str(number))
        self._ids = sorted(ids.values(), key=int, reverse=True)
        self._lost = {self.partitions.of(ids[index]).endpoint: index in hanging for index in away | hanging}

    async def ids_of(self, tenant: str, *, below: str | None = None) -> list[str]:
        return [] if below else self._ids

    async def sum_usage(self, *, tenant: str, records: Sequence[str]) -> SimpleNamespace:
        if self._lost.get(records[0]):
            await asyncio.Event().wait()
        if records[0] in self._lost:
            raise AWAY
        return SimpleNamespace(workers=1, stored_bytes=100, waiting_tasks=2, waiting_deliveries=3)


@pytest.mark.parametrize(("away", "hanging"), [({0}, set()), (set(), {0}), ({1}, {2})])
async def test_the_use_in_partitions_that_reply_is_summed(
    away: set[int], hanging: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "PARTITION_SECONDS", 0.05)
    parts = Partitioned(away, hanging)
    store = UsageStore(parts, parts.partitions, parts)  # type: ignore[arg-type]
    left = 4 - len(away | hanging)
    assert await store.of("acme") == Usage(left, 100 * left, 2 * left, 3 * left)
