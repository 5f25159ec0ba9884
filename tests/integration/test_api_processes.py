"""`queue-engine api --processes N`: several processes behind one port, and one page of their metrics."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.parts import Program, Programs, programs_on
from tests.ports import free_port
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until

PROCESSES = 3
ANSWERED = re.compile(r'^queue_engine_http_requests_total\{.*route="/healthz".*\} ([0-9.]+)$', re.MULTILINE)
MEMORY = re.compile(r'^process_resident_memory_bytes\{process="(\d+)"\} ', re.MULTILINE)


class Group:
    """A running group. Each of its requests uses a connection of its own, so that any process may accept it."""

    def __init__(self, program: Program, port: int) -> None:
        self.program = program
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, headers={"Connection": "close"})

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def members(self) -> list[psutil.Process]:
        return psutil.Process(self.program.pid).children()

    def processes_on_the_page(self) -> set[str]:
        return set(MEMORY.findall(self.get("/metrics").text))

    def is_complete(self) -> bool:
        return self.processes_on_the_page() == {str(number) for number in range(1, PROCESSES + 1)}

    def answered(self) -> float:
        return sum(map(float, ANSWERED.findall(self.get("/metrics").text)))


def start_group(programs: Programs, directory: Path) -> Group:
    port = free_port()
    arguments = ("queue_engine", "api", "--port", str(port), "--processes", str(PROCESSES))
    group = Group(programs.start("api", *arguments, TMPDIR=str(directory), QUEUE_ENGINE_API_METRICS="public"), port)
    wait_until(group.is_ready)
    wait_until(group.is_complete)
    return group


@pytest.fixture
def group(programs: Programs, tmp_path: Path) -> Group:
    return start_group(programs, tmp_path)


@pytest.fixture(scope="module")
def lasting_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Start a group for several tests, because that takes four seconds of processor time. No test empties its store."""
    directory = tmp_path_factory.mktemp("group")
    with (
        StoreServer(valkey_binary(), directory / "store") as server,
        programs_on(server.url, directory) as programs,
    ):
        yield start_group(programs, directory)


@pytest.fixture
def shared_group(lasting_group: Group) -> Group:
    """Return the module's group once all of its processes serve, also after a test that killed some."""
    wait_until(lambda: len(lasting_group.members()) == PROCESSES and lasting_group.is_complete())
    return lasting_group


@pytest.mark.parametrize("processes", [1, 2])
def test_the_metrics_are_at_an_address_of_their_own_and_not_on_the_port(programs: Programs, processes: int) -> None:
    port, metrics_port = free_port(), free_port()
    arguments = ("--port", str(port), "--metrics-port", str(metrics_port), "--processes", str(processes))
    group = Group(programs.start("api", "queue_engine", "api", *arguments), port)
    wait_until(group.is_ready)
    metrics = Group(group.program, metrics_port)

    def all_are_on_the_page() -> bool:
        text = metrics.get("/metrics").text
        return processes == 1 or set(MEMORY.findall(text)) == {"1", "2"}

    wait_until(all_are_on_the_page)
    assert metrics.answered() == 0
    assert {group.get("/healthz").status_code for _ in range(10)} == {200}
    wait_until(lambda: metrics.answered() == 10)
    assert group.get("/metrics").status_code == 404
    assert "/metrics" not in group.get("/openapi.json").json()["paths"]


def folders_in(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.iterdir() if path.name.startswith("queue-engine-api-")]


def test_one_page_counts_the_requests_to_all_processes(shared_group: Group) -> None:
    group = shared_group
    before = group.answered()
    assert {group.get("/healthz").status_code for _ in range(60)} == {200}

    wait_until(lambda: group.answered() == before + 60)


def test_the_sums_do_not_fall_when_a_process_is_replaced(shared_group: Group) -> None:
    group = shared_group
    assert {group.get("/healthz").status_code for _ in range(30)} == {200}
    before = group.answered()
    for killed in group.members():
        killed.kill()
        wait_until(lambda killed=killed: not _is_alive(killed))  # type: ignore[misc]
        assert group.answered() >= before
    wait_until(group.is_complete)

    assert group.answered() >= before


def test_a_killed_process_is_replaced_and_the_others_serve_on(shared_group: Group) -> None:
    group = shared_group
    killed, *others = group.members()
    killed.kill()
    wait_until(lambda: not _is_alive(killed))  # until then it may accept a request, which fails with it

    assert {group.get("/healthz").status_code for _ in range(30)} == {200}
    wait_until(lambda: len(group.members()) == PROCESSES and killed.pid not in [one.pid for one in group.members()])
    wait_until(group.is_complete)
    assert all(one.is_running() for one in others)


def test_sigterm_ends_all_processes_and_leaves_no_file(group: Group, tmp_path: Path) -> None:
    members = group.members()
    assert folders_in(tmp_path) != []

    assert group.program.stop() == 0
    assert not any(member.is_running() for member in members)
    assert folders_in(tmp_path) == []


def test_the_processes_end_when_their_parent_is_killed(group: Group) -> None:
    members = group.members()
    group.program.kill()

    wait_until(lambda: not any(_is_alive(member) for member in members))


def test_a_port_in_use_ends_the_start_and_names_the_setting(shared_group: Group, programs: Programs) -> None:
    port = shared_group.url.rpartition(":")[2]
    second = programs.start("second", "queue_engine", "api", "--port", port, "--processes", "2")

    assert second.wait() == 2
    assert "QUEUE_ENGINE_PORT" in second.output()


def test_a_metrics_port_in_use_ends_the_start_and_leaves_no_file(programs: Programs, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = ("--port", "0", "--metrics-port", str(taken.getsockname()[1]))
        arguments = ("queue_engine", "api", *ports, "--processes", "2")
        program = programs.start("api", *arguments, TMPDIR=str(tmp_path))
        assert program.wait() == 2
    assert "QUEUE_ENGINE_METRICS_PORT" in program.output()
    assert folders_in(tmp_path) == []


@pytest.mark.parametrize("count", ["0", "65", "many"])
def test_an_invalid_number_of_processes_is_refused(programs: Programs, count: str) -> None:
    program = programs.start("api", "queue_engine", "api", QUEUE_ENGINE_API_PROCESSES=count)

    assert program.wait() == 2
    assert "QUEUE_ENGINE_API_PROCESSES" in program.output()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
