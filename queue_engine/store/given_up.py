"""The index of the deliveries that an endpoint has given up, so that a list or a recovery does not read other tasks.

The scripts that give up a delivery, send it again or remove its task keep the index. It is a sorted set and not a
stream like the other indexes, because its entries leave in any order, and are selected by time.

Versions before the index did not write it. Therefore the leading controller goes through all tasks once, in pages
(`GivenUpBuild`), when no process of data format 1 can write any longer. Such processes may also have left an entry
whose task was removed or sent again; a list skips the entry and removes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence

from redis.asyncio import Redis

from queue_engine.domain.tasks import DeliveryStatus, GivenUpDelivery, GivenUpPage, GivenUpPart, GivenUpPlace
from queue_engine.store.calls import Scripts
from queue_engine.store.endpoint_index import INDEXED_FORMAT
from queue_engine.store.keys import FORMAT, GIVEN_UP_BUILD, META, EndpointKeys, Partitions
from queue_engine.store.migrations.migration import Records, TaskIds
from queue_engine.store.task_scan import MAX_SCANNED, MAX_SECONDS
from queue_engine.store.tasks import TaskStore

log = logging.getLogger(__name__)

DONE = "done"
"""Progress of the build when it is complete. Before that it is the cursor of the last page."""
WALKED_AT_ONCE = 100
"""Number of deliveries that a walk reads in one round trip."""


class GivenUpIndex:
    """The given-up deliveries of all endpoints. Every method may be repeated after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions, tasks: TaskStore) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._tasks = tasks

    async def page(self, endpoint_id: str, *, page: int, size: int) -> GivenUpPage:
        """Return page number `page` (1 for the first), by the time at which the deliveries were given up, newest first.

        The cost depends on the size of the page only.
        """
        keys, first = self._partitions.of(endpoint_id), (page - 1) * size
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zcard(keys.given_up)
        pipeline.zrange(keys.given_up, first, first + size - 1, desc=True, withscores=True)
        total, entries = await pipeline.execute()
        times = {task_id.decode(): int(at) for task_id, at in entries}
        tasks = await asyncio.gather(*(self._tasks.brief(endpoint_id, task_id) for task_id in times))
        items, stale = [], []
        for (task_id, at_ms), task in zip(times.items(), tasks, strict=True):
            if task is None or task.delivery_status is not DeliveryStatus.MAX_RETRIES_EXCEEDED:
                stale.append(task_id)
            else:
                items.append(GivenUpDelivery(task, at_ms))
        await self.correct(keys, stale)
        return GivenUpPage(tuple(items), total - len(stale))

    async def walk(
        self,
        endpoint_id: str,
        *,
        destination: str | None,
        after: GivenUpPlace | None,
        limit: int,
        at_once: int = WALKED_AT_ONCE,
        max_scanned: int = MAX_SCANNED,
        max_seconds: float = MAX_SECONDS,
    ) -> GivenUpPart:
        """Return the next deliveries behind the place `after`, newest first: those to a destination, or all.

        A call looks at a limited number for a limited time, so a part may have fewer than `limit`. A delivery that
        leaves the index during the walk hides no other.
        """
        keys, began = self._partitions.of(endpoint_id), time.monotonic()
        items: list[GivenUpDelivery] = []
        scanned, last, is_end = 0, after, False
        while not is_end:
            places, is_end = await self._behind(keys, last, at_once)
            tasks = await asyncio.gather(*(self._tasks.brief(endpoint_id, one.task_id) for one in places))
            stale: list[str] = []
            for place, task in zip(places, tasks, strict=True):
                scanned, last = scanned + 1, place
                if task is None or task.delivery_status is not DeliveryStatus.MAX_RETRIES_EXCEEDED:
                    stale.append(place.task_id)
                elif destination is None or task.spec.webhook_destination == destination:
                    items.append(GivenUpDelivery(task, place.at_ms))
                    if len(items) == limit:
                        is_end = is_end and place == places[-1]
                        break
            await self.correct(keys, stale)
            if len(items) == limit or scanned >= max_scanned or time.monotonic() - began > max_seconds:
                break
        return GivenUpPart(tuple(items), None if is_end else last, scanned)

    async def _behind(
        self, keys: EndpointKeys, last: GivenUpPlace | None, count: int
    ) -> tuple[list[GivenUpPlace], bool]:
        """Return the next places behind the last one, newest first, and True if no others follow."""
        highest = "+inf" if last is None else last.at_ms
        offset = 0
        while True:
            entries = await self._redis.zrevrangebyscore(
                keys.given_up, highest, "-inf", start=offset, num=count, withscores=True
            )
            places = [GivenUpPlace(int(at), task_id.decode()) for task_id, at in entries]
            behind = [one for one in places if last is None or one < last]
            if behind or len(entries) < count:
                return behind, len(entries) < count
            offset += count  # all of these have the time of the last place, and were returned before

    async def correct(self, keys: EndpointKeys, task_ids: Sequence[str]) -> int:
        """Make the index right for these tasks of an endpoint. Return the number of entries that changed."""
        replies = await asyncio.gather(*(self._scripts.index_given_up(keys.of_task(task_id)) for task_id in task_ids))
        return sum(reply.changed for reply in replies)


class GivenUpBuild:
    """Puts deliveries into the index that were given up before the index existed. Two concurrent builds are safe."""

    def __init__(self, redis: Redis, records: Records, index: GivenUpIndex) -> None:
        self._redis = redis
        self._records = records
        self._index = index
        self._pages: AsyncIterator[TaskIds] | None = None

    async def step(self) -> int:
        """Correct the entries of one page of tasks. Return 0 when the next step can wait. Raises RedisError.

        The progress is in the store, so that another leader continues. A page may be repeated, which changes nothing.
        """
        found, progress = await self._redis.hmget(META, [FORMAT, GIVEN_UP_BUILD])  # type: ignore[misc]
        if int(found or INDEXED_FORMAT) < INDEXED_FORMAT or progress == DONE.encode():
            return 0
        began = time.monotonic()
        pages, self._pages = self._pages, None  # an iterator that has raised cannot continue
        pages = pages or self._records.tasks((progress or b"").decode())
        tasks = await anext(pages, None)
        if tasks is None:
            await self._note(DONE)
            log.info("the index of given-up deliveries is complete")
            return 0
        await self._index.correct(tasks.keys, tasks.task_ids)
        await self._note(tasks.cursor)
        self._pages = pages
        await asyncio.sleep(time.monotonic() - began)  # so that the store is busy with it half of the time at most
        return 1

    async def _note(self, progress: str) -> None:
        await self._redis.hset(META, GIVEN_UP_BUILD, progress)  # type: ignore[misc]
