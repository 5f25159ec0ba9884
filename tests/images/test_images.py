"""The images, built by `make images` and run as deploy/compose/compose.yaml says. `make test-images`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.deploy.programs import DEPLOY
from tests.deploy.test_compose import OF_THE_ENGINE, SERVICES, seconds
from tests.images import podman
from tests.images.podman import AGENT, ENGINE, PROMETHEUS, STORE, Services, build_images
from tests.ports import free_port
from tests.waiting import wait_until

# With the base and the images, which the first test waits for.
pytestmark = pytest.mark.timeout(3600)

# No image of Grafana can be made of Debian's packages.
STARTED = [name for name in SERVICES if name != "grafana"]


@dataclass(frozen=True)
class Stack:
    """The services of compose.yaml, and clients of two of them."""

    services: Services
    api: httpx.Client
    prometheus: httpx.Client


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if missing := podman.missing_programs():
        pytest.skip(f"not here: {', '.join(missing)}")
    build_images()
    deploy = tmp_path_factory.mktemp("checkout") / "deploy"
    shutil.copytree(DEPLOY, deploy, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    podman.run("sh", deploy / "compose/make-secrets.sh")
    ports = {name: str(free_port()) for name in ("API_PORT", "PROMETHEUS_PORT")}
    images = {"ENGINE_IMAGE": ENGINE, "AGENT_IMAGE": AGENT, "VALKEY_IMAGE": STORE, "PROMETHEUS_IMAGE": PROMETHEUS}
    services = Services(deploy / "compose/compose.yaml", f"queue-engine-test-{os.getpid()}", ports | images)
    key = (deploy / "compose/secrets/api-key").read_text().strip()
    try:
        start(services)
        with (
            client(ports["API_PORT"], {"X-Api-Key": key}) as api,
            client(ports["PROMETHEUS_PORT"], {}) as prometheus,
        ):
            yield Stack(services, api, prometheus)
    finally:
        services.remove()


def client(port: str, headers: dict[str, str]) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30)


def start(services: Services) -> None:
    """Start the services in the order of their dependencies, and wait for each until it is what others depend on."""
    started: set[str] = set()
    while waiting := [name for name in STARTED if name not in started]:
        name = next(name for name in waiting if set(SERVICES[name].get("depends_on", {})) <= started)
        services.start(name)
        if name == "example-endpoint":
            services.wait_until_completed(name)
        else:
            services.wait_until_healthy(name)
        started.add(name)


def data(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["data"]


def test_both_workers_are_running_and_a_task_succeeds_in_one_of_them(stack: Stack) -> None:
    def running() -> set[str]:
        workers = data(stack.api.get("/v2/serverless/1/workers"))
        return {worker["workerId"] for worker in workers if worker["status"] == "RUNNING"}

    wait_until(lambda: running() == {"echo-1", "echo-2"}, message="the example workers do not run")
    task = {"taskId": "first", "workerPort": 8000, "processUri": "/run", "input": {"a": 1}, "headers": {"X-A": "b"}}
    data(stack.api.post("/v2/serverless/1/tasks", json=task))
    ended = wait_until(lambda: has_ended(stack, "first"), message="the task does not end")
    assert (ended["status"], ended["output"]["input"]) == ("SUCCESS", {"a": 1})
    assert ended["output"]["headers"]["X-A"] == "b"
    assert ended["workerUrl"] in ("http://worker-1:8000/run", "http://worker-2:8000/run")


def has_ended(stack: Stack, task_id: str) -> Any:
    found = data(stack.api.get(f"/v2/serverless/1/tasks/{task_id}"))
    return found if found["status"] != "PROCESSING" else None


@pytest.mark.parametrize("name", [name for name in STARTED if name != "example-endpoint"])
def test_a_container_is_not_root_and_cannot_write_to_its_root(name: str, stack: Stack) -> None:
    user = SERVICES[name]["user"].split(":")[0]
    written = stack.services.execute(name, "sh", "-c", "id -u; touch /etc/probe 2>&1; touch /probe 2>&1")
    assert written.splitlines()[0] == user
    assert written.count("Read-only file system") == 2


@pytest.mark.parametrize("name", ["api", "agent-1"])
def test_an_image_has_nothing_that_installs_or_builds(name: str, stack: Stack) -> None:
    script = (
        "import importlib.util as u, shutil, sys; print("
        "[m for m in ('pip', 'ensurepip', 'setuptools', 'wheel') if u.find_spec(m)],"
        "[p for p in ('pip', 'pip3', 'gcc', 'cc', 'make') if shutil.which(p)])"
    )
    for python in ("/opt/queue-engine/bin/python", "/usr/bin/python3"):
        assert stack.services.execute(name, python, "-c", script).strip() == "[] []"


def test_the_agents_image_has_neither_the_engines_command_nor_a_web_framework(stack: Stack) -> None:
    script = "import importlib.util as u, shutil; print(u.find_spec('starlette'), shutil.which('queue-engine'))"
    assert stack.services.execute("agent-1", "/opt/queue-engine/bin/python", "-c", script).strip() == "None None"


def test_a_worker_knows_neither_the_store_nor_the_api(stack: Stack) -> None:
    """By name. That networks are kept apart by address too is Docker's, and no default of podman's."""
    for name in ("valkey", "api"):
        script = f"import socket; socket.getaddrinfo({name!r}, 80); print('known')"
        assert stack.services.execute("worker-1", "python3", "-c", script) == ""
        assert stack.services.execute("agent-1", "python3", "-c", script) == "known\n"


def test_prometheus_scrapes_every_process(stack: Stack) -> None:
    def up() -> set[str]:
        found = stack.prometheus.get("/api/v1/query", params={"query": "count by (job) (up == 1)"}).json()
        return {f"{one['metric']['job']}={one['value'][1]}" for one in found["data"]["result"]}

    jobs = ("queue-engine-api", "queue-engine-controller", "queue-engine-delivery", "queue-engine-agents")
    expected = {f"{job}=1" for job in jobs} | {"worker-agents=2"}
    wait_until(lambda: up() == expected, message="not every process is scraped")


def test_metrics_of_the_example_agents_have_their_endpoint_and_worker(stack: Stack) -> None:
    def labels() -> set[tuple[str, str]]:
        found = stack.prometheus.get("/api/v1/query", params={"query": "worker_agent_container_up"}).json()
        return {(one["metric"].get("endpoint", ""), one["metric"].get("worker", "")) for one in found["data"]["result"]}

    wait_until(lambda: labels() >= {("1", "echo-1"), ("1", "echo-2")}, message="no agent has its labels")


def test_a_command_for_operators_runs_in_the_container_of_the_api(stack: Stack) -> None:
    assert "first key" in stack.services.execute("api", "queue-engine", "keys", "list")


def test_the_controller_runs_workers_in_its_container_and_all_processes_end_in_order(stack: Stack) -> None:
    endpoint = {
        "name": "in-the-controller", "image": "none", "serviceMode": "QUEUE", "workers": 1, "containerVolumeInGb": 20,
        "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        "expose": {"port": 8000, "protocol": "http"},
        "initializationCommand": "exec python3 -m http.server $PORT",
    }  # fmt: skip
    endpoint_id = data(stack.api.post("/v2/serverless", json=endpoint))["id"]

    def statuses() -> list[str]:
        return [worker["status"] for worker in data(stack.api.get(f"/v2/serverless/{endpoint_id}/workers"))]

    wait_until(lambda: statuses() == ["RUNNING"], message="the controller's worker does not run")
    for name in reversed(OF_THE_ENGINE):
        grace = int(seconds(SERVICES[name]["stop_grace_period"]))
        assert stack.services.stop(name, grace) == 0, stack.services.logs(name)
