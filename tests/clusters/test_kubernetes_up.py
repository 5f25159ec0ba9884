"""`queue-engine up --backend kubernetes` as a user runs it, with real agents in pods."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import queue_engine
from queue_engine.backends.docker.names import INSTANCE
from queue_engine.domain.agent_protocol import SERVER
from queue_engine.local.up import EXIT_LEFT
from tests.clusters import hostile_tries
from tests.clusters.cases import RecordCase
from tests.clusters.hostile_in_container import IN_CONTAINER, OVER_NETWORK
from tests.clusters.kube_gate import Gate
from tests.clusters.kube_installation import container_id_of, processes_of
from tests.clusters.kubernetes_cluster import Cluster, Object, missing, namespace_of
from tests.clusters.oci_archive import Image
from tests.clusters.python_image import ENTRY_POINT, ENVIRONMENT, agent_image
from tests.environment import inherited
from tests.integration.certificates import Authority
from tests.integration.parts import HttpServer, Program
from tests.integration.test_up import API_KEY, Up, running_up
from tests.waiting import wait_until

DEMO = Path(__file__).parents[2] / "deploy/demo/run.py"
IMAGE = "localhost/queue-engine-test/agent-up:1"
PLAIN = '["python3", "/app/worker_plain.py"]'
GATED = json.dumps(["python3", "-c", Path(__file__).with_name("gated_server.py").read_text()])
GRACE_SECONDS = 8
AWAY_END_SECONDS = 400
"""Limit of the end of an `up` whose cluster is or was away: longer than all limits of the controller."""
WAIT = "import signal; signal.pause()"
OPTIONS = ("--backend", "kubernetes")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    found, folder = Cluster.of_environment(), tmp_path_factory.mktemp("image")
    found.import_images(folder, {IMAGE: Image(agent_image(folder), ENTRY_POINT, ENVIRONMENT)})
    return found


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with namespace_of(cluster, f"qe-up-{uuid.uuid4().hex[:8]}") as name:
        yield name


@pytest.fixture(scope="module")
def second_namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace that stands for another cluster."""
    with namespace_of(cluster, f"qe-up-{uuid.uuid4().hex[:8]}") as name:
        yield name


@pytest.fixture(scope="module")
def own_card() -> str:
    """A GPU that only these tests know, because the tests of other modules use the same node."""
    return f"example.com/card-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def catalogue(own_card: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.toml"
    node = f'resourceName = "{own_card}"\nselector = {{ "{own_card}.product" = "LARGE" }}'
    path.write_text(f'[[gpu]]\nname = "OWN_CARD"\n[gpu.kubernetes]\n{node}\n')
    return path


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, namespace: str) -> str:
    """This machine's address in the network of the pods. A pod stays, from which `up` finds that network."""
    neighbour = {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["python3", "-c", WAIT]}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "neighbour", "namespace": namespace},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [neighbour]},
        }
    )

    def address() -> str:
        return str(cluster.objects("pod", namespace)[0]["status"].get("podIP", ""))

    pod = wait_until(address, message="a pod gets no address")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((pod, 9))  # sends nothing
        found: str = probe.getsockname()[0]
    return found


def settings_for(cluster: Cluster, namespace: str) -> dict[str, str]:
    return {
        "KUBECONFIG": str(cluster.kubeconfig),
        "QUEUE_ENGINE_KUBERNETES_NAMESPACE": namespace,
        "QUEUE_ENGINE_AGENT_IMAGE": IMAGE,
        "QUEUE_ENGINE_WORKER_GRACE_SECONDS": str(GRACE_SECONDS),
        "QUEUE_ENGINE_LEASE_SECONDS": "5",
    }


@pytest.fixture(scope="module")
def up(
    cluster: Cluster,
    namespace: str,
    second_namespace: str,
    gateway: str,
    catalogue: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Up]:
    """An `up` that most tests share. It finds the network of the pods by itself."""
    folder = tmp_path_factory.mktemp("up")
    regions = folder / "clusters.toml"
    regions.write_text(f'[regions.here]\n[regions.there]\nnamespace = "{second_namespace}"\n')
    files = {"QUEUE_ENGINE_CATALOGUE_FILE": str(catalogue), "QUEUE_ENGINE_CLUSTERS_FILE": str(regions)}
    with running_up(folder, *OPTIONS, **settings_for(cluster, namespace), **files) as running:
        yield running


def create(up: Up, **wanted: Any) -> int:
    return int(up.post("/v2/serverless", request(**wanted))["id"])


def request(
    *, workers: int = 1, mode: str = "QUEUE", command: str = PLAIN, gpu_type: str = "CPU", region: str = "here"
) -> dict[str, Any]:
    return {
        "name": "in-pods",
        "image": IMAGE,
        "resources": [{"region": region, "gpuType": gpu_type, "gpuCount": 1}],
        "workers": workers,
        "serviceMode": mode,
        "containerVolumeInGb": 20,
        "initializationCommand": command,
        "expose": {"port": 8000, "protocol": "http"},
    }


def delete(up: Up, endpoint_id: int) -> None:
    up.client.delete(f"/v2/serverless/{endpoint_id}").raise_for_status()


def wait_until_running(up: Up, endpoint_id: int, count: int) -> None:
    def all_run() -> bool:
        workers = up.get(f"/v2/serverless/{endpoint_id}/workers")
        return [worker["status"] for worker in workers] == ["RUNNING"] * count

    wait_until(all_run, message=f"{up.program.output()}\n{logs(up)}")


def scale(up: Up, endpoint_id: int, workers: int) -> None:
    up.client.patch(f"/v2/serverless/{endpoint_id}", json={"workers": workers}).raise_for_status()


def logs(up: Up) -> str:
    return "\n".join(path.read_text()[-3000:] for path in (up.data_dir / "logs").glob("*.log"))


def pods(cluster: Cluster, namespace: str, endpoint_id: int) -> list[Object]:
    return cluster.objects("pod", namespace, "--selector", f"queue-engine/endpoint={endpoint_id}")


def uids(cluster: Cluster, namespace: str, endpoint_id: int) -> set[str]:
    return {one["metadata"]["uid"] for one in pods(cluster, namespace, endpoint_id)}


def left(cluster: Cluster, namespace: str) -> list[str]:
    """Names of all objects of the engine."""
    found = [one for kind in ("pod", "secret") for one in cluster.objects(kind, namespace, "--selector", INSTANCE)]
    return [one["metadata"]["name"] for one in found]


def submit(up: Up, endpoint_id: int, task_id: str, **more: Any) -> None:
    task = {"taskId": task_id, "workerPort": 8000, "processUri": "/run", "input": {"text": "hello"}, **more}
    up.post(f"/v2/serverless/{endpoint_id}/tasks", task)


def task(up: Up, endpoint_id: int, task_id: str) -> Any:
    return up.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}")


def ended(up: Up, endpoint_id: int, task_id: str) -> Any:
    def found() -> Any:
        seen = task(up, endpoint_id, task_id)
        return seen if seen["status"] != "PROCESSING" else None

    return wait_until(found, message=f"{task_id} does not end: {logs(up)}")


def in_flight(up: Up, cluster: Cluster, namespace: str) -> tuple[int, str]:
    """Return an endpoint with a task that runs until it is released, and the URL of its server, while its pod ends."""
    endpoint_id = create(up, command=GATED)
    wait_until_running(up, endpoint_id, 1)
    submit(up, endpoint_id, "held")
    wait_until(lambda: task(up, endpoint_id, "held")["state"] == "running", message=logs(up))
    [pod] = pods(cluster, namespace, endpoint_id)
    scale(up, endpoint_id, 0)
    wait_until(lambda: "deletionTimestamp" in pods(cluster, namespace, endpoint_id)[0]["metadata"], message=logs(up))
    return endpoint_id, f"http://{pod['status']['podIP']}"


def test_a_running_task_ends_before_its_container_is_signalled(
    up: Up, cluster: Cluster, namespace: str, record_case: RecordCase
) -> None:
    endpoint_id, url = in_flight(up, cluster, namespace)
    with httpx.Client(trust_env=False, timeout=30) as client:
        # The agent has begun to drain, and the container, which would exit on a signal, still runs.
        assert client.get(f"{url}:9091/healthz").text == "ok\n"
        assert client.get(f"{url}:8000/").status_code == 200
        assert client.post(f"{url}:8000/release").status_code == 200
    found = ended(up, endpoint_id, "held")
    assert (found["status"], found["output"], found["attempts"]) == ("SUCCESS", {"path": "/run"}, 1)
    wait_until(lambda: pods(cluster, namespace, endpoint_id) == [], message=logs(up))
    delete(up, endpoint_id)
    record_case("stop with a task in flight", seen="the container runs until the agent has drained", recovery="it ends")


def test_a_task_that_outlasts_the_grace_is_released_at_no_cost(
    up: Up, cluster: Cluster, namespace: str, record_case: RecordCase
) -> None:
    endpoint_id, _ = in_flight(up, cluster, namespace)
    wait_until(lambda: pods(cluster, namespace, endpoint_id) == [], message=logs(up))
    found = task(up, endpoint_id, "held")
    assert (found["status"], found["state"], found["attempts"]) == ("PROCESSING", "queued", 0)
    delete(up, endpoint_id)
    record_case("stop past the grace period", seen="the pod is gone", recovery="the task is queued again, attempts: 0")


def test_a_worker_that_is_restarted_or_drained_by_order_ends_after_its_task(
    up: Up, cluster: Cluster, namespace: str, record_case: RecordCase
) -> None:
    endpoint_id = create(up, command=GATED)
    first, pod = working(up, cluster, namespace, endpoint_id, "first")
    order(up, endpoint_id, first, "restart")
    wait_until_drains(up, cluster, namespace, endpoint_id, pod)
    release(up, endpoint_id, "first", pod)
    uid = pod["metadata"]["uid"]
    wait_until(lambda: uid not in uids(cluster, namespace, endpoint_id), message=lambda: logs(up))
    second, pod = working(up, cluster, namespace, endpoint_id, "second")
    assert second != first
    order(up, endpoint_id, second, "drain")
    wait_until_drains(up, cluster, namespace, endpoint_id, pod)
    release(up, endpoint_id, "second", pod)
    wait_until(lambda: pods(cluster, namespace, endpoint_id) == [], message=lambda: logs(up))
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/workers") == [], message=lambda: logs(up))
    assert up.get(f"/v2/serverless/{endpoint_id}")["totalWorkers"] == 0
    delete(up, endpoint_id)
    record_case("order restart, task in flight", seen="STOPPING", recovery="the task ends; another worker starts")
    record_case("order drain, task in flight", seen="STOPPING", recovery="the task ends; no pod is left")


def working(up: Up, cluster: Cluster, namespace: str, endpoint_id: int, task_id: str) -> tuple[str, Object]:
    """Let the only worker of an endpoint run a task until it is released; return its id and its pod."""
    wait_until_running(up, endpoint_id, 1)
    [worker] = up.get(f"/v2/serverless/{endpoint_id}/workers")
    submit(up, endpoint_id, task_id)
    wait_until(lambda: task(up, endpoint_id, task_id)["state"] == "running", message=lambda: logs(up))
    [pod] = pods(cluster, namespace, endpoint_id)
    return worker["workerId"], pod


def order(up: Up, endpoint_id: int, worker_id: str, what: str) -> None:
    up.client.post(f"/v2/serverless/{endpoint_id}/workers/{worker_id}/{what}").raise_for_status()
    [status] = [
        one["status"] for one in up.get(f"/v2/serverless/{endpoint_id}/workers") if one["workerId"] == worker_id
    ]
    assert status == "STOPPING"


def wait_until_drains(up: Up, cluster: Cluster, namespace: str, endpoint_id: int, pod: Object) -> None:
    """Wait until a pod ends, and check that its agent has the grace period."""
    uid = pod["metadata"]["uid"]

    def metadata() -> Object:
        return next(one["metadata"] for one in pods(cluster, namespace, endpoint_id) if one["metadata"]["uid"] == uid)

    wait_until(lambda: "deletionTimestamp" in metadata(), message=lambda: logs(up))
    assert metadata()["deletionGracePeriodSeconds"] > GRACE_SECONDS


def release(up: Up, endpoint_id: int, task_id: str, pod: Object) -> None:
    """Let the task end, and check that it was run once. The container would exit at once on a signal."""
    assert task(up, endpoint_id, task_id)["state"] == "running"
    url = f"http://{pod['status']['podIP']}:8000/release"
    assert httpx.post(url, trust_env=False, timeout=30).status_code == 200
    found = ended(up, endpoint_id, task_id)
    assert (found["status"], found["output"], found["attempts"]) == ("SUCCESS", {"path": "/run"}, 1)


def test_requests_to_an_alb_endpoint_reach_its_pods(up: Up, cluster: Cluster, namespace: str) -> None:
    endpoint_id = create(up, workers=2, mode="ALB", command='["python3", "-m", "http.server", "8000"]')
    wait_until_running(up, endpoint_id, 2)
    response = httpx.get(f"{up.url}/e/{endpoint_id}/", headers={"X-Api-Key": API_KEY}, trust_env=False, timeout=60)
    assert response.status_code == 200, response.text
    assert "Directory listing" in response.text
    delete(up, endpoint_id)
    wait_until(lambda: pods(cluster, namespace, endpoint_id) == [], message=logs(up))


def test_workers_run_in_the_cluster_of_their_region_and_an_unknown_region_is_refused(
    up: Up, cluster: Cluster, namespace: str, second_namespace: str, record_case: RecordCase
) -> None:
    refused = up.client.post("/v2/serverless", json=request(region="mars"))
    assert refused.status_code == 400
    assert "resources[0].region: must be one of here, there" in refused.text
    endpoint_id = create(up, region="there")
    wait_until_running(up, endpoint_id, 1)
    assert len(pods(cluster, second_namespace, endpoint_id)) == 1
    assert pods(cluster, namespace, endpoint_id) == []
    delete(up, endpoint_id)
    wait_until(lambda: pods(cluster, second_namespace, endpoint_id) == [], message=logs(up))
    record_case("unknown region", seen="400: must be one of here, there", recovery="names what there is")


def test_a_worker_waits_for_a_node_with_its_gpu_type(
    up: Up, cluster: Cluster, namespace: str, own_card: str, record_case: RecordCase
) -> None:
    node = cluster.objects("node", namespace)[0]["metadata"]["name"]
    endpoint_id = create(up, gpu_type="OWN_CARD")

    def error() -> str:
        return "".join(str(one.get("error") or "") for one in up.get(f"/v2/serverless/{endpoint_id}/workers"))

    wait_until(lambda: error().startswith("waits for 1 × OWN_CARD: "), message=f"{error()} {logs(up)}")
    seen = error()
    capacity = f"/status/capacity/{own_card.replace('/', '~1')}"
    try:
        change_node(cluster, node, [{"op": "add", "path": capacity, "value": "1"}])
        cluster.kubectl("label", "node", node, f"{own_card}.product=LARGE")
        wait_until_running(up, endpoint_id, 1)
        assert error() == ""
        [pod] = pods(cluster, namespace, endpoint_id)
        assert pod["spec"]["containers"][1]["resources"]["limits"][own_card] == "1"
    finally:
        delete(up, endpoint_id)
        cluster.kubectl("label", "node", node, f"{own_card}.product-")
        change_node(cluster, node, [{"op": "remove", "path": capacity}])
    wait_until(lambda: pods(cluster, namespace, endpoint_id) == [], message=logs(up))
    record_case("no node with the GPU type", seen=seen, recovery="runs once a node has the label and the resource")


def change_node(cluster: Cluster, node: str, changes: list[dict[str, str]]) -> None:
    with cluster.client() as client:
        response = client.patch(
            f"/api/v1/nodes/{node}/status",
            content=json.dumps(changes),
            headers={"Content-Type": "application/json-patch+json"},
        )
    assert response.status_code == 200, response.text


def test_a_hostile_container_can_do_nothing_to_others(
    up: Up, cluster: Cluster, namespace: str, record_case: RecordCase
) -> None:
    with HttpServer() as receiver:
        victim_id = create(up, command=hostile_tries.VICTIM)
        wait_until_running(up, victim_id, 1)
        submit(up, victim_id, "victim_1", webhook=f"{receiver.url}/hook")
        [victim] = up.get(f"/v2/serverless/{victim_id}/workers")
        [pod] = pods(cluster, namespace, victim_id)
        victim_pid = processes_of(container_id_of(pod, "main"))[0]
        before = uids(cluster, namespace, victim_id), up.get("/v2/keys")["total"]
        inside = Path(f"/proc/{victim_pid}/root/tmp")
        (inside / "secret").write_text("secret")
        wait_until(lambda: task(up, victim_id, "victim_1")["state"] == "running", message=logs(up))
        hostile_id = create(up, workers=0, command=hostile_tries.COMMAND)
        agent = {one["name"]: one.get("value", "") for one in pod["spec"]["containers"][0]["env"]}
        variables = {
            "VICTIM_PID": str(victim_pid),
            "VICTIM_FILE": str(inside / "secret"),
            "WORK_DIR": str(up.data_dir / "logs"),
            "ENGINE_CODE": queue_engine.__file__,
            "CLOSED_PORTS": hostile_tries.closed_ports(up),
            "ENGINE_SOCKET": str(cluster.containerd),
            "VICTIM_ENDPOINT": str(victim_id),
            "VICTIM_WORKER": victim["workerId"],
            "VICTIM_TASK": "victim_1",
            "VICTIM_ADDRESS": pod["status"]["podIP"],
            "OWN_TOKEN": up.post(f"/v2/serverless/{hostile_id}/agent-tokens", {"name": "stolen"})["token"],
            **hostile_tries.agents_api(agent[SERVER]),
        }
        hostile_tries.start_with(up, hostile_id, variables)
        can = hostile_tries.tries_of(up, hostile_id, logs(up))
        reached = {name: can.pop(name) for name in OVER_NETWORK}
        assert can == dict.fromkeys(IN_CONTAINER, False)
        assert (uids(cluster, namespace, victim_id), up.get("/v2/keys")["total"]) == before
        (inside / "go").touch()
        found = ended(up, victim_id, "victim_1")
        assert (found["output"], found["attempts"]) == (hostile_tries.VICTIM_OUTPUT, 1)
        assert json.loads(receiver.next(60).body)["result"] == hostile_tries.VICTIM_OUTPUT
    assert "forged" not in str(up.get(f"/v2/serverless/{victim_id}/workers/{victim['workerId']}/logs"))
    for endpoint_id in (hostile_id, victim_id):
        delete(up, endpoint_id)
    wait_until(
        lambda: not pods(cluster, namespace, hostile_id) and not pods(cluster, namespace, victim_id), message=logs(up)
    )
    record_case(
        "hostile container",
        seen=f"{len(can)} tries on its agent, the node, the runtime and another endpoint fail",
        recovery=f"not needed; reaches another worker's server: {reached}",
    )


class SecureUp(Up):
    """An `up` whose API has a certificate of a private authority for the address at which pods reach it."""

    def __init__(self, directory: Path, gateway: str, **environment: str) -> None:
        authority = Authority(directory)
        self._gateway = gateway
        super().__init__(
            directory,
            *OPTIONS,
            "--host",
            "0.0.0.0",
            QUEUE_ENGINE_TLS_CERT=str(authority.issue(gateway).path),
            QUEUE_ENGINE_AGENT_CA=str(authority.bundle),
            **environment,
        )

    def start(self) -> Program:
        self._environment["QUEUE_ENGINE_AGENT_URL"] = f"https://{self._gateway}:{self.port}"
        return super().start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


def test_a_task_for_the_agents_own_port_fails_with_the_reason(up: Up, cluster: Cluster, namespace: str) -> None:
    endpoint_id = create(up)
    submit(up, endpoint_id, "own_port", workerPort=9091)
    found = ended(up, endpoint_id, "own_port")
    assert (found["status"], found["error"]) == (
        "FAILED",
        "workerPort 9091 is the agent's own port; a task may name every other one",
    )
    delete(up, endpoint_id)
    wait_until(lambda: pods(cluster, namespace, endpoint_id) == [], message=logs(up))


def test_the_demo_checks_all_that_it_does_in_pods_and_leaves_nothing(
    cluster: Cluster, namespace: str, gateway: str, tmp_path: Path, record_case: RecordCase
) -> None:
    before = left(cluster, namespace)
    ran = subprocess.run(
        [sys.executable, str(DEMO), "--files", "12", *OPTIONS, "--image", IMAGE],
        env={**inherited(), **settings_for(cluster, namespace)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "done in" in ran.stdout
    assert left(cluster, namespace) == before
    record_case("demo", seen="each step as expected", recovery="no pod and no Secret is left")


def test_tasks_run_over_https_in_pods_that_outlive_a_killed_controller_and_ctrl_c_removes_them(
    cluster: Cluster, namespace: str, gateway: str, tmp_path: Path, record_case: RecordCase
) -> None:
    before = left(cluster, namespace)
    # A longer grace period, so that a loaded node confirms the ends of the pods in time.
    settings = settings_for(cluster, namespace) | {"QUEUE_ENGINE_WORKER_GRACE_SECONDS": "60"}
    up = SecureUp(tmp_path, gateway, **settings)
    try:
        up.wait_until_up()
        _kill_the_controller_between_tasks(up, cluster, namespace)
        up.program.signal(signal.SIGINT)
        assert up.program.wait() == 0
        assert left(cluster, namespace) == before, logs(up)
    finally:
        up.end()
    record_case("controller killed", seen="the same pods, no restart", recovery="all tasks end, and Ctrl-C leaves none")


def test_ctrl_c_removes_the_owner_that_up_has_made(
    cluster: Cluster, gateway: str, tmp_path: Path, record_case: RecordCase
) -> None:
    with namespace_of(cluster, f"qe-owner-{uuid.uuid4().hex[:6]}") as own:
        settings = settings_for(cluster, own) | {"QUEUE_ENGINE_WORKER_GRACE_SECONDS": "60"}
        up = SecureUp(tmp_path, gateway, **settings)
        try:
            up.wait_until_up()
            wait_until_running(up, create(up, workers=1), 1)
            assert owners(cluster, own) == ["queue-engine-anchor"]
            up.program.signal(signal.SIGINT)
            assert up.program.wait() == 0
            assert (owners(cluster, own), left(cluster, own)) == ([], []), logs(up)
        finally:
            up.end()
    record_case("up ends", seen="the owner that it has made", recovery="it is removed with the last pod")


def owners(cluster: Cluster, namespace: str) -> list[str]:
    names = [one["metadata"]["name"] for one in cluster.objects("configmaps", namespace)]
    return [name for name in names if name == "queue-engine-anchor"]


def _kill_the_controller_between_tasks(up: Up, cluster: Cluster, namespace: str) -> None:
    endpoint_id = create(up, workers=2)
    wait_until_running(up, endpoint_id, 2)
    before = uids(cluster, namespace, endpoint_id)
    assert len(before) == 2
    for number in range(20):
        submit(up, endpoint_id, f"before_{number}")
    controller = up.role("controller")
    controller.kill()
    wait_until(lambda: not controller.is_running())
    for number in range(20):
        submit(up, endpoint_id, f"after_{number}")
    for number in range(20):
        for name in ("before", "after"):
            found = ended(up, endpoint_id, f"{name}_{number}")
            assert (found["status"], found["output"]) == ("SUCCESS", {"text": "HELLO"})
    wait_until(lambda: (up.data_dir / "logs/controller.log").read_text().count('"leading"') == 2, message=logs(up))
    wait_until_running(up, endpoint_id, 2)
    assert uids(cluster, namespace, endpoint_id) == before
    assert [worker["restarts"] for worker in up.get(f"/v2/serverless/{endpoint_id}/workers")] == [0, 0]


async def test_ctrl_c_without_the_cluster_says_what_is_left_and_the_next_up_removes_it(
    cluster: Cluster, gateway: str, tmp_path: Path, record_case: RecordCase
) -> None:
    with namespace_of(cluster, f"qe-away-{uuid.uuid4().hex[:6]}") as own:
        async with Gate(cluster, tmp_path) as gate:
            settings = settings_for(cluster, own) | {"KUBECONFIG": str(gate.kubeconfig)}
            up = await asyncio.to_thread(SecureUp, tmp_path, gateway, **settings)
            try:
                first = await asyncio.to_thread(_with_a_worker, up)
                pods = left(cluster, own)
                assert pods
                await gate.close()
                end = await asyncio.to_thread(_end_while_the_cluster_is_away, up)
                assert left(cluster, own) == pods
                await gate.open()
                await asyncio.to_thread(_start_and_end, up, first)
                assert (owners(cluster, own), left(cluster, own)) == ([], []), logs(up)
            finally:
                await asyncio.to_thread(up.end)
    seen = end.partition("warning: ")[2].partition(" (logs")[0]
    record_case("Ctrl-C of up, cluster away", seen=seen, recovery="the next `up` removes all at its end")


def _with_a_worker(up: Up) -> int:
    up.wait_until_up()
    endpoint_id = create(up, workers=1)
    wait_until_running(up, endpoint_id, 1)
    return endpoint_id


def _end_while_the_cluster_is_away(up: Up) -> str:
    """End `up`, after an endpoint has shown that the cluster is away; return what it has said at its end."""
    endpoint = f"/v2/serverless/{create(up, workers=1)}"
    # Of the worker, because the controller has listed the pods, and plans.
    wait_until(lambda: "does not respond" in str(up.get(endpoint)["error"]), 300, message=logs(up))
    up.program.signal(signal.SIGINT)
    assert up.program.wait(AWAY_END_SECONDS) == EXIT_LEFT, up.program.output()
    end = up.program.output().partition("\nstopping")[2]
    assert "warning: pods of workers may be left: the cluster did not end them" in end
    assert "To remove them, start `up` again while the cluster responds, and end it." in end
    assert "kubectl get pods --all-namespaces --selector queue-engine/worker" in end
    return end


def _start_and_end(up: Up, endpoint_id: int) -> None:
    up.start()
    up.wait_until_up()
    wait_until_running(up, endpoint_id, 1)
    up.program.signal(signal.SIGINT)
    assert up.program.wait(AWAY_END_SECONDS) == 0, up.program.output()
