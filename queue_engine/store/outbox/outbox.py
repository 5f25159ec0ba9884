"""The webhook outbox: what a delivery process reads, sends and settles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.deliveries import (
    Delivered,
    Delivery,
    GivenUp,
    TaskResult,
    Verdict,
    WebhookResponse,
    WorkerEvent,
    task_result_body,
    worker_event_body,
)
from queue_engine.domain.tasks import Task, TaskState
from queue_engine.store.calls import Scripts
from queue_engine.store.codec import TaskSpecs, task_from
from queue_engine.store.endpoints import open_signing_secret
from queue_engine.store.keys import EndpointKeys, Partition, Partitions, TaskKeys, WorkerKeys, parse_member
from queue_engine.store.queue import make_group
from queue_engine.store.redis.cluster import ClusterClient

GROUP = "delivery"
PARKED_MS = 2 * 86_400_000
"""How much longer than all its attempts a delivery may take because its receiver is not served."""
DEFAULT_MOST_AGE_MS = 3 * 86_400_000
MISSED_CHUNK = 1000
"""Entries that one command looks through for those that never reached their process."""


@dataclass(frozen=True)
class OutboxEntry:
    """A delivery that is due, as the outbox handed it out to this process."""

    partition: Partition
    entry_id: str
    delivery_id: str
    destination: str
    """`scheme://host:port`: deliveries are served in turn by it."""


@dataclass(frozen=True)
class Settlement:
    """What the store made of a verdict. Not accepted: another process has the delivery, or it was settled before."""

    accepted: bool
    latency_seconds: float = 0.0


class Outbox:
    """Deliveries for one delivery process. What it has read and not settled is taken over by others when it dies.

    `process_id` must be new for each start of a process. Every method may be called again after a lost reply.
    `most_age_ms`: a delivery that is older is put off no more but given up.
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
        most_age_ms: int = DEFAULT_MOST_AGE_MS,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._blocking = blocking
        self._partitions = partitions
        self._sealer = sealer
        self._specs = TaskSpecs(sealer)
        self._process_id = process_id
        self._most_age_ms = most_age_ms
        self._held: dict[str, set[str]] = {partition.outbox: set() for partition in partitions.all()}
        """Ids of the entries that were given out and not settled or put off since, by outbox."""
        self._reads: dict[Partition, asyncio.Task[list[OutboxEntry]]] = {}
        """Reads under way, when each partition is read by itself."""

    async def read(self, most: int, *, block_ms: int) -> list[OutboxEntry]:
        """Up to `most` due deliveries of each partition; waits up to `block_ms` for one to come."""
        if isinstance(self._blocking, ClusterClient):
            return await self._read_each(most, block_ms)
        partitions = {partition.outbox: partition for partition in self._partitions.all()}
        streams: dict[Any, Any] = dict.fromkeys(partitions, ">")
        try:
            reply = await self._blocking.xreadgroup(GROUP, self._process_id, streams, count=most, block=block_ms)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.make_groups()
            return []
        return [entry for stream, entries in reply for entry in self._given(partitions[stream.decode()], entries)]

    async def _read_each(self, most: int, block_ms: int) -> list[OutboxEntry]:
        """As `read`, in a cluster: one command reads one slot, so there is one for each partition.

        A read that waits when another has found something goes on, and the next call takes it up.
        """
        for partition in self._partitions.all():
            if partition not in self._reads:
                self._reads[partition] = asyncio.create_task(self._read_one(partition, most, block_ms))
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
            for read in self._reads.values():  # what they may have read comes back by `adopt`
                read.cancel()
            self._reads.clear()
            raise
        if faults and not entries:
            raise faults[0]
        return entries

    async def _read_one(self, partition: Partition, most: int, block_ms: int) -> list[OutboxEntry]:
        try:
            reply = await self._blocking.xreadgroup(
                GROUP, self._process_id, {partition.outbox: ">"}, count=most, block=block_ms
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await make_group(self._redis, partition.outbox, GROUP)
            return []
        return [entry for _, entries in reply for entry in self._given(partition, entries)]

    async def adopt(self, *, tick_ms: int, lease_ms: int, most: int = 256) -> list[OutboxEntry]:
        """Say that this process lives (call it at least every `lease_ms` / 3), and take over from dead ones.

        Gives out again what was read for this process at least `lease_ms` ago and never reached it. When a partition
        fails, what was had from the others is given out, and the error is raised by a call that finds nothing.
        """
        adopted = await asyncio.gather(
            *(self._adopt(partition, tick_ms, lease_ms, most) for partition in self._partitions.all()),
            return_exceptions=True,
        )
        entries = [entry for found in adopted if not isinstance(found, BaseException) for entry in found]
        faults = [found for found in adopted if isinstance(found, BaseException)]
        if faults and not entries:
            raise faults[0]
        return entries

    async def promote(self, most: int = 1000) -> int:
        """Move deliveries whose wait is over into the outbox; returns how many."""

        waits = [
            (partition, waiting)
            for partition in self._partitions.all()
            for waiting in (partition.outbox_due, partition.outbox_parked)
        ]
        return sum(await asyncio.gather(*(self._promote(partition, waiting, most) for partition, waiting in waits)))

    async def open(self, entry: OutboxEntry) -> Delivery | None:
        """All that an attempt needs; None when the delivery is not due by this entry any more."""
        delivery = await (self._open_event(entry) if _is_event(entry) else self._open_result(entry))
        if delivery is None:
            self._let_go(entry)
        return delivery

    async def settle(
        self, entry: OutboxEntry, response: WebhookResponse, verdict: Verdict, *, at_ms: int
    ) -> Settlement:
        """Record what came of one attempt. `at_ms` is when it was sent, for the log of attempts only."""
        if _is_event(entry):
            settlement = await self._settle_event(entry, verdict)
        else:
            settlement = await self._settle_result(entry, response, verdict, at_ms)
        self._let_go(entry)
        return settlement

    async def _adopt(self, partition: Partition, tick_ms: int, lease_ms: int, most: int) -> list[OutboxEntry]:
        reply = await self._scripts.adopt_deliveries(
            partition, process_id=self._process_id, tick_ms=tick_ms, lease_ms=lease_ms, limit=most
        )
        missed = await self._missed(partition, lease_ms) if reply.unsettled > len(self._held[partition.outbox]) else []
        return self._given(partition, [*reply.adopted, *missed])

    async def _missed(self, partition: Partition, idle_ms: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Entries that the store gave out to this process in replies that were lost."""
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

    def _given(self, partition: Partition, entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[OutboxEntry]:
        given = _outbox_entries(partition, entries)
        self._held[partition.outbox].update(entry.entry_id for entry in given)
        return given

    def _let_go(self, entry: OutboxEntry) -> None:
        self._held[entry.partition.outbox].discard(entry.entry_id)

    async def _open_event(self, entry: OutboxEntry) -> Delivery | None:
        endpoint_id, worker_id = _owner_of(entry.delivery_id)
        reply = await self._scripts.open_event(
            _worker_keys(entry), entry_id=entry.entry_id, process_id=self._process_id
        )
        if reply.word != "OK":
            return None
        event = json.loads(reply.event)
        signing_secret, unreadable = self._signing_secret(endpoint_id, reply.signing_secret)
        told = WorkerEvent(
            endpoint_id, worker_id, event["status"], event["previous"] or None, event["reason"], int(event["at"])
        )
        return Delivery(
            delivery_id=entry.delivery_id,
            entry_id=entry.entry_id,
            message_id=f"msg_{endpoint_id}_{worker_id}_{event['created']}_{event['number']}",
            attempts=reply.attempts,
            created_at_ms=reply.created_ms,
            url=event["url"],
            auth_key=None,
            signing_secret=signing_secret,
            body=worker_event_body(told),
            unreadable=unreadable,
        )

    async def _open_result(self, entry: OutboxEntry) -> Delivery | None:
        endpoint_id, task_id = _owner_of(entry.delivery_id)
        reply = await self._scripts.open_delivery(
            _task_keys(entry), entry_id=entry.entry_id, process_id=self._process_id
        )
        if reply.word != "OK":
            return None
        signing_secret, unreadable = self._signing_secret(endpoint_id, reply.signing_secret)
        try:
            spec = self._specs.decode(reply.spec, endpoint_id, task_id)
        except (SecretKeyMissing, SealBroken) as error:
            spec, unreadable = self._specs.decode_public(reply.spec), str(error)
        task = task_from(endpoint_id, task_id, reply.fields, spec, None, reply.result)
        return Delivery(
            delivery_id=entry.delivery_id,
            entry_id=entry.entry_id,
            message_id=_message_id(task),
            attempts=reply.attempts,
            created_at_ms=reply.created_ms,
            url=spec.webhook or "",
            auth_key=spec.webhook_auth_key,
            signing_secret=signing_secret,
            body=task_result_body(_task_result(task, reply.is_too_large), retry_count=reply.attempts + 1),
            unreadable=unreadable,
        )

    def _signing_secret(self, endpoint_id: str, stored: str) -> tuple[str | None, str | None]:
        """The secret, and why it cannot be read."""
        try:
            return (open_signing_secret(self._sealer, endpoint_id, stored) if stored else None), None
        except (SecretKeyMissing, SealBroken) as error:
            return None, str(error)

    async def _settle_event(self, entry: OutboxEntry, verdict: Verdict) -> Settlement:
        word, delay_ms, _ = _verdict_words(verdict)
        reply = await self._scripts.settle_event(
            _worker_keys(entry),
            entry_id=entry.entry_id,
            process_id=self._process_id,
            verdict=word,
            delay_ms=delay_ms,
            max_age_ms=self._most_age_ms,
        )
        return _settlement(reply.created_ms, reply.now_ms) if reply.word == "OK" else Settlement(accepted=False)

    async def _settle_result(
        self, entry: OutboxEntry, response: WebhookResponse, verdict: Verdict, at_ms: int
    ) -> Settlement:
        word, delay_ms, reason = _verdict_words(verdict)
        record = {
            "at": at_ms,
            "status": response.status,
            "error": response.error_type,
            "durationMs": round(response.duration_seconds * 1000),
            "response": response.excerpt,
        }
        reply = await self._scripts.settle_delivery(
            _task_keys(entry),
            entry_id=entry.entry_id,
            process_id=self._process_id,
            verdict=word,
            delay_ms=delay_ms,
            reason=reason,
            record=json.dumps(record),
        )
        return _settlement(reply.created_ms, reply.now_ms) if reply.word == "OK" else Settlement(accepted=False)

    async def defer(self, entry: OutboxEntry, *, delay_ms: int, parked: bool = False) -> bool:
        """Put a delivery off without using up an attempt. False when it has become too old and was given up instead.

        With `parked` its task says that it waits for a receiver that does not respond, and until when.
        """
        if _is_event(entry):
            word = await self._defer_event(entry, delay_ms)
        else:
            word = await self._defer_result(entry, delay_ms, parked)
        self._let_go(entry)
        return word != "GIVEN_UP"

    async def _defer_event(self, entry: OutboxEntry, delay_ms: int) -> str:
        reply = await self._scripts.defer_event(
            _worker_keys(entry), entry_id=entry.entry_id, delay_ms=delay_ms, max_age_ms=self._most_age_ms
        )
        return reply.word

    async def _defer_result(self, entry: OutboxEntry, delay_ms: int, parked: bool) -> str:
        reply = await self._scripts.defer_delivery(
            _task_keys(entry),
            entry_id=entry.entry_id,
            delay_ms=delay_ms,
            max_age_ms=self._most_age_ms,
            is_parked=parked,
        )
        return reply.word

    async def pending(self) -> dict[str, int]:
        """Deliveries of all processes that have not ended: due now (fresh), waiting for a retry, parked."""
        counts = {"fresh": 0, "retry": 0, "parked": 0}
        for partition in self._partitions.all():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xlen(partition.outbox)
            pipeline.zcard(partition.outbox_due)
            pipeline.zcard(partition.outbox_parked)
            for lane, count in zip(counts, await pipeline.execute(), strict=True):
                counts[lane] += count
        return counts

    async def _promote(self, partition: Partition, waiting: str, most: int) -> int:
        ids = (await self._scripts.due_deliveries(waiting=waiting, limit=most)).delivery_ids
        promote = self._scripts.promote_delivery
        replies = await asyncio.gather(
            *(promote(partition, delivery=partition.delivery(name), waiting=waiting, delivery_id=name) for name in ids)
        )
        return sum(reply.word == "OK" for reply in replies)

    async def make_groups(self) -> None:
        """Make the outbox's groups where they are missing."""
        for partition in self._partitions.all():
            await make_group(self._redis, partition.outbox, GROUP)


def _outbox_entries(partition: Partition, entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[OutboxEntry]:
    """Garbage in the outbox is an entry without a delivery: opening it says so, and it goes."""
    return [
        OutboxEntry(partition, entry_id.decode(), _text_in(fields, b"d"), _text_in(fields, b"h"))
        for entry_id, fields in entries
        if fields
    ]


def _text_in(fields: dict[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")


def _task_keys(entry: OutboxEntry) -> TaskKeys:
    """The keys in the outbox's own slot, also when the entry is garbage."""
    endpoint_id, task_id = _owner_of(entry.delivery_id)
    return EndpointKeys(entry.partition, endpoint_id).of_task(task_id)


def _worker_keys(entry: OutboxEntry) -> WorkerKeys:
    endpoint_id, worker_id = _owner_of(entry.delivery_id)
    return EndpointKeys(entry.partition, endpoint_id).of_worker(worker_id)


def _settlement(created_ms: int, now_ms: int) -> Settlement:
    return Settlement(accepted=True, latency_seconds=(now_ms - created_ms) / 1000)


def _is_event(entry: OutboxEntry) -> bool:
    """Whether it is a worker's status change; the other kind is a task's result."""
    return entry.delivery_id.startswith("s:")


def _owner_of(delivery_id: str) -> tuple[str, str]:
    """The endpoint, and the task or worker."""
    return parse_member(delivery_id.partition(":")[2])


def _message_id(task: Task) -> str:
    """The `webhook-id`: one for each result, so another one after each retry by hand."""
    run = f"_{task.runs}" if task.runs > 1 else ""
    return f"msg_{task.number}_{task.attempts}{run}"


def _task_result(task: Task, truncated: bool) -> TaskResult:
    return TaskResult(
        task_number=task.number,
        task_id=task.task_id,
        endpoint_id=task.endpoint_id,
        succeeded=task.state is TaskState.SUCCEEDED,
        finished_at_ms=task.finished_at_ms or task.updated_at_ms,
        output=task.output,
        truncated=truncated,
        error=task.error,
    )


def _verdict_words(verdict: Verdict) -> tuple[str, int, str]:
    if isinstance(verdict, Delivered):
        return "delivered", 0, ""
    if isinstance(verdict, GivenUp):
        return "given_up", 0, verdict.reason
    return "again", int(verdict.delay_seconds * 1000), verdict.reason
