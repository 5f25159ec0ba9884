"""Notes of delivery processes about destinations with which something is wrong, and orders to end a pause.

The history of a destination is in the memory of delivery processes, because it decides about each attempt. A process
with a troubled destination writes a note every few seconds, which expires; without one it writes nothing. Orders go to
the processes that have noted the destination, each into a sorted set that it takes when it writes its next note. A
repeated order changes nothing there, so that a tenant that repeats its orders does not push out those of others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from queue_engine.domain.destinations import DestinationNote, Standing
from queue_engine.store.keys import STANDINGS, resume_orders, standing_of

NOTE_MS = 15_000
"""Time after which a note expires, because its process may have ended. Processes repeat it every 5 seconds."""
ORDERS_MS = 30_000
MAX_NOTED = 200
"""Limit of the destinations in the note of a process."""
MAX_PROCESSES = 100
"""Limit of the processes whose notes are read."""
MAX_ORDERS = 200
"""Limit of the orders that wait for a process. The oldest are removed."""


@dataclass(frozen=True)
class TenantNote:
    """A note about a destination of a tenant. Its times are milliseconds from now, negative for the past."""

    tenant: str
    note: DestinationNote


class StandingStore:
    """The notes of all delivery processes. Every method raises RedisError, and is safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def write(self, process: str, notes: Sequence[TenantNote]) -> list[tuple[str, str]]:
        """Write the note of a process. Return the orders for it, which are removed: tenants and destinations.

        Without notes, that of the process is removed.
        """
        if not notes:
            await self._redis.delete(standing_of(process))
            await self._redis.zrem(STANDINGS, process)
            return []
        now_ms = await self._now_ms()
        text = json.dumps([_stored(one, now_ms) for one in notes[:MAX_NOTED]], ensure_ascii=False)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(standing_of(process), text, px=NOTE_MS)
        pipeline.zadd(STANDINGS, {process: now_ms + NOTE_MS})
        pipeline.zremrangebyscore(STANDINGS, "-inf", now_ms)
        pipeline.pexpire(STANDINGS, NOTE_MS)
        pipeline.zpopmin(resume_orders(process), MAX_ORDERS)
        orders = (await pipeline.execute())[-1] or []
        return [(tenant, destination) for tenant, destination in (json.loads(order) for order, _ in orders)]

    async def of_tenant(self, tenant: str) -> list[DestinationNote]:
        """Return the notes about the tenant's destinations. A destination has one for each process that noted it."""
        return [note for _, note in await self._of_tenant(tenant)]

    async def resume(self, tenant: str, destination: str) -> int:
        """Order the processes that have noted a destination of the tenant to end its pause. Return their number."""
        noted = {process for process, note in await self._of_tenant(tenant) if note.destination == destination}
        if not noted:
            return 0
        order, now_ms = json.dumps([tenant, destination]), await self._now_ms()
        pipeline = self._redis.pipeline(transaction=False)
        for process in sorted(noted):
            key = resume_orders(process)
            pipeline.zadd(key, {order: now_ms}, nx=True)
            pipeline.zremrangebyrank(key, 0, -MAX_ORDERS - 1)
            pipeline.pexpire(key, ORDERS_MS)
        await pipeline.execute()
        return len(noted)

    async def _of_tenant(self, tenant: str) -> list[tuple[str, DestinationNote]]:
        found = await self._redis.zrangebyscore(STANDINGS, await self._now_ms(), "+inf", start=0, num=MAX_PROCESSES)
        processes = [one.decode() for one in found]
        if not processes:
            return []
        texts = await self._redis.mget([standing_of(process) for process in processes])
        return [
            (process, _read(fields))
            for process, text in zip(processes, texts, strict=True)
            if text is not None
            for fields in json.loads(text)
            if fields["tenant"] == tenant
        ]

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _stored(one: TenantNote, now_ms: int) -> dict[str, Any]:
    note = one.note
    return {
        "tenant": one.tenant,
        "destination": note.destination,
        "standing": note.standing.value,
        "since": _at(note.since_ms, now_ms),
        "waiting": note.waiting,
        "in_flight": note.in_flight,
        "errors": note.errors,
        "next": _at(note.next_attempt_at_ms, now_ms),
        "error": note.error_type,
        "failed": _at(note.failed_at_ms, now_ms),
    }


def _at(from_now_ms: int | None, now_ms: int) -> int | None:
    return None if from_now_ms is None else now_ms + from_now_ms


def _read(fields: dict[str, Any]) -> DestinationNote:
    return DestinationNote(
        fields["destination"],
        Standing(fields["standing"]),
        since_ms=fields["since"],
        waiting=fields["waiting"],
        in_flight=fields["in_flight"],
        errors=fields["errors"],
        next_attempt_at_ms=fields["next"],
        error_type=fields["error"],
        failed_at_ms=fields["failed"],
    )
