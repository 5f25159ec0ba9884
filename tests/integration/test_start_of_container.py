"""The start of a container until its worker runs: what it costs tasks, and what the worker's `error` says."""

import json
import os
import sys
import threading
import time

import pytest

from queue_engine.domain.endpoints import Expose, ServiceMode
from queue_engine.domain.logs import LogQuery
from queue_engine.domain.tasks import Task, TaskState
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Program, Programs, Reply, Request, ended, new_endpoint, submit
from tests.ports import free_port
from tests.waiting import wait_until, wait_until_async

SERVER = """
import json, os, socket, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READY_AT = time.monotonic() + float(os.environ.get("LOAD", "0"))

class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()
    def answer(self):
        late = time.monotonic() - READY_AT
        body = json.dumps(late).encode()
        print(self.command, "late" if late > 0 else "early", flush=True)
        self.send_response(200 if late > 0 else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if os.environ.get("IPV6") else socket.AF_INET

if os.environ.get("BIND_LATE"):
    time.sleep(max(0, READY_AT - time.monotonic()))
Server((os.environ.get("BIND", "127.0.0.1"), int(os.environ["PORT"])), Model).serve_forever()
"""
LOAD_SECONDS = 4
MOST_LATE_SECONDS = 2.0
MIN_START_TIMEOUT = "10"


def start(
    programs: Programs, endpoint_id: str, command: str = f"exec {sys.executable} -c '{SERVER}'", **environment: str
) -> Program:
    """An agent that runs the command as its container, as the process backend has it do."""
    port = free_port()
    variables = {"PORT": str(port), "PATH": os.environ["PATH"]}
    variables |= {name: environment.pop(name) for name in ("LOAD", "IPV6", "BIND", "BIND_LATE") if name in environment}
    given = {
        "WORKER_AGENT_CONTAINER_COMMAND": command,
        "WORKER_AGENT_CONTAINER_ENVIRONMENT": json.dumps(variables | environment),
        "WORKER_AGENT_WORKER_ID": "worker",
        "WORKER_AGENT_CONCURRENCY": "4",
    }
    return programs.agent(endpoint_id, f"http://127.0.0.1:{port}", lease=5, **given, **environment)


async def worker_of(store: Store, endpoint_id: str) -> Worker:
    async def found() -> Worker | None:
        return await store.workers.get(endpoint_id, "worker")

    worker = await wait_until_async(found, message="the worker has not reported")
    assert worker is not None
    return worker


async def worker_that_is(store: Store, endpoint_id: str, status: WorkerStatus, timeout: float = 30) -> Worker:
    async def there() -> bool:
        return (await worker_of(store, endpoint_id)).status is status

    await wait_until_async(there, timeout, f"the worker is not {status}")
    return await worker_of(store, endpoint_id)


async def output_of(store: Store, endpoint_id: str) -> list[str]:
    page = await store.logs.page(endpoint_id, "worker", LogQuery(size=1000))
    assert page is not None
    return [line.text for line in page.lines]


def seconds_late(task: Task) -> float:
    """How long after its container was ready the task was executed."""
    assert task.output is not None
    return float(task.output)


async def test_tasks_wait_at_no_cost_for_a_container_that_responds_503_until_it_has_loaded(
    store: Store, programs: Programs
) -> None:
    endpoint_id = await new_endpoint(store)
    names = [f"task{number}" for number in range(20)]
    for name in names:
        await submit(store, endpoint_id, name)
    agent = start(programs, endpoint_id, LOAD=str(LOAD_SECONDS))
    worker = await worker_that_is(store, endpoint_id, WorkerStatus.INITIALIZING)

    async def explained() -> bool:
        nonlocal worker
        worker = await worker_of(store, endpoint_id)
        return worker.error is not None

    await wait_until_async(explained)
    assert "answered 503 since" in (worker.error or "")
    assert worker.status is WorkerStatus.INITIALIZING
    tasks = [await ended(store, endpoint_id, name) for name in names]
    assert {(task.state, task.attempts) for task in tasks} == {(TaskState.SUCCEEDED, 1)}
    assert min(map(seconds_late, tasks)) < MOST_LATE_SECONDS
    assert (await worker_that_is(store, endpoint_id, WorkerStatus.RUNNING)).error is None
    agent.stop()
    early = (await output_of(store, endpoint_id)).count("POST early")
    assert 1 <= early <= LOAD_SECONDS + 4, "one a second, and those that began at once before anything was known"


async def test_no_task_is_sent_before_the_ready_path_responds_2xx(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store, ready_path="/ready", expose=Expose(8000, "HTTP"))
    await submit(store, endpoint_id)
    agent = start(programs, endpoint_id, LOAD=str(LOAD_SECONDS))
    await worker_that_is(store, endpoint_id, WorkerStatus.INITIALIZING)
    task = await ended(store, endpoint_id)
    assert (task.state, task.attempts) == (TaskState.SUCCEEDED, 1)
    assert seconds_late(task) < MOST_LATE_SECONDS
    agent.stop()
    output = await output_of(store, endpoint_id)
    assert "GET early" in output
    assert "POST early" not in output


@pytest.mark.parametrize("mode", [ServiceMode.ALB, ServiceMode.CUSTOM])
async def test_a_worker_of_any_mode_runs_when_its_ready_path_responds_2xx(
    store: Store, programs: Programs, mode: ServiceMode
) -> None:
    ready = threading.Event()
    endpoint_id = await new_endpoint(store, service_mode=mode, ready_path="/ready", expose=Expose(8000, "HTTP"))
    with HttpServer() as container:
        container.answer_get = lambda _: Reply(200 if ready.is_set() else 404)
        programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker")

        async def explained() -> bool:
            return (await worker_of(store, endpoint_id)).error == "GET /ready answered 404"

        await wait_until_async(explained)
        assert (await worker_of(store, endpoint_id)).status is WorkerStatus.INITIALIZING
        ready.set()
        assert (await worker_that_is(store, endpoint_id, WorkerStatus.RUNNING)).error is None


async def test_a_container_on_another_port_is_named_and_the_worker_fails_in_the_end(
    store: Store, programs: Programs
) -> None:
    endpoint_id = await new_endpoint(store)
    other = free_port()
    command = f"PORT={other} exec {sys.executable} -c '{SERVER}'"
    agent = start(programs, endpoint_id, command, WORKER_AGENT_START_TIMEOUT_SECONDS=MIN_START_TIMEOUT)
    worker = await worker_that_is(store, endpoint_id, WorkerStatus.FAILED)

    async def explained() -> bool:
        return f"listens on port {other} instead" in ((await worker_of(store, endpoint_id)).error or "")

    await wait_until_async(explained)
    worker = await worker_of(store, endpoint_id)
    assert (worker.error or "").startswith("nothing accepts connections on 127.0.0.1:")
    assert "($PORT)" in (worker.error or "")
    assert agent.running


async def test_a_worker_that_failed_to_start_in_time_runs_when_its_container_listens_at_last(
    store: Store, programs: Programs
) -> None:
    port = free_port()
    endpoint_id = await new_endpoint(store)
    programs.agent(
        endpoint_id,
        f"http://127.0.0.1:{port}",
        WORKER_AGENT_WORKER_ID="worker",
        WORKER_AGENT_START_TIMEOUT_SECONDS=MIN_START_TIMEOUT,
    )
    worker = await worker_that_is(store, endpoint_id, WorkerStatus.FAILED)
    assert worker.error == f"nothing accepts connections on 127.0.0.1:{port}"
    with HttpServer(port=port):
        assert (await worker_that_is(store, endpoint_id, WorkerStatus.RUNNING)).error is None


async def test_a_container_on_ipv6_loopback_only_is_served(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store)
    await submit(store, endpoint_id, uri="/run")
    start(programs, endpoint_id, IPV6="1", BIND="::1")
    task = await ended(store, endpoint_id)
    assert (task.state, task.attempts) == (TaskState.SUCCEEDED, 1)
    assert (task.worker_url or "").startswith("http://[::1]:")
    assert (task.worker_url or "").endswith("/run")


async def test_a_server_that_takes_one_call_at_a_time_keeps_running_during_a_call(
    store: Store, programs: Programs
) -> None:
    """Probes must not fill the listen queue, and no probe counts as a failure, for as long as the call lasts."""
    endpoint_id = await new_endpoint(store, ready_path="/ready", expose=Expose(8000, "HTTP"))
    release = threading.Event()

    def answer(request: Request) -> Reply:
        return Reply(hold=release)

    with HttpServer(answer) as container:
        container.answer_get = lambda _: Reply(503 if container.requests_of("POST") and not release.is_set() else 200)
        programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker")
        await worker_that_is(store, endpoint_id, WorkerStatus.RUNNING)
        await submit(store, endpoint_id)
        wait_until(lambda: container.requests_of("POST"))
        probes = len(container.requests_of("GET"))
        began = time.monotonic()

        async def over() -> bool:
            assert (await worker_of(store, endpoint_id)).status is WorkerStatus.RUNNING
            return time.monotonic() - began > 6

        await wait_until_async(over)
        assert len(container.requests_of("GET")) == probes
        release.set()
        assert (await ended(store, endpoint_id)).state is TaskState.SUCCEEDED


async def test_the_notes_of_the_backend_begin_the_log(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store)
    notes = ["this host has no GPU: the worker runs without it"]
    start(programs, endpoint_id, "echo up; exec sleep 600", WORKER_AGENT_LOG_NOTES=json.dumps(notes))

    async def lines() -> list[str]:
        page = await store.logs.page(endpoint_id, "worker", LogQuery(size=2))
        return [line.text for line in page.lines] if page is not None and len(page.lines) == 2 else []

    assert await wait_until_async(lines, 60) == [*notes, "up"]
