"""The connections to a container: which are used again, how many there are, and what is never sent."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from queue_engine.domain.tasks import ContainerResponse
from queue_engine.net.connecting import connect_to_host
from queue_engine.net.connection import Connection
from queue_engine.net.connection_pool import ConnectionPool
from queue_engine.net.error_types import CallError
from queue_engine.net.response_head import Head
from tests.integration.receivers import OK, Peer, Received, answering, answering_and_closing, receiver
from tests.waiting import wait_until_async
from worker_agent.forward import HttpForwarder, head_of
from worker_agent.requests import ForwardRequest

MAX_CONNECTIONS = 2


class Nothing:
    """Needs nothing of a response but its end."""

    def begin(self, head: Head) -> bool:
        return True

    def feed(self, data: bytes) -> bool:
        return True


@pytest.fixture
async def forwarder() -> AsyncIterator[HttpForwarder]:
    made = HttpForwarder(max_response_bytes=1000, max_connections=MAX_CONNECTIONS)
    yield made
    await made.aclose()


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool[tuple[str, int]]]:
    made = ConnectionPool(connect_to_host, MAX_CONNECTIONS, keepalive_seconds=0.05, connect_seconds=0.3)
    yield made
    made.close()


def request_to(
    port: int, *headers: tuple[str, str], host: str = "127.0.0.1", path: str = "/run", body: bytes = b"{}"
) -> ForwardRequest:
    return ForwardRequest(host, port, path, headers, body, 20.0)


async def post(pool: ConnectionPool[tuple[str, int]], port: int) -> Connection:
    request = request_to(port)
    connection = await pool.acquire(("127.0.0.1", port))
    try:
        await connection.post(head_of(request), request.body, Nothing())
    finally:
        pool.release(("127.0.0.1", port), connection)
    return connection


# Use of a connection again


@pytest.mark.parametrize(
    ("response", "connections"),
    [
        (OK, 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\nX-Sum: 1\r\n\r\n", 1),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n1", 1),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1", 3),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1", 3),
        (b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 1\r\n\r\n1", 1),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 1\r\n\r\n1", 3),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1\r\n\r\n1", 3),
    ],
    ids=["1.1", "204", "chunked", "1.0 keep-alive", "1.0", "close", "422", "500", "503"],
)
async def test_a_connection_is_used_again_unless_the_response_says_that_it_ends(
    forwarder: HttpForwarder, response: bytes, connections: int
) -> None:
    async with receiver(answering(response)) as target:
        for _ in range(3):
            assert (await forwarder.forward(request_to(target.port))).error_type is None
        assert target.connections == connections


@pytest.fixture
async def raising_server() -> AsyncIterator[int]:
    """The port of a uvicorn whose handler responds 500 to `/raise` and then raises, as those of frameworks do."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        status = 500 if scope["path"] == "/raise" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"1"})
        if status == 500:
            raise RuntimeError("the handler raises")

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    await asyncio.to_thread(thread.join)


async def test_no_request_is_lost_behind_one_whose_handler_raises(
    forwarder: HttpForwarder, raising_server: int
) -> None:
    for _ in range(100):
        assert (await forwarder.forward(request_to(raising_server, path="/raise"))).status == 500
        assert await forwarder.forward(request_to(raising_server)) == ContainerResponse(200, output=b"1")


async def test_a_connection_that_the_container_has_closed_is_not_used(pool: ConnectionPool[tuple[str, int]]) -> None:
    async with receiver(answering_and_closing(OK)) as target:
        for _ in range(3):
            connection = await post(pool, target.port)
            await wait_until_async(lambda: not connection.is_usable)  # noqa: B023 - awaited in the same round
        assert [request.body for request in target.received] == [b"{}"] * 3


async def test_a_request_is_not_sent_twice_when_a_kept_connection_breaks(forwarder: HttpForwarder) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        if peer.requests == 1:
            await peer.send(OK)
        else:
            peer.writer.close()

    async with receiver(behave) as target:
        assert (await forwarder.forward(request_to(target.port))).status == 200
        broken = await forwarder.forward(request_to(target.port))
        assert (broken.error_type, broken.detail) == ("reset", "it was closed without a response")
        assert (len(target.received), target.connections) == (2, 1)


async def test_a_connection_is_not_used_after_its_call_was_given_up(forwarder: HttpForwarder) -> None:
    asked = asyncio.Event()

    async def behave(peer: Peer, _request: Received) -> None:
        asked.set()
        if target.connections > 1:
            await peer.send(OK)
        else:
            await peer.until_it_leaves()

    async with receiver(behave) as target:
        call = asyncio.create_task(forwarder.forward(request_to(target.port)))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await forwarder.forward(request_to(target.port))).status == 200
        assert target.connections == 2


async def test_a_response_that_comes_before_the_end_of_the_request_ends_the_connection(
    forwarder: HttpForwarder,
) -> None:
    """The server reads the head, responds, and keeps the connection: the rest of the body is not sent after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 x\r\nContent-Length: 3\r\n\r\nbad")
        responses.append(port)
        await closed.wait()
        writer.close()

    responses: list[int] = []
    closed = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    try:
        for number in (1, 2):
            answer = await forwarder.forward(request_to(port, body=b"x" * 20_000_000))
            assert (answer.error_type, answer.status, answer.excerpt) == (None, 400, "bad")
            assert len(responses) == number, "the second request was sent on the first one's connection"
    finally:
        closed.set()
        server.close()


# Number and age


async def test_open_connections_never_exceed_the_limit(forwarder: HttpForwarder) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        assert target.connections - target.left <= MAX_CONNECTIONS
        await peer.send(OK)

    async with receiver(behave) as target:
        answers = await asyncio.gather(*(forwarder.forward(request_to(target.port)) for _ in range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        assert target.connections == MAX_CONNECTIONS


async def test_idle_connections_make_room_for_one_to_another_port(forwarder: HttpForwarder) -> None:
    async with receiver(answering(OK)) as first, receiver(answering(OK)) as second:
        await asyncio.gather(*(forwarder.forward(request_to(first.port)) for _ in range(MAX_CONNECTIONS)))
        assert (await forwarder.forward(request_to(second.port))).status == 200
        await wait_until_async(lambda: first.left == 1)
        assert (await forwarder.forward(request_to(first.port))).status == 200
        assert (first.connections, second.connections) == (2, 1)


async def test_an_idle_connection_is_closed_after_its_time(pool: ConnectionPool[tuple[str, int]]) -> None:
    async with receiver(answering(OK)) as target:
        await post(pool, target.port)
        await wait_until_async(lambda: target.left == 1)
        await post(pool, target.port)
        assert target.connections == 2


# Connecting


@pytest.mark.parametrize(("listens", "name"), [("127.0.0.1",) * 2, ("::1",) * 2, ("127.0.0.1", "localhost")])
async def test_a_container_is_found_by_its_address_and_by_its_name(
    forwarder: HttpForwarder, listens: str, name: str
) -> None:
    async with receiver(answering(OK), host=listens) as target:
        assert (await forwarder.forward(request_to(target.port, host=name))).status == 200


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [("127.0.0.1", 8000, "127.0.0.1:8000"), ("::1", 8000, "[::1]:8000"), ("container", 80, "container")],
)
def test_the_host_header_names_host_and_port(host: str, port: int, shown: str) -> None:
    head = head_of(request_to(port, ("X-Task-Id", "t"), host=host))
    assert head == f"POST /run HTTP/1.1\r\nHost: {shown}\r\nX-Task-Id: t\r\nContent-Length: 2\r\n\r\n".encode()


async def test_an_unknown_name_is_a_dns_error(forwarder: HttpForwarder) -> None:
    answer = await forwarder.forward(request_to(8000, host="no-such-name.invalid"))
    assert answer == ContainerResponse(
        error_type="dns_error", detail="the host name could not be resolved (no-such-name.invalid:8000)"
    )


async def test_a_name_that_no_host_can_have_is_an_invalid_request(forwarder: HttpForwarder) -> None:
    assert (await forwarder.forward(request_to(8000, host="a" * 64))).error_type == "invalid_request"


async def test_a_host_that_does_not_accept_is_given_up(pool: ConnectionPool[tuple[str, int]]) -> None:
    """A listener whose queue is full lets a further connection wait, as a host that does not answer does."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        port = full.getsockname()[1]
        queued = [socket.socket() for _ in range(8)]
        for one in queued:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(CallError) as raised:
            await pool.acquire(("127.0.0.1", port))
        for one in queued:
            one.close()
    assert raised.value.error_type == "connect_timeout"


# What is never sent


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ((("X-A", "1\r\nX-B: 2"),), "/run"),
        ((("X-A", "1\nX-B: 2"),), "/run"),
        ((("X-A", "1\rX-B: 2"),), "/run"),
        ((("X-A\r\nX-B", "1"),), "/run"),
        ((("X-A", "1\0"),), "/run"),
        ((("X-A", "\udc80"),), "/run"),
        ((), "/run HTTP/1.1\r\nX-A: 1\r\n\r\n"),
        ((), "/run HTTP/1.0"),
    ],
)
async def test_a_header_or_path_that_would_change_the_request_is_refused(
    forwarder: HttpForwarder, headers: tuple[tuple[str, str], ...], path: str
) -> None:
    async with receiver(answering(OK)) as target:
        answer = await forwarder.forward(request_to(target.port, *headers, path=path))
        assert answer == ContainerResponse(
            error_type="invalid_request", detail="the URL or a header of the request cannot be sent"
        )
        assert target.connections == 0
