"""Tasks as the use cases need them: submit, read, list, count, and orders to cancel, rerun and delete."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.endpoints import DesiredState, TaskCounts
from queue_engine.domain.rates import RateScope, RateState
from queue_engine.domain.tasks import (
    HEAD_BYTES,
    Attempt,
    DetailFacts,
    Head,
    Heads,
    LongText,
    LongTexts,
    NewTask,
    Payload,
    Task,
    TaskPage,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from queue_engine.domain.waiting import LaneFacts, Line, WaitFacts
from queue_engine.store.call_ids import new_call_id
from queue_engine.store.calls import Scripts
from queue_engine.store.codec import COUNTS, TaskSpecs, attempt_from, counts_from, latest_attempt, rest_of, task_from
from queue_engine.store.deliveries import delivery_attempt_from
from queue_engine.store.keys import EndpointKeys, Partitions, TaskKeys
from queue_engine.store.redis.connections import MAX_COPIED_BYTES, Pieces
from queue_engine.store.resealing import Resealed

if TYPE_CHECKING:
    from queue_engine.store import calls
    from queue_engine.store.calls import ReadDetailLong, ReadDetailOk, ReadOk, WhyQueued

    EnqueueReply = (
        calls.EnqueueOk
        | calls.EnqueueExists
        | calls.EnqueueConflict
        | calls.EnqueueNotFound
        | calls.EnqueueNotQueue
        | calls.EnqueueClosed
        | calls.EnqueueFull
        | calls.EnqueueInLane
        | calls.EnqueueTooLate
        | calls.EnqueueLimited
        | calls.EnqueueWithin
    )


MAX_REMEMBERED_ENDPOINTS = 10_000
"""Limit of the endpoints that are remembered to have a default priority."""
PART_BYTES = 256 * 1024
"""Length of the parts in which a long input or output is read. Other calls of the store wait for one part at most."""


class Cancellation(StrEnum):
    """Result of cancelling a task."""

    CANCELLED = "CANCELLED"
    """The task was waiting and has ended by this call."""
    REQUESTED = "REQUESTED"
    """The task is running. Its agent learns of the cancellation with the next heartbeat."""
    REPEATED = "REPEATED"
    """The same, by an earlier cancellation."""
    ENDED = "ENDED"
    """The task had ended before."""
    NOT_FOUND = "GONE"


class Rerun(StrEnum):
    """Result of queueing an ended task again."""

    QUEUED = "OK"
    DUPLICATE = "ALREADY"
    """The same call has queued the task before."""
    NOT_ENDED = "BUSY"
    CLOSED = "CLOSED"
    FULL = "FULL"
    NOT_FOUND = "GONE"


class Deletion(StrEnum):
    """Result of deleting a task."""

    DELETED = "OK"
    NOT_ENDED = "BUSY"
    NOT_FOUND = "GONE"


class Submission(StrEnum):
    """Result of submitting a task."""

    ACCEPTED = "OK"
    DUPLICATE = "EXISTS"
    """The same request was accepted before."""
    CONFLICT = "CONFLICT"
    """A task of another request has the id."""
    NOT_FOUND = "NOT_FOUND"
    NOT_QUEUE = "NOT_QUEUE"
    CLOSED = "CLOSED"
    FULL = "FULL"
    TOO_LATE = "TOO_LATE"
    """The time before which it must not begin is too far ahead."""
    LIMITED = "LIMITED"
    """The endpoint has got as many submissions in this second as it takes."""


@dataclass(frozen=True)
class Enqueued:
    """The result of a submission, and the state of the endpoint's rate limit if it has one."""

    result: Submission
    rate: RateState | None = None


_ENQUEUED = {result.value: Enqueued(result) for result in Submission}
"""Results without a rate limit, made once because most submissions have none."""


@dataclass(frozen=True)
class AcceptedRequest:
    """The request that a task was accepted with."""

    fingerprint: str
    input: bytes | None
    """None when the input is longer than requested."""


LaneCheck = Callable[[NewTask], Awaitable[None]]
"""Raises an error if the task may not wait in a lane."""


class TaskStore:
    """The tasks of all endpoints. Every method may be repeated after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions, sealer: Sealer) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._specs = TaskSpecs(sealer)
        self._with_default_lane: set[str] = set()
        """Endpoints by whose default priority a task waited in a lane, so that its keys are passed at once."""

    async def enqueue(self, task: NewTask, check: LaneCheck | None = None) -> Enqueued:
        """Accept `task` unless its endpoint refuses it. A repeated submission is accepted once.

        `check` is called before this process first puts a task into a lane by its endpoint's default priority, and may
        raise an error that refuses it.
        """
        found = await self._enqueueing(task, with_lanes=self._has_lane(task))
        if found.word == "IN_LANE":
            await self._note_default_lane(task, check)
            found = await self._enqueueing(task, with_lanes=True)
        return _enqueued_by(found)

    async def enqueue_all(
        self, tasks: Sequence[NewTask], results: list[Enqueued | Exception], check: LaneCheck | None = None
    ) -> None:
        """Accept tasks in their order, as `enqueue` does, in shared round trips. Append a result for each.

        When this is cancelled, the results of the tasks before are in the list.
        """
        # All tasks get the keys of lanes if one of them does. Otherwise those that need them by the endpoint's default
        # priority would be accepted by a second call, after the tasks behind them.
        with_lanes = any(self._has_lane(task) for task in tasks)
        replies = deque((task, self._enqueueing(task, with_lanes=with_lanes)) for task in tasks)
        try:
            while replies:
                task, reply = replies.popleft()
                try:
                    found = await reply
                    if found.word == "IN_LANE":
                        await self._note_default_lane(task, check)
                        group = [(task, found), *[(one, await _outcome_of(other)) for one, other in replies]]
                        replies = deque((one, self._again(one, outcome)) for one, outcome in group)
                        continue
                    results.append(_enqueued_by(found))
                except Exception as error:  # noqa: BLE001 - it is the result of the task
                    results.append(error)
        finally:
            for _, reply in replies:
                reply.close()

    def has_default_lane(self, endpoint_id: str) -> bool:
        """Return True if a task of the endpoint has waited in a lane by its default priority, as this process knows."""
        return endpoint_id in self._with_default_lane

    def forget_default_lane(self, endpoint_id: str) -> None:
        """Ask the store again whether the endpoint has a default priority, so that the next task is checked."""
        self._with_default_lane.discard(endpoint_id)

    def _has_lane(self, task: NewTask) -> bool:
        return task.lane is not None or task.endpoint_id in self._with_default_lane

    async def _note_default_lane(self, task: NewTask, check: LaneCheck | None) -> None:
        if check is not None:
            await check(task)
        if len(self._with_default_lane) >= MAX_REMEMBERED_ENDPOINTS:
            self._with_default_lane.clear()
        self._with_default_lane.add(task.endpoint_id)

    def _enqueueing(self, task: NewTask, *, with_lanes: bool) -> Coroutine[Any, Any, EnqueueReply]:
        """Begin to accept a task."""
        keys = self._partitions.of(task.endpoint_id)
        spec = self._specs.encode(task.spec, task.endpoint_id, task.task_id)
        return self._scripts.enqueue(
            keys.of_task(task.task_id),
            extra=_extra_keys(task, keys, with_lanes),
            fingerprint=task.fingerprint,
            tenant=task.tenant,
            spec_and_input=_joined(spec, task.input),
            spec_length=str(len(spec)),
            partition_index=keys.partition.index,
            options=_options_of(task),
        )

    def _again(self, task: NewTask, outcome: EnqueueReply | Exception) -> Coroutine[Any, Any, EnqueueReply]:
        """Begin to accept a task again if its first call lacked the keys of lanes."""
        if not isinstance(outcome, Exception) and outcome.word == "IN_LANE":
            return self._enqueueing(task, with_lanes=True)
        return _repeated(outcome)

    async def accepted_request(self, endpoint_id: str, task_id: str, *, max_input_bytes: int) -> AcceptedRequest | None:
        """Return the request of the task, with its input up to `max_input_bytes`; None when there is no such task."""
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        reply = await self._scripts.read_request(keys, max_bytes=max_input_bytes)
        return AcceptedRequest(reply.fingerprint, reply.input) if reply.word == "OK" else None

    async def get(
        self, endpoint_id: str, task_id: str, *, max_bytes: int | None = None, payload: Payload = Payload.FULL
    ) -> Task | None:
        """Return the task with its input, output, secrets and `facts`, or None.

        If input and output have more than `max_bytes` together, the task has them as `long`. With `Payload.HEAD` it has
        `heads` in place of them, and with `Payload.NONE` nothing.
        """
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        is_whole, head_bytes = payload is Payload.FULL, HEAD_BYTES if payload is Payload.HEAD else None
        reply = await self._scripts.read_detail(keys, is_whole=is_whole, max_bytes=max_bytes, head_bytes=head_bytes)
        if reply.word == "GONE":
            return None
        if reply.word == "LONG":
            return self._long_task(keys, reply)
        length = int(reply.fields["spec"])
        spec = self._readable_spec(reply.front[:length], endpoint_id, task_id)
        facts = _facts(reply)
        input_ = rest_of(reply.front, length) if is_whole else None
        task = _with_latest_delivery(task_from(endpoint_id, task_id, reply.fields, spec, input_, reply.result), reply)
        if payload is Payload.HEAD:
            return replace(task, facts=facts, output=None, heads=_heads(reply.front[length:], task.output, facts))
        return replace(task, facts=facts)

    async def texts(self, endpoint_id: str, task_id: str) -> Task | None:
        """Return the task with its input and output as `long`, whatever their length, or None.

        It has an output if it has succeeded.
        """
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        reply = await self._scripts.read_detail(keys, is_whole=False, max_bytes=None, head_bytes=None)
        return None if reply.word == "GONE" else self._long_task(keys, reply)

    async def brief(self, endpoint_id: str, task_id: str) -> Task | None:
        """Return the task without its input, output and secrets, or None."""
        return self._task(endpoint_id, task_id, await self._read(endpoint_id, task_id))

    async def original(self, endpoint_id: str, task_id: str) -> Task | None:
        """Return the task with its secrets, for a copy of it, or None. An input that is not small is in `long`.

        Raises SecretKeyMissing or SealBroken if a secret cannot be opened.
        """
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        reply = await self._scripts.read_detail(keys, is_whole=True, max_bytes=0, head_bytes=None)
        if reply.word == "GONE":
            return None
        if reply.word == "LONG":
            task, spec = self._long_task(keys, reply), reply.spec
        else:
            spec = reply.front[: int(reply.fields["spec"])]
            task = task_from(
                endpoint_id,
                task_id,
                reply.fields,
                self._specs.decode_public(spec),
                rest_of(reply.front, len(spec)),
                reply.result,
            )
        return replace(task, spec=self._specs.decode(spec, endpoint_id, task_id))

    async def wait_facts(self, endpoint_id: str, task_id: str) -> WaitFacts | None:
        """Return what tells why a task waits; None if it does not wait, or there is no such task."""
        reply = await self._scripts.why(self._partitions.of(endpoint_id).of_task(task_id))
        if reply.word == "OK":
            return None
        facts = WaitFacts(
            now_ms=reply.now_ms,
            state=TaskState(reply.word.lower()),
            since_ms=reply.since_ms,
            has_started=reply.has_started,
            losses=reply.losses,
            desired=DesiredState(reply.desired),
            has_failed=reply.has_failed,
            wanted_workers=reply.wanted_workers,
        )
        if reply.word == "QUEUED":
            return replace(
                facts,
                line=await self._line(endpoint_id, reply),
                lane=_lane_facts(reply.lane),
                is_paused=reply.is_paused,
                tokens=reply.tokens,
                starts_per_second=reply.starts_per_second,
            )
        latest = None if reply.latest is None else attempt_from(reply.latest)
        return replace(facts, due_ms=reply.due_ms, latest=latest)

    async def page(self, endpoint_id: str, status: TaskStatus | None, *, page: int, size: int) -> TaskPage:
        """Return page number `page` (1 for the first) of the endpoint's tasks, newest first.

        The cost depends neither on the number of the page nor on the number of tasks.
        """
        keys = self._partitions.of(endpoint_id)
        ids, total = await self._page_ids(keys, status, (page - 1) * size, size)
        replies = await asyncio.gather(*(self._read(endpoint_id, task_id) for task_id in ids))
        tasks = (self._task(endpoint_id, task_id, reply) for task_id, reply in zip(ids, replies, strict=True))
        return TaskPage(tuple(task for task in tasks if task is not None), total)

    async def counts(self, endpoint_id: str) -> TaskCounts:
        """Return the number of tasks of the endpoint by status, in constant time."""
        values = await self._redis.hmget(self._partitions.of(endpoint_id).counts, COUNTS)  # type: ignore[misc]
        return counts_from(values)

    async def cancel(self, endpoint_id: str, task_id: str) -> Cancellation:
        """Cancel a task. A waiting task ends at once, a running task after the next heartbeat of its agent."""
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        return Cancellation((await self._scripts.cancel(keys, call_id=new_call_id())).word)

    async def rerun(self, endpoint_id: str, task_id: str, call_id: str) -> Rerun:
        """Queue an ended task again with fresh budgets. Its result and the delivery of the result are removed.

        `call_id` identifies the request: a repeated call with the same id has no effect.
        """
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        return Rerun((await self._scripts.rerun(keys, call_id=call_id)).word)

    async def delete(self, endpoint_id: str, task_id: str) -> Deletion:
        """Remove an ended task with all its data. A delivery of its result that has not ended is dropped."""
        return Deletion((await self._scripts.delete_task(self._partitions.of(endpoint_id).of_task(task_id))).word)

    async def attempts(self, endpoint_id: str, task_id: str) -> list[Attempt] | None:
        """Return the task's attempts, oldest first, including a running one; at most the latest 51.

        None when there is no such task.
        """
        reply = await self._scripts.read_attempts(self._partitions.of(endpoint_id).of_task(task_id))
        if reply.word != "OK":
            return None
        spec = self._specs.decode_public(reply.spec)
        task = task_from(endpoint_id, task_id, reply.fields, spec, None, reply.result)
        history = [attempt_from(record) for record in reply.records]
        latest = latest_attempt(task)
        return history if latest is None else [*history, latest]

    async def reseal(self, endpoint_id: str, task_ids: Sequence[str]) -> list[Resealed]:
        """Seal the secrets of these tasks with the current key, unless they already are. Return a result for each."""
        keys = self._partitions.of(endpoint_id)
        return await asyncio.gather(*(self._reseal(keys, task_id) for task_id in task_ids))

    async def _reseal(self, keys: EndpointKeys, task_id: str) -> Resealed:
        while read := await self._read(keys.endpoint_id, task_id):
            text = read.spec
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

    async def _read(self, endpoint_id: str, task_id: str) -> ReadOk | None:
        """Return the task's record without its input and output; None when there is no such task."""
        keys = self._partitions.of(endpoint_id).of_task(task_id)
        reply = await self._scripts.read(keys)
        return reply if reply.word == "OK" else None

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

    def _task(self, endpoint_id: str, task_id: str, read: ReadOk | None) -> Task | None:
        if read is None:
            return None
        spec = self._specs.decode_public(read.spec)
        return task_from(endpoint_id, task_id, read.fields, spec, None, read.error)

    def _long_task(self, keys: TaskKeys, read: ReadDetailLong | ReadDetailOk) -> Task:
        """Return a task with its texts as `long`. A reply that is OK must have neither of them."""
        endpoint_id, task_id = keys.endpoint_keys.endpoint_id, keys.task_id
        text, error = (read.front, read.result) if read.word == "OK" else (read.spec, read.error)
        spec = self._readable_spec(text, endpoint_id, task_id)
        task = task_from(endpoint_id, task_id, read.fields, spec, None, error)
        input_ = self._long_text(keys, read.fields, read.input_bytes, is_output=False)
        output = self._long_text(keys, read.fields, read.output_bytes, is_output=True) if read.output_bytes else None
        return replace(_with_latest_delivery(task, read), long=LongTexts(input_, output), facts=_facts(read))

    def _long_text(self, keys: TaskKeys, fields: dict[str, str], size: int, *, is_output: bool) -> LongText:
        async def read(offset: int) -> bytes:
            reply = await self._scripts.read_part(
                keys,
                number=fields["number"],
                finished=fields.get("finished"),
                is_output=is_output,
                offset=offset,
                length=min(PART_BYTES, size - offset),
            )
            return reply.part if reply.word == "OK" else b""

        return LongText(size, read)

    async def _line(self, endpoint_id: str, reply: WhyQueued) -> Line | None:
        """Return the place of a queued task; None if no queue has its entry."""
        line = Line(is_new=reply.is_new, depth=reply.depth, other_depth=reply.other_depth, before=reply.before)
        if reply.before is not None:
            return line
        if not reply.ends:
            return None
        places = await asyncio.gather(*(self._place(endpoint_id, fields) for _, fields in reply.ends))
        own, first, last = (int(place or 0) for place in places)
        if not (reply.is_new and 0 < first <= own <= last):
            own, first, last = (_number_of(entry_id.decode()) for entry_id, _ in reply.ends)
        return replace(line, own=own, first=first, last=last)

    async def _place(self, endpoint_id: str, fields: Mapping[bytes, bytes]) -> bytes | None:
        """Return the place of a queue's entry in the order of creation; None if it is not known.

        It is read from the task, because a place in each entry would cost every task bytes.
        """
        if b"n" in fields:
            return fields[b"n"]
        task = self._partitions.of(endpoint_id).task(fields.get(b"t", b"").decode())
        place: bytes | None = await self._redis.hget(task, "seq")  # type: ignore[misc]
        return place

    def _readable_spec(self, text: bytes, endpoint_id: str, task_id: str) -> TaskSpec:
        """Return the spec, with its secrets when this process can open them."""
        try:
            return self._specs.decode(text, endpoint_id, task_id)
        except (SecretKeyMissing, SealBroken):
            return self._specs.decode_public(text)


def _facts(read: ReadDetailOk | ReadDetailLong) -> DetailFacts:
    return DetailFacts(
        next_attempt_at_ms=read.next_attempt_ms,
        expires_at_ms=read.expires_ms,
        kept_from_ms=read.kept_from_ms,
        removed_at_ms=read.removed_ms,
        input_bytes=read.input_bytes,
        output_bytes=read.output_bytes,
    )


def _with_latest_delivery(task: Task, read: ReadDetailOk | ReadDetailLong) -> Task:
    """Return the task with the error of the latest attempt to deliver its result while others follow."""
    if read.latest_delivery is None:
        return task
    return replace(task, delivery_error=delivery_attempt_from(read.latest_delivery).reason)


def _heads(input_: bytes, output: bytes | None, facts: DetailFacts) -> Heads:
    of_output = None if output is None else Head.of(output, facts.output_bytes or 0)
    return Heads(Head.of(input_, facts.input_bytes), of_output)


def _lane_facts(found: Sequence[int]) -> LaneFacts | None:
    """Return the facts of a lane in the order of why.lua."""
    if not found:
        return None
    before, *others = found
    return LaneFacts(None if before < 0 else before, *others)


def _number_of(entry_id: str) -> int:
    """Return a number for the id of an entry whose queue is not in the order of its tasks' creation.

    Such entries are of tasks that came back. Ids begin with the milliseconds of their time. The entries of one
    millisecond have consecutive numbers.
    """
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds) * 1000 + min(int(sequence), 999)


async def _outcome_of(reply: Awaitable[EnqueueReply]) -> EnqueueReply | Exception:
    try:
        return await reply
    except Exception as error:  # noqa: BLE001 - it is the result of the task
        return error


async def _repeated(outcome: EnqueueReply | Exception) -> EnqueueReply:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _enqueued_by(reply: EnqueueReply) -> Enqueued:
    if reply.word == "WITHIN":
        return Enqueued(Submission(reply.result), RateState(RateScope.ENDPOINT, reply.per_second, reply.left))
    if reply.word == "LIMITED":
        return Enqueued(Submission.LIMITED, RateState(RateScope.ENDPOINT, reply.per_second, 0))
    return _ENQUEUED[reply.word]


def _extra_keys(task: NewTask, keys: EndpointKeys, with_lanes: bool) -> Sequence[str]:
    """Return the keys of enqueue.lua that few tasks use."""
    if not with_lanes:
        is_plain = task.delay_seconds is None and task.run_at_ms is None and not task.spec.tags
        return () if is_plain else (keys.partition.due, keys.tags, keys.tagged)
    lanes = (keys.lane_entries, keys.lanes, keys.ring_high, keys.ring_normal, keys.ring_low)
    return keys.partition.due, keys.tags, keys.tagged, *lanes


def _options_of(task: NewTask) -> dict[str, str]:
    """Return the arguments of enqueue.lua that few tasks have."""
    if _is_usual(task):
        return {}
    options = {
        "destination": None if task.spec.webhook is None else task.spec.webhook_destination or "1",
        "execution_timeout": _optional_number(task.timeout_seconds),
        "queue_ttl": _optional_number(task.queue_ttl_seconds),
        "tag_names": " ".join(task.spec.tags) or None,
        "delay_ms": None if task.delay_seconds is None else str(math.ceil(task.delay_seconds * 1000)),
        "run_at_ms": None if task.run_at_ms is None else str(task.run_at_ms),
        "lane": task.lane,
    }
    return {name: value for name, value in options.items() if value is not None}


def _is_usual(task: NewTask) -> bool:
    """Return True if a task has none of the options. Most submits have none, and testing that is cheaper."""
    return (
        task.spec.webhook is None
        and not task.spec.tags
        and task.timeout_seconds is None
        and task.queue_ttl_seconds is None
        and task.delay_seconds is None
        and task.run_at_ms is None
        and task.priority is None
        and task.fairness_key is None
    )


def _joined(spec: bytes, input_: bytes | memoryview) -> bytes | Pieces:
    """Return both as one argument, a long input without a copy."""
    return spec + input_ if len(input_) <= MAX_COPIED_BYTES else Pieces((spec, input_))


def _optional_number(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.15g}"
