"""The webhook outbox: a delivery process reads, opens, settles and defers deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.deliveries import Delivery, Verdict, WebhookResponse
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partition, Partitions
from queue_engine.store.outbox.entries import OutboxEntry, Settlement, outbox_entries
from queue_engine.store.outbox.events import EventDeliveries
from queue_engine.store.outbox.results import ResultDeliveries
from queue_engine.store.redis.cluster import ClusterClient
from queue_engine.store.streams import make_group

GROUP = "delivery"
PARKED_MS = 2 * 86_400_000
"""Time that a delivery may be deferred, in addition to the time of all its attempts."""
DEFAULT_MAX_AGE_MS = 3 * 86_400_000
MISSED_CHUNK = 1000
"""Number of entries that one command searches for entries whose reply was lost."""


class Outbox:
    """Deliveries for one delivery process.

    When the process dies, other processes adopt the entries that it has read and not settled. `process_id` must be new
    for each start of a process. A delivery older than `max_age_ms` is given up instead of deferred again. Every method
    may be repeated after a lost reply.
    """

    def __init__(
        self,
        redis: Redis,
        scripts: Scripts,
        blocking: Redis,
        partitions: Partitions,
        sealer: Sealer,
        process_id: str,
        *,
        max_age_ms: int = DEFAULT_MAX_AGE_MS,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._blocking = blocking
        self._partitions = partitions
        self._process_id = process_id
        self._results = ResultDeliveries(scripts, sealer, process_id, max_age_ms=max_age_ms)
        self._events = EventDeliveries(scripts, sealer, process_id, max_age_ms=max_age_ms)
        self._held: dict[str, set[str]] = {partition.outbox: set() for partition in partitions.all()}
        """Ids of the entries that were returned and not yet settled or deferred, by outbox."""
        self._reads: dict[Partition, asyncio.Task[list[OutboxEntry]]] = {}
        """Reads in progress, when each partition is read separately."""

    async def read(self, limit: int, *, block_ms: int) -> list[OutboxEntry]:
        """Return up to `limit` due deliveries of each partition. Waits up to `block_ms` when there are none."""
        if isinstance(self._blocking, ClusterClient):
            return await self._read_each(limit, block_ms)
        partitions = {partition.outbox: partition for partition in self._partitions.all()}
        streams: dict[Any, Any] = dict.fromkeys(partitions, ">")
        try:
            reply = await self._blocking.xreadgroup(GROUP, self._process_id, streams, count=limit, block=block_ms)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.make_groups()
            return []
        return [entry for stream, entries in reply for entry in self._hold(partitions[stream.decode()], entries)]

    async def adopt(self, *, tick_ms: int, lease_ms: int, limit: int = 256) -> list[OutboxEntry]:
        """Renew the lease of this process, and return the entries adopted from dead processes.

        Call it at least every `lease_ms` / 3. Entries that the store sent to this process at least `lease_ms` ago in a
        lost reply are returned too. When some partitions fail, the entries of the others are returned; the error is
        raised only when there are no entries.
        """
        adopted = await asyncio.gather(
            *(self._adopt(partition, tick_ms, lease_ms, limit) for partition in self._partitions.all()),
            return_exceptions=True,
        )
        entries = [entry for found in adopted if not isinstance(found, BaseException) for entry in found]
        faults = [found for found in adopted if isinstance(found, BaseException)]
        if faults and not entries:
            raise faults[0]
        return entries

    async def promote(self, limit: int = 1000) -> int:
        """Move deliveries whose wait is over into the outbox. Return their number."""

        waits = [
            (partition, waiting)
            for partition in self._partitions.all()
            for waiting in (partition.outbox_due, partition.outbox_parked)
        ]
        return sum(await asyncio.gather(*(self._promote(partition, waiting, limit) for partition, waiting in waits)))

    async def open(self, entry: OutboxEntry) -> Delivery | None:
        """Return the data for a delivery attempt; None when the delivery is no longer due by this entry."""
        delivery = await (self._events.open(entry) if _is_event(entry) else self._results.open(entry))
        if delivery is None:
            self._forget(entry)
        return delivery

    async def settle(
        self, entry: OutboxEntry, response: WebhookResponse, verdict: Verdict, *, at_ms: int
    ) -> Settlement:
        """Record the result of a delivery attempt. `at_ms`, the time of sending, is for the ledger only."""
        if _is_event(entry):
            settlement = await self._events.settle(entry, verdict)
        else:
            settlement = await self._results.settle(entry, response, verdict, at_ms)
        self._forget(entry)
        return settlement

    async def defer(self, entry: OutboxEntry, *, delay_ms: int, parked: bool = False) -> bool:
        """Defer a delivery without using up an attempt. Return False when it is too old and was given up instead.

        With `parked` the task shows that the delivery waits for a parked destination, and until when.
        """
        if _is_event(entry):
            word = await self._events.defer(entry, delay_ms)
        else:
            word = await self._results.defer(entry, delay_ms, parked)
        self._forget(entry)
        return word != "GIVEN_UP"

    async def pending(self) -> dict[str, int]:
        """Return the numbers of deliveries of all processes: due (fresh), waiting for a retry, parked."""
        counts = {"fresh": 0, "retry": 0, "parked": 0}
        for partition in self._partitions.all():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xlen(partition.outbox)
            pipeline.zcard(partition.outbox_due)
            pipeline.zcard(partition.outbox_parked)
            for lane, count in zip(counts, await pipeline.execute(), strict=True):
                counts[lane] += count
        return counts

    async def make_groups(self) -> None:
        """Create the missing consumer groups of the outbox."""
        for partition in self._partitions.all():
            await make_group(self._redis, partition.outbox, GROUP)

    async def _read_each(self, limit: int, block_ms: int) -> list[OutboxEntry]:
        """Read as `read` does, with one command for each partition, because a cluster's command reads one slot.

        Reads that still wait when another read has returned entries continue, and the next call uses their results.
        """
        for partition in self._partitions.all():
            if partition not in self._reads:
                self._reads[partition] = asyncio.create_task(self._read_one(partition, limit, block_ms))
        entries: list[OutboxEntry] = []
        faults: list[BaseException] = []
        try:
            while self._reads and not entries:
                await asyncio.wait(self._reads.values(), return_when=asyncio.FIRST_COMPLETED)
                for partition in [one for one, read in self._reads.items() if read.done()]:
                    read = self._reads.pop(partition)
                    if (fault := read.exception()) is not None:
                        faults.append(fault)
                    else:
                        entries += read.result()
        except asyncio.CancelledError:
            for read in self._reads.values():  # `adopt` returns the entries that they may have read
                read.cancel()
            self._reads.clear()
            raise
        if faults and not entries:
            raise faults[0]
        return entries

    async def _read_one(self, partition: Partition, limit: int, block_ms: int) -> list[OutboxEntry]:
        try:
            reply = await self._blocking.xreadgroup(
                GROUP, self._process_id, {partition.outbox: ">"}, count=limit, block=block_ms
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await make_group(self._redis, partition.outbox, GROUP)
            return []
        return [entry for _, entries in reply for entry in self._hold(partition, entries)]

    async def _adopt(self, partition: Partition, tick_ms: int, lease_ms: int, limit: int) -> list[OutboxEntry]:
        reply = await self._scripts.adopt_deliveries(
            partition, process_id=self._process_id, tick_ms=tick_ms, lease_ms=lease_ms, limit=limit
        )
        missed = await self._missed(partition, lease_ms) if reply.unsettled > len(self._held[partition.outbox]) else []
        return self._hold(partition, [*reply.adopted, *missed])

    async def _missed(self, partition: Partition, idle_ms: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return entries that the store sent to this process in lost replies."""
        missed: list[tuple[bytes, dict[bytes, bytes]]] = []
        after = "-"
        while True:
            pending = await self._redis.xpending_range(
                partition.outbox, GROUP, min=after, max="+", count=MISSED_CHUNK, consumername=self._process_id,
                idle=idle_ms,
            )  # fmt: skip
            ids = [one["message_id"] for one in pending]
            for entry_id in ids:
                if entry_id.decode() not in self._held[partition.outbox]:
                    missed += await self._redis.xrange(partition.outbox, entry_id, entry_id)
            if len(ids) < MISSED_CHUNK:
                return missed
            after = "(" + ids[-1].decode()

    def _hold(self, partition: Partition, entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[OutboxEntry]:
        held = outbox_entries(partition, entries)
        self._held[partition.outbox].update(entry.entry_id for entry in held)
        return held

    def _forget(self, entry: OutboxEntry) -> None:
        self._held[entry.partition.outbox].discard(entry.entry_id)

    async def _promote(self, partition: Partition, waiting: str, limit: int) -> int:
        ids = (await self._scripts.due_deliveries(waiting=waiting, limit=limit)).delivery_ids
        promote = self._scripts.promote_delivery
        replies = await asyncio.gather(
            *(promote(partition, delivery=partition.delivery(name), waiting=waiting, delivery_id=name) for name in ids)
        )
        return sum(reply.word == "OK" for reply in replies)


def _is_event(entry: OutboxEntry) -> bool:
    """Return True for a worker's status event, False for a task's result."""
    return entry.delivery_id.startswith("s:")
