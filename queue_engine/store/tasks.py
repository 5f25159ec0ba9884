"""Tasks in the store: submit, read, list, count; and for the controller: sweep and retention."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import (
    SPEC_FIELDS,
    TERMINAL_STATES,
    Attempt,
    AttemptOutcome,
    DeliveryStatus,
    NewTask,
    Task,
    TaskPage,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import EndpointKeys, Partition, Partitions, TaskKeys, parse_member
from queue_engine.store.redis.client import optional_int
from queue_engine.store.resealing import Resealed

if TYPE_CHECKING:
    from queue_engine.store.calls import ReadOk

log = logging.getLogger(__name__)


class Cancellation(StrEnum):
    """What became of a wish to cancel a task."""

    CANCELLED = "CANCELLED"
    """It waited, and has ended by this call."""
    REQUESTED = "REQUESTED"
    """It runs; its agent is told with the next heartbeat."""
    ENDED = "ENDED"
    """It had ended before."""
    NOT_FOUND = "GONE"


class RunAgain(StrEnum):
    """What became of a wish to run an ended task once more."""

    QUEUED = "OK"
    DUPLICATE = "ALREADY"
    """The same call queued it before."""
    NOT_ENDED = "BUSY"
    CLOSED = "CLOSED"
    FULL = "FULL"
    NOT_FOUND = "GONE"


class Deletion(StrEnum):
    """What became of a wish to delete a task."""

    DELETED = "OK"
    NOT_ENDED = "BUSY"
    NOT_FOUND = "GONE"


class Submission(StrEnum):
    """What became of a submitted task."""

    ACCEPTED = "OK"
    DUPLICATE = "EXISTS"
    """The same request was accepted before."""
    CONFLICT = "CONFLICT"
    """The id is taken by another request."""
    NOT_FOUND = "NOT_FOUND"
    NOT_QUEUE = "NOT_QUEUE"
    CLOSED = "CLOSED"
    FULL = "FULL"


@dataclass(frozen=True)
class AcceptedRequest:
    """The request that a task was accepted with."""

    fingerprint: str
    input: bytes | None
    """None when it is longer than was asked for."""


@dataclass(frozen=True)
class Swept:
    """What one sweep of a partition did."""

    requeued: int = 0
    dead: int = 0
    promoted: int = 0
    cancelled: int = 0
    """Lost by their workers after they were to be cancelled."""
    expired: int = 0

    @property
    def work(self) -> int:
        return self.requeued + self.dead + self.promoted + self.cancelled + self.expired


class TaskSpecs:
    """Specs as text in the store. Headers and the webhook's key are sealed, bound to their task."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def encode(self, spec: TaskSpec, endpoint_id: str, task_id: str) -> bytes:
        """Raises SecretKeyMissing when there is a secret and no key to seal it with."""
        record = _given(spec, _PUBLIC)
        if spec.webhook_destination is not None:
            record["destination"] = spec.webhook_destination
        if spec.traceparent is not None:
            record["traceparent"] = spec.traceparent
        if secrets := _given(spec, _SECRET):
            record["sealed"] = self._sealer.seal(json.dumps(secrets).encode(), _seal_context(endpoint_id, task_id))
        return _spec_text(record)

    def decode(self, text: bytes, endpoint_id: str, task_id: str) -> TaskSpec:
        """Raises SecretKeyMissing or SealBroken when there is a secret that this process cannot open."""
        record = json.loads(text)
        secrets: dict[str, Any] = {}
        if "sealed" in record:
            secrets = json.loads(self._sealer.open(record["sealed"], _seal_context(endpoint_id, task_id)))
        return _spec_from(record, secrets)

    def resealed(self, text: bytes, endpoint_id: str, task_id: str) -> bytes:
        """The spec with its secrets sealed with the current key; `text` itself when they are. Raises SealBroken."""
        record = json.loads(text)
        sealed = record.get("sealed", "")
        renewed = self._sealer.resealed(sealed, _seal_context(endpoint_id, task_id)) if sealed else sealed
        return text if renewed == sealed else _spec_text(record | {"sealed": renewed})

    def decode_public(self, text: bytes) -> TaskSpec:
        """The spec without its secrets, for a process that needs none of them."""
        return _spec_from(json.loads(text), {})


_PUBLIC = tuple((one.name, one.stored, one.default) for one in SPEC_FIELDS if not one.definition.secret)
_SECRET = tuple((one.name, one.stored, one.default) for one in SPEC_FIELDS if one.definition.secret)


def _given(spec: TaskSpec, fields: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
    """Return the fields that have another value than their default, as they are stored."""
    values = spec.__dict__
    return {stored: value for name, stored, default in fields if (value := values[name]) != default}


def _spec_from(record: dict[str, Any], secrets: dict[str, Any]) -> TaskSpec:
    given = {name: record[stored] for name, stored, _ in _PUBLIC if stored in record}
    opened = {name: secrets[stored] for name, stored, _ in _SECRET if stored in secrets}
    return TaskSpec(
        **given, **opened, webhook_destination=record.get("destination"), traceparent=record.get("traceparent")
    )


_compact = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each spec


def _spec_text(record: dict[str, object]) -> bytes:
    return _compact(record).encode()


def _seal_context(endpoint_id: str, task_id: str) -> str:
    return f"task:{endpoint_id}:{task_id}"


class TaskStore:
    """Tasks as the API and the controller need them. Every method may be called again after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions, sealer: Sealer) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._specs = TaskSpecs(sealer)

    async def enqueue(self, task: NewTask) -> Submission:
        """Accept `task` unless its endpoint forbids it. The same task twice is accepted once."""
        keys = self._partitions.of(task.endpoint_id)
        spec = self._specs.encode(task.spec, task.endpoint_id, task.task_id)
        reply = await self._scripts.enqueue(
            keys.of_task(task.task_id),
            fingerprint=task.fingerprint,
            tenant=task.tenant,
            spec_and_input=spec + task.input,
            spec_length=len(spec),
            destination=None if task.spec.webhook is None else task.spec.webhook_destination or "1",
            partition_index=keys.partition.index,
            execution_timeout=_optional_number(task.timeout_seconds),
            queue_ttl=_optional_number(task.queue_ttl_seconds),
        )
        return Submission(reply.word)

    async def accepted_request(self, endpoint_id: str, task_id: str, *, max_input_bytes: int) -> AcceptedRequest | None:
        """Return the request of the task, with its input up to a length; None when there is no such task."""
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        reply = await self._scripts.read_request(keys, max_bytes=max_input_bytes)
        return AcceptedRequest(reply.fingerprint, reply.input) if reply.word == "OK" else None

    async def get(self, endpoint_id: str, task_id: str) -> Task | None:
        """The task with its input and output, or None."""
        return self._task(endpoint_id, task_id, await self._read(endpoint_id, task_id, is_whole=True), detail=True)

    async def brief(self, endpoint_id: str, task_id: str) -> Task | None:
        """The task without its input, output and secrets, or None."""
        return self._task(endpoint_id, task_id, await self._read(endpoint_id, task_id), detail=False)

    async def page(self, endpoint_id: str, status: TaskStatus | None, *, page: int, size: int) -> TaskPage:
        """Page number `page` (1 for the first) of the endpoint's tasks, newest first.

        Every page costs about the same, at any depth and however many tasks there are.
        """
        keys = self._partitions.of(endpoint_id)
        ids, total = await self._page_ids(keys, status, (page - 1) * size, size)
        replies = await asyncio.gather(*(self._read(endpoint_id, task_id) for task_id in ids))
        tasks = (
            self._task(endpoint_id, task_id, reply, detail=False) for task_id, reply in zip(ids, replies, strict=True)
        )
        return TaskPage(tuple(task for task in tasks if task is not None), total)

    async def counts(self, endpoint_id: str) -> TaskCounts:
        """How many tasks the endpoint has, by where they are: a constant-time read."""
        fields = ["queued", "running", "scheduled", "success", "delivered", "failed"]
        values = await self._redis.hmget(self._partitions.of(endpoint_id).counts, fields)  # type: ignore[misc]
        return TaskCounts(**{name: max(0, int(value or 0)) for name, value in zip(fields, values, strict=True)})

    async def delivery_log(self, endpoint_id: str, task_id: str) -> list[dict[str, Any]]:
        """The attempts made to deliver the task's result, oldest first; at most the latest 20."""
        key = self._partitions.of(endpoint_id).partition.attempts_log(endpoint_id, task_id)
        return [json.loads(record) for record in await self._redis.lrange(key, 0, -1)]  # type: ignore[misc]

    async def sweep(
        self, partition: Partition, *, tick_ms: int, lease_ms: int, max_lost: int, most: int = 1000
    ) -> Swept:
        """One round over what is due in `partition`: lost leases go back to the queue, waits that are over end.

        Safe to run from several controllers at once. `most` bounds the work of one round.
        """
        found = await self._scripts.sweep(partition, tick_ms=tick_ms, lease_ms=lease_ms, limit=most)
        expired = await asyncio.gather(*(self._expire(name) for name in found.overdue))
        reclaimed = await asyncio.gather(*(self._reclaim(name, max_lost) for name in found.lost))
        promoted = await asyncio.gather(*(self._promote(name) for name in found.due))
        return Swept(
            requeued=reclaimed.count("QUEUED"),
            dead=reclaimed.count("DEAD"),
            promoted=promoted.count("QUEUED"),
            cancelled=reclaimed.count("CANCELLED"),
            expired=expired.count("EXPIRED"),
        )

    async def _reclaim(self, name: str, max_lost: int) -> str:
        keys = self._keys_of_member(name)
        reply = await self._scripts.reclaim(keys, max_lost=max_lost)
        if reply.word != "OK" and log.isEnabledFor(logging.INFO):
            ids = {"endpoint": keys.endpoint_keys.endpoint_id, "task": keys.task_id}
            attempt = {"worker": reply.worker_id, "attempt": reply.attempts}
            log.info("attempt lost: its lease expired", extra={**ids, **attempt, "store": reply.word})
        return reply.word

    async def _expire(self, name: str) -> str:
        keys = self._keys_of_member(name)
        word = (await self._scripts.expire(keys)).word
        if word == "EXPIRED":
            log.info("task expired", extra={"endpoint": keys.endpoint_keys.endpoint_id, "task": keys.task_id})
        return word

    async def cancel(self, endpoint_id: str, task_id: str) -> Cancellation:
        """Cancel a task: one that waits ends at once, one that runs when its agent hears of it. Safe to call again."""
        return Cancellation((await self._scripts.cancel(self._partitions.of(endpoint_id).of_task(task_id))).word)

    async def run_again(self, endpoint_id: str, task_id: str, call_id: str) -> RunAgain:
        """Queue an ended task for a further attempt with fresh budgets. Its result and the delivery of that go.

        `call_id` is the caller's own for this wish: with the same one nothing is done twice.
        """
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        return RunAgain((await self._scripts.run_again(keys, call_id=call_id)).word)

    async def delete(self, endpoint_id: str, task_id: str) -> Deletion:
        """Remove an ended task with all its data; a delivery of its result that goes on is dropped."""
        return Deletion((await self._scripts.delete_task(self._partitions.of(endpoint_id).of_task(task_id))).word)

    async def attempts(self, endpoint_id: str, task_id: str) -> list[Attempt] | None:
        """The task's attempts, oldest first, with the one under way; at most the latest 51. None without the task."""
        reply = await self._scripts.read_attempts(self._partitions.of(endpoint_id).of_task(task_id))
        if reply.word != "OK":
            return None
        spec = self._specs.decode_public(reply.spec)
        task = task_from(endpoint_id, task_id, reply.fields, spec, None, reply.result)
        history = [_attempt_from(record) for record in reply.records]
        latest = _latest_attempt(task)
        return history if latest is None else [*history, latest]

    async def _promote(self, name: str) -> str:
        return (await self._scripts.promote(self._keys_of_member(name))).word

    async def purge(self, endpoint_id: str, *, before_ms: int, most: int = 1000) -> int:
        """Remove ended tasks that reached their status before `before_ms` (store's clock); at most `most` a status.

        A task whose delivery still goes on is kept for another retention time. Returns how many were removed.
        """
        keys = self._partitions.of(endpoint_id)
        removed = 0
        for status in (TaskStatus.SUCCESS, TaskStatus.DELIVERED, TaskStatus.FAILED):
            kept = most
            while kept == most:  # behind those that are kept there may be others
                overdue = await self._scripts.overdue(
                    keys, stream=keys.finished(status), status=status.lower(), before_ms=before_ms, limit=most
                )
                words = await asyncio.gather(*(self._purge(keys, status, *entry) for entry in overdue.entries))
                removed += words.count("PURGED")
                kept = words.count("KEPT")
        return removed

    async def _purge(self, keys: EndpointKeys, status: TaskStatus, number: str, task_id: str, place: str) -> str:
        reply = await self._scripts.purge(
            keys.of_task(task_id), stream=keys.finished(status), number=number, status=status.lower(), place=place
        )
        return reply.word

    async def end_waiting(self, endpoint_id: str, error: str, *, most: int = 1000) -> int:
        """End tasks of an endpoint that is being deleted as failed; at most `most`. Returns how many had not ended.

        Its workers must be gone: a task that one still runs is fenced.
        """
        keys = self._partitions.of(endpoint_id)
        ids = [name.decode() for name in await self._redis.zrange(keys.live, 0, most - 1)]
        end = self._scripts.end_waiting
        return len(await asyncio.gather(*(end(keys.of_task(task_id), error_text=error) for task_id in ids)))

    async def reseal(self, endpoint_id: str, task_ids: Sequence[str]) -> list[Resealed]:
        """Seal the secrets of these tasks with the current key, where they are not."""
        keys = self._partitions.of(endpoint_id)
        return await asyncio.gather(*(self._reseal(keys, task_id) for task_id in task_ids))

    async def _reseal(self, keys: EndpointKeys, task_id: str) -> Resealed:
        while read := await self._read(keys.endpoint_id, task_id):
            text = read.front
            try:
                renewed = self._specs.resealed(text, keys.endpoint_id, task_id)
            except SealBroken:
                return Resealed.UNREADABLE
            if renewed == text:
                return Resealed.CURRENT
            reply = await self._scripts.reseal_spec(keys.of_task(task_id), before=text, after=renewed)
            if reply.word == "OK":
                return Resealed.RESEALED
        return Resealed.CURRENT

    async def waiting_and_running(self) -> dict[str, int]:
        """Tasks of all endpoints that are queued, running and scheduled."""
        totals = {"queued": 0, "running": 0, "scheduled": 0}
        for partition in self._partitions.all():
            values = await self._redis.hmget(partition.counts, list(totals))  # type: ignore[misc]
            for state, value in zip(totals, values, strict=True):
                totals[state] += max(0, int(value or 0))
        return totals

    async def oldest_waiting_ms(self, endpoint_id: str) -> int | None:
        """When the task that waits longest in the endpoint's queues got there; epoch milliseconds of the store."""
        keys = self._partitions.of(endpoint_id)
        heads = [await self._redis.xrange(stream, count=1) for stream in (keys.queue, keys.retry_queue)]
        times = [int(head[0][0].partition(b"-")[0]) for head in heads if head]
        return min(times, default=None)

    async def _read(self, endpoint_id: str, task_id: str, *, is_whole: bool = False) -> ReadOk | None:
        """The task's record, with its input and output when `is_whole`; None when there is no such task."""
        reply = await self._scripts.read(self._partitions.of(endpoint_id).of_task(task_id), is_whole=is_whole)
        return reply if reply.word == "OK" else None

    def _keys_of_member(self, name: str) -> TaskKeys:
        """The keys of a task by its name in a partition's sorted sets."""
        endpoint_id, task_id = parse_member(name)
        return self._partitions.of(endpoint_id).of_task(task_id)

    async def _page_ids(
        self, keys: EndpointKeys, status: TaskStatus | None, offset: int, size: int
    ) -> tuple[list[str], int]:
        if status is TaskStatus.PROCESSING:
            total = await self._redis.zcard(keys.live)
            ids = await self._redis.zrevrange(keys.live, offset, offset + size - 1) if offset < total else []
            return [name.decode() for name in ids], total
        stream, index = (keys.created, "all") if status is None else (keys.finished(status), status.lower())
        page = await self._scripts.page(keys, stream=stream, index=index, offset=offset, limit=size)
        return page.task_ids, page.total

    def _task(self, endpoint_id: str, task_id: str, read: ReadOk | None, *, detail: bool) -> Task | None:
        if read is None:
            return None
        length = int(read.fields["spec"])
        spec = self._readable_spec(read.front[:length], endpoint_id, task_id, detail=detail)
        input_ = read.front[length:] if detail else None
        return task_from(endpoint_id, task_id, read.fields, spec, input_, read.result)

    def _readable_spec(self, text: bytes, endpoint_id: str, task_id: str, *, detail: bool) -> TaskSpec:
        """A page needs no secrets; a detail shows header names, unless this process cannot open them."""
        if detail:
            try:
                return self._specs.decode(text, endpoint_id, task_id)
            except (SecretKeyMissing, SealBroken):
                pass
        return self._specs.decode_public(text)


def task_from(
    endpoint_id: str, task_id: str, fields: dict[str, str], spec: TaskSpec, input_: bytes | None, result: bytes
) -> Task:
    """A task from its hash and texts. `result` is the output or, in a state that is no success, the error."""
    state = TaskState(fields["state"])
    succeeded = state is TaskState.SUCCEEDED
    return Task(
        task_id=task_id,
        endpoint_id=endpoint_id,
        number=int(fields["number"]),
        state=state,
        spec=spec,
        attempts=int(fields["attempts"]),
        lost=int(fields["lost"]),
        created_at_ms=int(fields["created"]),
        updated_at_ms=int(fields["updated"]),
        started_at_ms=optional_int(fields.get("started")),
        finished_at_ms=optional_int(fields.get("finished")),
        worker_id=fields.get("worker"),
        worker_address=fields.get("address"),
        error=result.decode("utf-8", "replace") if result and not succeeded else None,
        delivery_status=DeliveryStatus(fields.get("delivery", "INIT")),
        delivery_attempts=int(fields.get("delivery_attempts", 0)),
        delivery_error=fields.get("delivery_error"),
        delivered_at_ms=optional_int(fields.get("delivered")),
        next_delivery_at_ms=optional_int(fields.get("next_delivery")),
        delivery_parked=fields.get("delivery_parked") == "1",
        timeout_seconds=float(fields["timeout"]),
        queue_ttl_seconds=float(fields["ttl"]) if "ttl" in fields else None,
        cancel_requested="cancel" in fields,
        runs=int(fields.get("runs", 0)) + 1,
        lost_lease="lost_token" in fields,
        latest_attempt_noted="noted" in fields,
        input=input_,
        output=result if result and succeeded else None,
    )


def _optional_number(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.15g}"


def _attempt_from(record: bytes) -> Attempt:
    """A record of the history. An error was cut at some byte."""
    fields = json.loads(record.decode("utf-8", "replace"))
    return Attempt(
        number=int(fields["attempt"]),
        worker_id=fields["workerId"],
        outcome=AttemptOutcome(fields["outcome"]),
        started_at_ms=int(fields["startedAt"]),
        ended_at_ms=int(fields["endedAt"]),
        error=fields.get("error") or None,
        tries=int(fields.get("tries", 1)),
    )


_OUTCOMES = {
    TaskState.RUNNING: AttemptOutcome.RUNNING,
    TaskState.SUCCEEDED: AttemptOutcome.OK,
    TaskState.TIMED_OUT: AttemptOutcome.TIMEOUT,
    TaskState.CANCELLED: AttemptOutcome.CANCELLED,
    TaskState.DEAD: AttemptOutcome.LOST,
}


def _latest_attempt(task: Task) -> Attempt | None:
    """The latest attempt as the task itself tells it; None before the first, and when the history has it."""
    if task.started_at_ms is None or task.latest_attempt_noted:
        return None
    outcome = AttemptOutcome.LOST if task.lost_lease else _OUTCOMES.get(task.state, AttemptOutcome.ERROR)
    ended_at_ms = task.updated_at_ms if task.lost_lease else task.finished_at_ms
    return Attempt(
        number=task.attempts,
        worker_id=task.worker_id or "",
        outcome=outcome,
        started_at_ms=task.started_at_ms,
        ended_at_ms=ended_at_ms,
        error=task.error if task.state in TERMINAL_STATES else None,
    )
