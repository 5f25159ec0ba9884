"""Measure the cost of agents that wait for tasks at an API process: its memory, its processor time, and a burst.

The agents are simulated in this process: each has three connections, on which it waits for tasks, waits for
cancellations and reports, as often as a real one. All of one endpoint, and then each of an endpoint of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import psutil

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.agent_protocol.calls import Call
from queue_engine.agent_protocol.frames import CONTENT_TYPE
from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.tasks import NewTask, TaskSpec
from queue_engine.domain.workers import MAX_IDLE_REPORT_SECONDS, WorkerStatus
from queue_engine.store.keys import endpoints_of
from queue_engine.store.store import Store
from tests.bench.idle_endpoints import Goal, fill
from tests.integration.parts import Programs, programs_on, wait_for_port
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until_async

AGENTS = 1000
CONNECTIONS = 3
"""Number of connections of an agent."""
POLL_MS = 10_000
SECONDS = 20.0
RETRY_SECONDS = 0.5
TENANT = "waiting"
ADDRESS = "127.0.0.1:9000"
_CONNECTING = asyncio.Semaphore(50)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


async def run(binary: Path, *, agents: int = AGENTS, seconds: float = SECONDS) -> list[Goal]:
    """Measure and print all figures."""
    goals: list[Goal] = []
    for endpoints in (1, agents):
        with tempfile.TemporaryDirectory(prefix="queue-engine-agents-") as folder:
            directory = Path(folder)
            with StoreServer(binary, directory / "store") as server, programs_on(server.url, directory) as programs:
                store = Store(server.url, Sealer(None))
                try:
                    await store.prepare()
                    goals += await _measured(store, programs, agents, endpoints, seconds)
                finally:
                    await store.close()
    sys.stdout.writelines(f"{goal.line}\n" for goal in goals)
    return goals


async def _measured(store: Store, programs: Programs, agents: int, endpoints: int, seconds: float) -> list[Goal]:
    await fill(store, endpoints, TENANT)
    ids = [name.decode() for name in await store.redis.zrange(endpoints_of(TENANT), 0, endpoints - 1)]
    tokens = [await _token(store, endpoint_id) for endpoint_id in ids]
    port = free_port()
    api = programs.start("api", "queue_engine", "api", "--port", str(port))
    await asyncio.to_thread(wait_for_port, port)
    process = psutil.Process(api.pid)
    empty = process.memory_info().rss
    name = f"{agents:,} agents of {endpoints:,} endpoints"
    async with _waiting(port, [tokens[number % endpoints] for number in range(agents)]) as (connected, claimed):
        await wait_until_async(lambda: len(connected) == CONNECTIONS * agents, message="not every agent connects")
        await asyncio.sleep(seconds / 4)
        before, began = process.cpu_times(), time.monotonic()
        await asyncio.sleep(seconds)
        after, passed = process.cpu_times(), time.monotonic() - began
        share = (after.user + after.system - before.user - before.system) / passed
        memory = (process.memory_info().rss - empty) / 1024
        blocked = int((await store.redis.info("clients"))["blocked_clients"])
        began = time.monotonic()
        await asyncio.gather(*(_submit(store, ids[number % endpoints]) for number in range(agents)))
        submitted = time.monotonic() - began
        await wait_until_async(lambda: len(claimed) >= agents, message="not every task is claimed")
        burst = time.monotonic() - began
    return [
        Goal(f"{name}: processor of the API", 100 * share, 50, "%"),
        Goal(f"{name}: memory of the API for one", memory / agents, 300, "KiB"),
        Goal(f"{name}: blocked connections to the store", blocked, endpoints + 16, ""),
        Goal(f"{name}: {agents:,} tasks claimed ({submitted:.2f} s to submit)", burst, 10, "s"),
    ]


async def _token(store: Store, endpoint_id: str) -> str:
    token = new_agent_token(endpoint_id)
    await store.agent_tokens.create(endpoint_id, TENANT, token, "waiting")
    return token


async def _submit(store: Store, endpoint_id: str) -> None:
    task_id = secrets.token_hex(8)
    await store.tasks.enqueue(NewTask(task_id, endpoint_id, TENANT, TaskSpec(8000, "/run"), b"1", task_id))


@asynccontextmanager
async def _waiting(port: int, tokens: Sequence[str]) -> AsyncIterator[tuple[list[Line], list[str]]]:
    """Run the agents during the block, and return the lists of their connections and of their claims."""
    connected: list[Line] = []
    claimed: list[str] = []
    async with asyncio.TaskGroup() as running:
        lives = [
            running.create_task(life(port, token, f"agent-{number}", connected, claimed))
            for number, token in enumerate(tokens)
            for life in (_claim, _watch, _report)
        ]
        yield connected, claimed
        for life in lives:
            life.cancel()


async def _claim(port: int, token: str, worker: str, connected: list[Line], claimed: list[str]) -> None:
    line = await Line.to(port, token, worker)
    connected.append(line)
    while True:
        response = await line.call(calls.CLAIM, m.ClaimRequest(worker, secrets.token_hex(8), 1, POLL_MS))
        claimed += response.claims


async def _watch(port: int, token: str, worker: str, connected: list[Line], _: list[str]) -> None:
    line, after = await Line.to(port, token, worker), ""
    connected.append(line)
    while True:
        response = await line.call(calls.WATCH, m.WatchRequest(worker, POLL_MS if after else 0, after))
        after = response.after


async def _report(port: int, token: str, worker: str, connected: list[Line], _: list[str]) -> None:
    line = await Line.to(port, token, worker)
    connected.append(line)
    await line.call(calls.REGISTER, m.WorkerRequest(worker))
    while True:
        await line.call(calls.REPORT, m.ReportRequest(worker, 0, WorkerStatus.RUNNING, 0, ADDRESS))
        await asyncio.sleep(MAX_IDLE_REPORT_SECONDS)


class Line:
    """A connection of an agent, with as little code as possible, because a thousand agents share this process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self._writer = writer
        self._token = token

    @classmethod
    async def to(cls, port: int, token: str, worker: str) -> Line:
        """Connect to the API and send the token, on few connections at a time: the API limits those without one."""
        async with _CONNECTING:
            line = cls(*await asyncio.open_connection("127.0.0.1", port), token)
            await line.call(calls.HELLO, m.WorkerRequest(worker))
            return line

    async def call(self, call: Call[Asked, Answer], message: Asked) -> Answer:
        """Return the response; repeat the call while the store is unavailable, as an agent does."""
        while True:
            status, answer = await self._answer(call, message)
            if status == 200:
                return call.response.decode(answer)[0]
            if status != 503:
                raise ValueError(answer.decode("utf-8", "replace"))
            await asyncio.sleep(RETRY_SECONDS)

    async def _answer(self, call: Call[Asked, Answer], message: Asked) -> tuple[int, bytes]:
        """Return the status and the body of the response."""
        body = b"".join(call.request.encode(message))
        self._writer.write(
            f"POST {call.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), await self._reader.readexactly(length)
