"""The stage of all rows: two stores, the echo server, and short ways to start the engine's processes and the peers'."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.crypto.sealing import Sealer, new_secret_key, parse_secret_key
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import NewTask, Succeeded, TaskSpec
from queue_engine.domain.workers import WorkerStatus
from queue_engine.local.embedded import server_environment
from queue_engine.store.store import Store
from tests.bench.environments import PROGRAMS, PYTHON
from tests.bench.peer_workers import PEERS_PYTHON, PeerWorker
from tests.bench.processes import Cores, Program, ProgramFailed, Programs, until
from tests.environment import inherited
from tests.ports import free_port
from tests.servers import StoreServer

TENANT = "default"
CONCURRENCY = 64
"""Tasks that one worker runs at once, in the engine and in every peer."""
AS_OPERATED = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
"""Persistence of both stores. The file is not rewritten during a run, because that would hit one round only."""
CHUNK = 500
"""Tasks that are enqueued at once in preparation."""


@dataclass(frozen=True)
class Stage:
    """Everything that a row needs."""

    programs: Programs
    server: StoreServer
    peer_server: StoreServer
    binary: Path
    store: Store
    variables: Mapping[str, str]
    """Environment of the engine's processes: the store, the key, loopback as a webhook's destination."""
    api_key: str
    echo: Program
    echo_port: int
    scale: float

    def count(self, full: int) -> int:
        """Return the scaled number of requests."""
        return max(50, int(full * self.scale))

    def seconds(self, full: float) -> float:
        """Return the scaled duration of a measurement."""
        return max(2.0, full * self.scale)

    @property
    def folder(self) -> Path:
        return self.programs.folder

    @property
    def target_url(self) -> str:
        return f"http://127.0.0.1:{self.echo_port}/run"

    @property
    def hook_url(self) -> str:
        return f"http://127.0.0.1:{self.echo_port}/hook"

    def cores(self, server: StoreServer, **programs: Program) -> Cores:
        """Measure the cores that these programs, the echo server and the store use from now on."""
        roots = {name: program.pid for name, program in programs.items()}
        return Cores(roots | {"echo": self.echo.pid, "store": server.pid})

    # The echo server

    async def echo_get(self, path: str) -> Any:
        """GET a page of the echo server: /stats, /reset or /last."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{self.echo_port}{path}")).json()

    # The engine

    async def endpoint(self, store: Store | None = None) -> str:
        """Create an endpoint without workers of its own; agents are started beside it."""
        config = EndpointConfig(
            "bench", "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 0, 20, concurrency=CONCURRENCY
        )
        return (await (store or self.store).endpoints.create(TENANT, config)).endpoint_id

    def task(self, endpoint_id: str, task_id: str, payload: bytes, *, webhook: bool = False) -> NewTask:
        origin = f"http://127.0.0.1:{self.echo_port}"
        hook = (self.hook_url, origin, None) if webhook else (None, None, None)
        return NewTask(task_id, endpoint_id, TENANT, TaskSpec(8000, "/run", {}, *hook), payload, "bench")

    async def enqueue(
        self,
        endpoint_id: str,
        prefix: str,
        count: int,
        *,
        webhook: bool = False,
        store: Store | None = None,
        size: int = 50,
    ) -> None:
        """Enqueue tasks in the store, past the API."""
        tasks, text = (store or self.store).tasks, payload_of(size)
        for first in range(0, count, CHUNK):
            numbers = range(first, min(count, first + CHUNK))
            made = (self.task(endpoint_id, f"{prefix}_{number}", text, webhook=webhook) for number in numbers)
            await asyncio.gather(*(tasks.enqueue(one) for one in made))

    async def enqueue_finished(self, endpoint_id: str, prefix: str, count: int) -> None:
        """Bring tasks with a webhook to their end in the store, without an agent, so that their deliveries are due."""
        queue = self.store.queue(endpoint_id=endpoint_id, worker_id=prefix, lease_ms=3_600_000)
        await self.enqueue(endpoint_id, prefix, count, webhook=True)
        left = count
        while left > 0:
            entries = await queue.claim(100, block_ms=100)
            started = await asyncio.gather(*(queue.start(entry, address="127.0.0.1:9000") for entry in entries))
            leases = [one.lease for one in started if one is not None]
            await asyncio.gather(*(queue.settle(lease, Succeeded(payload_of(50))) for lease in leases))
            left -= len(leases)

    async def wait_for(self, endpoint_id: str, status: str, count: int) -> None:
        """Wait until this number of tasks has this status."""

        async def is_reached() -> bool:
            return bool(getattr(await self.store.tasks.counts(endpoint_id), status) >= count)

        await until(is_reached, f"endpoint {endpoint_id} did not get {count} tasks at {status}")

    async def done(self, endpoint_id: str, status: str) -> int:
        return int(getattr(await self.store.tasks.counts(endpoint_id), status))

    @asynccontextmanager
    async def agents(
        self, endpoint_id: str, number: int = 1, *, variables: Mapping[str, str] | None = None
    ) -> AsyncIterator[list[Program]]:
        """Run agents during the block, which begins when all of them are ready."""
        url = f"http://127.0.0.1:{self.echo_port}"
        command = python("worker_agent", "--endpoint", endpoint_id, "--container-url", url)
        async with AsyncExitStack() as stack:
            started = [
                await stack.enter_async_context(
                    self.programs.running("agent", command, {**self.variables, **(variables or {})})
                )
                for _ in range(number)
            ]

            async def ready() -> bool:
                for program in started:
                    program.check_runs()
                workers = await self.store.workers.of_endpoint(endpoint_id)
                return sum(one.status is WorkerStatus.RUNNING for one in workers) >= number

            await until(ready, "the agents are not ready")
            yield started

    @asynccontextmanager
    async def api(
        self, variables: Mapping[str, str] | None = None, *, processes: int = 1
    ) -> AsyncIterator[tuple[Program, int]]:
        """Run the API during the block, which begins when all processes serve; yields the program and its port."""
        port = free_port()
        command = python("queue_engine", "api", "--port", str(port), "--processes", str(processes))
        async with self.programs.running("api", command, {**self.variables, **(variables or {})}, port=port) as program:

            async def all_started() -> bool:
                program.check_runs()
                return program.output().count('"message": "started"') >= processes

            await until(all_started, f"{processes} API processes have not started")
            yield program, port

    @asynccontextmanager
    async def delivery(self) -> AsyncIterator[Program]:
        command = python("queue_engine", "delivery")
        async with self.programs.running("delivery", command, self.variables) as program:
            yield program

    async def load(
        self, ports: Sequence[int], path: str, body: bytes, *, count: int, connections: int = 32, rate: float = 0
    ) -> dict[str, float]:
        """Run the load generator to its end; returns its figures. Raises ProgramFailed when a request failed."""
        file = self.folder / "body"
        file.write_bytes(body)
        words = (",".join(map(str, ports)), path, self.api_key, count, connections, rate, file)
        command = python("tests.bench.load", *map(str, words))
        found = await self.output("load", command)
        if found["failures"]:
            raise ProgramFailed(f"{found['failures']:.0f} of {count} requests failed")
        return found

    async def run(self, name: str, command: Sequence[str]) -> str:
        """Run a program to its end; returns its output. Raises ProgramFailed."""
        return await self.programs.run(name, command, inherited())

    async def output(self, name: str, command: Sequence[str]) -> dict[str, float]:
        """Run a program to its end; returns the JSON object in the last line of its output."""
        text = await self.run(name, command)
        try:
            found: dict[str, float] = json.loads(text.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise ProgramFailed(f"{name} printed no result: {text[-500:]}") from None
        return found

    # The peers

    def missing(self, *peers: PeerWorker) -> dict[str, str]:
        """Return the reasons by name of those of these peers that are not installed."""
        return {one.name: one.environment.reason for one in peers if one.environment.reason}

    def empty_peer_store(self) -> None:
        self.peer_server.empty()

    async def peer_server_program(self, name: str, port: int) -> Program:
        """Start a web application of the peers on uvicorn. It ends with the stage."""
        words = (
            "--port",
            str(port),
            "--no-access-log",
            "--log-level",
            "error",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
        )
        command = [str(PEERS_PYTHON), "-m", "uvicorn", "--app-dir", str(PROGRAMS), f"{name}:app", *words]
        return await self.programs.start(name, command, {**inherited(), "REDIS_URL": self.peer_server.url})


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of this repository, which is run in its folder."""
    return [sys.executable, "-m", module, *arguments]


def payload_of(size: int) -> bytes:
    return b'{"prompt": "' + b"x" * size + b'"}'


def endpoint_path(endpoint_id: str) -> str:
    return f"/v2/serverless/{endpoint_id}/tasks"


def submission(input_json: bytes, more: bytes = b"", *, port: int = 8000) -> bytes:
    """Return the body of a submit request; `more` has further fields with a leading comma."""
    return b'{"input": %b, "workerPort": %d, "processUri": "/run"%b}' % (input_json, port, more)


@asynccontextmanager
async def open_stage(programs: Programs, binary: Path, scale: float) -> AsyncIterator[Stage]:
    """Start both stores and the echo server. Everything has ended when the block has."""
    secret_key, api_key, echo_port = new_secret_key(), new_api_key(), free_port()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(store_server(binary, programs.folder / "store"))
        peer_server = stack.enter_context(store_server(binary, programs.folder / "peer-store"))
        store = Store(server.url, Sealer(parse_secret_key(secret_key)))
        stack.push_async_callback(store.close)
        await store.prepare()
        await store.api_keys.put(api_key, tenant=TENANT, name="bench")
        variables = {
            **inherited(),
            "QUEUE_ENGINE_REDIS_URL": server.url,
            "QUEUE_ENGINE_SECRET_KEY": secret_key,
            "QUEUE_ENGINE_WEBHOOK_ALLOW": "127.0.0.0/8",
        }
        stack.push_async_callback(programs.close)
        echo = await stack.enter_async_context(
            programs.running("echo", echo_command(echo_port), inherited(), port=echo_port)
        )
        yield Stage(programs, server, peer_server, binary, store, variables, api_key, echo, echo_port, scale)


def store_server(binary: Path, folder: Path) -> StoreServer:
    return StoreServer(binary, folder, options=AS_OPERATED, variables=server_environment())


def echo_command(port: int) -> list[str]:
    """Return the command of the echo server: on granian, or on uvicorn where the peers are not installed."""
    if PYTHON.is_up_to_date:
        options = ("--interface", "asgi", "--port", str(port), "--no-access-log", "--log-level", "error")
        granian = str(PEERS_PYTHON.with_name("granian"))
        return [granian, *options, "--loop", "uvloop", "--working-dir", str(PROGRAMS), "echo:app"]
    words = ("--port", str(port), "--no-access-log", "--log-level", "error", "--app-dir", str(PROGRAMS), "echo:app")
    return python("uvicorn", *words)


def echo_name() -> str:
    return "granian" if PYTHON.is_up_to_date else "uvicorn, because the peers are not installed"
