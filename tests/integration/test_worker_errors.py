"""What a worker's error and its log say when its container or its agent ends by itself."""

import os
import sys
from pathlib import Path

import pytest

from queue_engine.backends.base import Observed, WorkerSpec
from queue_engine.backends.process import ProcessBackend
from queue_engine.domain.endpoints import Expose
from queue_engine.domain.logs import LogQuery
from queue_engine.domain.workers import Worker
from queue_engine.store.store import Store
from tests.integration.backend_contract import ended
from tests.integration.parts import SECRET_KEY, Programs, new_endpoint
from tests.integration.test_process_backend import INHERITED
from tests.servers import StoreServer
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

PYTHON = sys.executable


async def failed(store: Store, programs: Programs, command: str, *, restarts: int = 1) -> Worker:
    """The one worker of a new endpoint, when its container has ended so often."""
    endpoint_id = await new_endpoint(store, workers=1, initialization_command=command, expose=Expose(8000, "HTTP"))
    programs.controller(QUEUE_ENGINE_WORKER_GRACE_SECONDS="0")

    async def has_ended() -> Worker | None:
        workers = await store.workers.of_endpoint(endpoint_id)
        return next((worker for worker in workers if worker.restarts >= restarts and worker.error), None)

    worker = await wait_until_async(has_ended, message="the worker does not end")
    assert worker is not None
    return worker


@pytest.mark.parametrize(
    ("command", "reason", "lines"),
    [
        ("pythn3 server.py", "container exited with status 127", ["/bin/sh: 1: pythn3: not found"]),
        (
            f"""exec {PYTHON} -c 'print("loading"); import os; os.kill(os.getpid(), 11)'""",
            "container killed by signal 11 (SIGSEGV)",
            ["loading"],
        ),
        ("echo one; echo two >&2; printf three; exit 3", "container exited with status 3", ["one", "two", "three"]),
        ("exit 0", "container exited with status 0", []),
    ],
)
async def test_an_error_is_the_reason_and_the_containers_last_lines(
    store: Store, programs: Programs, command: str, reason: str, lines: list[str]
) -> None:
    worker = await failed(store, programs, command)
    assert str(worker.error).split("\n") == [reason, *lines]


async def test_a_container_inherits_no_descriptor_but_its_input_and_output(store: Store, programs: Programs) -> None:
    listing = 'import os; print(*sorted(fd for fd in os.listdir("/dev/fd") if os.path.exists("/dev/fd/" + fd)))'
    worker = await failed(store, programs, f"exec {PYTHON} -c '{listing}; exit(3)'")
    assert str(worker.error).split("\n") == ["container exited with status 3", "0 1 2"]


async def test_an_error_has_no_line_of_an_earlier_start(store: Store, programs: Programs, tmp_path: Path) -> None:
    worker = await failed(
        store, programs, f"echo x >> {tmp_path}/starts; wc -l < {tmp_path}/starts; exit 3", restarts=3
    )
    assert worker.error == f"container exited with status 3\n{worker.restarts}"


async def real_agent(tmp_path: Path, spec: WorkerSpec) -> Observed:
    """How a worker with a real agent has ended."""
    backend = ProcessBackend(tmp_path, instance_id=f"errors-{os.getpid()}", environment=INHERITED)
    await backend.start(spec)
    try:
        return await ended(backend, spec.worker_id, GIVE_UP_SECONDS)
    finally:
        await backend.aclose(0)


async def test_an_agent_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    environment = {"WORKER_AGENT_REDIS_URL": "http://:canary@x", "WORKER_AGENT_MANAGED": "true"}
    observed = await real_agent(tmp_path, WorkerSpec("7", "w1", "i", command="x", agent_environment=environment))
    assert str(observed.reason).startswith("the agent cannot start: --redis-url (WORKER_AGENT_REDIS_URL): must")
    assert "canary" not in str(observed.reason)
    assert observed.last_lines == ()


async def test_the_log_begins_with_overridden_variables_and_ends_with_the_end(
    store: Store, valkey_server: StoreServer, tmp_path: Path
) -> None:
    endpoint_id = await new_endpoint(store, expose=Expose(8000, "HTTP"))
    await store.workers.put(endpoint_id, "w1", managed=True)
    spec = WorkerSpec(
        endpoint_id,
        "w1",
        "image",
        command="printf $PORT; exit 4",
        environment={"PORT": "8080", "MODE": "x"},
        exposed_port=8000,
        protocol="HTTP",
        run=await store.workers.begin_start(endpoint_id, "w1") or 0,
        agent_environment={
            "WORKER_AGENT_REDIS_URL": valkey_server.url,
            "WORKER_AGENT_SECRET_KEY": SECRET_KEY,
            "WORKER_AGENT_MANAGED": "true",
        },
    )
    observed = await real_agent(tmp_path, spec)
    assert observed.reason == "container exited with status 4"
    page = await store.logs.page(endpoint_id, "w1", LogQuery(size=100))
    assert page is not None
    lines = [line.text for line in page.lines]
    port = lines[1]
    assert lines == [
        f"the endpoint's variable PORT is overridden: the engine sets PORT={port}",
        port,
        "container exited with status 4",
    ]
