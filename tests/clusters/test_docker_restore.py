"""A store is restored from a backup while containers of workers run on the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from queue_engine.backends.docker.names import ENDPOINT, INSTANCE, PART, WORKER
from tests.clusters.cases import RecordCase
from tests.clusters.engine import ContainerEngine
from tests.clusters.python_image import AGENT_IMAGE
from tests.integration.parts import Program, Programs, programs_on, wait_for_port
from tests.integration.test_keys_command import run
from tests.ports import free_port
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until

API_KEY = "test-api-key-4711"
LEASE_SECONDS = 5.0
HOLDING = json.dumps(["python3", "-m", "tests.clusters.holding_server"])


class Site:
    """An API and a controller on a store, with workers in containers."""

    def __init__(self, engine: ContainerEngine, programs: Programs, agents_port: int) -> None:
        self._engine = engine
        self._programs = programs
        self._agents_port = agents_port
        self._port = free_port()
        self._gateway = engine.gateway()
        self._running: list[Program] = []

    def start(self) -> None:
        lease = {"QUEUE_ENGINE_LEASE_SECONDS": str(LEASE_SECONDS), "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "2"}
        agents = {"QUEUE_ENGINE_AGENT_HOST": self._gateway, "QUEUE_ENGINE_AGENT_PORT": str(self._agents_port)}
        api = self._programs.start(
            "api", "queue_engine", "api", "--port", str(self._port), QUEUE_ENGINE_API_KEY=API_KEY, **lease, **agents
        )
        wait_for_port(self._port)
        controller = self._programs.start(
            "controller",
            "queue_engine",
            "controller",
            QUEUE_ENGINE_BACKEND="docker",
            QUEUE_ENGINE_DOCKER_HOST=self._engine.url,
            QUEUE_ENGINE_AGENT_IMAGE=AGENT_IMAGE,
            QUEUE_ENGINE_AGENT_URL=f"http://{self._gateway}:{self._agents_port}",
            QUEUE_ENGINE_WORKER_GRACE_SECONDS="1",
            **lease,
        )
        self._running = [api, controller]

    def kill(self) -> None:
        for program in self._running:
            program.kill()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = httpx.request(
            method,
            f"http://127.0.0.1:{self._port}/v2/serverless{path}",
            json=body,
            headers={"X-Api-Key": API_KEY},
            timeout=60,
            trust_env=False,
        )
        response.raise_for_status()
        return response.json()["data"]

    def until_running(self, endpoint_id: str, count: int) -> list[str]:
        """Wait until that number of workers runs; return their ids."""

        def running() -> list[str]:
            found = self.call("GET", f"/{endpoint_id}/workers")
            states = [one["status"] for one in found]
            return [str(one["workerId"]) for one in found] if states == ["RUNNING"] * count else []

        return wait_until(running, message=self.output())

    def submit(self, endpoint_id: str, *task_ids: str) -> None:
        for task_id in task_ids:
            task = {"taskId": task_id, "workerPort": 8000, "processUri": "/run", "input": {}}
            self.call("POST", f"/{endpoint_id}/tasks", task)

    def tasks(self, endpoint_id: str) -> dict[str, tuple[str, str]]:
        """Status and state of each task."""
        items = self.call("GET", f"/{endpoint_id}/tasks?pageSize=100")["items"]
        return {one["taskId"]: (one["status"], one["state"]) for one in items}

    def output(self) -> str:
        return "\n".join(program.output()[-2000:] for program in self._running)


@contextmanager
def restored(backup: Path, directory: Path, server: StoreServer | None = None) -> Iterator[StoreServer]:
    """A store with the data of a backup: in place of a server that has lost its own, or a new one."""
    directory.mkdir(exist_ok=True)
    if server is not None:
        shutil.copy(backup, server.directory / "dump.rdb")
        server.start()
        yield server
        return
    shutil.copy(backup, directory / "dump.rdb")
    with StoreServer(valkey_binary(), directory) as made:
        yield made


def containers(engine: ContainerEngine, label: str) -> set[str]:
    return {str(one["Id"]) for one in engine.containers(label) if one["State"] == "running"}


def existing(engine: ContainerEngine, endpoint_id: str) -> set[str]:
    """The containers of an endpoint, also those that no longer run and are not removed yet."""
    return {str(one["Id"]) for one in engine.containers(f"{ENDPOINT}={endpoint_id}")}


def let_go(engine: ContainerEngine, endpoint_id: str, *, but: Set[str] = frozenset()) -> None:
    """Let the containers of an endpoint respond to all tasks from now on, except these."""
    for one in containers(engine, f"{ENDPOINT}={endpoint_id}") - but:
        description = engine.inspect(one)
        if description["Config"]["Labels"][PART] == "main":
            Path(f"/proc/{description['State']['Pid']}/root/tmp/go").touch()


def all_ended(site: Site, endpoint_id: str, task_ids: Sequence[str]) -> bool:
    tasks = site.tasks(endpoint_id)
    return [tasks[one][0] for one in task_ids] == ["SUCCESS"] * len(task_ids)


def test_a_restored_store_adopts_its_workers_and_a_renewed_copy_leaves_them_alone(
    with_agent: ContainerEngine, tmp_path: Path, record_case: RecordCase
) -> None:
    with StoreServer(valkey_binary(), tmp_path / "store") as server, programs_on(server.url, tmp_path) as programs:
        site = Site(with_agent, programs, free_port())
        site.start()
        endpoint_id = site.call("POST", "", endpoint(workers=1))["id"]
        [adopted] = site.until_running(endpoint_id, 1)
        before = [f"before_{number}" for number in range(4)]
        site.submit(endpoint_id, *before)
        wait_until(lambda: "running" in {state for _, state in site.tasks(endpoint_id).values()})
        assert server.command("SAVE") == "+OK"
        backup = tmp_path / "backup.rdb"
        shutil.copy(server.directory / "dump.rdb", backup)

        site.call("PUT", f"/{endpoint_id}/workers/2")
        later = set(site.until_running(endpoint_id, 2)) - {adopted}
        site.submit(endpoint_id, "after")
        own = containers(with_agent, f"{WORKER}={adopted}")
        instance = with_agent.inspect(next(iter(own)))["Config"]["Labels"][INSTANCE]
        all_own = containers(with_agent, f"{INSTANCE}={instance}")

        # A copy beside the original, on the same container engine. Its controller ends only after the containers are
        # removed, because containers outlive their controller, and no other one would remove those of a copy.
        with restored(backup, tmp_path / "copy") as copied, programs_on(copied.url, tmp_path / "copy") as others:
            leader_expires(copied)
            assert run(copied.url, "renew", group="instance").returncode == 0
            copy = Site(with_agent, others, free_port())
            copy.start()
            others_run = partial(containers, with_agent, f"{ENDPOINT}={endpoint_id}")
            wait_until(lambda: len(others_run() - all_own) == 2, message="the copy starts no worker")
            let_go(with_agent, endpoint_id, but=all_own)
            wait_until(lambda: all_ended(copy, endpoint_id, before), message="the copy's tasks do not end")
            assert containers(with_agent, f"{INSTANCE}={instance}") == all_own
            copy.call("PUT", f"/{endpoint_id}/workers/0")
            wait_until(lambda: existing(with_agent, endpoint_id) == all_own, message="the copy's worker is left")
        assert site.tasks(endpoint_id)["after"][0] == "PROCESSING"

        # The original is lost, and restored while its containers run
        site.kill()
        server.kill()
        with restored(backup, tmp_path / "store", server):
            site.start()
            wait_until(
                lambda: not containers(with_agent, f"{WORKER}={next(iter(later))}"), message="the later worker is left"
            )
            assert site.until_running(endpoint_id, 1) == [adopted]
            assert containers(with_agent, f"{WORKER}={adopted}") == own
            assert "after" not in site.tasks(endpoint_id)
            let_go(with_agent, endpoint_id)
            wait_until(lambda: all_ended(site, endpoint_id, before), message="tasks do not end")
            assert containers(with_agent, f"{WORKER}={adopted}") == own
            site.call("DELETE", f"/{endpoint_id}")
            wait_until(lambda: existing(with_agent, endpoint_id) == set(), message="containers are left")
    record_case(
        "store restored beside running containers",
        seen="workers of the backup's time are RUNNING; the later one is unknown",
        recovery="the same containers go on, the later one is removed, and all tasks of the backup end",
    )


def endpoint(*, workers: int) -> dict[str, Any]:
    return {
        "name": "restored",
        "image": AGENT_IMAGE,
        "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        "workers": workers,
        "containerVolumeInGb": 20,
        "serviceMode": "QUEUE",
        "concurrency": 2,
        "initializationCommand": HOLDING,
        "expose": {"port": 8000, "protocol": "http"},
    }


def leader_expires(server: StoreServer) -> None:
    """Wait for the end of the leadership that was in the backup."""
    wait_until(lambda: server.command("EXISTS", "{qe}:leader") == ":0")
