"""Measure the cost of idle agents on the store: its processor time, its connections, and its memory for them.

The agents are simulated in this process: each has a real one's access to the store, and uses it as often. Before the
measurement each has run a task, so that the connections were open that only busy agents need.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from queue_engine.aio import end_tasks, retry_while_unavailable
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.tasks import NewTask, Succeeded, TaskSpec
from queue_engine.domain.workers import MAX_IDLE_REPORT_SECONDS, WorkerStatus
from queue_engine.processes.file_limit import raise_file_limit
from queue_engine.store.keys import endpoints_of
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import AGENT_KEPT_SECONDS, Store
from queue_engine.store.task_source import StoreClaim, StoreLog, StoreTaskSource, StoreWorkerRecord
from tests.bench.growth import server_seconds
from tests.bench.idle_endpoints import Goal, fill
from tests.servers import StoreServer
from worker_agent.tasks import MAX_UNSTARTED_SECONDS

AGENTS = 2000
AGENTS_OF_GOAL = 10_000
AGENTS_PER_ENDPOINT = 10
SECONDS = 20.0
TENANT = "idle"
LEASE_MS = 30_000
T = TypeVar("T")
ADDRESS = "127.0.0.1:9000"
AT_ONCE = 50
FILES_PER_AGENT = 8
CLIENTS_PER_AGENT, DEFAULT_CLIENTS = 4, 10_000
"""Connections for which the store has room. It lowers the number to its limit of open files."""


async def run(binary: Path, *, agents: int = AGENTS, seconds: float = SECONDS) -> list[Goal]:
    """Measure and print all figures."""
    raise_file_limit(agents * FILES_PER_AGENT)
    clients = ("--maxclients", str(max(DEFAULT_CLIENTS, agents * CLIENTS_PER_AGENT)))
    with (
        tempfile.TemporaryDirectory(prefix="queue-engine-idle-agents-") as folder,
        StoreServer(binary, Path(folder) / "store", options=clients) as server,
    ):
        store = Store(server.url, Sealer(None))
        try:
            await store.prepare()
            goals = await _measured(store, agents, seconds)
        finally:
            await store.close()
    sys.stdout.writelines(f"{goal.line}\n" for goal in goals)
    return goals


async def _measured(store: Store, agents: int, seconds: float) -> list[Goal]:
    await fill(store, agents // AGENTS_PER_ENDPOINT, TENANT)
    ids = [name.decode() for name in await store.redis.zrange(endpoints_of(TENANT), 0, -1)]
    before = await store.redis.info()
    async with _agents(store.url, ids, agents) as made:
        connecting = asyncio.Semaphore(AT_ONCE)
        async with _lives() as begin:

            async def come_up(agent: _Agent) -> None:
                await agent.run_a_task(store, connecting)
                # Reports close the connections that only a busy agent needs, while others come up.
                begin(agent.report)

            await asyncio.gather(*map(come_up, made))
            for agent in made:
                begin(agent.wait_for_tasks)
                begin(agent.take_over)
            await asyncio.sleep(AGENT_KEPT_SECONDS + 2 * MAX_IDLE_REPORT_SECONDS)
            used, began = await server_seconds(store.redis), time.monotonic()
            await asyncio.sleep(seconds)
            used, passed = await server_seconds(store.redis) - used, time.monotonic() - began
            after = await store.redis.info()
    share = 100 * used / passed * AGENTS_OF_GOAL / agents
    connections = (after["connected_clients"] - before["connected_clients"]) / agents
    memory = (after["used_memory"] - before["used_memory"]) / agents / 1024
    name = f"{agents:,} idle agents on the store"
    return [
        Goal(f"{name}: connections of one", connections, 2.01, ""),
        Goal(f"{name}: processor of the store, for {AGENTS_OF_GOAL:,}", share, 20, "%"),
        Goal(f"{name}: memory of the store for one", memory, 100, "KiB"),
    ]


class _Agent:
    """The access of an agent to the store."""

    def __init__(self, url: str, endpoint_id: str, worker_id: str) -> None:
        self.store = Store(url, Sealer(None), is_agent=True)
        self._endpoint_id = endpoint_id
        self._worker_id = worker_id
        queue = self.store.queue(endpoint_id=endpoint_id, worker_id=worker_id, lease_ms=LEASE_MS)
        self._source = StoreTaskSource(queue, is_reported=True)
        self._record = StoreWorkerRecord(self.store.workers, endpoint_id=endpoint_id, worker_id=worker_id, queue=queue)
        self._log = StoreLog(self.store.logs, endpoint_id=endpoint_id, worker_id=worker_id, retention_seconds=3600)

    async def run_a_task(self, engine: Store, connecting: asyncio.Semaphore) -> None:
        """Run a task as a busy agent does: beside heartbeats, reports and lines of the log."""
        task_id = f"of_{self._worker_id}"
        task = NewTask(task_id, self._endpoint_id, TENANT, TaskSpec(8000, "/run"), b"1", task_id)
        async with connecting:
            await _repeated(self._record.register)
            await _repeated(lambda: engine.tasks.enqueue(task))
            for claim in await _repeated(lambda: self._source.claim(1)):
                await self._run(claim)

    async def _run(self, claim: StoreClaim) -> None:
        attempt = await _repeated(lambda: claim.start(address=ADDRESS))
        if attempt is None:
            raise RuntimeError("the task was not started")
        lease = attempt.lease
        await asyncio.gather(
            _repeated(lambda: self._source.renew([lease])),
            _repeated(lambda: self._report(1)),
            _repeated(lambda: self._log.append(lease.token, ["a line"])),
        )
        await _repeated(lambda: self._source.settle(lease, Succeeded(b"1")))

    async def wait_for_tasks(self) -> None:
        while True:
            await _repeated(lambda: self._source.claim(1))

    async def take_over(self) -> None:
        while True:
            await _repeated(lambda: self._source.claim_abandoned(1, unstarted_seconds=MAX_UNSTARTED_SECONDS))
            await asyncio.sleep(MAX_UNSTARTED_SECONDS / 4)

    async def report(self) -> None:
        while True:
            await _repeated(lambda: self._report(0))
            await asyncio.sleep(MAX_IDLE_REPORT_SECONDS)

    async def _report(self, running: int) -> None:
        status = WorkerStatus.RUNNING
        await self._record.report(status, running_tasks=running, address=ADDRESS, reason="", error="")


async def _repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while the store is unavailable, as an agent does: thousands connect at once."""
    return await retry_while_unavailable(call, passing=unavailability, what="agents")


@asynccontextmanager
async def _lives() -> AsyncIterator[Callable[[Callable[[], Coroutine[Any, Any, None]]], None]]:
    """Yield a function that begins what an agent does until the end of the block. Raises an error of one of them."""
    lives: list[asyncio.Task[None]] = []
    try:
        yield lambda life: lives.append(asyncio.create_task(life()))
        for one in lives:
            if one.done():
                one.result()
    finally:
        await end_tasks(*lives)


@asynccontextmanager
async def _agents(url: str, endpoint_ids: Sequence[str], count: int) -> AsyncIterator[list[_Agent]]:
    async with AsyncExitStack() as stack:
        made = []
        for number in range(count):
            agent = _Agent(url, endpoint_ids[number % len(endpoint_ids)], f"agent-{number}")
            stack.push_async_callback(agent.store.close)
            made.append(agent)
        yield made
