"""Operations: many tasks of an endpoint are changed in the background, each of them once.

An operation is a hash of its endpoint, which is in the same slot as the tasks. The leading controller advances it in
steps (`store/operation_steps.py`):

1. `plan_operation.lua` notes up to STEP_TASKS tasks in the set `todo`, together with the place from which the walk goes
   on. It refuses a step that another process has made.
2. `cancel_in_operation.lua` and its siblings make the same transition as a single order. The same script removes the
   task from `todo` and counts the result. A task that is not in `todo` is not changed.

So a task is changed and counted once, whichever controllers die, and also if a controller that no longer leads is still
at work: the task has left `todo`, or the number of the step has changed, and its calls have no effect. An operation
that was cancelled changes no further task, because every script reads its state.

`{pNN}:operations` has the operations that run. The index of a tenant is in another slot, so it is written after the
operation, and again by the first step of a leading controller. A list removes entries of operations that have expired.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis

from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.task_operations import (
    Author,
    NewOperation,
    OperationPage,
    OperationStatus,
    SkipReason,
    TaskAction,
    TaskOperation,
)
from queue_engine.store.call_ids import new_call_id
from queue_engine.store.calls import Scripts
from queue_engine.store.constants import OPERATION_KEPT_MS
from queue_engine.store.keys import EndpointKeys, Partition, Partitions, operations_of
from queue_engine.store.redis.client import optional_int

MAX_LISTED_OPERATIONS = 10_000
"""Limit of a tenant's operations in its index. The oldest are removed first."""
SCANNED_AT_ONCE = 1000
REMOVED_AT_ONCE = 250

_SKIP_FIELDS: Mapping[str, SkipReason] = {
    "skipped:gone": SkipReason.NOT_FOUND,
    "skipped:newer": SkipReason.NEWER,
    "skipped:busy": SkipReason.NOT_ENDED,
    "skipped:ended": SkipReason.ENDED,
    "skipped:changed": SkipReason.CHANGED,
    "skipped:repeated": SkipReason.REQUESTED,
    "skipped:already": SkipReason.CHANGED,
    "skipped:no_webhook": SkipReason.NO_WEBHOOK,
    "skipped:due": SkipReason.DUE,
}


class Start(StrEnum):
    """Result of beginning an operation."""

    STARTED = "OK"
    SAME = "ALREADY"
    """The same request has begun it before."""
    CONFLICT = "CONFLICT"
    """Another request has the id."""
    TOO_MANY = "BUSY"
    """The endpoint has the maximum number of operations that run."""
    CLOSED = "CLOSED"
    """The endpoint takes no tasks now, so that none can be retried."""
    NOT_FOUND = "GONE"


@dataclass(frozen=True)
class RunningOperation:
    """An operation that runs."""

    endpoint_id: str
    operation_id: str
    tenant: str


class OperationStore:
    """The operations of all endpoints. Every method may be repeated after a lost reply, and raises RedisError."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def start(self, tenant: str, endpoint_id: str, new: NewOperation) -> Start:
        """Begin an operation. A repeated call with the same id and fingerprint has no effect."""
        keys = self._partitions.of(endpoint_id)
        reply = await self._scripts.create_operation(
            keys,
            operation=keys.operation(new.operation_id),
            given_tasks=keys.given_tasks(new.operation_id),
            operation_id=new.operation_id,
            call_id=new_call_id(),
            fingerprint=new.fingerprint,
            action=new.action.value,
            filters="" if new.filters is None else json.dumps(new.filters.to_dict()),
            is_dry=new.is_dry,
            author_id=new.author.key_id,
            author_name=new.author.key_name,
            address=new.author.address,
            task_ids=new.task_ids,
        )
        start = Start(reply.word)
        if start in (Start.STARTED, Start.SAME):
            await self.note(RunningOperation(endpoint_id, new.operation_id, tenant))
        if reply.word == "OK" and reply.surplus:
            await self._forget(keys, reply.surplus)
        return start

    async def note(self, one: RunningOperation) -> None:
        """Put the operation into its tenant's index, unless it has expired."""
        keys, index = self._partitions.of(one.endpoint_id), operations_of(one.tenant)
        created = await self._redis.hget(keys.operation(one.operation_id), "created")  # type: ignore[misc]
        if created is None:
            return
        await self._redis.zadd(index, {f"{one.endpoint_id}:{one.operation_id}": int(created)})
        await self._redis.zremrangebyrank(index, 0, -MAX_LISTED_OPERATIONS - 1)
        await self._redis.pexpire(index, 2 * OPERATION_KEPT_MS)

    async def get(self, endpoint_id: str, operation_id: str) -> TaskOperation | None:
        """Return the operation; None if there is none of this id, or it has expired."""
        key = self._partitions.of(endpoint_id).operation(operation_id)
        return _operation(endpoint_id, operation_id, await self._redis.hgetall(key))  # type: ignore[misc]

    async def page(self, endpoint_id: str, *, page: int, size: int) -> OperationPage:
        """Return page number `page` (1 for the first) of an endpoint's operations, newest first."""
        index = self._partitions.of(endpoint_id).operations
        ids, total = await self._page_of(index, page, size)
        found = await self._read([(endpoint_id, operation_id) for operation_id in ids])
        return await self._shown(index, ids, found, total)

    async def tenants_page(self, tenant: str, *, page: int, size: int) -> OperationPage:
        """Return page number `page` of the operations of all endpoints of a tenant, newest first."""
        index = operations_of(tenant)
        names, total = await self._page_of(index, page, size)
        found = await self._read([_ids_in(name) for name in names])
        return await self._shown(index, names, found, total)

    async def page_of_endpoints(
        self, tenant: str, endpoint_ids: frozenset[str], *, page: int, size: int
    ) -> OperationPage:
        """Return page number `page` of the operations of some endpoints of a tenant, newest first.

        Reads the tenant's whole index, which is limited.
        """
        index = operations_of(tenant)
        names = [name.decode() for name in await self._redis.zrevrange(index, 0, -1)]
        seen = [name for name in names if _ids_in(name)[0] in endpoint_ids]
        shown = seen[(page - 1) * size : page * size]
        found = await self._read([_ids_in(name) for name in shown])
        return await self._shown(index, shown, found, len(seen))

    async def end(self, endpoint_id: str, operation_id: str, status: OperationStatus, error: str = "") -> bool:
        """End an operation that runs.

        Return False if it has ended before, or has further tasks and `status` is DONE.
        """
        keys = self._partitions.of(endpoint_id)
        reply = await self._scripts.end_operation(
            keys,
            operation=keys.operation(operation_id),
            todo=keys.todo(operation_id),
            given_tasks=keys.given_tasks(operation_id),
            status=status.value,
            error_text=error,
        )
        return reply.word == "OK"

    async def busy(self) -> list[Partition]:
        """Return the partitions in which operations run. This costs one round trip for all of them."""
        partitions = self._partitions.all()
        pipeline = self._redis.pipeline(transaction=False)
        for partition in partitions:
            pipeline.scard(partition.running_operations)
        return [one for one, count in zip(partitions, await pipeline.execute(), strict=True) if count]

    async def running(self, partition: Partition) -> list[RunningOperation]:
        """Return the operations of a partition that run."""
        found: set[bytes] = set()
        cursor = 0
        while True:
            cursor, members = await self._redis.sscan(partition.running_operations, cursor, count=SCANNED_AT_ONCE)
            found.update(members)
            if cursor == 0:
                return [RunningOperation(*member.decode().split(":", 2)) for member in sorted(found)]

    async def remove_endpoint(self, endpoint_id: str) -> None:
        """End and remove the operations of an endpoint that is being deleted. No further one can begin."""
        keys = self._partitions.of(endpoint_id)
        while ids := [name.decode() for name in await self._redis.zrange(keys.operations, 0, REMOVED_AT_ONCE - 1)]:
            tenants = {one.tenant for one in await self._read([(endpoint_id, one) for one in ids]) if one is not None}
            await asyncio.gather(*(self.end(endpoint_id, one, OperationStatus.CANCELLED) for one in ids))
            for tenant in tenants:
                await self._redis.zrem(operations_of(tenant), *(f"{endpoint_id}:{one}" for one in ids))
            await self._forget(keys, ids)

    async def _forget(self, keys: EndpointKeys, operation_ids: Sequence[str]) -> None:
        await self._scripts.forget_operations(
            keys, records=[keys.operation(one) for one in operation_ids], operation_ids=operation_ids
        )

    async def _page_of(self, index: str, page: int, size: int) -> tuple[list[str], int]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zcard(index)
        pipeline.zrevrange(index, (page - 1) * size, page * size - 1)
        total, names = await pipeline.execute()
        return [name.decode() for name in names], total

    async def _read(self, ids: Sequence[tuple[str, str]]) -> list[TaskOperation | None]:
        if not ids:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for endpoint_id, operation_id in ids:
            pipeline.hgetall(self._partitions.of(endpoint_id).operation(operation_id))
        return [_operation(*one, fields) for one, fields in zip(ids, await pipeline.execute(), strict=True)]

    async def _shown(
        self, index: str, names: Sequence[str], found: Sequence[TaskOperation | None], total: int
    ) -> OperationPage:
        """Return a page, and remove the entries of operations that have expired from the index."""
        expired = [name for name, one in zip(names, found, strict=True) if one is None]
        if expired:
            await self._redis.zrem(index, *expired)
        return OperationPage(tuple(one for one in found if one is not None), total - len(expired))


def _ids_in(name: str) -> tuple[str, str]:
    """Return the ids of the endpoint and the operation in an entry of a tenant's index."""
    endpoint_id, _, operation_id = name.partition(":")
    return endpoint_id, operation_id


def _operation(endpoint_id: str, operation_id: str, fields: Mapping[bytes, bytes]) -> TaskOperation | None:
    if not fields:
        return None
    found = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}
    skips: dict[SkipReason, int] = {}
    for name, reason in _SKIP_FIELDS.items():
        if name in found:
            skips[reason] = skips.get(reason, 0) + int(found[name])
    status, total, scanned = OperationStatus(found["state"]), int(found["total"]), int(found["scanned"])
    is_given = not found["filters"]
    # A walk by filters goes from the newest task that was there at the start to the oldest.
    place = int(found.get("after") or found["upto"])
    progress = scanned / max(total, 1) if is_given else 1 - place / max(int(found["upto"]), 1)
    return TaskOperation(
        endpoint_id=endpoint_id,
        operation_id=operation_id,
        tenant=found["tenant"],
        action=TaskAction(found["action"]),
        filters=None if is_given else TaskFilters.known_in(json.loads(found["filters"])),
        is_dry=found["dry"] == "1",
        status=status,
        total=total,
        scanned=scanned,
        progress=1.0 if status is OperationStatus.DONE or found.get("complete") == "1" else progress,
        matched=int(found["matched"]),
        done=int(found.get("done", 0)),
        failed=int(found.get("failed", 0)),
        skips=skips,
        unknown_ids=tuple(found.get("unknown", "").split()),
        error=found.get("error"),
        started_at_ms=int(found["created"]),
        updated_at_ms=int(found["updated"]),
        ended_at_ms=optional_int(found.get("ended")),
        author=Author(found["author"], found["author_name"], found["address"]),
    )
