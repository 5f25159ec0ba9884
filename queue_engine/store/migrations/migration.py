"""A step of a migration, and the records that it reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from queue_engine.store.keys import EndpointKeys, Partitions

TASKS_PER_PAGE = 200


@dataclass(frozen=True)
class Page:
    """Result of migrating one page of records."""

    cursor: str
    """The place after which the next page begins, in the format of the step."""
    seen: int
    changed: int


@dataclass(frozen=True)
class TaskIds:
    """The ids of some tasks of one endpoint, in the order of their creation."""

    cursor: str
    keys: EndpointKeys
    task_ids: Sequence[str]


class Records:
    """The data of a store, for a migration step."""

    def __init__(
        self,
        redis: Redis,
        partitions: Partitions,
        endpoint_ids: Callable[[], Awaitable[Sequence[str]]],
        *,
        page_size: int = TASKS_PER_PAGE,
    ) -> None:
        self.redis = redis
        self.partitions = partitions
        self.endpoint_ids = endpoint_ids
        self._page_size = page_size

    async def tasks(self, after: str) -> AsyncIterator[TaskIds]:
        """Yield the ids of all tasks in pages, beginning after the cursor `after`, or with the first if it is empty.

        Endpoints that are created during the iteration are not included, because processes of this version create them
        in the new format.
        """
        endpoint, _, entry = after.partition(" ")
        for endpoint_id in sorted(await self.endpoint_ids(), key=int):
            if int(endpoint_id) < int(endpoint or 0):
                continue
            keys = self.partitions.of(endpoint_id)
            begin = f"({entry}" if entry and endpoint_id == endpoint else "-"
            while entries := await self.redis.xrange(keys.created, begin, count=self._page_size):
                last = entries[-1][0].decode()
                yield TaskIds(f"{endpoint_id} {last}", keys, [fields[b"t"].decode() for _, fields in entries])
                begin = f"({last}"

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int] = ()) -> Any:
        """Run a Lua script on keys of one partition, and return its reply. Raises RedisError."""
        return await self.redis.eval(script, len(keys), *keys, *map(str, arguments))  # type: ignore[misc]


@dataclass(frozen=True)
class Migration:
    """A step that converts data of format `number` - 1 to format `number`.

    `pages` migrates a page before it yields the page. It begins after a cursor from an earlier page, or with the first
    record when the cursor is empty.
    """

    number: int
    title: str
    """Description of the change, for the log."""
    pages: Callable[[Records, str], AsyncIterator[Page]]
