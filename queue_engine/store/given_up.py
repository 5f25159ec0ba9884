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

from queue_engine.domain.tasks import DeliveryStatus, GivenUpDelivery, GivenUpPage
from queue_engine.store.calls import Scripts
from queue_engine.store.endpoint_index import INDEXED_FORMAT
from queue_engine.store.keys import FORMAT, GIVEN_UP_BUILD, META, EndpointKeys, Partitions
from queue_engine.store.migrations.migration import Records, TaskIds
from queue_engine.store.tasks import TaskStore

log = logging.getLogger(__name__)

DONE = "done"
"""Progress of the build when it is complete. Before that it is the cursor of the last page."""


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
