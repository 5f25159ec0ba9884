"""The slots of an agent, which limit the attempts that run at the same time to its concurrency."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger(__name__)


class Slots:
    """Runs at most `limit` attempts at the same time, each in its own asyncio task."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._runners: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    @property
    def runners(self) -> set[asyncio.Task[None]]:
        """The asyncio tasks of the attempts that run now."""
        return set(self._runners)

    @property
    def has_free(self) -> bool:
        return len(self._runners) < self._limit

    async def wait_for_free(self) -> int:
        """Wait for a free slot, and return the number of free slots."""
        while not self.has_free:
            self._freed.clear()
            await self._freed.wait()
        return self._limit - len(self._runners)

    def run(self, attempt: Coroutine[None, None, None]) -> None:
        """Run an attempt in a free slot. If it raises, the exception is logged and its lease expires."""
        runner = asyncio.create_task(attempt)
        self._runners.add(runner)
        runner.add_done_callback(self._ended)

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        self._freed.set()
        if not runner.cancelled() and (error := runner.exception()) is not None:
            log.error("a task's runner failed; its lease will run out", exc_info=error)
