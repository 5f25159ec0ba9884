"""The processes that use a store, each with the data format that it writes.

A migration must not begin while a process of the previous version still writes, because a record that it writes behind
the migration's cursor would keep the old format. Therefore API, delivery and controller processes note that they run.
Agents do not, because a migration must work beside agents that are one version behind.

A process notes itself before it looks at the store's format, and a migration is noted in the store before it looks for
older processes. So either the process finds the migration and does not start, or the migration finds the process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from queue_engine.aio import end_tasks, run_forever
from queue_engine.store.keys import PROCESSES
from queue_engine.store.redis.client import unavailability

LEASE_MS = 30_000
"""A process that has not noted itself for this long is assumed to be dead."""
NOTE_SECONDS = LEASE_MS / 3000


class Processes:
    """The notes of running processes. A process has a name such as `api:host:4711:9f2c`."""

    def __init__(self, redis: Redis, data_format: int) -> None:
        self._redis = redis
        self._format = data_format

    async def note(self, name: str) -> None:
        """Note that the process runs. Raises RedisError."""
        now_ms = await self._now_ms()
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(PROCESSES, {f"{self._format}:{name}": now_ms + LEASE_MS})
        pipeline.zremrangebyscore(PROCESSES, "-inf", now_ms)
        pipeline.pexpire(PROCESSES, 2 * LEASE_MS)
        await pipeline.execute()

    async def remove(self, name: str) -> None:
        """Remove the note of a process that has ended; does nothing when there is no note."""
        await self._redis.zrem(PROCESSES, f"{self._format}:{name}")

    async def older(self) -> list[str]:
        """Return the names of the running processes that write an older format than this process."""
        noted = await self._redis.zrangebyscore(PROCESSES, await self._now_ms(), "+inf")
        pairs = [one.decode().partition(":") for one in noted]
        return [name for number, _, name in pairs if int(number) < self._format]

    @asynccontextmanager
    async def noted(self, name: str) -> AsyncIterator[None]:
        """Renew the note of a process until the end of the block, then remove it. Call `note` before."""

        async def note() -> int:
            await self.note(name)
            return 0

        async def keep_noted() -> None:
            # Wait first, because the start of the process reports a problem with the store in its own words.
            await asyncio.sleep(NOTE_SECONDS)
            await run_forever(note, idle_seconds=NOTE_SECONDS, name="presence", passing=unavailability)

        noting = asyncio.create_task(keep_noted())
        try:
            yield
        finally:
            await end_tasks(noting)
            with suppress(RedisError, OSError):  # the note expires
                await self.remove(name)

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def process_name(role: str) -> str:
    """Return a new name for this process."""
    return f"{role}:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
