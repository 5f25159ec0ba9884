"""Links between parts: whole, cut, black, half open, slow, and well again."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.proxy import Link, Network
from tests.ports import free_port
from tests.waiting import wait_until


class Echo(socketserver.ThreadingTCPServer):
    """Answers with what came, and remembers it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received = b""
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(ConnectionError):  # a link that is cut or healed resets
                    while data := self.request.recv(1000):
                        outer.received += data
                        self.request.sendall(data)

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def link(echo: Echo) -> Iterator[Link]:
    with Network() as network:
        yield network.link("test", echo.server_address[1])


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=10)


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(1000)


def hears_nothing(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)
    return False


def is_reset(connection: socket.socket) -> bool:
    try:
        connection.recv(1)
    except ConnectionResetError:
        return True
    return False


def resets_new_connections(link: Link) -> bool:
    """The reset may come before the connection is made, as its maker sees it."""
    try:
        with connect(link) as connection:
            return is_reset(connection)
    except ConnectionResetError:
        return True


def test_a_whole_link_passes_both_ways(link: Link) -> None:
    with connect(link) as connection:
        assert ask(connection, b"hello") == b"hello"


def test_a_cut_link_resets_old_and_new_connections_until_it_is_healed(link: Link) -> None:
    with connect(link) as connection:
        assert ask(connection, b"a") == b"a"
        link.cut()
        assert is_reset(connection)
    assert resets_new_connections(link)
    link.heal()
    with connect(link) as connection:
        assert ask(connection, b"b") == b"b"


def test_a_black_link_swallows_everything_and_resets_what_it_spoiled(link: Link, echo: Echo) -> None:
    with connect(link) as old, connect(link) as idle:
        assert ask(old, b"a") == b"a"
        assert ask(idle, b"i") == b"i"
        link.blackhole()
        old.sendall(b"lost")
        with connect(link) as new:
            new.sendall(b"lost too")
            assert hears_nothing(new)
            assert hears_nothing(old)
            link.heal()
            assert is_reset(new)
        assert is_reset(old)
        assert ask(idle, b"j") == b"j"
    assert b"lost" not in echo.received


def test_a_link_that_loses_replies_still_lets_the_target_act(link: Link, echo: Echo) -> None:
    with connect(link) as connection:
        assert ask(connection, b"a") == b"a"
        link.lose_replies()
        connection.sendall(b"acted")
        assert hears_nothing(connection)
        wait_until(lambda: echo.received == b"aacted")
        link.heal()
        assert is_reset(connection)


def test_a_link_that_loses_requests_lets_nothing_reach_the_target(link: Link, echo: Echo) -> None:
    with connect(link) as connection:
        assert ask(connection, b"a") == b"a"
        link.lose_requests()
        connection.sendall(b"lost")
        assert hears_nothing(connection)
        assert echo.received == b"a"


def test_only_connections_that_say_the_words_are_lost(link: Link, echo: Echo) -> None:
    with connect(link) as talkative, connect(link) as silent:
        link.lose_requests_with(b"start")
        talkative.sendall(b"start it")
        assert hears_nothing(talkative)
        talkative.sendall(b"and more")
        assert hears_nothing(talkative)
        assert ask(silent, b"read") == b"read"
        assert echo.received == b"read"


def test_the_request_with_the_words_arrives_and_nothing_after_it(link: Link, echo: Echo) -> None:
    with connect(link) as talkative, connect(link) as silent:
        link.lose_replies_to(b"result")
        had_lost = link.has_lost
        talkative.sendall(b"the result")
        assert hears_nothing(talkative)
        assert (had_lost, link.has_lost) == (False, True)
        talkative.sendall(b"and more")
        assert hears_nothing(talkative)
        assert ask(silent, b"read") == b"read"
        assert echo.received == b"the resultread"


def test_a_slow_link_delivers_late_and_whole(link: Link) -> None:
    with connect(link) as connection:
        link.delay(0.1)
        began = time.monotonic()
        assert ask(connection, b"late") == b"late"
        assert time.monotonic() - began >= 0.2
        link.heal()
        assert ask(connection, b"soon") == b"soon"


def test_a_target_that_is_down_is_a_reset(link: Link, echo: Echo) -> None:
    echo.shutdown()
    echo.server_close()
    assert resets_new_connections(link)


def test_a_link_leads_to_a_spare_port_while_nothing_listens_at_its_target(echo: Echo) -> None:
    with Network() as network:
        link = network.link("to a spare", free_port(), [free_port(), echo.server_address[1]])
        with socket.create_connection(("127.0.0.1", link.port), timeout=10) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
