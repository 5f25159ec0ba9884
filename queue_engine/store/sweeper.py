"""Queue maintenance by the controller: sweep due tasks, purge ended tasks, end the tasks of deleted endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType

from redis.asyncio import Redis
from redis.exceptions import RedisError

from queue_engine.domain.tasks import TaskStatus
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import EndpointKeys, Partition, Partitions, TaskKeys, parse_member

log = logging.getLogger(__name__)

WAITING_AT_ONCE = 100
"""Number of endpoints whose waiting tasks are read at once."""
PURGED_AT_ONCE = 4
"""Number of endpoints of a partition that are purged at the same time."""
PURGED_PAGES = 10
"""Maximum number of pages of ended tasks that are removed from an endpoint before the next endpoint's turn."""
KEPT_PAGES = 4
"""Maximum number of pages of one status that one call looks at. It goes on after a page of tasks that are all kept."""


@dataclass(frozen=True)
class Swept:
    """Number of tasks that one sweep of a partition changed, by result."""

    requeued: int = 0
    dead: int = 0
    promoted: int = 0
    cancelled: int = 0
    """Tasks with a requested cancellation whose lease expired."""
    expired: int = 0

    @property
    def work(self) -> int:
        return self.requeued + self.dead + self.promoted + self.cancelled + self.expired


@dataclass(frozen=True)
class Tidied:
    """Number of consumers of ended agents in the groups of an endpoint's queues."""

    forgotten: int
    left: int
    """Number of consumers with entries that another agent must claim first."""


@dataclass(frozen=True)
class Purged:
    """Result of purging the endpoints of a partition that were due."""

    endpoints: int
    tasks: int


@dataclass(frozen=True)
class Waiting:
    """The waiting tasks of an endpoint."""

    endpoint_id: str
    depth: int
    """Number of tasks that are queued or scheduled."""
    oldest_ms: int | None
    """The time when the oldest queued task was queued, in epoch milliseconds of the store's clock.

    None without one, and for an endpoint that should not work.
    """
    should_work: bool = field(default=True, compare=False)
    """False if the endpoint is stopped or paused, or has no workers and should have none."""
    is_paused: bool = False
    open_lanes: int = 0
    """Number of lanes with waiting tasks that have turns."""
    parked_lanes: int = 0
    """Number of lanes with waiting tasks whose fairness key has as many running tasks as it may."""
    paused_ms: int | None = field(default=None, compare=False)
    """The time when the queue was paused, in epoch milliseconds of the store's clock; None if it is not paused."""


class Sweeper:
    """The controller's access to the queues of all endpoints. Every method may be repeated after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def sweep(
        self, partition: Partition, *, tick_ms: int, lease_ms: int, max_lost: int, limit: int = 1000
    ) -> Swept:
        """Requeue tasks with expired leases, queue scheduled tasks that are due, and expire tasks past their deadline.

        Handles at most `limit` tasks of each kind in `partition`. Safe to run from several controllers at once.
        """
        found = await self._scripts.sweep(partition, tick_ms=tick_ms, lease_ms=lease_ms, limit=limit)
        expired = await asyncio.gather(*(self._expire(name) for name in found.overdue))
        reclaimed = await asyncio.gather(*(self._reclaim(name, max_lost, lease_ms) for name in found.lost))
        promoted = await asyncio.gather(*(self._promote(name) for name in found.due))
        return Swept(
            requeued=reclaimed.count("QUEUED") + reclaimed.count("UNSTARTED"),
            dead=reclaimed.count("DEAD"),
            promoted=promoted.count("QUEUED"),
            cancelled=reclaimed.count("CANCELLED"),
            expired=expired.count("EXPIRED"),
        )

    async def purge_due(self, partition: Partition, *, limit: int) -> Purged:
        """Purge up to `limit` endpoints that have ended tasks whose retention is over, or consumers of ended agents.

        An endpoint with more than PURGED_PAGES pages of such tasks is due again at once, behind no other endpoint.
        """
        due = await self._scripts.take_purges(partition, limit=limit)
        at_once = asyncio.Semaphore(PURGED_AT_ONCE)

        async def purge(endpoint_id: str) -> int:
            async with at_once:
                removed = await self._purge_ended(endpoint_id, due.now_ms)
                left = (await self.tidy(endpoint_id)).left
                await self._scripts.plan_purge(
                    self._partitions.of(endpoint_id), held_until_ms=due.held_until_ms, has_consumers=left > 0
                )
                return removed

        return Purged(len(due.endpoint_ids), sum(await asyncio.gather(*map(purge, due.endpoint_ids))))

    async def _purge_ended(self, endpoint_id: str, now_ms: int) -> int:
        """Remove some pages of tasks whose retention is over. Return how many.

        The retention is read before each page, because a client may make it longer during the purge.
        """
        removed = 0
        for _ in range(PURGED_PAGES):
            stored = await self._redis.hget(self._partitions.of(endpoint_id).endpoint, "retention")  # type: ignore[misc]
            count = await self.purge(endpoint_id, before_ms=now_ms - int(stored or 0) * 1000)
            removed += count
            if not count:
                break
        return removed

    async def tidy(self, endpoint_id: str) -> Tidied:
        """Remove the consumers of ended agents from the groups of the endpoint's queues."""
        reply = await self._scripts.tidy_consumers(self._partitions.of(endpoint_id))
        return Tidied(reply.forgotten, reply.left)

    async def purge(self, endpoint_id: str, *, before_ms: int, limit: int = 1000) -> int:
        """Remove ended tasks that reached their status before `before_ms` (store's clock). Return how many.

        Removes at most `limit` tasks of each status, and looks at KEPT_PAGES times as many at most. A task whose
        delivery has not ended is kept for another retention time.
        """
        keys = self._partitions.of(endpoint_id)
        removed = 0
        for status in (TaskStatus.SUCCESS, TaskStatus.DELIVERED, TaskStatus.FAILED):
            for _ in range(KEPT_PAGES):
                overdue = await self._scripts.overdue(
                    keys, stream=keys.finished(status), status=status.lower(), before_ms=before_ms, limit=limit
                )
                words = await asyncio.gather(*(self._purge(keys, status, *entry) for entry in overdue.entries))
                removed += words.count("PURGED")
                if words.count("KEPT") < limit:  # a full page of kept tasks may hide others that can be removed
                    break
        return removed

    async def end_waiting(self, endpoint_id: str, error: str, *, limit: int = 1000) -> int:
        """End up to `limit` tasks of an endpoint that is being deleted, as failed. Return how many had not ended.

        The endpoint's workers must have ended before, because a worker that still runs a task is fenced.
        """
        keys = self._partitions.of(endpoint_id)
        ids = [name.decode() for name in await self._redis.zrange(keys.live, 0, limit - 1)]
        end = self._scripts.end_waiting
        return len(await asyncio.gather(*(end(keys.of_task(task_id), error_text=error) for task_id in ids)))

    async def waiting_and_running(self) -> dict[str, int]:
        """Return the number of queued, running and scheduled tasks of all endpoints."""
        return await self._totals({state: state for state in ("queued", "running", "scheduled")})

    async def workers(self) -> dict[str, int]:
        """Return the number of workers of all endpoints by status."""
        return await self._totals({status.value: f"workers:{status}" for status in WorkerStatus})

    async def _totals(self, fields: Mapping[str, str]) -> dict[str, int]:
        """Return the sums of fields of the partitions' counts, by name."""
        pipeline = self._redis.pipeline(transaction=False)
        for partition in self._partitions.all():
            pipeline.hmget(partition.counts, list(fields.values()))
        by_field = zip(*await pipeline.execute(), strict=True)
        sums = [sum(max(0, int(value or 0)) for value in values) for values in by_field]
        return dict(zip(fields, sums, strict=True))

    async def waiting(self, known: Mapping[str, Waiting] = MappingProxyType({})) -> AsyncIterator[Waiting]:
        """Yield what waits at each endpoint that has queued or scheduled tasks. An endpoint may come twice.

        The cost depends on the number of such endpoints, except those in `known`, which are not read again. Endpoints
        without waiting tasks leave their index.
        """
        for partition in self._partitions.all():
            cursor = 0
            while True:
                cursor, members = await self._redis.sscan(partition.waiting_endpoints, cursor, count=WAITING_AT_ONCE)
                found_ids = [member.decode() for member in members]
                for endpoint_id in found_ids:
                    if endpoint_id in known:
                        yield known[endpoint_id]
                ids = [endpoint_id for endpoint_id in found_ids if endpoint_id not in known]
                keys = [self._partitions.of(endpoint_id) for endpoint_id in ids]
                replies = await asyncio.gather(*map(self._scripts.read_waiting, keys))
                found = [
                    Waiting(
                        one,
                        reply.depth,
                        reply.oldest_ms,
                        reply.should_work,
                        reply.is_paused,
                        reply.open_lanes,
                        reply.parked_lanes,
                        reply.paused_ms,
                    )
                    for one, reply in zip(ids, replies, strict=True)
                ]
                for one in found:
                    if one.depth > 0:
                        yield one
                idle = [of_one for of_one, one in zip(keys, found, strict=True) if one.depth <= 0]
                with suppress(RedisError):  # the next pass removes them
                    await asyncio.gather(*map(self._scripts.leave_waiting, idle))
                if cursor == 0:
                    break

    async def _reclaim(self, name: str, max_lost: int, lease_ms: int) -> str:
        keys = self._keys_of_member(name)
        reply = await self._scripts.reclaim(keys, max_lost=max_lost, lease_ms=lease_ms)
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

    async def _promote(self, name: str) -> str:
        return (await self._scripts.promote(self._keys_of_member(name))).word

    async def _purge(self, keys: EndpointKeys, status: TaskStatus, number: str, task_id: str, place: str) -> str:
        reply = await self._scripts.purge(
            keys.of_task(task_id), stream=keys.finished(status), number=number, status=status.lower(), place=place
        )
        return reply.word

    def _keys_of_member(self, name: str) -> TaskKeys:
        """Return the keys of a task by its member name in a partition's sorted sets."""
        endpoint_id, task_id = parse_member(name)
        return self._partitions.of(endpoint_id).of_task(task_id)
