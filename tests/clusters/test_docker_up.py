"""`queue-engine up --backend docker` as a user runs it, with real agents in containers."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from yottaml.elastic import ElasticApi

import queue_engine
from queue_engine.backends.docker.names import ENDPOINT, MANAGED_BY, MANAGER, PART, WORKER
from queue_engine.domain.agent_protocol import SERVER
from tests.clusters import hostile_tries
from tests.clusters.cases import RecordCase
from tests.clusters.engine import ContainerEngine
from tests.clusters.hostile_in_container import IN_CONTAINER, OVER_NETWORK
from tests.clusters.python_image import AGENT_IMAGE
from tests.integration.parts import HttpServer
from tests.integration.test_up import API_KEY, Up, running_up
from tests.waiting import wait_until

HOSTILE = {
    "name": "hostile",
    "image": AGENT_IMAGE,
    "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
    "workers": 0,
    "serviceMode": "QUEUE",
    "containerVolumeInGb": 20,
    "initializationCommand": hostile_tries.COMMAND,
    "expose": {"port": 8000, "protocol": "http"},
}
"""An endpoint without workers yet, because the published client makes none."""
PLAIN = '["python3", "/app/worker_plain.py"]'
GATED = json.dumps(["python3", "-c", Path(__file__).with_name("gated_server.py").read_text()])


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


def network_of(up: Up) -> str:
    """The network that `up` makes for its workers."""
    return f"{MANAGER}-{hashlib.sha256(os.fsencode(up.data_dir.resolve())).hexdigest()[:12]}"


def create(up: Up, *, workers: int, mode: str = "QUEUE", command: str = PLAIN, **more: Any) -> int:
    made = ElasticApi(api_key=API_KEY, base_url=up.url).create_deployment(
        name="in-containers",
        image=AGENT_IMAGE,
        resources=[{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        workers=workers,
        service_mode=mode,
        container_volume_in_gb=20,
        initialization_command=command,
        **({"expose": {"port": 8000, "protocol": "http"}} | more),
    )
    return int(made["data"]["id"])


def wait_until_running(up: Up, endpoint_id: int, count: int) -> None:
    def all_run() -> bool:
        workers = up.get(f"/v2/serverless/{endpoint_id}/workers")
        return [worker["status"] for worker in workers] == ["RUNNING"] * count

    try:
        wait_until(all_run)
    except AssertionError:
        workers = up.get(f"/v2/serverless/{endpoint_id}/workers")
        raise AssertionError(f"{workers}\n{logs(up)}") from None


def logs(up: Up) -> str:
    return "\n".join(path.read_text()[-3000:] for path in (up.data_dir / "logs").glob("*.log"))


def containers(engine: ContainerEngine, endpoint_id: int) -> dict[str, str]:
    """Id and state of the containers of an endpoint."""
    return {str(one["Id"]): str(one["State"]) for one in engine.containers(f"{ENDPOINT}={endpoint_id}")}


def described(engine: ContainerEngine, worker_id: str) -> dict[str, Any]:
    """The descriptions of a worker's containers by part."""
    found = engine.containers(f"{WORKER}={worker_id}")
    return {str(one["Labels"][PART]): engine.inspect(str(one["Id"])) for one in found}


def kill_main(engine: ContainerEngine, worker_id: str) -> None:
    engine.kill(described(engine, worker_id)["main"]["Id"])


def worker_of(up: Up, endpoint_id: int, worker_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = up.get(f"/v2/serverless/{endpoint_id}/workers")
    return next(one for one in found if one["workerId"] == worker_id)


def address_of(description: dict[str, Any]) -> str:
    networks = description["NetworkSettings"]["Networks"].values()
    return next(str(one["IPAddress"]) for one in networks if one.get("IPAddress"))


def server_of(agent: dict[str, Any]) -> str:
    """The URL at which an agent reaches the API."""
    return str(dict(one.split("=", 1) for one in agent["Config"]["Env"])[SERVER])


def state_of(up: Up, endpoint_id: int, task_id: str) -> str:
    return str(up.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}")["state"])


def submit(up: Up, endpoint_id: int, task_id: str, body: Any, **more: Any) -> None:
    task = {"taskId": task_id, "workerPort": 8000, "processUri": "/run", "input": body, **more}
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


@pytest.mark.parametrize("expose", [{"port": 5432, "protocol": "tcp"}, None])
def test_a_custom_endpoint_runs_its_containers_and_takes_neither_tasks_nor_requests(
    up: Up, with_agent: ContainerEngine, expose: dict[str, Any] | None
) -> None:
    command = '["python3", "-m", "http.server", "5432"]'
    endpoint_id = create(up, workers=2, mode="CUSTOM", command=command, expose=expose)
    wait_until_running(up, endpoint_id, 2)
    assert list(containers(with_agent, endpoint_id).values()) == ["running"] * 4
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        submit(up, endpoint_id, "t1", {})
    response = httpx.get(f"{up.url}/e/{endpoint_id}/", headers={"X-Api-Key": API_KEY}, trust_env=False, timeout=60)
    assert response.json()["message"] == "serviceMode: must be ALB; the endpoint has CUSTOM"
    [first, _] = up.get(f"/v2/serverless/{endpoint_id}/workers")
    kill_main(with_agent, first["workerId"])
    wait_until(lambda: worker_of(up, endpoint_id, first["workerId"])["restarts"] > first["restarts"], message=logs(up))
    wait_until_running(up, endpoint_id, 2)
    ElasticApi(api_key=API_KEY, base_url=up.url).delete_deployment(endpoint_id)
    wait_until(lambda: containers(with_agent, endpoint_id) == {}, message=logs(up))


def test_a_worker_that_is_restarted_or_drained_by_order_ends_after_its_task(
    up: Up, with_agent: ContainerEngine, record_case: RecordCase
) -> None:
    endpoint_id = create(up, workers=1, command=GATED)
    first, agent = working(up, with_agent, endpoint_id, "first")
    order(up, with_agent, endpoint_id, first, "restart")
    release(up, endpoint_id, "first", agent)
    wait_until(lambda: agent["Id"] not in containers(with_agent, endpoint_id), message=lambda: logs(up))
    second, agent = working(up, with_agent, endpoint_id, "second")
    assert second != first
    order(up, with_agent, endpoint_id, second, "drain")
    release(up, endpoint_id, "second", agent)
    wait_until(lambda: containers(with_agent, endpoint_id) == {}, message=lambda: logs(up))
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/workers") == [], message=lambda: logs(up))
    assert up.get(f"/v2/serverless/{endpoint_id}")["totalWorkers"] == 0
    ElasticApi(api_key=API_KEY, base_url=up.url).delete_deployment(endpoint_id)
    record_case("order restart, task in flight", seen="STOPPING", recovery="the task ends; another worker starts")
    record_case("order drain, task in flight", seen="STOPPING", recovery="the task ends; no container is left")


def working(up: Up, engine: ContainerEngine, endpoint_id: int, task_id: str) -> tuple[str, dict[str, Any]]:
    """Let the only worker of an endpoint run a task until it is released; return its id and its agent's container."""
    wait_until_running(up, endpoint_id, 1)
    [worker] = up.get(f"/v2/serverless/{endpoint_id}/workers")
    submit(up, endpoint_id, task_id, {})
    wait_until(lambda: state_of(up, endpoint_id, task_id) == "running", message=lambda: logs(up))
    return worker["workerId"], described(engine, worker["workerId"])["agent"]


def order(up: Up, engine: ContainerEngine, endpoint_id: int, worker_id: str, what: str) -> None:
    """Give an order about a worker, and wait until its agent drains."""
    agent = described(engine, worker_id)["agent"]["Id"]
    up.client.post(f"/v2/serverless/{endpoint_id}/workers/{worker_id}/{what}").raise_for_status()
    assert worker_of(up, endpoint_id, worker_id)["status"] == "STOPPING"
    wait_until(lambda: "draining" in engine.output(agent), message=lambda: logs(up))


def release(up: Up, endpoint_id: int, task_id: str, agent: dict[str, Any]) -> None:
    """Let the task end, and check that it was run once. The container would exit at once on a signal."""
    assert state_of(up, endpoint_id, task_id) == "running"
    url = f"http://{address_of(agent)}:8000/release"
    assert httpx.post(url, trust_env=False, timeout=30).status_code == 200
    found = ended(up, endpoint_id, task_id)
    assert (found["status"], found["output"], found["attempts"]) == ("SUCCESS", {"path": "/run"}, 1)


def test_a_hostile_container_can_do_nothing_to_others(
    up: Up, with_agent: ContainerEngine, record_case: RecordCase
) -> None:
    with HttpServer() as receiver:
        victim_id = create(up, workers=1, command=hostile_tries.VICTIM)
        wait_until_running(up, victim_id, 1)
        submit(up, victim_id, "victim_1", {}, webhook=f"{receiver.url}/hook")
        [victim] = up.get(f"/v2/serverless/{victim_id}/workers")
        pair = described(with_agent, victim["workerId"])
        before = containers(with_agent, victim_id), up.get("/v2/keys")["total"]
        inside = Path(f"/proc/{pair['main']['State']['Pid']}/root/tmp")
        (inside / "secret").write_text("secret")
        wait_until(lambda: state_of(up, victim_id, "victim_1") == "running")
        hostile_id = up.post("/v2/serverless", HOSTILE)["id"]
        variables = {
            "VICTIM_PID": str(pair["main"]["State"]["Pid"]),
            "VICTIM_FILE": str(inside / "secret"),
            "WORK_DIR": str(up.data_dir / "logs"),
            "ENGINE_CODE": queue_engine.__file__,
            "CLOSED_PORTS": hostile_tries.closed_ports(up),
            "ENGINE_SOCKET": with_agent.url.removeprefix("unix://"),
            "VICTIM_ENDPOINT": str(victim_id),
            "VICTIM_WORKER": victim["workerId"],
            "VICTIM_TASK": "victim_1",
            "VICTIM_ADDRESS": address_of(pair["agent"]),
            "OWN_TOKEN": up.post(f"/v2/serverless/{hostile_id}/agent-tokens", {"name": "stolen"})["token"],
            **hostile_tries.agents_api(server_of(pair["agent"])),
        }
        hostile_tries.start_with(up, hostile_id, variables)
        can = hostile_tries.tries_of(up, hostile_id, logs(up))
        reached = {name: can.pop(name) for name in OVER_NETWORK}
        assert can == dict.fromkeys(IN_CONTAINER, False)
        assert (containers(with_agent, victim_id), up.get("/v2/keys")["total"]) == before
        (inside / "go").touch()
        task = ended(up, victim_id, "victim_1")
        assert (task["output"], task["attempts"]) == (hostile_tries.VICTIM_OUTPUT, 1)
        assert json.loads(receiver.next(60).body)["result"] == hostile_tries.VICTIM_OUTPUT
    assert "forged" not in str(up.get(f"/v2/serverless/{victim_id}/workers/{victim['workerId']}/logs"))
    record_case(
        "hostile container",
        seen=f"{len(can)} tries on its agent, the host, the engine and another endpoint fail",
        recovery=f"not needed; reaches another worker's server: {reached}",
    )


def test_tasks_run_in_containers_that_outlive_a_killed_controller_and_ctrl_c_removes_them(
    up: Up, with_agent: ContainerEngine, record_case: RecordCase
) -> None:
    endpoint_id = create(up, workers=2)
    wait_until_running(up, endpoint_id, 2)
    before = containers(with_agent, endpoint_id)
    assert len(before) == 4
    assert network_of(up) in with_agent.objects()["networks"]
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
    assert network_of(up) not in with_agent.objects()["networks"]
    record_case(
        "controller killed under load",
        seen="RUNNING",
        recovery="the next one adopts the containers; 40 of 40 tasks succeed",
    )
    record_case("Ctrl-C of up", seen="STOPPING", recovery="drained; no container and no network is left")
