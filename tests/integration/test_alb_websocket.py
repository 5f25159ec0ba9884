"""WebSockets through the API to workers of ALB endpoints, with a real client and a real server."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response

from queue_engine.api.proxy.tunnel import CLOSE_SECONDS, KEY_ENDED_SECONDS
from queue_engine.engine.key_watch import CHECK_SECONDS
from queue_engine.engine.principals import CACHE_SECONDS, REVOCATION_SECONDS
from queue_engine.store.api_keys import hash_of, id_of
from tests.api_server import RunningApi, running_api
from tests.integration.test_alb import endpoint_with, still
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

KEY = base64.b64encode(bytes(16)).decode()
ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
MIB = 1024 * 1024
ENDED_KEY = (1008, "the API key was revoked or has expired")

Handler = Callable[[ServerConnection], Awaitable[None]]


class Worker:
    """A container on loopback that speaks WebSocket."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[Request] = []
        self.ended: list[tuple[int | None, str | None]] = []
        """Code and reason of the Close of each client that has left."""

    async def serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.requests.append(connection.request)
        with suppress(ConnectionClosed):
            await self._handler(connection)
        await connection.wait_closed()
        self.ended.append((connection.close_code, connection.close_reason))


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def worker_doing(handler: Handler, **options: Any) -> AsyncIterator[tuple[Worker, int]]:
    worker = Worker(handler)
    async with serve(worker.serve, "127.0.0.1", 0, ping_interval=None, max_size=None, **options) as server:
        (listener,) = server.sockets
        yield worker, listener.getsockname()[1]
        server.close(close_connections=True)


@asynccontextmanager
async def raw_worker(response: bytes) -> AsyncIterator[int]:
    """A container that sends this response to each request, and nothing more."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(script, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url) as running:
        yield running


def visit(api: RunningApi, endpoint_id: str, path: str = "/", *, key: str | None = None, **options: Any) -> connect:
    """Return the client's connection to a worker of the endpoint, to be entered."""
    headers = {"X-Api-Key": api.key if key is None else key} | options.pop("headers", {})
    return connect(
        f"ws://127.0.0.1:{api.port}/e/{endpoint_id}{path}",
        additional_headers=headers,
        open_timeout=GIVE_UP_SECONDS,
        ping_interval=None,
        **options,
    )


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until the client's connection has ended, and return code and reason of the Close that it has got."""
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await client.wait_closed()
    return client.close_code, client.close_reason


async def refused(api: RunningApi, endpoint_id: str, **options: Any) -> Response:
    with pytest.raises(InvalidStatus) as caught:
        async with visit(api, endpoint_id, **options):
            pass
    return caught.value.response


async def test_messages_go_both_ways_as_they_are(api: RunningApi) -> None:
    async with worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id, "/chat?room=1") as client:
            assert [one.name for one in client.protocol.extensions] == ["permessage-deflate"]
            for message in ("text", "ünï" * 1000, b"", bytes(range(256)) * 3000):
                await client.send(message)
                assert await client.recv() == message
            await asyncio.wait_for(await client.ping(b"are you there"), GIVE_UP_SECONDS)
        assert worker.requests[0].path == "/chat?room=1"


async def test_messages_in_fragments_arrive_as_one(api: RunningApi) -> None:
    async with worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id) as client:
            await client.send(["a", "b", "", "c"])
            assert await client.recv() == "abc"


async def test_a_large_message_needs_no_memory_of_its_size(api: RunningApi) -> None:
    """`still` would see the whole message arrive if it was collected first."""
    message = b"x" * 32 * MIB
    async with worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id, max_size=None, compression=None) as client:
            await client.send(message)
            assert await asyncio.wait_for(client.recv(), GIVE_UP_SECONDS) == message


async def test_the_worker_gets_the_handshake_and_no_key(api: RunningApi) -> None:
    async with worker_doing(echo, subprotocols=["two"]) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        headers = {"Origin": "https://app.example", "X-Forwarded-For": "1.2.3.4", "X-Own": "yes"}
        async with visit(api, endpoint_id, headers=headers, subprotocols=["one", "two"]) as client:
            assert client.subprotocol == "two"
        sent = worker.requests[0].headers
    assert (sent["Host"], sent["Origin"], sent["X-Own"]) == (f"127.0.0.1:{port}", "https://app.example", "yes")
    assert sent.get_all("X-Forwarded-For") == ["127.0.0.1"]
    assert sent["Sec-WebSocket-Protocol"] == "one, two"
    assert api.key not in str(sent)


async def test_the_client_gets_the_workers_headers(api: RunningApi) -> None:
    def add_header(_: ServerConnection, __: Request, response: Response) -> None:
        response.headers["X-Own"] = "yes"

    async with worker_doing(echo, process_response=add_header) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id, headers={"X-Request-Id": "abc"}) as client:
            assert client.response is not None
            assert (client.response.headers["X-Own"], client.response.headers["X-Request-Id"]) == ("yes", "abc")


async def test_a_close_of_the_client_arrives_with_code_and_reason(api: RunningApi) -> None:
    async with worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id) as client:
            await client.close(4001, "done")
            assert await closed(client) == (4001, "done")
        await wait_until_async(lambda: worker.ended == [(4001, "done")])


async def test_a_close_of_the_worker_arrives_with_code_and_reason(api: RunningApi) -> None:
    async def refuse(connection: ServerConnection) -> None:
        await connection.send("last")
        await connection.close(4002, "enough")

    async with worker_doing(refuse) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id) as client:
            assert await client.recv() == "last"
            assert await closed(client) == (4002, "enough")


async def test_a_worker_that_disconnects_is_a_bad_gateway(api: RunningApi) -> None:
    async def vanish(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.abort()

    async with worker_doing(vanish) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id) as client:
            await client.send("go")
            assert await closed(client) == (1014, "the worker has disconnected")


async def test_a_client_that_disconnects_ends_the_workers_connection(api: RunningApi) -> None:
    async with worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        client = await visit(api, endpoint_id)
        await client.send("last")
        assert await client.recv() == "last"
        client.transport.abort()
        await wait_until_async(lambda: worker.ended == [(1006, "")], message="the worker's connection stays")


async def test_an_idle_websocket_is_closed(valkey_url: str) -> None:
    async with running_api(valkey_url, alb_websocket_idle_seconds=0.3) as api, worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id) as client:
            assert await closed(client) == (1001, "nothing was sent for 0.3 s")
        await wait_until_async(lambda: worker.ended == [(1001, "nothing was sent for 0.3 s")])


async def test_a_websocket_lives_while_something_is_sent(valkey_url: str) -> None:
    """Longer than the idle time and the timeout of requests."""
    async with (
        running_api(valkey_url, alb_websocket_idle_seconds=1.0, alb_timeout_seconds=0.5) as api,
        worker_doing(echo) as (_, port),
    ):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id) as client:
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 2:
                await client.send("x")
                assert await client.recv() == "x"


async def test_a_tenant_has_a_limit_of_websockets_and_others_are_served(valkey_url: str) -> None:
    async with running_api(valkey_url, alb_max_websockets_per_tenant=1) as api, worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id):
            response = await refused(api, endpoint_id)
            assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
            assert b"QUEUE_ENGINE_ALB_MAX_WEBSOCKETS_PER_TENANT" in response.body
            assert (await refused(api, endpoint_id, key=await api.new_key("other"))).status_code == 404

        async def is_free() -> bool:
            with suppress(InvalidStatus):
                async with visit(api, endpoint_id):
                    return True
            return False

        await wait_until_async(is_free, message="the ended WebSocket still counts")


async def test_a_websocket_counts_as_a_request_in_progress(valkey_url: str) -> None:
    async with running_api(valkey_url, alb_max_requests_per_tenant=1) as api, worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id):
            assert (await api.client.get(f"/e/{endpoint_id}/")).status_code == 429


@pytest.mark.parametrize("key", ["", "nobody"])
async def test_without_a_valid_key_no_worker_is_reached(api: RunningApi, key: str) -> None:
    async with worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        assert (await refused(api, endpoint_id, key=key)).status_code == 401
        assert worker.requests == []


async def test_what_takes_no_requests_takes_no_websockets(api: RunningApi) -> None:
    assert (await refused(api, await endpoint_with(api))).status_code == 503
    assert (await refused(api, await endpoint_with(api, mode="QUEUE"))).status_code == 400
    assert (await refused(api, "987654")).status_code == 404


async def test_a_refusal_of_the_worker_is_passed_on(api: RunningApi) -> None:
    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(403, "not you\n")

    async with worker_doing(echo, process_request=refuse) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        response = await refused(api, endpoint_id)
        assert (response.status_code, response.body) == (403, b"not you\n")
        assert worker.requests == []


SWITCHING = "HTTP/1.1 101 Switching Protocols\r\n"
ACCEPTED = f"{SWITCHING}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode()


def head_of(api: RunningApi, endpoint_id: str, **changes: str | None) -> bytes:
    """Return the head of a handshake with some headers changed, or left out."""
    headers: dict[str, str | None] = {
        "Host": f"127.0.0.1:{api.port}", "X-Api-Key": api.key, "Connection": "Upgrade", "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY,
    }  # fmt: skip
    headers |= {name.replace("_", "-"): value for name, value in changes.items() if name != "method"}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{changes.get('method', 'GET')} /e/{endpoint_id}/ HTTP/1.1", *lines, "", ""]).encode()


async def opened_raw(api: RunningApi, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Return the connection, and the head of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head)
    async with asyncio.timeout(GIVE_UP_SECONDS):
        return reader, writer, await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"Sec_WebSocket_Version": "8"}, "Sec-WebSocket-Version: must be 13"),
        ({"Sec_WebSocket_Version": None}, "Sec-WebSocket-Version: must be 13"),
        ({"Sec_WebSocket_Key": None}, "Sec-WebSocket-Key: must be given once"),
        ({"Sec_WebSocket_Key": "eA=="}, "Sec-WebSocket-Key: must be given once"),
        ({"Sec_WebSocket_Key": "!" * 24}, "Sec-WebSocket-Key: must be given once"),
        ({"Connection": None}, "Connection: must have the option Upgrade"),
        ({"method": "POST"}, "Upgrade: WebSocket needs the method GET"),
    ],
)
async def test_a_malformed_handshake_is_refused_with_its_field(
    api: RunningApi, changes: dict[str, str | None], field: str
) -> None:
    async with worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        reader, writer, head = await opened_raw(api, head_of(api, endpoint_id, **changes))
        assert head.startswith(b"HTTP/1.1 400 ")
        async with asyncio.timeout(GIVE_UP_SECONDS):
            assert field.encode() in await reader.readuntil(b"}")
        writer.close()
        assert worker.requests == []


@pytest.mark.parametrize(
    "response",
    [
        f"{SWITCHING}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {KEY}\r\n\r\n",
        f"{SWITCHING}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        f"{SWITCHING}Connection: Upgrade\r\nUpgrade: other\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n",
        f"{SWITCHING}Upgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n",
        f"{SWITCHING}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\nX: \x01\r\n\r\n",
        f"{SWITCHING}Connection: Upgrade\r\nUpgrade: websocket\r\nX: {'x' * 70_000}\r\n\r\n",
    ],
    ids=["other key", "no accept", "other protocol", "no connection", "bad header", "long head"],
)
async def test_a_response_that_completes_no_handshake_opens_no_tunnel(api: RunningApi, response: str) -> None:
    async with raw_worker(response.encode()) as port:
        endpoint_id = await endpoint_with(api, port)
        _, writer, head = await opened_raw(api, head_of(api, endpoint_id))
        writer.close()
    assert head.startswith(b"HTTP/1.1 503 ")


async def test_a_client_that_does_not_wait_for_the_response_is_refused(api: RunningApi) -> None:
    """Its bytes could be a request as well as frames."""
    head_sent, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: ServerConnection, __: Request) -> None:
        head_sent.set()
        await go_on.wait()

    async with worker_doing(echo, process_request=slow) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(head_of(api, endpoint_id))
        await head_sent.wait()
        writer.write(b"\x81\x80mask")
        await writer.drain()
        await still(lambda: 1)
        go_on.set()
        async with asyncio.timeout(GIVE_UP_SECONDS):
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


@pytest.mark.parametrize(
    "frames",
    [b"\x81\x01x", b"\x89\xfe\x00\x7e" + bytes(4 + 126), b"\x82\xff" + b"\xff" * 12],
    ids=["bare", "ping", "long"],
)
async def test_a_bad_frame_of_a_client_ends_both_sides(api: RunningApi, frames: bytes) -> None:
    async with worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        reader, writer, head = await opened_raw(api, head_of(api, endpoint_id))
        assert head.startswith(b"HTTP/1.1 101 ")
        writer.write(b"\x81\x81\0\0\0\0a")
        async with asyncio.timeout(GIVE_UP_SECONDS):
            assert await reader.readexactly(3) == b"\x81\x01a"
            writer.write(b"\x81\x81\0\0\0\0b" + frames)
            rest = await reader.read()
            rest = rest.removeprefix(b"\x81\x01b")  # the worker's response may come before the Close
        assert rest[:1] + rest[2:4] == b"\x88" + (1002).to_bytes(2, "big")
        writer.close()
        await wait_until_async(lambda: [code for code, _ in worker.ended] == [1002])


async def test_a_frame_of_garbage_from_a_worker_ends_both_sides(api: RunningApi) -> None:
    async with raw_worker(ACCEPTED + b"\x81\x02hi\x81\x82mask") as port:
        endpoint_id = await endpoint_with(api, port)
        reader, writer, head = await opened_raw(api, head_of(api, endpoint_id))
        assert head.startswith(b"HTTP/1.1 101 ")
        async with asyncio.timeout(GIVE_UP_SECONDS):
            assert await reader.readexactly(4) == b"\x81\x02hi"
            assert (await reader.read(2))[:1] == b"\x88"
        writer.close()


async def test_a_client_that_does_not_read_holds_the_worker_back(api: RunningApi) -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        while sent < 512 * MIB:
            await connection.send(bytes(MIB))
            sent += MIB

    async with worker_doing(flood, compression=None) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        _, writer, _ = await opened_raw(api, head_of(api, endpoint_id))
        assert await still(lambda: sent) < 64 * MIB
        writer.transport.abort()
        await wait_until_async(lambda: worker.ended, message="the worker's connection stays")


async def test_a_worker_that_does_not_read_holds_the_client_back(api: RunningApi) -> None:
    hold, sent = asyncio.Event(), 0

    async def idle(_: ServerConnection) -> None:
        await hold.wait()

    async with worker_doing(idle, compression=None) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        async with visit(api, endpoint_id, compression=None, close_timeout=0.1) as client:

            async def flood() -> None:
                nonlocal sent
                while sent < 512 * MIB:
                    await client.send(bytes(MIB))
                    sent += MIB

            flooding = asyncio.create_task(flood())
            assert await still(lambda: sent) < 64 * MIB
            client.transport.abort()
            with pytest.raises(ConnectionClosedError):
                await flooding
            hold.set()


async def test_a_stopping_server_says_goodbye_to_both_sides(valkey_url: str) -> None:
    async with worker_doing(echo) as (worker, port):
        async with running_api(valkey_url) as api:
            endpoint_id = await endpoint_with(api, port)
            async with visit(api, endpoint_id) as client:
                api.stopping.set()
                assert await closed(client) == (1001, "the server is stopping")
        await wait_until_async(lambda: worker.ended == [(1001, "the server is stopping")])


async def test_a_stopping_server_lets_a_message_end_and_waits_no_longer_than_its_grace(valkey_url: str) -> None:
    """A client that never completes its frame, and never responds to the Close."""
    async with worker_doing(echo) as (worker, port):
        async with running_api(valkey_url) as api:
            endpoint_id = await endpoint_with(api, port)
            reader, writer, _ = await opened_raw(api, head_of(api, endpoint_id))
            writer.write(b"\x81\x85\0\0\0\0abc")
            await writer.drain()
            await still(lambda: 1)
            api.stopping.set()
            async with asyncio.timeout(GIVE_UP_SECONDS):
                assert (await reader.readexactly(4))[2:] == (1001).to_bytes(2, "big")
                began = asyncio.get_running_loop().time()
                await reader.read()
                assert asyncio.get_running_loop().time() - began >= CLOSE_SECONDS - 1
            writer.close()
        await wait_until_async(lambda: worker.ended == [(1006, "")])


async def test_a_close_is_not_put_into_a_frame(valkey_url: str) -> None:
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ACCEPTED + b"\x81\x04ha")
        await go_on.wait()
        writer.write(b"lf\x81\x04more")
        with suppress(OSError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(script, "127.0.0.1", 0) as server, running_api(valkey_url) as api:
        endpoint_id = await endpoint_with(api, server.sockets[0].getsockname()[1])
        reader, writer, _ = await opened_raw(api, head_of(api, endpoint_id))
        async with asyncio.timeout(GIVE_UP_SECONDS):
            assert await reader.readexactly(4) == b"\x81\x04ha"
            api.stopping.set()
            await still(lambda: 1)
            go_on.set()
            rest = await reader.read()
        writer.close()
    assert rest.startswith((b"lf\x88", b"lf\x81\x04more\x88"))


async def test_a_revoked_key_ends_its_websockets_and_no_others(api: RunningApi) -> None:
    """A WebSocket whose handshake is not complete when the key is revoked ends with it."""
    hold, arrived = asyncio.Event(), asyncio.Event()

    async def slow(_: ServerConnection, request: Request) -> None:
        if request.path == "/slow":
            arrived.set()
            await hold.wait()

    async with worker_doing(echo, process_request=slow) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        key = await api.new_key("default")
        async with visit(api, endpoint_id) as other, visit(api, endpoint_id, key=key) as client:
            late = asyncio.create_task(_first_close(visit(api, endpoint_id, "/slow", key=key)))
            await arrived.wait()
            assert (await api.client.delete(f"/v2/keys/{id_of(key)}")).status_code == 200
            assert await closed(client) == ENDED_KEY
            hold.set()
            assert await late == ENDED_KEY
            await other.send("still here")
            assert await other.recv() == "still here"
        await wait_until_async(lambda: worker.ended[:2] == [ENDED_KEY] * 2)


async def test_an_expired_key_ends_its_websocket(api: RunningApi) -> None:
    async with worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        key = await api.new_key("default", expires_at_ms=await api.store.now_ms() + 3000)
        async with visit(api, endpoint_id, key=key) as client:
            assert await closed(client) == ENDED_KEY


async def test_a_client_with_a_revoked_key_cannot_delay_its_end_by_a_frame_that_never_ends(api: RunningApi) -> None:
    async with worker_doing(echo) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        key = await api.new_key("default")
        _, writer, _ = await opened_raw(api, head_of(api, endpoint_id, X_Api_Key=key))
        writer.write(b"\x81\xff" + (2**40).to_bytes(8, "big") + bytes(4))
        revoked = asyncio.get_running_loop().time()
        await api.store.api_keys.revoke(hash_of(key))
        while not worker.ended:
            with suppress(OSError):
                writer.write(b"x")
                await writer.drain()
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - revoked < CLOSE_SECONDS
        assert worker.ended == [(1006, "")]


def test_the_parts_of_ending_a_websocket_are_shorter_than_the_time_that_is_promised() -> None:
    """A revoked key may be cached when the WebSocket begins; a round finds its end; the sides have time to close."""
    assert CACHE_SECONDS + CHECK_SECONDS + KEY_ENDED_SECONDS < REVOCATION_SECONDS


async def test_open_websockets_are_counted(api: RunningApi) -> None:
    async def count() -> float:
        page = (await api.client.get("/metrics")).text
        return float(page.split("\nqueue_engine_open_websockets ")[1].split("\n")[0])

    async with worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        before = await count()
        async with visit(api, endpoint_id), visit(api, endpoint_id):
            assert await count() == before + 2

        async def all_have_ended() -> bool:
            return await count() == before

        await wait_until_async(all_have_ended)


async def _first_close(visited: connect) -> tuple[int | None, str | None]:
    async with visited as client:
        return await closed(client)


async def test_websockets_are_counted_without_their_duration(api: RunningApi) -> None:
    async with worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        before = await _figures(api)
        async with visit(api, endpoint_id):
            pass

        async def is_counted() -> bool:
            return await _figures(api) == (before[0] + 1, before[1])

        await wait_until_async(is_counted)


async def _figures(api: RunningApi) -> tuple[float, float]:
    """Return the numbers of WebSockets, and of requests to workers whose duration was measured."""
    page = (await api.client.get("/metrics")).text
    route = 'route="/e/{id}/{path}"'
    names = (
        f'queue_engine_http_requests_total{{code="101",method="GET",{route}}}',
        f'queue_engine_http_request_duration_seconds_count{{method="GET",{route}}}',
    )
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if "{" in line}
    return values.get(names[0], 0.0), values.get(names[1], 0.0)


async def test_requests_follow_on_a_connection_whose_websocket_was_refused(api: RunningApi) -> None:
    async with worker_doing(echo) as (_, port):
        endpoint_id = await endpoint_with(api, port)
        refusal = head_of(api, endpoint_id, X_Api_Key="nobody")
        reader, writer, head = await opened_raw(api, refusal)
        assert head.startswith(b"HTTP/1.1 401 ")
        async with asyncio.timeout(GIVE_UP_SECONDS):
            await reader.readuntil(b"}")
            writer.write(head_of(api, endpoint_id))
            assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
        writer.close()


async def test_another_upgrade_is_a_plain_request(api: RunningApi) -> None:
    async with raw_worker(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as port:
        endpoint_id = await endpoint_with(api, port)
        async with httpx.AsyncClient(headers={"X-Api-Key": api.key}) as client:
            headers = {"Connection": "Upgrade", "Upgrade": "other"}
            assert (await client.get(f"{api.url}/e/{endpoint_id}/", headers=headers)).text == "ok"
