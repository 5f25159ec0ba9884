"""Sample the figures of endpoints and tenants for charts, by the leading controller every 30 seconds.

A round reads each endpoint that has had tasks in the last 48 hours, makes a record, and writes it into the series of
the endpoint. When all endpoints are read, it writes a record of their sums for each tenant. If a part of the store is
away, or a round takes too long, tenants get no record in this round, because sums without some endpoints would look
like fewer tasks. The round of an interval is made once, whichever controller leads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from queue_engine.domain.series import EARLY_SECONDS, RINGS, STEP_SECONDS, Record, counted, merged, timed, together
from queue_engine.observability import metrics
from queue_engine.store.keys import Partition, Partitions
from queue_engine.store.series import Reading, SeriesStore

log = logging.getLogger(__name__)

ROUND_SECONDS = 20.0
"""Time after which a round begins nothing further. The next one begins with other endpoints."""
TENANTS_AT_ONCE = 100


@dataclass
class _Tenant:
    """The parts of a record of a tenant."""

    records: list[Record] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)


class Sampler:
    """The samples of all endpoints, for the leading controller."""

    def __init__(
        self, series: SeriesStore, partitions: Partitions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._series = series
        self._partitions = partitions
        self._clock = clock

    async def step(self) -> int:
        """Make the round of this interval. Return the number of endpoints that were sampled. Raises RedisError."""
        return await self.round(RINGS[0].begin_of(await self._series.now_ms() // 1000 + EARLY_SECONDS))

    async def round(self, at: int) -> int:
        """Make the round of the interval that begins at this time, in epoch seconds, unless it is complete."""
        since = await self._series.latest_round()
        if since == at:
            return 0
        ends_at = self._clock() + ROUND_SECONDS
        tenants: dict[str, _Tenant] = defaultdict(_Tenant)
        all_partitions = self._partitions.all()
        first = at // STEP_SECONDS % len(all_partitions)
        rounds = [
            await _settled(self._sample_in(one, at, since, tenants, ends_at))
            for one in (*all_partitions[first:], *all_partitions[:first])
        ]
        sampled = sum(len(found.records) for found in tenants.values())
        metrics.sampled_endpoints.set(sampled)
        if (error := next((one for one in rounds if isinstance(one, BaseException)), None)) is not None:
            raise error
        if not all(rounds):
            log.warning("a round of samples of figures took too long", extra={"endpoints": sampled})
            return sampled
        await self._write_tenants(tenants, at)
        await self._series.note_round(at)
        return sampled

    async def _sample_in(
        self, partition: Partition, at: int, since: int, tenants: dict[str, _Tenant], ends_at: float
    ) -> bool:
        """Sample the endpoints of a partition. Return False if the time of the round is over."""
        async for endpoint_ids in self._series.candidates(partition):
            if self._clock() > ends_at:
                return False
            calls = (self._sample(one, at, since, tenants) for one in endpoint_ids)
            found = await asyncio.gather(*calls, return_exceptions=True)
            if (error := next((one for one in found if one is not None), None)) is not None:
                raise error
        return True

    async def _sample(self, endpoint_id: str, at: int, since: int, tenants: dict[str, _Tenant]) -> None:
        reading = await self._series.read(endpoint_id, at)
        if reading is None:
            return
        written = reading.kept[0]
        if written is not None and written.at == at:  # by a controller that led before, and did not end its round
            tenants[reading.tenant].records.append(written)
            return
        since_ms = reading.before.at * 1000 if reading.before is not None else at * 1000
        waits, runs = await self._series.times(endpoint_id, reading.ended, since_ms=since_ms)
        sample = sample_of(reading, since=since, waits=waits, runs=runs)
        if await self._series.write(reading, records_of(sample, reading.kept)):
            of_tenant = tenants[reading.tenant]
            of_tenant.records.append(sample)
            of_tenant.waits += waits
            of_tenant.runs += runs

    async def _write_tenants(self, tenants: dict[str, _Tenant], at: int) -> None:
        names = sorted(tenants)
        for first in range(0, len(names), TENANTS_AT_ONCE):
            page = names[first : first + TENANTS_AT_ONCE]
            await asyncio.gather(*(self._write_tenant(name, tenants[name], at) for name in page))

    async def _write_tenant(self, name: str, found: _Tenant, at: int) -> None:
        sample = timed(together(found.records, at), found.waits, found.runs)
        await self._series.write_of_tenant(name, records_of(sample, await self._series.kept_of(name, at)))


def sample_of(reading: Reading, *, since: int, waits: Sequence[int], runs: Sequence[int]) -> Record:
    """Return the sample of an endpoint. `since` is the time of the latest complete round, in epoch seconds."""
    record = Record(
        at=reading.totals.at,
        queued=reading.queued,
        running=reading.running,
        scheduled=reading.scheduled,
        undelivered=reading.undelivered,
        slots=reading.slots,
        workers=reading.workers,
        oldest=reading.oldest_ms,
    )
    # The tasks of a new endpoint were counted in this interval at the earliest.
    created_at = min(RINGS[0].begin_of(reading.created_at), record.at - STEP_SECONDS)
    record = counted(record, reading.before, reading.totals, since=max(since, created_at))
    return timed(record, waits, runs)


def records_of(sample: Record, kept: Sequence[Record | None]) -> list[Record]:
    """Return the record of a sample for each ring. `kept` are those at its places, maybe of former intervals."""
    coarse = zip(kept[1:], RINGS[1:], strict=True)
    return [sample, *(merged(record, sample, ring) for record, ring in coarse)]


async def _settled(call: Awaitable[bool]) -> bool | BaseException:
    """Return the result of a call, or its error."""
    (result,) = await asyncio.gather(call, return_exceptions=True)
    return result
