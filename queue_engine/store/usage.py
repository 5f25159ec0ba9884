"""The use of the store by a tenant: sums over its endpoints.

A tenant's endpoints are in several cluster slots, so no script can add them up. A script for each partition adds up its
part, from the counts that the other scripts keep.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from queue_engine.store.calls import Scripts
from queue_engine.store.endpoint_index import EndpointIndex
from queue_engine.store.keys import Partition, Partitions
from queue_engine.store.redis.client import unavailability

PARTITION_SECONDS = 2.0
"""Time after which a page of endpoints is added up without the partitions that have not replied."""


@dataclass(frozen=True)
class Usage:
    """Sums over the endpoints of a tenant, stopped endpoints included."""

    workers: int = 0
    """Desired workers."""
    stored_bytes: int = 0
    """Inputs, results, records of attempts, configurations, logs and series of figures, and about what the keys of the
    tasks take."""
    waiting_tasks: int = 0
    waiting_deliveries: int = 0
    """Results whose delivery has not ended."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.workers + other.workers,
            self.stored_bytes + other.stored_bytes,
            self.waiting_tasks + other.waiting_tasks,
            self.waiting_deliveries + other.waiting_deliveries,
        )


class UsageStore:
    """The use of each tenant. The cost depends on the tenant's endpoints only."""

    def __init__(self, scripts: Scripts, partitions: Partitions, index: EndpointIndex) -> None:
        self._scripts = scripts
        self._partitions = partitions
        self._index = index

    async def of(self, tenant: str) -> Usage:
        """Return the sums over the tenant's endpoints; zero while the store's data is of a format without the index.

        Endpoints in partitions that are unavailable are not in the sums.
        """
        total = Usage()
        async for page in self.pages(tenant):
            total += page
        return total

    async def pages(self, tenant: str) -> AsyncIterator[Usage]:
        """Yield the sums as `of` does, for each page of the tenant's endpoints."""
        below = None
        while ids := await self._index.ids_of(tenant, below=below):
            below = ids[-1]
            yield await self._sum(tenant, ids)

    async def _sum(self, tenant: str, endpoint_ids: Sequence[str]) -> Usage:
        records: dict[Partition, list[str]] = defaultdict(list)
        for keys in map(self._partitions.of, endpoint_ids):
            records[keys.partition] += keys.endpoint, keys.counts, keys.series
        parts = [asyncio.create_task(self._sum_part(tenant, part)) for part in records.values()]
        try:
            done, _ = await asyncio.wait(parts, timeout=PARTITION_SECONDS)
        finally:
            for part in parts:
                part.cancel()
        return sum((part.result() for part in done), Usage())

    async def _sum_part(self, tenant: str, records: Sequence[str]) -> Usage:
        """Return the sums over endpoints of a partition; zero while it is unavailable."""
        try:
            part = await self._scripts.sum_usage(tenant=tenant, records=records)
        except Exception as error:
            if unavailability(error) is None:
                raise
            return Usage()
        return Usage(part.workers, part.stored_bytes, part.waiting_tasks, part.waiting_deliveries)
