import socket

from queue_engine.net.ports import free_port, is_free
from tests import ports


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        server.listen()


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ephemeral: int = probe.getsockname()[1]
    assert all(free_port() < 30_000 <= ephemeral for _ in range(20))


def test_a_port_that_is_taken_is_not_given() -> None:
    assert free_port(range(20_000, 29_000)) >= 29_000


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


def test_a_port_that_is_listened_on_by_ipv6_only_is_not_free() -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::1", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


def test_a_port_whose_server_has_just_ended_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()
    assert is_free(port)


def test_tests_get_no_port_twice() -> None:
    given = [ports.free_port() for _ in range(300)]
    assert len(set(given)) == 300
