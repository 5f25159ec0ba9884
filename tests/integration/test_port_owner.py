"""A program of another user at the container's port is not treated as the container."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.other_users import PYTHON
from tests.waiting import wait_until
from worker_agent.port_owner import OwnedPortProbe, users_listening
from worker_agent.probes import PortProbe, Target
from worker_agent.readiness import Finding

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no /proc/net")

OTHER = 1_950_000_100
KEPT = (
    "import socket, sys, time; host, port = sys.argv[1:]; family = socket.AF_INET6 if ':' in host else socket.AF_INET; "
    "kept = socket.create_server((host, int(port)), family=family); time.sleep(600)"
)


def test_the_users_of_all_listeners_of_a_port_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
        assert users_listening("127.0.0.1", one.getsockname()[1]) == {os.getuid()}
        assert users_listening("::1", six.getsockname()[1]) == {os.getuid()}
        port = one.getsockname()[1]
    assert users_listening("127.0.0.1", port) == set()


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_listeners_at_all_addresses_and_mapped_ones_count(bound: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    dual = family == socket.AF_INET6
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=dual) as server:
        assert users_listening("127.0.0.1", server.getsockname()[1]) == {os.getuid()}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a program of another user")
@pytest.mark.parametrize("elsewhere", ["127.0.0.2", "::1", "::"])
async def test_a_program_of_another_user_at_another_address_does_not_count(elsewhere: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with listener_of_another_user(elsewhere, port):
            probe = OwnedPortProbe(PortProbe(Target(("127.0.0.1",), port)), port, os.getuid())
            assert (await probe.probe(was_ready=False)).finding is Finding.READY
            await probe.aclose()


async def test_the_container_is_ready_when_it_listens_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        probe = OwnedPortProbe(PortProbe(Target(("127.0.0.1",), port)), port, os.getuid())
        assert (await probe.probe(was_ready=False)).finding is Finding.READY
        await probe.aclose()


@contextmanager
def listener_of_another_user(host: str, port: int) -> Iterator[None]:
    thief = subprocess.Popen([PYTHON, "-c", KEPT, host, str(port)], user=OTHER, group=OTHER, extra_groups=(OTHER,))
    try:
        wait_until(lambda: users_listening(host, port) == {OTHER})
        yield
    finally:
        thief.kill()
        thief.wait()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which a program of another user listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with listener_of_another_user("127.0.0.1", port):
        yield port


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a program of another user")
async def test_a_program_of_another_user_is_refused_with_these_words(taken_port: int) -> None:
    probe = OwnedPortProbe(PortProbe(Target(("127.0.0.1",), taken_port)), taken_port, os.getuid())
    found = await probe.probe(was_ready=False)
    assert (found.finding, found.text) == (Finding.REFUSED, f"a program of another user listens on port {taken_port}")
    await probe.aclose()
