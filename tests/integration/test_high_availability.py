"""The whole engine, two of each process, behind sentinels and on a cluster, while a master dies."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from queue_engine.store.keys import Partitions
from tests.integration.parts import HttpServer, Program, Programs, programs_on
from tests.integration.test_up import ECHO
from tests.ports import free_port
from tests.servers import StoreServer, valkey_binary
from tests.topology import ClusterSetup, SentinelSetup
from tests.waiting import wait_until_async

API_KEY = "qe_high-availability"
Setup = SentinelSetup | ClusterSetup
SETTINGS = {
    "QUEUE_ENGINE_DURABILITY": "replica",
    "QUEUE_ENGINE_LEASE_SECONDS": "5",
    "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "3",
    "QUEUE_ENGINE_WORKER_GRACE_SECONDS": "2",
    "QUEUE_ENGINE_DELIVERY_SCHEDULE": ",".join(["1"] * 20),
    "QUEUE_ENGINE_DELIVERY_LEASE_SECONDS": "5",
}


@pytest.fixture(scope="module", params=["sentinel", "cluster"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    kind = SentinelSetup if request.param == "sentinel" else ClusterSetup
    with kind(valkey_binary(), tmp_path_factory.mktemp("topology")) as made:
        yield made


@pytest.fixture
def control(setup: Setup, valkey_server: StoreServer) -> dict[str, str]:
    """Where the background jobs' own queue is: a cluster cannot have it."""
    return {} if isinstance(setup, SentinelSetup) else {"QUEUE_ENGINE_CONTROL_REDIS_URL": valkey_server.url}


@pytest.fixture
async def engine(setup: Setup, control: dict[str, str], tmp_path: Path) -> AsyncIterator["Engine"]:
    await asyncio.to_thread(setup.empty)
    with programs_on(setup.url, tmp_path) as programs:
        made = Engine(programs, control)
        yield made
        await made.aclose()


class Engine:
    """Two of each process, and a client that knows both APIs."""

    def __init__(self, programs: Programs, control: dict[str, str]) -> None:
        self.ports = [free_port(), free_port()]
        self.programs = [
            *(self._start(programs, "api", QUEUE_ENGINE_PORT=str(port)) for port in self.ports),
            *(self._start(programs, "delivery") for _ in range(2)),
            *(self._start(programs, "controller", **control) for _ in range(2)),
        ]
        self._client = httpx.AsyncClient(trust_env=False, timeout=10.0, headers={"X-Api-Key": API_KEY})
        self._asked = 0

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """The data of an answer, asking the one API and the other until one has it."""

        async def answered() -> Any:
            self._asked += 1
            url = f"http://127.0.0.1:{self.ports[self._asked % 2]}{path}"
            try:
                response = await self._client.request(method, url, json=body)
            except httpx.TransportError:
                return None
            if response.status_code == 503:
                assert int(response.headers["Retry-After"]) >= 1
                return None
            assert response.status_code == 200, response.text
            return response.json()

        return (await wait_until_async(answered, 60, f"{method} {path} is not answered"))["data"]

    async def ready(self) -> list[int]:
        """The status of `/readyz` of both APIs; 0 for one that does not listen yet."""
        return [await self._ready(f"http://127.0.0.1:{port}/readyz") for port in self.ports]

    async def _ready(self, url: str) -> int:
        try:
            return (await self._client.get(url)).status_code
        except httpx.TransportError:
            return 0

    async def post_once(self, path: str, body: object) -> httpx.Response:
        """The answer of one API, whatever it is."""
        return await self._client.post(f"http://127.0.0.1:{self.ports[0]}{path}", json=body)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _start(self, programs: Programs, role: str, **more: str) -> Program:
        return programs.start(role, "queue_engine", role, **SETTINGS, QUEUE_ENGINE_API_KEY=API_KEY, **more)


async def test_every_acknowledged_task_is_executed_and_delivered_although_a_master_dies(
    setup: Setup, engine: Engine, receiver: HttpServer
) -> None:
    path = await _new_endpoint(engine)
    submitted: set[str] = set()
    stopping = asyncio.Event()
    clients = [asyncio.create_task(_submit(engine, path, receiver, number, submitted, stopping)) for number in range(3)]
    try:
        await wait_until_async(lambda: len(_arrived(receiver)) > 20, 60, "nothing is delivered")
        await asyncio.to_thread(_kill_master, setup)
        count = len(submitted)
        await wait_until_async(lambda: len(submitted) > count + 30, 60, "nothing is accepted any more")
    finally:
        stopping.set()
        await asyncio.gather(*clients)
    await wait_until_async(lambda: _arrived(receiver) >= submitted, 60, "not all are delivered")

    async def all_recorded() -> bool:
        counts = await engine.ask("GET", f"{path}/tasks/count")
        return bool(counts["delivered"] == counts["total"] == len(submitted))

    await wait_until_async(all_recorded, 60, "not all are recorded")
    assert _arrived(receiver) == submitted

    # The background jobs go on as well: the endpoint is scaled, stopped and brought to its end.
    await engine.ask("DELETE", path)

    async def is_gone() -> bool:
        return not await engine.ask("GET", "/v2/serverless")

    await wait_until_async(is_gone, 60, "the endpoint does not end")


async def test_the_apis_are_not_ready_while_writes_cannot_be_kept(setup: Setup, engine: Engine) -> None:
    path = await _new_endpoint(engine, workers=0)
    followers = (
        setup.replicas
        if isinstance(setup, SentinelSetup)
        else [node for node in setup.nodes if node not in setup.masters]
    )
    task = {"taskId": "t1", "workerPort": 8000, "processUri": "/run", "input": {}}
    await wait_until_async(lambda: _statuses_are(engine, 200), 60, "the APIs do not become ready")
    for server in followers:
        server.pause()
    try:
        await wait_until_async(lambda: _statuses_are(engine, 503), 60, "the APIs stay ready")

        async def names_replicas() -> bool:
            # A request that waits for the replicas may first meet the time limit of its connection.
            response = await engine.post_once(f"{path}/tasks", task)
            assert response.status_code == 503
            assert int(response.headers["Retry-After"]) >= 1
            return "replicas" in response.text

        await wait_until_async(names_replicas, 60, "the reason is not that of the replicas")
    finally:
        for server in followers:
            server.resume()
    await wait_until_async(lambda: _statuses_are(engine, 200), 60, "the APIs do not become ready")
    assert (await engine.ask("POST", f"{path}/tasks", task)) is not None
    assert (await engine.ask("GET", f"{path}/tasks/count"))["queued"] == 1


async def _new_endpoint(engine: Engine, *, workers: int = 2) -> str:
    """Its path, when its workers run."""
    endpoint = await engine.ask(
        "POST",
        "/v2/serverless",
        {
            "name": "echo", "image": "none", "serviceMode": "QUEUE", "workers": workers, "containerVolumeInGb": 20,
            "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
            "expose": {"port": 8000, "protocol": "http"}, "initializationCommand": ECHO,
        },
    )  # fmt: skip
    path = f"/v2/serverless/{endpoint['id']}"

    async def all_run() -> bool:
        found = await engine.ask("GET", f"{path}/workers")
        return [worker["status"] for worker in found] == ["RUNNING"] * workers

    await wait_until_async(all_run, 60, "the workers do not run")
    return path


async def _submit(
    engine: Engine, path: str, receiver: HttpServer, number: int, submitted: set[str], stopping: asyncio.Event
) -> None:
    """One task after the other, as a client does that takes 503 for what it is."""
    count = 0
    while not stopping.is_set():
        task_id = f"t{number}_{count}"
        task = {
            "taskId": task_id, "workerPort": 8000, "processUri": "/run", "input": {"n": count},
            "webhook": f"{receiver.url}/hook",
        }  # fmt: skip
        await engine.ask("POST", f"{path}/tasks", task)
        submitted.add(task_id)
        count += 1


def _arrived(receiver: HttpServer) -> set[str]:
    """Tasks whose result has come."""
    bodies = [json.loads(request.body) for request in list(receiver.requests)]
    return {body["user_task_id"] for body in bodies if "user_task_id" in body}


def _kill_master(setup: Setup) -> None:
    """And bring it back as a replica: a cluster's new master has no other."""
    if isinstance(setup, SentinelSetup):
        setup.kill_master()
    else:
        owner = setup.owner_of(Partitions().of("1").queue)
        setup.fail_over(owner, owner.kill)
    setup.restore()


async def _statuses_are(engine: Engine, status: int) -> bool:
    return await engine.ready() == [status, status]
