"""Agents with a token: processes that reach a real API over TLS, without the store's URL and the secret key."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from queue_engine.agent_protocol import calls, messages
from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.domain.agent_protocol import STATUS_REFUSED
from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.tasks import TaskState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from tests.environment import inherited
from tests.integration.certificates import Authority
from tests.integration.parts import (
    TENANT,
    HttpServer,
    Program,
    Programs,
    Reply,
    ended,
    new_endpoint,
    open_store,
    programs_on,
    submit,
    wait_for_port,
)
from tests.integration.receivers import Peer, Received, answering, receiver
from tests.integration.test_alb_agent import only_worker
from tests.ports import free_port
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until, wait_until_async

LEASE_SECONDS = 3600.0
"""So long that no renewal comes in time to tell of a cancellation."""
API_KEY = "a-key-for-agents-over-https"


@dataclass
class Secured:
    """An API with a certificate of a private authority, and the agents that use it."""

    programs: Programs
    store: Store
    port: int
    bundle: Path
    directory: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def new_token(self, endpoint_id: str) -> str:
        token = new_agent_token(endpoint_id)
        await self.store.agent_tokens.create(endpoint_id, TENANT, token, "test")
        return token

    async def revoke(self, endpoint_id: str, token: str) -> None:
        """Revoke with the API, as a user does."""
        async with httpx.AsyncClient(verify=False, headers={"X-Api-Key": API_KEY}) as client:
            url = f"{self.url}/v2/serverless/{endpoint_id}/agent-tokens"
            found = (await client.get(url)).json()["data"]
            for one in found:
                assert (await client.delete(f"{url}/{one['id']}")).status_code == 200
        assert token

    def token_file(self, token: str) -> Path:
        path = self.directory / "token"
        path.write_text(token)
        return path

    def agent(self, endpoint_id: str, container_url: str, *arguments: str, **environment: str) -> Program:
        """Start an agent without the store's URL and the secret key."""
        way = {
            "WORKER_AGENT_SERVER": self.url,
            "WORKER_AGENT_SERVER_CA": str(self.bundle),
            "QUEUE_ENGINE_REDIS_URL": "",
            "QUEUE_ENGINE_SECRET_KEY": "",
        }
        words = ("--endpoint", endpoint_id, "--container-url", container_url, *arguments)
        return self.programs.start("agent", "worker_agent", *words, **{**way, **environment})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Programs, str, int, Path]]:
    """An API for all tests of the module, on a store of its own: the shared ones are emptied before each test."""
    directory = tmp_path_factory.mktemp("https")
    with StoreServer(valkey_binary(), directory) as server, programs_on(server.url, directory) as programs:
        port, bundle = _start_api(programs, directory)
        yield programs, server.url, port, bundle


@pytest.fixture
async def secured(running: tuple[Programs, str, int, Path], tmp_path: Path) -> AsyncIterator[Secured]:
    programs, store_url, port, bundle = running
    store = open_store(store_url)
    await store.prepare()
    yield Secured(programs, store, port, bundle, tmp_path)
    await store.close()


def _start_api(programs: Programs, directory: Path) -> tuple[int, Path]:
    """Start an API with a certificate; return its port and the bundle of its authority."""
    authority, port = Authority(directory), free_port()
    certificate = str(authority.issue("127.0.0.1").path)
    programs.start(
        "api", "queue_engine", "api", "--port", str(port), QUEUE_ENGINE_TLS_CERT=certificate,
        QUEUE_ENGINE_TLS_KEY=certificate, QUEUE_ENGINE_LEASE_SECONDS=str(LEASE_SECONDS), QUEUE_ENGINE_API_KEY=API_KEY,
        QUEUE_ENGINE_ALB_LOCAL_AGENTS="true",
    )  # fmt: skip
    wait_for_port(port)
    return port, authority.bundle


async def test_a_task_with_headers_is_run_and_recorded_without_a_key(secured: Secured, container: HttpServer) -> None:
    store = secured.store
    endpoint_id = await new_endpoint(store, concurrency=2)
    path = secured.token_file(await secured.new_token(endpoint_id))
    agent = secured.agent(endpoint_id, container.url, "--token-file", str(path))
    await submit(store, endpoint_id, headers={"Authorization": "Bearer user"}, input=b'{"a": 1}')
    assert container.next().headers["authorization"] == "Bearer user"
    assert (await ended(store, endpoint_id)).output == b'{"a": 1}'
    (worker,) = await store.workers.of_endpoint(endpoint_id)
    assert worker.status is WorkerStatus.RUNNING
    assert agent.stop() == 0
    assert await store.workers.of_endpoint(endpoint_id) == []
    token = path.read_text()
    assert token not in agent.output()
    started = next(line for line in map(json.loads, agent.output().splitlines()) if line["message"] == "started")
    assert (started["server"], started["concurrency"]) == (secured.url, 2)


async def test_a_cancelled_task_is_stopped_at_once(secured: Secured) -> None:
    hold = threading.Event()
    endpoint_id = await new_endpoint(secured.store)
    token = await secured.new_token(endpoint_id)
    with HttpServer(lambda _: Reply(hold=hold)) as container:
        secured.agent(endpoint_id, container.url, WORKER_AGENT_TOKEN=token)
        await submit(secured.store, endpoint_id)
        await asyncio.to_thread(container.next)
        await secured.store.tasks.cancel(endpoint_id, "task")
        task = await ended(secured.store, endpoint_id)
        hold.set()
    assert task.state is TaskState.CANCELLED


async def test_a_token_is_rotated_while_the_agent_works(secured: Secured, container: HttpServer) -> None:
    store = secured.store
    endpoint_id = await new_endpoint(store)
    old = await secured.new_token(endpoint_id)
    path = secured.token_file(old)
    agent = secured.agent(endpoint_id, container.url, WORKER_AGENT_TOKEN_FILE=str(path))
    await submit(store, endpoint_id, "first")
    await ended(store, endpoint_id, "first")
    await secured.revoke(endpoint_id, old)
    path.write_text(await secured.new_token(endpoint_id))
    await submit(store, endpoint_id, "second")
    assert (await ended(store, endpoint_id, "second")).state is TaskState.SUCCEEDED
    assert agent.running
    assert agent.stop() == 0


async def test_an_agent_whose_token_is_revoked_stops_its_calls_and_ends(secured: Secured) -> None:
    store, hold = secured.store, threading.Event()
    endpoint_id = await new_endpoint(store, cancel_uri="/cancel")
    token = await secured.new_token(endpoint_id)

    with HttpServer(lambda one: Reply(hold=None if one.path == "/cancel" else hold)) as container:
        agent = secured.agent(endpoint_id, container.url, WORKER_AGENT_TOKEN=token, WORKER_AGENT_GRACE_SECONDS="600")
        await submit(store, endpoint_id)
        assert (await asyncio.to_thread(container.next)).path == "/run"
        await secured.revoke(endpoint_id, token)
        assert await asyncio.to_thread(agent.wait) == STATUS_REFUSED
        assert (await asyncio.to_thread(container.next)).path == "/cancel"
        hold.set()
    lines = [json.loads(line) for line in agent.output().splitlines()]
    (refused,) = [line["message"] for line in lines if line["level"] == "ERROR"]
    assert refused.startswith("the API refuses the agent (401): ")
    assert "Traceback" not in agent.output()
    assert (await store.tasks.get(endpoint_id, "task")) is not None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORKER_AGENT_SERVER_CA": "/nowhere"}, ("WORKER_AGENT_SERVER_CA", "/nowhere")),
        ({"WORKER_AGENT_TOKEN": "qe_key"}, ("WORKER_AGENT_TOKEN must be an agent token",)),
        ({"WORKER_AGENT_SERVER": "http://198.51.100.1"}, ("--server (WORKER_AGENT_SERVER): must begin with https://",)),
        ({"WORKER_AGENT_REDIS_URL": "redis://127.0.0.1:1"}, ("are both set",)),
    ],
    ids=["no bundle", "an API key", "plain http", "store and server"],
)
async def test_what_an_agent_with_a_token_cannot_work_with_is_said_at_start(
    store: Store, programs: Programs, environment: dict[str, str], words: tuple[str, ...]
) -> None:
    given = {"WORKER_AGENT_SERVER": "https://127.0.0.1:1", "WORKER_AGENT_TOKEN": new_agent_token("1"), **environment}
    agent = programs.start("agent", "worker_agent", "--endpoint", "1", **given)
    assert agent.wait() == 2
    assert all(word in agent.output() for word in words), agent.output()
    assert "Traceback" not in agent.output()


async def test_a_token_of_no_endpoint_ends_the_agent_at_start(secured: Secured) -> None:
    agent = secured.agent("7", "http://127.0.0.1:1", WORKER_AGENT_TOKEN=new_agent_token("7"))
    assert await asyncio.to_thread(agent.wait) == STATUS_REFUSED
    assert "the agent cannot run: the API refuses the agent (401)" in agent.output()


HELLO = messages.HelloResponse(
    "7", ServiceMode.CUSTOM, 1, 30.0, 30.0, 60.0, max_request_bytes=2**20, max_response_bytes=2**20
)


@pytest.mark.parametrize(
    ("response", "sends_sigterm", "status"),
    [((401, 40101, "the token was revoked"), False, STATUS_REFUSED), ((503, 10002, "the store is away"), True, 0)],
    ids=["refused", "SIGTERM in an outage"],
)
async def test_an_agent_that_has_not_registered_yet_ends(
    programs: Programs, response: tuple[int, int, str], sends_sigterm: bool, status: int
) -> None:
    code, *body = response
    hello = b"".join(calls.HELLO.response.encode(HELLO))
    refusal = json.dumps({"code": body[0], "message": body[1], "data": None}).encode()

    async def behave(peer: Peer, request: Received) -> None:
        sent = (200, hello) if "/hello" in request.request_line else (code, refusal)
        await peer.send(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (sent[0], len(sent[1]), sent[1]))

    async with receiver(behave) as server:
        way = {"WORKER_AGENT_SERVER": f"http://127.0.0.1:{server.port}", "WORKER_AGENT_TOKEN": new_agent_token("7")}
        agent = programs.start(
            "agent", "worker_agent", "--endpoint", "7", **way, QUEUE_ENGINE_REDIS_URL="", QUEUE_ENGINE_SECRET_KEY=""
        )
        if sends_sigterm:
            await wait_until_async(lambda: sum("/register" in one.request_line for one in server.received) > 1)
            agent.terminate()
        assert await asyncio.to_thread(agent.wait) == status
    assert "Traceback" not in agent.output()


async def test_an_agent_waits_for_an_api_whose_certificate_is_not_verified(secured: Secured) -> None:
    token = await secured.new_token(await new_endpoint(secured.store))
    endpoint_id = token.split("_")[1]
    agent = secured.agent(endpoint_id, "http://127.0.0.1:1", WORKER_AGENT_TOKEN=token, WORKER_AGENT_SERVER_CA="")
    wait_until(lambda: "unable to get local issuer certificate" in agent.output())
    assert "the API is away: https://127.0.0.1" in agent.output()
    agent.kill()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
async def test_an_agent_that_is_the_first_process_of_a_container_ends_before_its_first_hello() -> None:
    """The kernel ignores SIGTERM to such a process without a handler, so its container would be killed after a time."""
    async with receiver(answering(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")) as server:
        way = {
            **inherited(),
            "WORKER_AGENT_SERVER": f"http://127.0.0.1:{server.port}",
            "WORKER_AGENT_TOKEN": new_agent_token("7"),
        }
        agent = (sys.executable, "-m", "worker_agent", "--endpoint", "7")
        apart = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--")
        command = (*apart, *agent)
        with subprocess.Popen(command, env=way, cwd=Path(__file__).parents[2]) as process:  # noqa: ASYNC220 - returns soon
            await wait_until_async(lambda: bool(server.received) or process.poll() is not None)
            if process.poll() is not None:
                pytest.skip("this machine makes no namespaces of processes")
            [first] = psutil.Process(process.pid).children()
            try:
                first.terminate()
                assert await asyncio.to_thread(process.wait, 30) == 128 + signal.SIGTERM
            finally:
                process.kill()


async def test_the_container_of_an_alb_endpoint_is_advertised_at_the_agents_own_address(secured: Secured) -> None:
    endpoint_id = await new_endpoint(secured.store, service_mode=ServiceMode.ALB)
    token = await secured.new_token(endpoint_id)
    with HttpServer() as container:
        agent = secured.agent(endpoint_id, f"http://localhost:{container.port}", WORKER_AGENT_TOKEN=token)
        worker = await only_worker(secured.store, endpoint_id, WorkerStatus.RUNNING)
        assert worker.address == f"127.0.0.1:{container.port}"
        assert agent.stop() == 0
        elsewhere = secured.agent(
            endpoint_id, container.url, WORKER_AGENT_TOKEN=token, WORKER_AGENT_ADVERTISE_HOST="192.0.2.1"
        )
        assert await asyncio.to_thread(elsewhere.wait) == 2
        assert "address: must be the address 127.0.0.1" in elsewhere.output()


async def test_an_agent_with_a_token_loads_neither_the_stores_client_nor_the_cipher() -> None:
    refusal = json.dumps({"code": 40101, "message": "unknown", "data": None}).encode()
    response = b"HTTP/1.1 401 X\r\nContent-Length: %d\r\n\r\n%b" % (len(refusal), refusal)
    program = """
import sys
from worker_agent.cli import main
sys.argv = ["worker-agent", "--endpoint", "1"]
try:
    main()
except SystemExit as end:
    print(end.code, *sys.modules)
"""
    async with receiver(answering(response)) as server:
        way = {
            **inherited(),
            "WORKER_AGENT_SERVER": f"http://127.0.0.1:{server.port}",
            "WORKER_AGENT_TOKEN": new_agent_token("1"),
        }
        run = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], env=way, cwd=Path(__file__).parents[2],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert len(server.received) == 1
    status, *modules = run.stdout.split()
    assert status == str(STATUS_REFUSED), run.stderr
    assert not {"redis", "hiredis", "cryptography", "queue_engine.store", "queue_engine.engine"} & set(modules)
