"""Parts of a running engine for tests: its processes, containers and webhook receivers, all real and on loopback."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from queue_engine.crypto.sealing import Sealer, new_secret_key, parse_secret_key
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import NewTask, Task, TaskSpec, TaskStatus
from queue_engine.store.store import Store
from tests.forked import execute, program_environment, start_program
from tests.waiting import GIVE_UP_SECONDS, wait_until, wait_until_async

SECRET_KEY = new_secret_key()
TENANT = "default"


def open_store(url: str) -> Store:
    """A store client with the tests' secret key."""
    return Store(url, Sealer(parse_secret_key(SECRET_KEY)))


class Program:
    """`python -m …` as a process of its own, with its output in a file. Without `may_fork` it is always executed."""

    def __init__(
        self,
        name: str,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        directory: Path,
        *,
        may_fork: bool = True,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}-{os.urandom(3).hex()}.log"
        with self.log.open("wb") as output, open(os.devnull, "rb") as nothing:
            start = start_program if may_fork else execute
            self._process = start(arguments, environment, nothing.fileno(), output.fileno(), output.fileno())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout: float = GIVE_UP_SECONDS) -> int:
        """The exit status; a signal is negative."""
        return self._process.wait(timeout)

    def terminate(self) -> None:
        """SIGTERM, without a wait for the end."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, and the exit status; SIGKILL when it does not end."""
        self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end:\n{self.output()[-3000:]}") from None


class Programs:
    """Starts the engine's processes against one store, and ends them all at the end of a test."""

    def __init__(self, store_url: str, directory: Path, secret_key: str = SECRET_KEY, *, may_fork: bool = True) -> None:
        self._may_fork = may_fork
        self._directory = directory
        self._started: list[Program] = []
        self._environment = {
            **program_environment(),
            "QUEUE_ENGINE_REDIS_URL": store_url,
            "QUEUE_ENGINE_SECRET_KEY": secret_key,
            "QUEUE_ENGINE_WEBHOOK_ALLOW": "127.0.0.0/8",
            "QUEUE_ENGINE_WORK_DIR": str(directory / "workers"),
        }

    def start(self, name: str, *arguments: str, **environment: str) -> Program:
        """Start `python -m <arguments>`; keyword arguments are further environment variables."""
        variables = {**self._environment, **environment}
        program = Program(name, arguments, variables, self._directory, may_fork=self._may_fork)
        self._started.append(program)
        return program

    def agent(self, endpoint_id: str, container_url: str, *, lease: float = 1.0, **environment: str) -> Program:
        given = {"QUEUE_ENGINE_LEASE_SECONDS": str(lease), **environment}
        return self.start("agent", "worker_agent", "--endpoint", endpoint_id, "--container-url", container_url, **given)

    def delivery(self, *, schedule: str = "0.1,0.1,0.1", lease: float = 1.0, **environment: str) -> Program:
        given = {
            "QUEUE_ENGINE_DELIVERY_SCHEDULE": schedule,
            "QUEUE_ENGINE_DELIVERY_LEASE_SECONDS": str(lease),
            **environment,
        }
        return self.start("delivery", "queue_engine", "delivery", **given)

    def controller(self, *, lease: float = 1.0, **environment: str) -> Program:
        given = {"QUEUE_ENGINE_LEASE_SECONDS": str(lease), **environment}
        return self.start("controller", "queue_engine", "controller", **given)

    def stop(self) -> None:
        for program in reversed(self._started):
            if program.running:
                program.signal(signal.SIGCONT)
                program.terminate()
        for program in reversed(self._started):
            program.stop()


@dataclass
class Request:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass
class Reply:
    """What is answered. `hold` keeps the client waiting until it is set."""

    status: int = 200
    body: bytes | None = None
    """None: what came in."""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    hold: threading.Event | None = None


class HttpServer:
    """A container or a webhook receiver: notes what comes and answers by a function of the request."""

    def __init__(self, answer: Callable[[Request], Reply] = lambda _: Reply(), port: int = 0) -> None:
        self.answer = answer
        self.answer_get: Callable[[Request], Reply] = lambda _: Reply()
        self.requests: list[Request] = []
        self._arrivals: queue.Queue[Request] = queue.Queue()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._handle(self, server.answer)

            def do_GET(self) -> None:
                server._handle(self, server.answer_get)

            def log_message(self, *_: Any) -> None:
                """Nothing: the tests look at what came."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests_of(self, method: str) -> list[Request]:
        """The requests with this method."""
        return [request for request in self.requests if request.method == method]

    def next(self, timeout: float = GIVE_UP_SECONDS) -> Request:
        """Return the next request that has not been asked for yet. The limit covers the start of an agent on a busy
        machine."""
        return self._arrivals.get(timeout=timeout)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handle(self, handler: BaseHTTPRequestHandler, answer: Callable[[Request], Reply]) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.command, handler.path, headers, body)
        self.requests.append(request)
        self._arrivals.put(request)
        reply = answer(request)
        if reply.hold is not None:
            reply.hold.wait(60)
        try:
            self._send(handler, reply, body)
        except OSError:  # the client has gone, as it may
            handler.close_connection = True

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply, body: bytes) -> None:
        content = body if reply.body is None else reply.body
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


def replies(*given: Reply) -> Callable[[Request], Reply]:
    """Answer with these, one after the other; the last one again and again."""
    waiting = list(given)
    lock = threading.Lock()

    def answer(_: Request) -> Reply:
        with lock:
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return answer


async def new_endpoint(store: Store, tenant: str = TENANT, **settings: Any) -> str:
    """A QUEUE endpoint without workers of its own; returns its id."""
    config = EndpointConfig(
        **{
            "name": "test",
            "image": "none",
            "service_mode": ServiceMode.QUEUE,
            "resources": (Resource("here", "CPU", 1),),
            "workers": 0,
            "container_volume_in_gb": 20,
            **settings,
        }
    )
    return (await store.endpoints.create(tenant, config)).endpoint_id


async def submit(store: Store, endpoint_id: str, task_id: str = "task", **given: Any) -> None:
    """Enqueue a task without the API."""
    webhook: str | None = given.get("webhook")
    spec = TaskSpec(
        worker_port=given.get("port", 8000),
        process_uri=given.get("uri", "/run"),
        headers=given.get("headers", {}),
        webhook=webhook,
        webhook_destination=webhook.rsplit("/", 1)[0] if webhook else None,
        webhook_auth_key=given.get("auth_key"),
    )
    tenant = given.get("tenant", TENANT)
    await store.tasks.enqueue(NewTask(task_id, endpoint_id, tenant, spec, given.get("input", b'{"n": 1}'), "print"))


async def ended(store: Store, endpoint_id: str, task_id: str = "task", timeout: float = GIVE_UP_SECONDS) -> Task:
    """The task when it has reached its end."""

    async def terminal() -> Task | None:
        task = await store.tasks.get(endpoint_id, task_id)
        return task if task is not None and task.status is not TaskStatus.PROCESSING else None

    task = await wait_until_async(terminal, timeout, f"{task_id} has not ended")
    assert task is not None
    return task


@contextmanager
def programs_on(
    store_url: str, directory: Path, secret_key: str = SECRET_KEY, *, may_fork: bool = True
) -> Iterator[Programs]:
    """Programs that are all ended afterwards, whatever happens."""
    programs = Programs(store_url, directory, secret_key, may_fork=may_fork)
    try:
        yield programs
    finally:
        programs.stop()


def wait_for_port(port: int, timeout: float = GIVE_UP_SECONDS) -> None:
    """Return when something listens on this loopback port."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, timeout, f"nothing listens on port {port}")
