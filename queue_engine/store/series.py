"""Samples of the figures of endpoints and tenants, so that charts need no other database.

A series is a string with the rings of `domain/series.py`, one behind the other. A record has 64 bytes, and its place
follows from its time, so that a repeated write changes nothing. The string has 47,616 bytes from its first sample, and
expires 48 hours after the last task. An endpoint without tasks has none, and costs nothing.

The totals of the latest sample are in the counts of the endpoint, and outlive the series. An endpoint becomes a
candidate for samples with its first waiting task. So the tasks of an endpoint that was no candidate in a complete round
were all counted before that round, and its next counts begin there.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace

from redis.asyncio import Redis

from queue_engine.domain.series import IDLE_MS, MAX_TIMED, RINGS, Record, Ring, Totals
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import META, SAMPLED, Partition, Partitions, series_of

_RECORD = struct.Struct("<IBBH4I4f4ffee")
"""Time, samples, samples with times, covered seconds; counts; gauges; times; slots; workers, and the age in minutes."""
RECORD_BYTES = _RECORD.size
SERIES_BYTES = sum(ring.count for ring in RINGS) * RECORD_BYTES
SCANNED_AT_ONCE = 100
_MAX_COUNT = 2**32 - 1
_MAX_HALF = 65_504.0
"""Largest number of a half-precision float."""
_MS_OF_MINUTE = 60_000


@dataclass(frozen=True)
class Ended:
    """A task that has ended. Its place is that in the order of creation."""

    at_ms: int
    task_id: str
    place: str


@dataclass(frozen=True)
class Reading:
    """The values in the store that a sample of an endpoint is made from."""

    endpoint_id: str
    tenant: str
    now_ms: int
    created_at: int
    """Time of its creation in epoch seconds."""
    before: Totals | None
    """The totals of the sample before; None if an earlier version has created the endpoint, and none was taken."""
    totals: Totals
    passed: tuple[int, int]
    """The latest numbers in the indexes of succeeded and of failed tasks. The next sample reads those behind them."""
    queued: int
    running: int
    scheduled: int
    undelivered: int
    workers: int
    slots: int
    oldest_ms: int
    """Age of the oldest queued task."""
    ended: Sequence[Ended]
    """The newest tasks that have ended since the sample before, the newest first."""
    kept: Sequence[Record | None]
    """The records at the places of the sample's time in all rings, maybe of former intervals."""

    @property
    def is_active(self) -> bool:
        """True if the endpoint has waiting or running tasks, or has had tasks since the sample before."""
        if self.queued or self.running or self.scheduled or self.before is None:
            return True
        before, now = self.before, self.totals
        return (before.submitted, before.succeeded, before.failed) != (now.submitted, now.succeeded, now.failed)


class SeriesStore:
    """The series of all endpoints and tenants. Every method raises RedisError, and may be repeated."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def now_ms(self) -> int:
        """Return the store's clock in epoch milliseconds."""
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def latest_round(self) -> int:
        """Return the time of the latest complete round of samples, in epoch seconds; 0 if there was none."""
        return int(await self._redis.hget(META, SAMPLED) or 0)  # type: ignore[misc]

    async def note_round(self, at: int) -> None:
        """Note that the round of this time is complete."""
        await self._redis.hset(META, SAMPLED, str(at))  # type: ignore[misc]

    async def candidates(self, partition: Partition) -> AsyncIterator[list[str]]:
        """Yield the endpoints of a partition that have had tasks in the last 48 hours, in pages. None comes twice."""
        seen: set[str] = set()
        for key, scan in ((partition.sampled_endpoints, self._redis.zscan), (partition.waiting_endpoints, self._sscan)):
            cursor = 0
            while True:
                cursor, members = await scan(key, cursor, count=SCANNED_AT_ONCE)
                page = [name.decode() for name, _ in members]
                if fresh := list(dict.fromkeys(one for one in page if one not in seen)):
                    seen.update(fresh)
                    yield fresh
                if cursor == 0:
                    break

    async def _sscan(self, key: str, cursor: int, *, count: int) -> tuple[int, list[tuple[bytes, float]]]:
        cursor, members = await self._redis.sscan(key, cursor, count=count)
        return cursor, [(name, 0.0) for name in members]

    async def read(self, endpoint_id: str, at: int) -> Reading | None:
        """Return what a sample at this time is made from; None for an endpoint that does not exist any longer."""
        reply = await self._scripts.read_sample(
            self._partitions.of(endpoint_id),
            limit=MAX_TIMED,
            record_bytes=RECORD_BYTES,
            offsets=[_offset(ring, at) for ring in RINGS],
        )
        if reply.word != "OK":
            return None
        submitted, succeeded, failed, delivered, *others = reply.figures
        queued, running, scheduled, undelivered, workers, passed_succeeded, passed_failed = others
        ended = [Ended(int(time), task_id, place) for time, task_id, place in reply.ended]
        return Reading(
            endpoint_id=endpoint_id,
            tenant=reply.tenant,
            now_ms=reply.now_ms,
            created_at=reply.created_ms // 1000,
            before=_totals_in(reply.sampled),
            totals=Totals(at, submitted, succeeded, failed, delivered),
            passed=(passed_succeeded, passed_failed),
            queued=max(0, queued),
            running=max(0, running),
            scheduled=max(0, scheduled),
            undelivered=max(0, undelivered),
            workers=max(0, workers),
            slots=max(0, workers) * reply.concurrency,
            oldest_ms=0 if reply.oldest_ms is None else max(0, reply.now_ms - reply.oldest_ms),
            ended=sorted(ended, key=lambda one: one.at_ms, reverse=True)[:MAX_TIMED],
            kept=[_record_in(one) for one in reply.kept],
        )

    async def times(self, endpoint_id: str, ended: Sequence[Ended], *, since_ms: int) -> tuple[list[int], list[int]]:
        """Return for how long these tasks waited and ran, in milliseconds, without those that ended before a time.

        A result that was delivered is among the tasks, but it may have ended long before.
        """
        if not ended:
            return [], []
        keys = self._partitions.of(endpoint_id)
        first, *others = ended
        reply = await self._scripts.read_times(
            keys.of_task(first.task_id),
            more=[keys.task(one.task_id) for one in others],
            since_ms=since_ms,
            places=[one.place for one in ended],
        )
        return reply.times[::2], reply.times[1::2]

    async def write(self, reading: Reading, records: Sequence[Record]) -> bool:
        """Write the records of a sample, one for each ring. Return False if the endpoint gets no samples any longer."""
        totals, passed = reading.totals, reading.passed
        counts = (totals.submitted, totals.succeeded, totals.failed, totals.delivered)
        reply = await self._scripts.write_sample(
            self._partitions.of(reading.endpoint_id),
            sampled=" ".join(map(str, (totals.at, *counts, *passed))),
            is_active=reading.is_active,
            idle_ms=IDLE_MS,
            size=SERIES_BYTES,
            records=_placed(records),
        )
        return reply.word in ("OK", "ALREADY")

    async def kept_of(self, tenant: str, at: int) -> list[Record | None]:
        """Return the records of a tenant at the places of this time in all rings, maybe of former intervals."""
        pipeline = self._redis.pipeline(transaction=False)
        for ring in RINGS:
            offset = _offset(ring, at)
            pipeline.getrange(series_of(tenant), offset, offset + RECORD_BYTES - 1)
        return [_record_in(one) for one in await pipeline.execute()]

    async def write_of_tenant(self, tenant: str, records: Sequence[Record]) -> None:
        """Write the records of a sample of a tenant, one for each ring."""
        await self._scripts.write_tenant_sample(
            series=series_of(tenant), idle_ms=IDLE_MS, size=SERIES_BYTES, records=_placed(records)
        )

    async def of_endpoints(self, endpoint_ids: Sequence[str], ring: Ring) -> list[list[Record]]:
        """Return the records of each endpoint in a ring, in no order."""
        return await self._read([self._partitions.of(one).series for one in endpoint_ids], ring)

    async def of_tenant(self, tenant: str, ring: Ring) -> list[Record]:
        """Return the records of a tenant in a ring, in no order."""
        (records,) = await self._read([series_of(tenant)], ring)
        return records

    async def _read(self, names: Sequence[str], ring: Ring) -> list[list[Record]]:
        pipeline = self._redis.pipeline(transaction=False)
        first = _begin(ring)
        for name in names:
            pipeline.getrange(name, first, first + ring.count * RECORD_BYTES - 1)
        return [list(_records_in(one)) for one in await pipeline.execute()]


def _begin(ring: Ring) -> int:
    """Return the offset of the first record of a ring."""
    return sum(one.count for one in RINGS[: RINGS.index(ring)]) * RECORD_BYTES


def _offset(ring: Ring, at: int) -> int:
    return _begin(ring) + ring.place_of(at) * RECORD_BYTES


def _placed(records: Sequence[Record]) -> list[bytes]:
    """Return the offset and the bytes of each record, of one for each ring."""
    pairs = zip(RINGS, records, strict=True)
    return [part for ring, one in pairs for part in (b"%d" % _offset(ring, one.at), packed(one))]


def packed(record: Record) -> bytes:
    """Return a record as it is stored. Numbers that are too large are stored as the largest one."""
    counts = (record.submitted, record.succeeded, record.failed, record.delivered)
    return _RECORD.pack(
        record.at,
        record.samples,
        record.timed,
        record.covered,
        *(min(one, _MAX_COUNT) for one in counts),
        *(record.queued, record.running, record.scheduled, record.undelivered),
        *(record.wait_p50, record.wait_p95, record.run_p50, record.run_p95),
        record.slots,
        min(record.workers, _MAX_HALF),
        min(record.oldest / _MS_OF_MINUTE, _MAX_HALF),
    )


def _records_in(stored: bytes) -> Iterable[Record]:
    whole = len(stored) - len(stored) % RECORD_BYTES
    for offset in range(0, whole, RECORD_BYTES):
        if (record := _record_in(stored[offset : offset + RECORD_BYTES])) is not None:
            yield record


def _record_in(stored: bytes) -> Record | None:
    """Return a stored record; None if there is none at its place."""
    if len(stored) < RECORD_BYTES:
        return None
    record = Record(*_RECORD.unpack(stored))
    return replace(record, oldest=round(record.oldest * _MS_OF_MINUTE)) if record.at else None


def _totals_in(text: str) -> Totals | None:
    at, *counts = map(int, text.split()) if text else (0,)
    return Totals(at, *counts[:4]) if counts else None
