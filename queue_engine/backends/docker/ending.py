"""The end of a worker: its agent drains, then both containers are stopped and removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from queue_engine.aio import end_tasks
from queue_engine.backends.docker.engine import Engine, EngineError, EngineUnavailable
from queue_engine.backends.docker.names import Part
from queue_engine.backends.docker.worker import Worker

log = logging.getLogger(__name__)

MAIN_STOP_SECONDS = 10
"""Docker's own default. Many programs ignore the stop signal as the first process of a container."""
LAST_LINES = 10
LOG_SECONDS = 5.0
"""Time limit for reading the last lines of an agent that has failed."""
RETRY_SECONDS = 0.5
"""Pause before the end of a container is awaited again after the engine has broken the connection."""


class Ender:
    """Ends the containers of workers."""

    def __init__(
        self, engine: Engine, before_removal: Callable[[str, int], Awaitable[None]], main_stop_seconds: int
    ) -> None:
        self._engine = engine
        self._before_removal = before_removal
        self._main_stop_seconds = main_stop_seconds

    async def end(self, worker: Worker) -> None:
        """Let the agent drain until `worker.end_at`, then stop both containers. Raises EngineError.

        Afterwards the output of the endpoint's container was read to its end, and nothing of the worker runs.
        """
        agent, main = worker.id_of(Part.AGENT), worker.id_of(Part.MAIN)
        await self.log_failed_agent(worker)
        if agent is not None:
            await self._end_agent(agent, worker)
        if main is not None:
            await self._engine.stop(main, self._main_stop_seconds if _left(worker) > 0 else 0)
            await self._before_removal(worker.worker_id, worker.run)

    async def _end_agent(self, agent: str, worker: Worker) -> None:
        if _left(worker) > 0:
            await self._engine.signal(agent, "SIGTERM")
            if await self._ends_in_time(agent, worker):
                return
            log.warning("a worker does not end in time: killing it", extra={"worker": worker.worker_id})
        await self._engine.signal(agent, "SIGKILL")

    async def log_failed_agent(self, worker: Worker) -> None:
        """Log the last lines of an agent that has failed, before its container is removed."""
        agent = worker.parts.get(Part.AGENT)
        if agent is None or not agent.has_failed:
            return
        container = agent.container_id
        try:
            async with (
                asyncio.timeout(LOG_SECONDS),
                aclosing(self._engine.output(container, last=LAST_LINES)) as pieces,
            ):
                lines = [piece.partition(b" ")[2].decode(errors="replace").rstrip() async for piece in pieces]
        except (EngineError, TimeoutError) as error:
            lines = [f"its output cannot be read: {error}"]
        log.warning("an agent has failed", extra={"worker": worker.worker_id, "output": lines})

    async def _ends_in_time(self, agent: str, worker: Worker) -> bool:
        """Wait for the end of an agent until `worker.end_at`, which may become earlier during the wait."""
        ended = asyncio.create_task(self._ended(agent))
        try:
            while not ended.done() and (left := _left(worker)) > 0:
                worker.hastened.clear()
                hastened = asyncio.create_task(worker.hastened.wait())
                await asyncio.wait({ended, hastened}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                await end_tasks(hastened)
            return ended.done()
        finally:
            await end_tasks(ended)

    async def _ended(self, container_id: str) -> None:
        while True:
            try:
                return await self._engine.ended(container_id)
            except EngineUnavailable:
                await asyncio.sleep(RETRY_SECONDS)


def _left(worker: Worker) -> float:
    """Return the seconds until a worker that is ending is killed."""
    return worker.end_at - asyncio.get_running_loop().time()
