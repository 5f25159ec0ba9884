"""The processes that use a store, each with the data format that it writes.

A migration must not begin while a process of the previous version still writes, because a record that it writes behind
the migration's cursor would keep the old format. Therefore API, delivery and controller processes note that they run.
Agents do not, because a migration must work beside agents that are one version behind.

A process notes itself before it looks at the store's format, and a migration is noted in the store before it looks for
older processes. So either the process finds the migration and does not start, or the migration finds the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from queue_engine import __version__
from queue_engine.aio import end_tasks, run_forever
from queue_engine.domain.system import Certificate, RunningProcess
from queue_engine.store.keys import PROCESSES, process_facts
from queue_engine.store.redis.client import unavailability

LEASE_MS = 30_000
"""A process that has not noted itself for this long is assumed to be dead."""
NOTE_SECONDS = LEASE_MS / 3000
MAX_PROCESSES = 1000
"""Limit of the processes that are listed."""

Facts = Callable[[], Mapping[str, Any]]
"""Returns what a process tells about itself: `controller`, the name under which it leads, and `certificates`, each a
setting and the end of its certificate in epoch milliseconds."""


def no_facts() -> Mapping[str, Any]:
    """Return the facts of a process that has none besides its version."""
    return {}


class Processes:
    """The notes of running processes. A process has a name such as `api:host:4711:9f2c`."""

    def __init__(self, redis: Redis, data_format: int) -> None:
        self._redis = redis
        self._format = data_format
        self._started_at_ms: int | None = None

    async def note(self, name: str, facts: Facts = no_facts) -> None:
        """Note that the process runs. Raises RedisError."""
        now_ms = await self.now_ms()
        self._started_at_ms = self._started_at_ms or now_ms
        told = json.dumps({"version": __version__, "started": self._started_at_ms, **facts()})
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(PROCESSES, {f"{self._format}:{name}": now_ms + LEASE_MS})
        pipeline.zremrangebyscore(PROCESSES, "-inf", now_ms)
        pipeline.pexpire(PROCESSES, 2 * LEASE_MS)
        pipeline.set(process_facts(name), told, px=LEASE_MS)
        await pipeline.execute()

    async def remove(self, name: str) -> None:
        """Remove the note of a process that has ended; does nothing when there is no note."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zrem(PROCESSES, f"{self._format}:{name}")
        pipeline.delete(process_facts(name))
        await pipeline.execute()

    async def running(self) -> list[RunningProcess]:
        """Return the processes whose notes have not expired, by their names."""
        found = await self._redis.zrangebyscore(
            PROCESSES, await self.now_ms(), "+inf", start=0, num=MAX_PROCESSES, withscores=True
        )
        noted = [(*one.decode().partition(":")[::2], int(until)) for one, until in found]
        if not noted:
            return []
        texts: Sequence[bytes | None] = await self._redis.mget([process_facts(name) for _, name, _ in noted])
        return sorted(
            (
                _running(name, int(number), until - LEASE_MS, json.loads(text) if text else {})
                for (number, name, until), text in zip(noted, texts, strict=True)
            ),
            key=lambda one: one.name,
        )

    async def older(self) -> list[str]:
        """Return the names of the running processes that write an older format than this process."""
        noted = await self._redis.zrangebyscore(PROCESSES, await self.now_ms(), "+inf")
        pairs = [one.decode().partition(":") for one in noted]
        return [name for number, _, name in pairs if int(number) < self._format]

    @asynccontextmanager
    async def noted(self, name: str, facts: Facts = no_facts) -> AsyncIterator[None]:
        """Renew the note of a process until the end of the block, then remove it. Call `note` before."""

        async def note() -> int:
            await self.note(name, facts)
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

    async def now_ms(self) -> int:
        """Return the time of the store's clock."""
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _running(name: str, data_format: int, noted_at_ms: int, told: Mapping[str, Any]) -> RunningProcess:
    return RunningProcess(
        name,
        data_format,
        noted_at_ms,
        version=told.get("version"),
        started_at_ms=told.get("started"),
        controller_id=told.get("controller"),
        certificates=[Certificate(setting, at_ms) for setting, at_ms in told.get("certificates", ())],
    )


def process_name(role: str) -> str:
    """Return a new name for this process."""
    return f"{role}:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
