"""`queue-engine up --backend docker` as a user runs it, with real agents in containers."""

import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from yottaml.elastic import ElasticApi

from queue_engine.backends.docker.names import ENDPOINT, MANAGED_BY, MANAGER
from tests.clusters.engine import ContainerEngine
from tests.clusters.python_image import AGENT_IMAGE, ENTRY_POINT, ENVIRONMENT, agent_image
from tests.integration.test_up import API_KEY, Up, running_up
from tests.waiting import wait_until

WORKER = '["python3", "/app/worker_plain.py"]'


@pytest.fixture(scope="module")
def with_agent(container_engine: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> ContainerEngine:
    container_engine.load(AGENT_IMAGE, agent_image(tmp_path_factory.mktemp("agent")), ENTRY_POINT, ENVIRONMENT)
    return container_engine


@pytest.fixture(scope="module")
def up(with_agent: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `up` for all tests, of which the last one ends it."""
    with running_up(
        tmp_path_factory.mktemp("up"),
        "--backend",
        "docker",
        DOCKER_HOST=with_agent.url,
        QUEUE_ENGINE_AGENT_IMAGE=AGENT_IMAGE,
        QUEUE_ENGINE_WORKER_GRACE_SECONDS="8",
        QUEUE_ENGINE_LEASE_SECONDS="5",
    ) as running:
        yield running


def create(up: Up, *, workers: int, mode: str = "QUEUE", command: str = WORKER) -> int:
    made = ElasticApi(api_key=API_KEY, base_url=up.url).create_deployment(
        name="in-containers",
        image=AGENT_IMAGE,
        resources=[{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        workers=workers,
        service_mode=mode,
        container_volume_in_gb=20,
        initialization_command=command,
        expose={"port": 8000, "protocol": "http"},
    )
    return int(made["data"]["id"])


def wait_until_running(up: Up, endpoint_id: int, count: int) -> None:
    def all_run() -> bool:
        workers = up.get(f"/v2/serverless/{endpoint_id}/workers")
        return [worker["status"] for worker in workers] == ["RUNNING"] * count

    wait_until(all_run, message=f"{up.program.output()}\n{logs(up)}")


def logs(up: Up) -> str:
    return "\n".join(path.read_text()[-3000:] for path in (up.data_dir / "logs").glob("*.log"))


def containers(engine: ContainerEngine, endpoint_id: int) -> dict[str, str]:
    """Id and state of the containers of an endpoint."""
    return {str(one["Id"]): str(one["State"]) for one in engine.containers(f"{ENDPOINT}={endpoint_id}")}


def submit(up: Up, endpoint_id: int, task_id: str, body: Any) -> None:
    task = {"taskId": task_id, "workerPort": 8000, "processUri": "/run", "input": body}
    up.post(f"/v2/serverless/{endpoint_id}/tasks", task)


def ended(up: Up, endpoint_id: int, task_id: str) -> Any:
    def found() -> Any:
        task = up.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}")
        return task if task["status"] != "PROCESSING" else None

    return wait_until(found, message=f"{task_id} does not end: {logs(up)}")


def test_requests_to_an_alb_endpoint_reach_its_containers(up: Up, with_agent: ContainerEngine) -> None:
    endpoint_id = create(up, workers=2, mode="ALB", command='["python3", "-m", "http.server", "8000"]')
    wait_until_running(up, endpoint_id, 2)
    response = httpx.get(f"{up.url}/e/{endpoint_id}/", headers={"X-Api-Key": API_KEY}, trust_env=False, timeout=60)
    assert response.status_code == 200, response.text
    assert "Directory listing" in response.text
    ElasticApi(api_key=API_KEY, base_url=up.url).delete_deployment(endpoint_id)
    wait_until(lambda: containers(with_agent, endpoint_id) == {}, message=logs(up))


def test_tasks_run_in_containers_that_outlive_a_killed_controller_and_ctrl_c_removes_them(
    up: Up, with_agent: ContainerEngine
) -> None:
    endpoint_id = create(up, workers=2)
    wait_until_running(up, endpoint_id, 2)
    before = containers(with_agent, endpoint_id)
    assert len(before) == 4
    for number in range(20):
        submit(up, endpoint_id, f"before_{number}", {"text": "hello"})
    controller = up.role("controller")
    controller.kill()
    wait_until(lambda: not controller.is_running())
    for number in range(20):
        submit(up, endpoint_id, f"after_{number}", {"text": "hello"})
    for number in range(20):
        for name in ("before", "after"):
            task = ended(up, endpoint_id, f"{name}_{number}")
            assert task["status"] == "SUCCESS"
            assert task["output"] == {"text": "HELLO"}
    wait_until(lambda: (up.data_dir / "logs/controller.log").read_text().count('"leading"') == 2, message=logs(up))
    wait_until_running(up, endpoint_id, 2)
    assert containers(with_agent, endpoint_id) == before
    up.program.signal(signal.SIGINT)
    assert up.program.wait() == 0
    assert containers(with_agent, endpoint_id) == {}, logs(up)
    assert with_agent.containers(f"{MANAGED_BY}={MANAGER}") == []
