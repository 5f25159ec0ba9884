"""The webhook outbox: a delivery process reads, opens, settles and defers deliveries."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from queue_engine.aio import wait_for_event
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.deliveries import DeliverAgain, Delivery, Verdict, WebhookResponse
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partition, Partitions, ids_of_delivery
from queue_engine.store.outbox.due_times import DueTimes
from queue_engine.store.outbox.entries import OutboxEntry, RawEntry, Settlement, endpoints_of, outbox_entries
from queue_engine.store.outbox.events import EventDeliveries
from queue_engine.store.outbox.results import ResultDeliveries
from queue_engine.store.outbox.shelves import Shelf, Shelves, shelf_of
from queue_engine.store.outbox.tenants import EndpointTenants
from queue_engine.store.recoveries import RecoveryStore
from queue_engine.store.redis.cluster import ClusterClient
from queue_engine.store.resends import Resends
from queue_engine.store.streams import make_group

GROUP = "delivery"
PARKED_MS = 2 * 86_400_000
"""Time that a delivery may be deferred, in addition to the time of all its attempts."""
DEFAULT_MAX_AGE_MS = 3 * 86_400_000
MISSED_CHUNK = 1000
"""Number of entries that one command searches for entries whose reply was lost."""
PROMOTED_AT_ONCE = 128
"""Number of due deliveries that one round moves, so that other calls do not wait for long behind them."""
DUE_SLACK_SECONDS = 0.005
"""Added to the time of a look, so that rounding does not let it find nothing."""
SHELVED_AT_ONCE = 256
"""Number of entries that one script puts onto a shelf, which takes about 1 ms."""


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
        self.process_id = process_id
        recoveries = RecoveryStore(redis, scripts, partitions)
        resends = Resends(redis, scripts, partitions)
        self._results = ResultDeliveries(redis, scripts, sealer, recoveries, resends, process_id, max_age_ms=max_age_ms)
        self._events = EventDeliveries(scripts, sealer, process_id, max_age_ms=max_age_ms)
        self._held: dict[str, set[str]] = {partition.outbox: set() for partition in partitions.all()}
        """Ids of the entries that were returned and not yet settled or deferred, by outbox."""
        self._reads: dict[Partition, asyncio.Task[list[OutboxEntry]]] = {}
        """Reads in progress, when each partition is read separately."""
        self._tenants = EndpointTenants(redis)
        self._due: DueTimes[tuple[Partition, str]] = DueTimes()
        """When the sets of waiting deliveries have a due one."""
        self._due_earlier = asyncio.Event()
        self.shelves = Shelves()
        """The shelves that have deliveries."""

    async def read(self, limit: int, *, block_ms: int) -> list[OutboxEntry]:
        """Return up to `limit` due deliveries of each partition. Waits up to `block_ms` when there are none."""
        if isinstance(self._blocking, ClusterClient):
            return await self._read_each(limit, block_ms)
        partitions = {partition.outbox: partition for partition in self._partitions.all()}
        streams: dict[Any, Any] = dict.fromkeys(partitions, ">")
        try:
            reply = await self._blocking.xreadgroup(GROUP, self.process_id, streams, count=limit, block=block_ms)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.make_groups()
            return []
        return await self._hold({partitions[stream.decode()]: entries for stream, entries in reply})

    async def adopt(self, *, tick_ms: int, lease_ms: int, limit: int = 256) -> list[OutboxEntry]:
        """Renew the lease of this process, and return the entries adopted from dead processes.

        Call it at least every `lease_ms` / 3. Entries that the store sent to this process at least `lease_ms` ago in a
        lost reply are returned too. When some partitions fail, the entries of the others are returned; the error is
        raised only when there are no entries. Notes what other processes have left on shelves or deferred.
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
        """Move deliveries whose wait is over into the outbox, those of other processes too. Return their number."""
        places = [
            (partition, waiting)
            for partition in self._partitions.all()
            for waiting in (partition.outbox_due, partition.outbox_parked)
        ]
        return sum(await asyncio.gather(*(self._promote(place, limit) for place in places)))

    async def promote_due(self) -> bool:
        """Move some of the deliveries whose wait is over, as far as this process knows. Return True if more are due."""
        for place in self._due.take(time.monotonic()):
            try:
                await self._promote(place, PROMOTED_AT_ONCE)
            except BaseException:
                self._due.note(place, time.monotonic())
                raise
        return (self._due.next_at or float("inf")) <= time.monotonic()

    async def wait_until_due(self) -> None:
        """Wait until the wait of a delivery is over, as far as this process knows."""
        while True:
            self._due_earlier.clear()
            at = self._due.next_at
            seconds = None if at is None else at - time.monotonic()
            if seconds is not None and seconds <= 0:
                return
            await wait_for_event(self._due_earlier, seconds)

    async def shelve(self, entries: Sequence[OutboxEntry]) -> None:
        """Put entries that this process has no room for onto shelves, for any process that has room."""
        by_shelf: defaultdict[Shelf, list[OutboxEntry]] = defaultdict(list)
        for entry in entries:
            by_shelf[shelf_of(entry.partition, entry.tenant, entry.destination)].append(entry)
        await asyncio.gather(
            *(
                self._shelve(shelf, of_shelf[first : first + SHELVED_AT_ONCE])
                for shelf, of_shelf in by_shelf.items()
                for first in range(0, len(of_shelf), SHELVED_AT_ONCE)
            )
        )

    async def take(self, shelf: Shelf, after: str, limit: int) -> list[OutboxEntry]:
        """Take up to `limit` entries from a shelf, behind the entry with the id `after`."""
        reply = await self._scripts.take_deliveries(
            shelf.partition, shelf=shelf.name, process_id=self.process_id, after=after, limit=limit
        )
        taken = await self._hold({shelf.partition: reply.taken}, was_shelved=True)
        last = reply.taken[-1][0].decode() if len(reply.taken) == limit else None
        self.shelves.took(shelf, time.monotonic(), last=last, is_empty=reply.is_empty)
        return taken

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
        if isinstance(verdict, DeliverAgain):
            self._note_due(entry.partition, entry.partition.outbox_due, verdict.delay_seconds)
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
        self._note_due(entry.partition, entry.partition.outbox_parked, delay_ms / 1000)
        return word != "GIVEN_UP"

    async def hasten(self, entries: Sequence[OutboxEntry]) -> None:
        """Make deliveries due now that were deferred. Deliveries that are no longer deferred are not changed."""
        by_partition: defaultdict[Partition, dict[Any, Any]] = defaultdict(dict)
        for entry in entries:
            by_partition[entry.partition][entry.delivery_id] = 0  # due by every clock
        for partition, due in by_partition.items():
            await self._redis.zadd(partition.outbox_parked, due, xx=True, lt=True)
            self._note_due(partition, partition.outbox_parked, 0.0)

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
            self._cancel_reads()
            raise
        if faults and not entries:
            raise faults[0]
        return entries

    def _cancel_reads(self) -> None:
        """Cancel the reads in progress. Entries that they have read are not held, so that `adopt` returns them."""
        for read in self._reads.values():
            if not read.cancel() and not read.cancelled() and read.exception() is None:
                for entry in read.result():
                    self._forget(entry)
        self._reads.clear()

    async def _read_one(self, partition: Partition, limit: int, block_ms: int) -> list[OutboxEntry]:
        try:
            reply = await self._blocking.xreadgroup(
                GROUP, self.process_id, {partition.outbox: ">"}, count=limit, block=block_ms
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await make_group(self._redis, partition.outbox, GROUP)
            return []
        return await self._hold({partition: [entry for _, entries in reply for entry in entries]})

    async def _adopt(self, partition: Partition, tick_ms: int, lease_ms: int, limit: int) -> list[OutboxEntry]:
        reply = await self._scripts.adopt_deliveries(
            partition, process_id=self.process_id, tick_ms=tick_ms, lease_ms=lease_ms, limit=limit
        )
        for shelf in reply.shelves:
            self.shelves.note(Shelf(partition, shelf))
        for waiting, wait_ms in ((partition.outbox_due, reply.retry_ms), (partition.outbox_parked, reply.parked_ms)):
            if wait_ms is not None:
                self._note_due(partition, waiting, wait_ms / 1000)
        missed = await self._missed(partition, lease_ms) if reply.unsettled > len(self._held[partition.outbox]) else []
        return await self._hold({partition: [*reply.adopted, *missed]})

    async def _missed(self, partition: Partition, idle_ms: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return entries that the store sent to this process in lost replies."""
        missed: list[tuple[bytes, dict[bytes, bytes]]] = []
        after = "-"
        while True:
            pending = await self._redis.xpending_range(
                partition.outbox, GROUP, min=after, max="+", count=MISSED_CHUNK, consumername=self.process_id,
                idle=idle_ms,
            )  # fmt: skip
            ids = [one["message_id"] for one in pending]
            for entry_id in ids:
                if entry_id.decode() not in self._held[partition.outbox]:
                    missed += await self._redis.xrange(partition.outbox, entry_id, entry_id)
            if len(ids) < MISSED_CHUNK:
                return missed
            after = "(" + ids[-1].decode()

    async def _hold(self, raw: dict[Partition, Sequence[RawEntry]], *, was_shelved: bool = False) -> list[OutboxEntry]:
        """Return the entries that the store has sent, with their tenants, as held by this process."""
        held: list[OutboxEntry] = []
        for partition, entries in raw.items():
            tenants = await self._tenants.of(partition, endpoints_of(entries))
            held += outbox_entries(partition, entries, tenants, was_shelved=was_shelved)
        # After the last wait: what a cancelled call has read is not held, so that `adopt` returns it.
        for entry in held:
            self._held[entry.partition.outbox].add(entry.entry_id)
        return held

    def _forget(self, entry: OutboxEntry) -> None:
        self._held[entry.partition.outbox].discard(entry.entry_id)

    async def _shelve(self, shelf: Shelf, entries: Sequence[OutboxEntry]) -> None:
        await self._scripts.shelve_deliveries(
            shelf.partition,
            shelf=shelf.name,
            process_id=self.process_id,
            entry_ids=[entry.entry_id for entry in entries],
        )
        for entry in entries:
            self._forget(entry)
        self.shelves.note(shelf, was_returned=any(entry.was_shelved for entry in entries))

    async def _promote(self, place: tuple[Partition, str], limit: int) -> int:
        partition, waiting = place
        found = await self._scripts.due_deliveries(waiting=waiting, limit=limit)
        promoted = await asyncio.gather(*(self._promote_one(partition, waiting, name) for name in found.delivery_ids))
        if found.next_ms == 0:
            self._due.note(place, time.monotonic())
        elif found.next_ms is not None:
            self._note_due(partition, waiting, found.next_ms / 1000)
        return sum(promoted)

    async def _promote_one(self, partition: Partition, waiting: str, delivery_id: str) -> bool:
        ids = ids_of_delivery(delivery_id)
        if "task" in ids:
            keys = self._partitions.of(ids["endpoint"]).of_task(ids["task"])
            return (await self._scripts.promote_result(keys, waiting=waiting)).word == "OK"
        delivery = partition.delivery(delivery_id)
        promote = self._scripts.promote_delivery
        return (await promote(partition, delivery=delivery, waiting=waiting, delivery_id=delivery_id)).word == "OK"

    def _note_due(self, partition: Partition, waiting: str, seconds: float) -> None:
        if self._due.note((partition, waiting), time.monotonic() + seconds + DUE_SLACK_SECONDS):
            self._due_earlier.set()


def _is_event(entry: OutboxEntry) -> bool:
    """Return True for a worker's status event, False for a task's result."""
    return entry.delivery_id.startswith("s:")
