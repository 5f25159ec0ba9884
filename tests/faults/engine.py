"""A whole engine of real processes, every one of them behind a link that can be broken."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

from queue_engine.store.store import Store
from tests.environment import inherited
from tests.faults.container_hosting import ContainerHosting
from tests.faults.disks import FillableServer
from tests.faults.proxy import Link, Network
from tests.integration.parts import SECRET_KEY, Program, open_store, wait_for_port
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
API_KEY = "fault-suite-key"
LEASE_SECONDS = 4.0
"""Of tasks: the shortest whose heartbeats outlast three ticks of the sweep."""
DELIVERY_LEASE_SECONDS = 2.0
LEADER_LEASE_SECONDS = 2.0
MAX_LOST = 5
CONCURRENCY = 4
GRACE_SECONDS = 1.0
DELIVERY_SCHEDULE = "0.2,0.5,1,1,2,2,2,2,2,2,2,2,2,2,2,2"
ROLES = ("api-1", "api-2", "controller-1", "controller-2", "delivery-1", "delivery-2")
CONTROLLERS = tuple(name for name in ROLES if name.startswith("controller"))
READY_SECONDS = 90.0
CLOCK_FILE = "clock"
MARK = "FAULT_SUITE_ENGINE"
"""The environment variable by which all processes of an engine are known, whoever started them."""


class Group(Protocol):
    """A store of several servers."""

    @property
    def url(self) -> str: ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Settings that the engine's processes need for it."""
        ...

    def url_of(self, key: str) -> str:
        """Of the server that has this key now."""
        ...

    def start(self) -> None:
        """Start every server that is down, and return when the group is whole."""
        ...

    def resume(self) -> None:
        """Let every server go on that was paused."""
        ...


class Engine:
    """The engine against one store. Processes end when it is left, whatever happened before.

    `code` is the directory whose packages run: a changed copy of them for a mutant. With `hosting`, the controllers
    start workers as containers.
    """

    def __init__(
        self,
        store: StoreServer | Group,
        directory: Path,
        network: Network,
        *,
        code: Path = ROOT,
        hosting: ContainerHosting | None = None,
    ) -> None:
        self.store = store
        self.hosting = hosting
        self.directory = directory
        self.network = network
        self._code = code
        self._mark = secrets.token_hex(8)
        self._programs: dict[str, Program] = {}
        self._started: list[Program] = []
        self._api_ports = {name: free_port() for name in ROLES if name.startswith("api")}
        self._links = {name: self.new_store_link(name) for name in ROLES}
        self._api_links: list[Link] = []

    @property
    def store_server(self) -> StoreServer:
        """The store, when it is a single server."""
        assert isinstance(self.store, StoreServer)
        return self.store

    @property
    def fillable_store(self) -> FillableServer:
        """The store of the flavour `limited`."""
        assert isinstance(self.store, FillableServer)
        return self.store

    def new_store_link(self, name: str) -> Link:
        """Between a process and the store. Servers that name each other cannot be behind one: it leads nowhere then."""
        return self.network.link(f"{name} to store", self.store.port if isinstance(self.store, StoreServer) else 0)

    def new_api_link(self, worker: str, unique: str) -> Link:
        """Between an agent and an API: workers use the APIs in turn, and the other API while one is down."""
        ports = list(self._api_ports.values())
        first = len(self._api_links) % len(ports)
        port, *others = ports[first:] + ports[:first]
        link = self.network.link(f"{worker} {unique} to api", port, others)
        self._api_links.append(link)
        return link

    def swap_apis(self) -> None:
        """Lead every agent that uses an API to another one, as a load balancer may from one connection to the next."""
        for link in self._api_links:
            link.target_port, link.spare_ports = link.spare_ports[0], (*link.spare_ports[1:], link.target_port)
            link.reset()

    # Processes

    def start(self) -> None:
        """Start what does not run, and return when everything is ready."""
        for name in ROLES:
            self.start_role(name)
        self.wait_until_ready()

    def start_role(self, name: str, *, module: str = "queue_engine", **variables: str) -> None:
        """Start one process of the engine when it does not run, with further environment variables."""
        if name in self._programs and self._programs[name].running:
            return
        kind = name.split("-")[0]
        arguments = ("--port", str(self._api_ports[name])) if kind == "api" else ()
        variables = (self.hosting.variables_of(name) if self.hosting else {}) | variables
        self._programs[name] = self.run(name, self._links[name], module, kind, *arguments, **variables)

    def wait_until_ready(self) -> None:
        """Return when every API can write to the store, and the other processes say that they have started."""
        for name, port in self._api_ports.items():
            wait_until(lambda port=port: _is_ready(port), READY_SECONDS, f"{name} is not ready")  # type: ignore[misc]
        for name in ROLES:
            program = self._programs[name]
            wait_until(lambda program=program: '"started"' in program.output(), READY_SECONDS, f"{name} does not start")  # type: ignore[misc]

    def run(self, name: str, link: Link | None, *arguments: str, **variables: str) -> Program:
        """Run `python -m <arguments>` with `link` as its way to the store."""
        linked = link is not None and isinstance(self.store, StoreServer)
        own = {"QUEUE_ENGINE_REDIS_URL": f"redis://127.0.0.1:{link.port}/0" if linked and link else self.store.url}
        # Executed, because what it leaves is found by a variable that only an executed process shows.
        variables = {**self._environment(), **own, **variables}
        program = Program(name, arguments, variables, self.directory, may_fork=False)
        self._started.append(program)
        return program

    def program(self, name: str) -> Program:
        return self._programs[name]

    def link(self, name: str) -> Link:
        """Between this process and the store."""
        return self._links[name]

    @property
    def api_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._api_ports.values()]

    def ended(self) -> list[str]:
        """Processes of the engine that have ended by themselves, with the end of what they wrote."""
        return [f"{name}: {program.output()[-300:]}" for name, program in self._programs.items() if not program.running]

    def heal(self) -> None:
        """Bring everything back: links, the store, processes that were killed or stopped."""
        self.heal_for_the_end()
        for program in self._programs.values():
            if program.running:
                program.signal(signal.SIGCONT)
        self.start()

    def heal_for_the_end(self) -> None:
        """Bring back what the processes need to end in order."""
        self.network.heal()
        self.store.resume()
        self.store.start()
        if self.hosting is not None:
            self.hosting.engine.start()

    def stop(self) -> list[str]:
        """End all processes; returns sentences about those that did not end in order or were left."""
        stubborn = []
        running = [program for program in self._started if program.running]
        for program in running:
            program.signal(signal.SIGCONT)
            program.signal(signal.SIGTERM)
        for program in running:
            try:
                program.stop()
            except AssertionError:
                stubborn.append(f"{program.name} did not end")
        return stubborn + [f"{command} was left" for command in self._left()]

    def _left(self) -> list[str]:
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline()))
                    process.kill()
        return left

    # Over the API

    def new_endpoint(self, **settings: Any) -> str:
        """A QUEUE endpoint whose agents are started by hand."""
        body = {**_ENDPOINT, "image": "none", "serviceMode": "QUEUE", "concurrency": CONCURRENCY, "maxAttempts": 10}
        body |= settings
        answer = httpx.post(f"{self.api_urls[0]}/v2/serverless", json=body, headers=_KEY, timeout=20)
        assert answer.status_code == 200, answer.text
        endpoint_id: str = answer.json()["data"]["id"]
        return endpoint_id

    def new_token(self, endpoint_id: str) -> tuple[str, str]:
        """Return a new agent token of the endpoint, and its id."""
        url = f"{self.api_urls[0]}/v2/serverless/{endpoint_id}/agent-tokens"
        answer = httpx.post(url, json={"name": "faults"}, headers=_KEY, timeout=20)
        assert answer.status_code == 200, answer.text
        created = answer.json()["data"]
        return str(created["token"]), str(created["id"])

    def revoke_token(self, endpoint_id: str, token_id: str) -> None:
        """Revoke an agent token."""
        url = f"{self.api_urls[0]}/v2/serverless/{endpoint_id}/agent-tokens/{token_id}"
        answer = httpx.delete(url, headers=_KEY, timeout=20)
        assert answer.status_code == 200, answer.text

    def change_endpoint(self, endpoint_id: str, **settings: Any) -> None:
        """Change these, and let the controllers start workers."""
        url = f"{self.api_urls[0]}/v2/serverless/{endpoint_id}"
        answer = httpx.patch(url, json={**_ENDPOINT, **settings}, headers=_KEY, timeout=20)
        assert answer.status_code == 200, answer.text

    def scale(self, endpoint_id: str, workers: int) -> None:
        """Let the controllers have so many."""
        url = f"{self.api_urls[0]}/v2/serverless/{endpoint_id}/workers/{workers}"
        answer = httpx.put(url, headers=_KEY, timeout=20)
        assert answer.status_code == 200, answer.text

    def order(self, endpoint_id: str, what: str) -> None:
        """Give the order to `start`, `stop`, `pause`, `resume` or `delete` an endpoint."""
        url = f"{self.api_urls[0]}/v2/serverless/{endpoint_id}"
        method, place = ("DELETE", url) if what == "delete" else ("POST", f"{url}/{what}")
        answer = httpx.request(method, place, headers=_KEY, timeout=20)
        assert answer.status_code == 200, answer.text

    def submit(self, endpoint_id: str, task_id: str, given: Any, webhook: str) -> None:
        """Submit one task, once."""
        body = {"taskId": task_id, "input": given, "workerPort": 8000, "processUri": "/run", "webhook": webhook}
        url = f"{self.api_urls[0]}/v2/serverless/{endpoint_id}/tasks"
        answer = httpx.post(url, json=body, headers=_KEY, timeout=20)
        assert answer.status_code == 200, answer.text

    def get(self, path: str, *, timeout: float = 20.0) -> Any:
        """The data of a GET below `/v2/serverless`, from the first API. Raises httpx.HTTPError or AssertionError."""
        answer = httpx.get(f"{self.api_urls[0]}/v2/serverless{path}", headers=_KEY, timeout=timeout)
        assert answer.status_code == 200, f"{path} was answered {answer.status_code}: {answer.text[:200]}"
        return answer.json()["data"]

    def status_of(self, path: str) -> int:
        """The HTTP status of a GET below `/v2/serverless`."""
        return httpx.get(f"{self.api_urls[0]}/v2/serverless{path}", headers=_KEY, timeout=20).status_code

    def readiness(self) -> list[int]:
        """The HTTP status of `GET /readyz` of each API; 0 when there was no answer."""
        return [_readiness(port) for port in self._api_ports.values()]

    def move_store_clock(self, seconds: int) -> None:
        """Let the store's clock jump to so far from the true time. For a store of the flavour `clock`."""
        set_clock(self.store_server.directory, seconds)

    def open_store(self) -> Store:
        """A client of the store itself, past all links."""
        return open_store(self.store.url)

    def url_of(self, key: str) -> str:
        """Of the server that has this key: the store itself, or a node of a cluster."""
        return self.store.url if isinstance(self.store, StoreServer) else self.store.url_of(key)

    def _environment(self) -> dict[str, str]:
        return {
            **inherited(),
            MARK: self._mark,
            "PYTHONPATH": f"{self._code}{os.pathsep}{ROOT}",
            "PYTHONSAFEPATH": "1",  # else the working directory would come before a mutant's code
            "QUEUE_ENGINE_SECRET_KEY": SECRET_KEY,
            "QUEUE_ENGINE_API_KEY": API_KEY,
            "QUEUE_ENGINE_WEBHOOK_ALLOW": "127.0.0.0/8",
            "QUEUE_ENGINE_WORK_DIR": str(self.directory / "work"),
            "QUEUE_ENGINE_LEASE_SECONDS": str(LEASE_SECONDS),
            "QUEUE_ENGINE_MAX_LOST": str(MAX_LOST),
            "QUEUE_ENGINE_LEADER_LEASE_SECONDS": str(LEADER_LEASE_SECONDS),
            "QUEUE_ENGINE_DELIVERY_LEASE_SECONDS": str(DELIVERY_LEASE_SECONDS),
            "QUEUE_ENGINE_DELIVERY_SCHEDULE": DELIVERY_SCHEDULE,
            "QUEUE_ENGINE_DELIVERY_TIMEOUT_SECONDS": "3",
            "QUEUE_ENGINE_DELIVERY_CONNECT_TIMEOUT_SECONDS": "2",
            "QUEUE_ENGINE_WORKER_GRACE_SECONDS": str(GRACE_SECONDS),
            "QUEUE_ENGINE_PROCESS_BACKEND_SHARED": "yes",  # containers write their journals as the suite's user
            "WORKER_AGENT_GRACE_SECONDS": str(GRACE_SECONDS),
            **({} if isinstance(self.store, StoreServer) else self.store.environment),
        }


def set_clock(directory: Path, seconds: int) -> None:
    """Write how far a store in this directory is from the true time; it looks with every call."""
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f"{CLOCK_FILE}.new"
    draft.write_text(f"{seconds:+d}\n")
    draft.replace(directory / CLOCK_FILE)


class Worker:
    """One agent beside one container: two processes, and a link for each connection that they have.

    With a token the agent uses an API, and gets neither the store's URL nor the secret key.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        endpoint_id: str,
        journal: Path,
        *,
        container_link: bool = False,
        token: str | None = None,
    ) -> None:
        self.name = name
        self._engine = engine
        self._endpoint_id = endpoint_id
        self._token = token
        self._journal = journal
        self._port = free_port()
        unique = secrets.token_hex(3)
        self.to_engine = engine.new_api_link(name, unique) if token else engine.new_store_link(f"{name} {unique}")
        """To the store or, with a token, to an API."""
        self.to_container = engine.network.link(f"{name} to container {unique}", self._port)
        self._container_port = self.to_container.port if container_link else self._port
        self.agents: list[str] = []
        """Worker ids, one for each start of the agent."""
        self.start_container()
        self.start_agent()

    def start_container(self) -> None:
        """Returns when it accepts connections."""
        self.container = self._engine.run(
            f"container-{self.name}", None, "tests.faults.container",
            "--port", str(self._port), "--journal", str(self._journal), "--worker", self.name,
        )  # fmt: skip
        wait_for_port(self._port)

    def start_agent(self) -> None:
        """Start a new agent; it has another worker id than the one before."""
        worker_id = f"{self.name}-{secrets.token_hex(3)}"
        self.agents.append(worker_id)
        self.agent = self._engine.run(
            f"agent-{worker_id}", None if self._token else self.to_engine, "worker_agent",
            "--endpoint", self._endpoint_id, "--worker-id", worker_id,
            "--container-url", f"http://127.0.0.1:{self._container_port}", **self._way(),
        )  # fmt: skip

    def _way(self) -> dict[str, str]:
        """Return the variables of an agent that uses an API."""
        if self._token is None:
            return {}
        return {
            "WORKER_AGENT_SERVER": f"http://127.0.0.1:{self.to_engine.port}",
            "WORKER_AGENT_TOKEN": self._token,
            "QUEUE_ENGINE_REDIS_URL": "",
            "QUEUE_ENGINE_SECRET_KEY": "",
        }

    def use_token(self, token: str | None) -> None:
        """Start agents with this token from now on."""
        self._token = token

    def wait_until_up(self) -> None:
        wait_until(lambda: "the container is up" in self.agent.output(), READY_SECONDS, f"{self.name} is not up")

    def keep_container(self) -> None:
        """Start the container again when it has ended."""
        if not self.container.running:
            self.start_container()

    def heal(self) -> None:
        """Both processes run, and go on when they were stopped."""
        for program in (self.agent, self.container):
            if program.running:
                program.signal(signal.SIGCONT)
        self.to_engine.heal()
        self.to_container.heal()
        self.keep_container()
        if not self.agent.running:
            self.start_agent()

    def stop(self) -> None:
        for program in (self.agent, self.container):
            if program.running:
                program.signal(signal.SIGCONT)
                program.signal(signal.SIGTERM)
        self.agent.stop()
        self.container.stop()


def _is_ready(port: int) -> bool:
    return _readiness(port) == 200


def _readiness(port: int) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code
    except httpx.HTTPError:
        return 0


_KEY = {"X-Api-Key": API_KEY}
_ENDPOINT: Mapping[str, Any] = {
    "name": "faults",
    "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
    "workers": 0,
    "containerVolumeInGb": 20,
}
"""What an endpoint must have, new or changed."""
