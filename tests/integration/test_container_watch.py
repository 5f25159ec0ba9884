"""The agent's probes of a real server, and what a watch makes of them."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import psutil
import pytest

from queue_engine.domain.tasks import ContainerResponse
from queue_engine.domain.workers import WorkerStatus
from tests.ports import free_port
from tests.waiting import wait_until, wait_until_async
from worker_agent.container import ContainerAddress, ContainerWatch, ProbePolicy
from worker_agent.probes import PortProbe, Probe, ReadyPathProbe, Target, has_connections, where_listened
from worker_agent.readiness import Clocks, Finding, Probed, Readiness

HOST = "127.0.0.1"
BACKLOG = 2
OK = ContainerResponse(status=200)
LOADING = ContainerResponse(status=503)
REFUSED = ContainerResponse(error_type="connect_refused")
CLOCKS = Clocks(time.monotonic, lambda: datetime.now(UTC))
READY = Probed(Finding.READY, "ready")
SILENT = Probed(Finding.SILENT, "silent")
DOWN = Probed(Finding.REFUSED, "refused")


@contextmanager
def listener(host: str = HOST, backlog: int = BACKLOG) -> Iterator[socket.socket]:
    """A socket that listens and accepts nothing by itself, as that of a server that is busy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        listening.listen(backlog)
        listening.settimeout(0)
        yield listening


def accepted(listening: socket.socket) -> list[socket.socket]:
    """All connections that wait in the listen queue."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(listening.accept()[0])
    return found


@asynccontextmanager
async def server(handle: Callable[[bytes], Awaitable[bytes | None]]) -> AsyncIterator[int]:
    """A server of raw responses: `handle` gets the head of the request; None hangs up. Yields the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            response = await handle(await reader.readuntil(b"\r\n\r\n"))
            writer.write(response or b"")
            await writer.drain()
        writer.close()

    serving = await asyncio.start_server(serve, HOST, 0)
    async with serving:
        yield serving.sockets[0].getsockname()[1]


@asynccontextmanager
async def closing(probe: Probe) -> AsyncIterator[Probe]:
    try:
        yield probe
    finally:
        await probe.aclose()


async def test_a_port_that_nothing_listens_on_is_refused_and_named() -> None:
    port = free_port()
    probe = PortProbe(Target((HOST,), port, "$PORT"))
    assert await probe.probe(was_ready=False) == Probed(
        Finding.REFUSED, f"nothing accepts connections on 127.0.0.1:{port} ($PORT)"
    )


async def test_probes_leave_one_place_of_a_listen_queue_at_most() -> None:
    with listener() as listening:
        async with closing(PortProbe(Target((HOST,), listening.getsockname()[1]))) as probe:
            for _ in range(3 * BACKLOG):
                assert (await probe.probe(was_ready=True)).finding is Finding.READY
            (only,) = accepted(listening)
            only.setblocking(False)
            received = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(only, 1), 10)
            assert received == b""  # it has nothing to say, so that the server is done with it at once
            only.close()

            async def probed_again() -> bool:
                assert (await probe.probe(was_ready=True)).finding is Finding.READY
                return bool(accepted(listening))

            await wait_until_async(probed_again)


async def test_a_server_that_dies_with_a_probe_in_its_queue_is_refused() -> None:
    with listener() as listening:
        probe = PortProbe(Target((HOST,), listening.getsockname()[1]))
        assert (await probe.probe(was_ready=True)).finding is Finding.READY

    async def refused() -> bool:
        return (await probe.probe(was_ready=True)).finding is Finding.REFUSED

    await wait_until_async(refused)


async def test_a_full_listen_queue_is_silent_and_not_refused() -> None:
    with listener(backlog=0) as listening, contextlib.ExitStack() as stack:
        port = listening.getsockname()[1]
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((HOST, port))
        assert (await PortProbe(Target((HOST,), port)).probe(was_ready=True)).finding is Finding.SILENT


async def test_a_server_that_listens_on_ipv6_loopback_only_is_found() -> None:
    with listener("::1") as listening:
        async with closing(PortProbe(Target((HOST, "::1"), listening.getsockname()[1]))) as probe:
            assert (await probe.probe(was_ready=False)).finding is Finding.READY
            assert probe.host == "::1"


@pytest.mark.parametrize(
    ("response", "finding", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Finding.READY, "GET /ready answered 200"),
        (b"HTTP/1.0 204\r\n\r\n", Finding.READY, "GET /ready answered 204"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000 + b"\r\n\r\n", Finding.READY, "GET /ready answered 200"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Finding.READY, "answered 200"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Later\r\n\r\n", Finding.UNREADY, "GET /ready answered 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", Finding.UNREADY, "GET /ready answered 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n", Finding.UNREADY, "GET /ready answered 302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Finding.UNREADY, "GET /ready: the response is not HTTP/1"),
        (b"HTTP/1.1 200 OK", Finding.UNREADY, "GET /ready: the response is not HTTP/1"),
        (b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n", Finding.UNREADY, "GET /ready: the response is not HTTP/1"),
        (b"x" * 200_000, Finding.UNREADY, "GET /ready: the response is not HTTP/1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, Finding.UNREADY, "GET /ready: the response is not HTTP/1"),
        (b"", Finding.UNREADY, "GET /ready: the connection was closed without a response"),
    ],
)
async def test_a_ready_path_is_judged_by_its_final_status(response: bytes, finding: Finding, text: str) -> None:
    requests: list[bytes] = []

    async def handle(request: bytes) -> bytes:
        requests.append(request)
        return response

    async with server(handle) as port:
        probed = await ReadyPathProbe(Target((HOST,), port), "/ready").probe(was_ready=False)
        assert probed.finding is finding
        assert text in probed.text
        assert len(requests) == 1
        assert requests[0].startswith(f"GET /ready HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())


@pytest.mark.parametrize(("was_ready", "asked"), [(True, 1), (False, 2)])
async def test_an_unanswered_ready_path_is_not_asked_twice_of_a_container_that_was_ready(
    was_ready: bool, asked: int
) -> None:
    release = asyncio.Event()
    requests: list[bytes] = []

    async def handle(request: bytes) -> bytes:
        requests.append(request)
        await release.wait()
        return b"HTTP/1.1 200 OK\r\n\r\n"

    async with server(handle) as port, closing(ReadyPathProbe(Target((HOST,), port), "/ready")) as probe:
        probed = await probe.probe(was_ready=was_ready)
        assert probed == Probed(Finding.SILENT, "GET /ready did not respond within 2 s")
        if was_ready:
            assert not await asyncio.to_thread(probe.has_other_connections), "it must not see its own connection"
        second = asyncio.create_task(probe.probe(was_ready=was_ready))
        await wait_until_async(lambda: len(requests) == asked)
        release.set()
        assert (await second).finding is Finding.READY


async def test_a_client_that_is_connected_is_seen() -> None:
    with listener() as listening, socket.socket() as client:
        port = listening.getsockname()[1]
        assert not has_connections(port)
        client.connect((HOST, port))
        assert has_connections(port)
        assert not has_connections(port, besides=client.getsockname()[1])


LISTEN = """
import socket, sys
listening = socket.socket()
listening.bind((sys.argv[1], int(sys.argv[2])))
listening.listen()
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind((sys.argv[1], 0))
print("listens", flush=True)
sys.stdin.read()
"""


@contextmanager
def child(script: str, *arguments: str) -> Iterator[list[psutil.Process]]:
    """Run `script` in a grandchild of this process, as a shell starts a container's server; give both processes.

    This process has other children too: servers of the tests before.
    """
    command = ("/bin/sh", "-c", '"$@"; :', "sh", sys.executable, "-c", script, *arguments)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            shell = psutil.Process(process.pid)
            yield [shell, *shell.children(recursive=True)]
        finally:
            assert process.stdin is not None
            process.stdin.close()


def test_the_port_that_the_container_listens_on_instead_is_found() -> None:
    wanted, other = free_port(), free_port()
    with child(LISTEN, HOST, str(other)) as started:
        text = where_listened(started, Target((HOST,), wanted))
    assert text == f"; the container listens on port {other} instead"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have 127.0.0.1 only")
def test_the_right_port_at_another_address_is_found() -> None:
    port = free_port()
    with child(LISTEN, "127.0.0.2", str(port)) as started:
        text = where_listened(started, Target((HOST,), port))
    assert text == "; the container listens there on 127.0.0.2 only, not on 127.0.0.1"


def test_a_container_that_listens_on_no_port_is_found() -> None:
    with child("print('x', flush=True); input()") as started:
        assert where_listened(started, Target((HOST,), 1)) == "; the container listens on no TCP port"


def test_without_a_container_of_its_own_an_agent_does_not_guess() -> None:
    assert where_listened([], Target((HOST,), 1)) == ""


class Scripted:
    """A probe that finds what a test says."""

    host = HOST

    def __init__(self, found: Probed, *, others: bool = False) -> None:
        self.found = found
        self.others = others
        self.probes = 0

    async def probe(self, *, was_ready: bool) -> Probed:
        self.probes += 1
        return self.found

    def has_other_connections(self) -> bool:
        return self.others

    async def aclose(self) -> None: ...


def watch_with(
    probe: Scripted, *, ready_path: str | None = None, sees_calls: bool = True, recheck_seconds: float = 0.02
) -> ContainerWatch:
    readiness = Readiness(CLOCKS, start_timeout_seconds=60, failures_allowed=2 if ready_path else 0)
    target = Target((HOST,), 8000)
    policy = ProbePolicy(target, ready_path, sees_calls, recheck_seconds=recheck_seconds)
    return ContainerWatch(ContainerAddress(HOST, 8000), readiness, probe, policy)


async def answered(answer: ContainerResponse, release: asyncio.Event | None = None) -> ContainerResponse:
    if release is not None:
        await release.wait()
    return answer


@asynccontextmanager
async def running(watch: ContainerWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_nothing_is_probed_while_a_call_is_in_flight() -> None:
    probe, release = Scripted(READY), asyncio.Event()
    watch = watch_with(probe)
    async with running(watch):
        await wait_until_async(lambda: probe.probes >= 2)
        call = asyncio.create_task(watch.observed(answered(OK, release)))
        await wait_until_async(lambda: watch.is_busy)
        before, probe.found = probe.probes, DOWN
        again = asyncio.create_task(watch.observed(answered(OK)))
        await again
        await asyncio.wait({call}, timeout=10 * 0.02)
        assert probe.probes <= before + 1, "one may have been under way"
        assert watch.status is WorkerStatus.RUNNING
        probe.found = READY
        release.set()
        await wait_until_async(lambda: probe.probes > before + 1)


async def test_a_silent_port_that_was_open_is_busy() -> None:
    probe = Scripted(READY)
    watch = watch_with(probe)
    await watch.step()
    probe.found = SILENT
    for _ in range(5):
        await watch.step()
        assert watch.status is WorkerStatus.RUNNING


async def test_a_refused_port_that_was_open_is_down() -> None:
    probe = Scripted(READY)
    watch = watch_with(probe)
    await watch.step()
    probe.found = DOWN
    await watch.step()
    assert watch.status is WorkerStatus.INITIALIZING


@pytest.mark.parametrize(
    ("sees_calls", "others", "status"),
    [
        (False, True, WorkerStatus.RUNNING),
        (False, False, WorkerStatus.INITIALIZING),
        (True, True, WorkerStatus.INITIALIZING),
    ],
)
async def test_a_silent_ready_path_is_busy_while_requests_pass_the_agent(
    sees_calls: bool, others: bool, status: WorkerStatus
) -> None:
    probe = Scripted(READY, others=others)
    watch = watch_with(probe, ready_path="/ready", sees_calls=sees_calls)
    await watch.step()
    probe.found = SILENT
    for _ in range(3):
        await watch.step()
    assert watch.status is status


async def test_a_worker_whose_only_thread_serves_a_request_past_the_agent_keeps_running() -> None:
    """A ready path that waits behind a request of an ALB client, and then is silent without one."""
    busy = False

    async def handle(request: bytes) -> bytes | None:
        if busy:
            await asyncio.Event().wait()
        return b"HTTP/1.1 200 OK\r\n\r\n"

    async with server(handle) as port:
        target = Target((HOST,), port)
        readiness = Readiness(CLOCKS, start_timeout_seconds=60, failures_allowed=2)
        policy = ProbePolicy(target, "/ready", sees_calls=False, recheck_seconds=0.01)
        watch = ContainerWatch(ContainerAddress(HOST, port), readiness, ReadyPathProbe(target, "/ready"), policy)
        await watch.step()
        with socket.create_connection((HOST, port)):
            busy = True
            seen = [await one_step(watch) for _ in range(4)]
        assert seen == [WorkerStatus.RUNNING] * 4
        seen = [await one_step(watch) for _ in range(3)]
        assert seen == [WorkerStatus.RUNNING, WorkerStatus.RUNNING, WorkerStatus.INITIALIZING]
        assert watch.error == "GET /ready did not respond within 2 s"
        await watch.aclose()


async def one_step(watch: ContainerWatch) -> WorkerStatus:
    await watch.step()
    return watch.status


async def test_tasks_begin_once_a_second_while_a_container_is_loading() -> None:
    watch = watch_with(Scripted(READY))
    await watch.step()
    assert [watch.take_turn() for _ in range(2)] == [True, True]
    _, is_free = await watch.observed(answered(LOADING))
    assert is_free
    assert watch.status is WorkerStatus.INITIALIZING
    began = time.monotonic()
    await watch.wait_for_turn()
    assert 0.9 < time.monotonic() - began < 1.9
    assert [watch.take_turn() for _ in range(5)] == [True, False, False, False, False]
    waiting = asyncio.create_task(watch.wait_for_turn())
    await watch.observed(answered(OK))
    await asyncio.wait_for(waiting, 0.5)
    assert [watch.take_turn() for _ in range(2)] == [True, True]


async def test_no_task_begins_after_a_refused_call_until_a_probe_succeeds() -> None:
    probe, release = Scripted(READY), asyncio.Event()
    watch = watch_with(probe, recheck_seconds=60)
    await watch.step()
    await watch.observed(answered(OK))
    call = asyncio.create_task(watch.observed(answered(OK, release)))
    await wait_until_async(lambda: watch.is_busy)
    await watch.observed(answered(REFUSED))
    assert not watch.take_turn()
    assert watch.status is WorkerStatus.RUNNING, "it works on the other call"
    release.set()
    await call
    await asyncio.wait_for(watch.step(), 5)
    assert watch.take_turn()
    assert wait_until(lambda: probe.probes == 2)
