"""Model servers from PyPI, unmodified, behind an endpoint: tasks during the load, webhooks, stop and delete."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.parts import HttpServer
from tests.integration.test_up import API_KEY, Up
from tests.model_servers.servers import LOAD_SECONDS, SERVERS, ModelServer
from tests.ports import free_port
from tests.waiting import wait_until

TASKS = 5
SECONDS = 90.0
"""How long one server may take to load and to do its tasks: they import for many seconds on a loaded machine."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"), QUEUE_ENGINE_LEASE_SECONDS="10")
    try:
        running.wait_until_up()
        yield running
    finally:
        running.end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_tasks_submitted_while_the_model_loads_succeed_at_their_first_attempt(server: ModelServer, up: Up) -> None:
    if not server.installed.exists():
        reason = server.failure.read_text() if server.failure.exists() else "run `make test-servers`"
        pytest.skip(f"{server.name} is not installed: {reason}")
    with HttpServer() as receiver:
        endpoint = create(up, server)
        names = [submit(up, endpoint, server, f"{receiver.url}/hook") for _ in range(TASKS)]
        wait_until(
            lambda: statuses(up, endpoint, names) == {"DELIVERED"},
            SECONDS,
            lambda: f"{server.name}: not all delivered: {[up.get(f'{endpoint}/tasks/{name}') for name in names]}",
        )

        for name in names:
            task = up.get(f"{endpoint}/tasks/{name}")
            assert part(task["output"], server.output_at) == server.output
            assert (task["attempts"], task["error"]) == (1, None)
        delivered = {body["user_task_id"]: body for body in (json.loads(one.body) for one in receiver.requests)}
        assert set(delivered) == set(names)
        assert all(part(body["result"], server.output_at) == server.output for body in delivered.values())

    (worker,) = up.get(f"{endpoint}/workers")
    assert (worker["status"], worker["restarts"], worker["error"]) == ("RUNNING", 0, None)
    assert up.get(f"{endpoint}/workers/{worker['workerId']}/logs?pageSize=1")["logs"]
    request(up, "POST", f"{endpoint}/stop")
    wait_until(lambda: up.get(endpoint)["status"] == "STOPPED", SECONDS, f"{server.name} does not stop")
    assert up.workers() == []
    request(up, "DELETE", endpoint)
    wait_until(lambda: is_removed(up, endpoint), SECONDS, f"{server.name}: the endpoint stays")
    assert not processes_of(up, server)


def create(up: Up, server: ModelServer) -> str:
    """Create an endpoint with one worker; returns its path."""
    path = os.pathsep.join((str(server.directory / "bin"), os.environ["PATH"]))
    command = f"cd {shlex.quote(str(server.project))} && PATH={shlex.quote(path)} && export PATH && {server.command}"
    variables = {"LOAD_SECONDS": str(LOAD_SECONDS), "MLSERVER_GRPC_PORT": str(free_port()), **server.environment}
    made = request(
        up,
        "POST",
        "/v2/serverless",
        {
            "name": server.name,
            "image": f"{server.name}:latest",
            "serviceMode": "QUEUE",
            "workers": 1,
            "containerVolumeInGb": 20,
            "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
            "expose": {"port": 8000, "protocol": "http"},
            "initializationCommand": command,
            "environmentVars": [{"key": key, "value": value} for key, value in variables.items()],
            "readyPath": server.ready_path,
            **server.settings,
        },
    )
    return f"/v2/serverless/{made['id']}"


def submit(up: Up, endpoint: str, server: ModelServer, webhook: str) -> str:
    body = {"workerPort": 8000, "processUri": server.process_uri, "input": server.input, "webhook": webhook}
    name: str = request(up, "POST", f"{endpoint}/tasks", body)["taskId"]
    return name


def request(up: Up, method: str, path: str, body: object = None) -> Any:
    response = httpx.request(method, f"{up.url}{path}", headers={"X-Api-Key": API_KEY}, json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()["data"]


def statuses(up: Up, endpoint: str, names: list[str]) -> set[str]:
    return {up.get(f"{endpoint}/tasks/{name}")["status"] for name in names}


def is_removed(up: Up, endpoint: str) -> bool:
    return httpx.get(f"{up.url}{endpoint}", headers={"X-Api-Key": API_KEY}).status_code == 404


def part(value: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def processes_of(up: Up, server: ModelServer) -> list[int]:
    """Processes of this server that are still there."""
    found = []
    for process in up.processes():
        with suppress(psutil.Error):
            if Path(process.cwd()) == server.project:
                found.append(process.pid)
    return found
