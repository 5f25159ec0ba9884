"""Requests through the API to workers of ALB endpoints: what arrives, what comes back, and every way to break it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from queue_engine.api.proxy.exchange import AddressRefused, Outgoing, WorkerClient
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.engine.upstreams import Upstream
from queue_engine.rules.addresses import WorkerPolicy
from queue_engine.store.api_keys import hash_of
from tests.api_server import ENDPOINT, RunningApi, running_api
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until_async

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
MANY = 512 * 1024 * 1024


class Visit:
    """A connection to a worker, with the head of its request."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request, *lines = head.decode("latin-1").split("\r\n")[:-2]
        self.headers = [tuple(line.split(": ", 1)) for line in lines]
        self.reader = reader
        self.writer = writer

    def values(self, name: str) -> list[str]:
        return [value for one, value in self.headers if one.lower() == name]

    async def answer(self, answer: bytes) -> None:
        self.writer.write(answer)
        await self.writer.drain()

    async def body(self) -> bytes:
        """The body by its Content-Length, or the chunks as they are on the wire."""
        if self.values("content-length"):
            return await self.reader.readexactly(int(self.values("content-length")[0]))
        return await self.reader.readuntil(END) if self.values("transfer-encoding") else b""


Script = Callable[[Visit], Awaitable[None]]


def answering(answer: bytes) -> Script:
    async def script(visit: Visit) -> None:
        await visit.body()
        await visit.answer(answer)

    return script


class Worker:
    """A container on loopback that does as its script says with each request."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.visits: list[Visit] = []
        self.left = asyncio.Event()
        """Set when a script has ended, or somebody has hung up on it."""
        self.failed: list[BaseException] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=4096)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            visit = Visit(await reader.readuntil(b"\r\n\r\n"), reader, writer)
            self.visits.append(visit)
            await self.script(visit)
        except (OSError, EOFError) as error:
            self.failed.append(error)
        finally:
            self.left.set()
            writer.close()


@asynccontextmanager
async def worker_doing(script: Script) -> AsyncIterator[Worker]:
    worker = Worker(script)
    await worker.start()
    try:
        yield worker
    finally:
        worker.close()


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(
        valkey_url, alb_timeout_seconds=30, alb_max_body_bytes=2 * MANY, read_timeout_seconds=1
    ) as running:
        running.client.headers = httpx.Headers({"Authorization": f"Bearer {running.key}"})
        yield running


async def endpoint_with(api: RunningApi, *ports: int, mode: str = "ALB") -> str:
    async with httpx.AsyncClient(base_url=api.url, headers={"X-Api-Key": api.key}) as client:
        answer = await client.post("/v2/serverless", json=ENDPOINT | {"serviceMode": mode})
        assert answer.status_code == 200, answer.text
    endpoint_id: str = answer.json()["data"]["id"]
    for number, port in enumerate(ports):
        await add_worker(api, endpoint_id, f"w{number}", f"127.0.0.1:{port}")
    return endpoint_id


async def add_worker(api: RunningApi, endpoint_id: str, worker_id: str, address: str) -> None:
    await api.store.workers.put(endpoint_id, worker_id, managed=True)
    await api.store.workers.report(endpoint_id, worker_id, WorkerStatus.RUNNING, running_tasks=0, address=address)


async def sent_raw(api: RunningApi, request: bytes) -> bytes:
    """All that comes back for these bytes, until the API closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request)
    try:
        async with asyncio.timeout(15):
            return await reader.read()
    finally:
        writer.close()


def raw_head(api: RunningApi, target: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: api.example:8000", f"Authorization: Bearer {api.key}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def test_the_request_arrives_as_it_was_sent(api: RunningApi) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        target = "/a%2fB//c%00%0A%C3%BC;v=1/@:80/?q=%20+&&x=[1]#".removesuffix("#")
        head = raw_head(
            api,
            f"/e/{endpoint_id}{target}",
            "Connection: close, X-Hop",
            "X-Hop: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Authorization: Basic x",
            "Proxy-Connection: close",
            "TE: trailers",
            "X-Forwarded-For: 6.6.6.6",
            "X_Forwarded_For: 6.6.6.7",
            "X-Forwarded-Proto: https",
            "Forwarded: for=6.6.6.6",
            "X-Real-Ip: 6.6.6.6",
            "X-Twice: 1",
            "X-Twice: 2",
            "X-Utf: gr\xc3\xbc\xc3\x9fe",
            "Cookie: a=b; c=d",
            "Accept-Encoding: gzip",
            "Content-Type: text/odd",
            "Content-Length: 5",
            method="PUT",
        )
        answer = await sent_raw(api, head + b"12\x00\xff5")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        (visit,) = worker.visits
        assert visit.values("host") == [f"127.0.0.1:{worker.port}"]
    assert visit.request == f"PUT {target} HTTP/1.1"
    names = sorted(name.lower() for name, _ in visit.headers)
    assert names == sorted(
        [
            *("host", "x-twice", "x-twice", "x-utf", "cookie", "accept-encoding", "content-type"),
            *("content-length", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"),
        ]
    )
    assert visit.values("connection") == []
    assert visit.values("x-twice") == ["1", "2"]
    assert visit.values("x-utf") == ["gr\xc3\xbc\xc3\x9fe"]
    assert visit.values("content-type") == ["text/odd"]
    assert visit.values("content-length") == ["5"]
    assert visit.values("x-forwarded-for") == ["127.0.0.1"]
    assert visit.values("x-forwarded-proto") == ["http"]
    assert visit.values("x-forwarded-host") == ["api.example:8000"]
    assert len(visit.values("x-request-id")[0]) == 32


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_is_passed_on_with_and_without_a_body(api: RunningApi, method: str) -> None:
    bodies: list[bytes] = []

    async def script(visit: Visit) -> None:
        bodies.append(await visit.body())
        await visit.answer(OK)

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        url = f"/e/{endpoint_id}/"
        assert (await api.client.request(method, url)).text == "ok"
        assert (await api.client.request(method, url, content=b"\x00\xff")).text == "ok"

        async def pieces() -> AsyncIterator[bytes]:
            yield b"\x00"
            yield b"\xff"

        assert (await api.client.request(method, url, content=pieces())).text == "ok"
    assert bodies[:2] == [b"", b"\x00\xff"]
    assert bodies[2].replace(b"1\r\n", b"").replace(b"\r\n", b"") in (b"\x00\xff0", b"2\x00\xff0")
    assert [visit.request.split()[0] for visit in worker.visits] == [method] * 3


async def test_an_endpoints_url_without_a_path_reaches_the_root_of_the_worker(api: RunningApi) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        assert (await api.client.get(f"/e/{endpoint_id}")).text == "ok"
        assert (await api.client.post(f"/e/{endpoint_id}?a=%20", content=b"body")).text == "ok"
    assert [visit.request for visit in worker.visits] == ["GET / HTTP/1.1", "POST /?a=%20 HTTP/1.1"]


async def test_the_response_is_passed_on_unchanged(api: RunningApi) -> None:
    answer = (
        b"HTTP/1.1 418 Teapot\r\nContent-Type: x/y\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Utf: gr\xc3\xbc\r\n"
        b"Content-Encoding: gzip\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nConnection: x-hop, close\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2\r\nContent-Length: 4\r\n\r\n\x00\xff\r\n"
    )
    async with worker_doing(answering(answer)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await sent_raw(api, raw_head(api, f"/e/{endpoint_id}/", "X-Request-Id: mine", "Connection: close"))
    head, _, body = got.partition(b"\r\n\r\n")
    assert body == b"\x00\xff\r\n"
    status, *lines = head.split(b"\r\n")
    assert status.startswith(b"HTTP/1.1 418 ")
    assert sum(line.lower().startswith(b"date:") for line in lines) == 1
    kept = sorted(line.lower() for line in lines if not line.lower().startswith(b"date:"))
    assert kept == sorted(
        [
            *(b"content-type: x/y", b"set-cookie: a=1", b"set-cookie: b=2", b"x-utf: gr\xc3\xbc"),
            *(b"content-encoding: gzip", b"content-length: 4", b"connection: close", b"x-request-id: mine"),
        ]
    )


@pytest.mark.parametrize(
    ("method", "answer", "status", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 200, "99"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: x\r\n\r\n", 304, None),
        ("GET", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 302, "0"),
        ("GET", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, "0"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "0"),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\n", 200, None),
    ],
)
async def test_responses_without_a_body(
    api: RunningApi, method: str, answer: bytes, status: int, length: str | None
) -> None:
    async with worker_doing(answering(answer)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await api.client.request(method, f"/e/{endpoint_id}/")
        assert (got.status_code, got.content, got.headers.get("content-length")) == (status, b"", length)
        assert (await api.client.get("/healthz")).status_code == 200
    assert len(worker.visits) == 1


async def test_a_response_that_ends_with_its_connection_is_passed_on_in_chunks(api: RunningApi) -> None:
    async with worker_doing(answering(b"HTTP/1.0 200 OK\r\n\r\nto the end")) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await api.client.get(f"/e/{endpoint_id}/")
    assert (got.text, got.headers["transfer-encoding"]) == ("to the end", "chunked")


async def test_a_streaming_response_comes_piece_by_piece(api: RunningApi) -> None:
    more = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.answer(CHUNKED)
        for number in range(5):
            await visit.answer(b"6\r\npiece%d\r\n" % number)
            await more.wait()
            more.clear()
        await visit.answer(END)

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        async with api.client.stream("GET", f"/e/{endpoint_id}/") as answer:
            got = []
            async for piece in answer.aiter_raw():
                got.append(piece)
                more.set()  # the worker goes on only when its piece is here
    assert got == [b"piece%d" % number for number in range(5)]


async def test_a_body_arrives_piece_by_piece(api: RunningApi) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(visit: Visit) -> None:
        for _ in range(3):
            arrived.put_nowait(await visit.reader.readuntil(b"\r\n") + await visit.reader.readuntil(b"\r\n"))
        await visit.reader.readuntil(END)
        await visit.answer(OK)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"piece%d" % number
            assert await arrived.get() == b"6\r\npiece%d\r\n" % number

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        assert (await api.client.post(f"/e/{endpoint_id}/", content=pieces())).text == "ok"


async def test_a_worker_that_does_not_read_holds_the_client_back(api: RunningApi) -> None:
    """Bytes that the client has sent wait in sockets, and in buffers that do not grow with the body."""
    read_on, received = asyncio.Event(), 0

    async def script(visit: Visit) -> None:
        nonlocal received
        await read_on.wait()
        while received < 64 * 1024 * 1024:
            received += len(await visit.reader.read(1024 * 1024))
        await visit.answer(OK)

    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            yield bytes(1024 * 1024)
            sent += 1024 * 1024

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        headers = {"Content-Length": str(64 * 1024 * 1024)}
        posting = asyncio.create_task(api.client.post(f"/e/{endpoint_id}/", content=pieces(), headers=headers))
        assert await still(lambda: sent) < 32 * 1024 * 1024
        read_on.set()
        assert (await posting).text == "ok"
    assert received == 64 * 1024 * 1024


async def test_a_client_that_does_not_read_holds_the_worker_back(api: RunningApi) -> None:
    written = 0

    async def script(visit: Visit) -> None:
        nonlocal written
        await visit.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MANY)
        while written < MANY:
            await visit.answer(bytes(1024 * 1024))
            written += 1024 * 1024

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        async with api.client.stream("GET", f"/e/{endpoint_id}/") as answer:
            assert await still(lambda: written) < 64 * 1024 * 1024
            pieces = answer.aiter_raw()
            await anext(pieces)
        await asyncio.wait_for(worker.left.wait(), 10)
    assert written < MANY


async def still(number: Callable[[], int]) -> int:
    """Return the value that `number` keeps for half a second."""
    seen, since = -1, 0.0
    clock = asyncio.get_running_loop().time

    def is_still() -> bool:
        nonlocal seen, since
        if number() != seen:
            seen, since = number(), clock()
        return seen > 0 and clock() - since > 0.5

    await wait_until_async(is_still)
    return seen


@pytest.mark.parametrize("when", ["before the answer", "in the answer", "in the body"])
async def test_a_client_that_leaves_ends_the_request_at_the_worker(api: RunningApi, when: str) -> None:
    async def script(visit: Visit) -> None:
        if when == "in the answer":
            await visit.answer(CHUNKED + b"2\r\nhi\r\n")
        while await visit.reader.read(100):
            continue  # until somebody hangs up

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        body = ("Content-Length: 1000",) if when == "in the body" else ()
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(raw_head(api, f"/e/{endpoint_id}/", *body))
        try:
            await wait_until_async(lambda: worker.visits)
            assert not worker.left.is_set()
        finally:
            writer.close()
        await asyncio.wait_for(worker.left.wait(), 5)


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", CHUNKED + b"4\r\nhalf\r\n"])
async def test_a_response_that_breaks_off_does_not_look_complete(api: RunningApi, begun: bytes) -> None:
    async with worker_doing(answering(begun)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        with pytest.raises(httpx.RemoteProtocolError):
            await api.client.get(f"/e/{endpoint_id}/")
        got = await sent_raw(api, raw_head(api, f"/e/{endpoint_id}/"))
        assert b"half" in got
        assert not got.endswith(END)


async def test_a_malformed_body_ends_the_request_at_once(api: RunningApi) -> None:
    received = asyncio.Event()

    async def script(visit: Visit) -> None:
        visit.writer.write(CHUNKED + b"4\r\nhalf\r\n")
        await received.wait()
        visit.writer.write(b"no chunk\r\n")
        await visit.reader.read()

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        async with api.client.stream("GET", f"/e/{endpoint_id}/") as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"half"
            received.set()
            async with asyncio.timeout(20):  # below the 30 s for which nothing may move
                with pytest.raises(httpx.RemoteProtocolError):
                    await anext(pieces)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 80 + b"\r\n",
    ],
)
async def test_without_a_valid_response_it_is_503_and_the_request_is_not_repeated(
    api: RunningApi, answer: bytes
) -> None:
    async with worker_doing(answering(answer)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        for count, method in enumerate(("GET", "POST"), 1):
            got = await api.client.request(method, f"/e/{endpoint_id}/")
            assert (got.status_code, got.json()["code"]) == (503, 10002)
            assert got.json()["message"].startswith("the worker")
            assert got.headers["Retry-After"] == "1"
            assert len(worker.visits) == count


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 'it does not begin with a valid HTTP status line: "SSH-2.0-OpenSSH_9.2"'),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "its status is 999"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "duplicate Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab", "it has the transfer coding gzip; only chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + END, "it has the transfer coding gzip"),
    ],
)
async def test_the_503_for_an_invalid_response_of_a_worker_names_its_problem(
    api: RunningApi, response: bytes, problem: str
) -> None:
    async with worker_doing(answering(response)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await api.client.get(f"/e/{endpoint_id}/")
    assert got.status_code == 503
    assert got.json()["message"].startswith(f"the worker's response is not valid HTTP: {problem}")


async def test_a_transfer_coding_of_a_response_without_a_body_is_ignored(api: RunningApi) -> None:
    async with worker_doing(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n")) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await api.client.head(f"/e/{endpoint_id}/")
    assert (got.status_code, got.content) == (200, b"")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"4\r\nhalf\r\nZZ\r\n", "it is not valid HTTP: invalid character in chunk size"),
        (b"4\r\nhalf\r\n", "it broke the connection"),
    ],
)
async def test_the_log_tells_an_invalid_body_of_a_worker_from_a_lost_connection(
    api: RunningApi, body: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker_doing(answering(CHUNKED + body)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        with pytest.raises(httpx.RemoteProtocolError):
            await api.client.get(f"/e/{endpoint_id}/")
    assert f"a request failed: the worker's response was cut off: {problem}" in caplog.text


async def test_a_worker_that_refuses_is_left_out(api: RunningApi) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, free_port(), worker.port, free_port())
        for _ in range(10):
            assert (await api.client.post(f"/e/{endpoint_id}/", content=b"body")).text == "ok"
    assert len(worker.visits) == 10


async def test_requests_go_to_the_least_busy_worker(api: RunningApi) -> None:
    go_on = asyncio.Event()

    async def script(visit: Visit) -> None:
        await go_on.wait()
        await visit.answer(OK)

    async with worker_doing(script) as one, worker_doing(script) as two, worker_doing(script) as three:
        endpoint_id = await endpoint_with(api, one.port, two.port, three.port)
        gets = [asyncio.create_task(api.client.get(f"/e/{endpoint_id}/")) for _ in range(9)]
        await wait_until_async(lambda: sum(len(worker.visits) for worker in (one, two, three)) == 9)
        assert [len(worker.visits) for worker in (one, two, three)] == [3, 3, 3]
        go_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*gets)} == {200}


@pytest.mark.parametrize(
    "address",
    [
        *("", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:80/x", "a@127.0.0.1:80", "::1:80"),
        *(
            "127.1:80",
            "2130706433:80",
            "0x7f.1:80",
            "1.2.3.4.5:80",
            "a..b:80",
            "-a:80",
            "a.:80",
            "[::g]:80",
            "[1.2.3.4]:80",
        ),
    ],
)
async def test_an_address_that_is_none_is_not_connected_to(api: RunningApi, address: str) -> None:
    endpoint_id = await endpoint_with(api)
    await add_worker(api, endpoint_id, "w", address)
    got = await api.client.get(f"/e/{endpoint_id}/")
    assert (got.status_code, got.json()["message"]) == (503, "no worker runs")


async def test_an_address_where_no_worker_may_be_is_not_connected_to(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running_api(valkey_url, worker_networks="10.0.0.0/8,::ffff:0:0/96") as api,
        worker_doing(answering(OK)) as canary,
    ):
        endpoint_id = await endpoint_with(api)
        for number, host in enumerate(("127.0.0.1", "localhost", "127.0.0.2", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]")):
            await add_worker(api, endpoint_id, f"w{number}", f"{host}:{canary.port}")
        for _ in range(3):
            got = await api.client.get(f"/e/{endpoint_id}/")
            assert (got.status_code, got.json()["code"], got.json()["message"]) == (503, 10002, "no worker runs")
            assert "Retry-After" in got.headers
    assert canary.visits == []
    logged = [record for record in caplog.records if "address is refused" in record.message]
    assert sorted(vars(record)["worker"] for record in logged) == [f"w{number}" for number in range(6)]
    assert all(
        "QUEUE_ENGINE_WORKER_NETWORKS" in one.message or "IPv4" in one.message or "unspec" in one.message
        for one in logged
    )


async def test_a_refused_worker_does_not_keep_requests_from_another(api: RunningApi) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        await add_worker(api, endpoint_id, "a", "169.254.169.254:80")
        for _ in range(3):
            assert (await api.client.get(f"/e/{endpoint_id}/")).text == "ok"


async def test_the_api_and_the_store_are_no_workers(api: RunningApi, valkey_server: StoreServer) -> None:
    endpoint_id = await endpoint_with(api, api.port, valkey_server.port)
    got = await api.client.get(f"/e/{endpoint_id}/healthz")
    assert (got.status_code, got.json()["message"]) == (503, "no worker runs")


async def test_the_engines_ports_are_refused_at_every_address_of_this_machine() -> None:
    outgoing = Outgoing("GET", "/", [], "id", "7")
    client = WorkerClient(WorkerPolicy(own_ports=frozenset({8000})), machine=lambda: ("192.168.7.7",))
    with pytest.raises(AddressRefused, match="own"):
        await client.send(Upstream("w", "192.168.7.7", 8000), outgoing, None)
    await client.aclose()


async def test_workers_that_come_and_go_are_noticed_within_a_second(api: RunningApi) -> None:
    endpoint_id = await endpoint_with(api)
    assert (await api.client.get(f"/e/{endpoint_id}/")).status_code == 503
    async with worker_doing(answering(OK)) as worker:
        await add_worker(api, endpoint_id, "w", f"127.0.0.1:{worker.port}")

        async def status() -> int:
            return (await api.client.get(f"/e/{endpoint_id}/")).status_code

        async def is_up() -> bool:
            return await status() == 200

        async def is_down() -> bool:
            return await status() == 503

        await wait_until_async(is_up, 3)
        await api.store.workers.mark(endpoint_id, "w", WorkerStatus.STOPPING, reason="test")
        await wait_until_async(is_down, 3)


async def test_a_silent_worker_is_503_and_a_silent_client_400(valkey_url: str) -> None:
    async def never(visit: Visit) -> None:
        await visit.reader.read()

    async with running_api(valkey_url, alb_timeout_seconds=0.3) as api, worker_doing(never) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await api.client.get(f"/e/{endpoint_id}/")
        assert (got.status_code, got.json()["code"]) == (503, 10002)
        assert got.json()["message"] == "the worker gave no response: it was silent for too long"
        late = await sent_raw(api, raw_head(api, f"/e/{endpoint_id}/", "Content-Length: 9", method="POST") + b"part")
        assert late.startswith(b"HTTP/1.1 400 ")
        assert b"did not arrive in time" in late
        await wait_until_async(lambda: len(worker.visits) == 2)


async def test_streams_may_last_longer_than_any_timeout_while_something_moves(valkey_url: str) -> None:
    async def slowly(visit: Visit) -> None:
        await visit.body()
        await visit.answer(CHUNKED)
        for _ in range(8):
            await pause()
            await visit.answer(b"2\r\nhi\r\n")
        await visit.answer(END)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            await pause()
            yield b"x"

    async def pause() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.Event().wait()

    async with (
        running_api(valkey_url, alb_timeout_seconds=0.8, read_timeout_seconds=0.5) as api,
        worker_doing(slowly) as worker,
    ):
        endpoint_id = await endpoint_with(api, worker.port)
        assert (await api.client.post(f"/e/{endpoint_id}/", content=pieces())).text == "hi" * 8


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_above_the_limit_is_413(valkey_url: str, declared: bool) -> None:
    async def script(visit: Visit) -> None:
        while await visit.reader.read(65536):
            continue

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(10_000)

    async with running_api(valkey_url, alb_max_body_bytes=200_000) as api, worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        content = bytes(200_001) if declared else pieces()
        got = await api.client.post(f"/e/{endpoint_id}/", content=content)
        assert (got.status_code, got.json()["code"]) == (413, 10001)
        if not declared:
            await asyncio.wait_for(worker.left.wait(), 5)
        assert len(worker.visits) == (0 if declared else 1)


async def test_a_worker_may_respond_before_it_has_read_the_body(api: RunningApi) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\nno more"

    async def script(visit: Visit) -> None:
        await visit.answer(refusal)
        await visit.reader.read(10)

    async with worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await api.client.post(f"/e/{endpoint_id}/", content=bytes(4 * 1024 * 1024))
        assert (got.status_code, got.text) == (413, "no more")


async def test_the_api_itself_responds_to_expect_100_continue(api: RunningApi) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(raw_head(api, f"/e/{endpoint_id}/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b"body")
        await reader.readline()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert worker.visits[0].values("expect") == []


@pytest.mark.parametrize(
    "path",
    ["..", ".", "a/../b", "a/./b", "%2e%2e/x", "a/%2E", "..%2fx", "..;x/y", "a%5c..%5cb", "%2e%2e;/x", "..\\x"],
)
async def test_dot_segments_are_refused(api: RunningApi, path: str) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        got = await sent_raw(api, raw_head(api, f"/e/{endpoint_id}/{path}", "Connection: close"))
        assert got.startswith(b"HTTP/1.1 400 ")
        assert worker.visits == []


@pytest.mark.parametrize(
    "target",
    ["/e/", "/e/7", "/e//x", "/e/0/x", "/e/x/y", "/e/{id}%2Fx", "/e/{id}%20/x", "/e/9999999999999999999/", "/e/7/"],
)
async def test_what_is_no_endpoint_is_404(api: RunningApi, target: str) -> None:
    endpoint_id = await endpoint_with(api)
    got = await sent_raw(api, raw_head(api, target.format(id=endpoint_id), "Connection: close"))
    assert got.startswith(b"HTTP/1.1 404 "), got


@pytest.mark.parametrize("mode", ["QUEUE", "CUSTOM"])
async def test_only_alb_endpoints_take_requests(api: RunningApi, mode: str) -> None:
    endpoint_id = await endpoint_with(api, mode=mode)
    got = await api.client.get(f"/e/{endpoint_id}/")
    assert (got.status_code, got.json()["code"]) == (400, 10001)
    assert got.json()["message"] == f"serviceMode: must be ALB; the endpoint has {mode}"


async def test_anothers_and_deleted_endpoints_are_404(api: RunningApi) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        stranger = {"Authorization": f"Bearer {await api.new_key('stranger')}"}
        assert (await api.client.get(f"/e/{endpoint_id}/")).status_code == 200
        never = await api.client.get("/e/7777777/", headers=stranger)
        got = await api.client.get(f"/e/{endpoint_id}/", headers=stranger)
        assert (got.status_code, got.json()) == (404, never.json())
        assert got.json()["code"] == 14000
        await api.store.endpoints.set_desired_state(endpoint_id, "default", DesiredState.DELETED)

        async def is_gone() -> bool:
            return (await api.client.get(f"/e/{endpoint_id}/")).status_code == 404

        await wait_until_async(is_gone, 3)


async def test_exactly_one_key_opens_and_none_goes_on(api: RunningApi) -> None:
    key = api.key
    bad: list[list[tuple[str, str]]] = [
        [],
        [("Authorization", "")],
        [("Authorization", key)],
        [("Authorization", f"Basic {key}")],
        [("Authorization", f"Bearer{key}")],
        [("Authorization", f"Bearer {key}x")],
        [("Authorization", f"Bearer {hash_of(key)}")],
        [("Authorization", f"Bearer {key}, Bearer {key}")],
        [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")],
        [("Authorization", f"Bearer {key}"), ("X-Api-Key", key)],
        [("X-Api-Key", key), ("Authorization", "Basic eDp5")],
        [("X-Api-Key", key), ("X-Api-Key", key)],
    ]
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        async with httpx.AsyncClient(base_url=api.url) as client:
            for headers in bad:
                got = await client.get(f"/e/{endpoint_id}/?k={key}", headers=headers)
                assert (got.status_code, got.json()["code"]) == (401, 40101), headers
            assert worker.visits == []
            for header in (("Authorization", f"Bearer {key}"), ("authorization", f"bEARER  {key}"), ("X-Api-Key", key)):
                assert (await client.get(f"/e/{endpoint_id}/", headers=[header])).status_code == 200
    assert len(worker.visits) == 3
    assert all(key not in value for visit in worker.visits for _, value in visit.headers)


async def test_a_malformed_websocket_handshake_is_refused_clearly(api: RunningApi) -> None:
    async with worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(raw_head(api, f"/e/{endpoint_id}/", *upgrade))
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        body = json.loads(await reader.readexactly(int(length.split()[1])))
        assert body["message"] == "Sec-WebSocket-Key: must be given once, with 16 bytes as base64"
        writer.close()
        assert worker.visits == []


async def test_a_header_that_is_not_utf8_is_named(api: RunningApi) -> None:
    endpoint_id = await endpoint_with(api)
    got = await sent_raw(api, raw_head(api, f"/e/{endpoint_id}/", "X-Odd: \xff\xfe", "Connection: close"))
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"x-odd: must be ASCII or UTF-8" in got


async def test_another_method_is_405(api: RunningApi) -> None:
    endpoint_id = await endpoint_with(api)
    got = await sent_raw(api, raw_head(api, f"/e/{endpoint_id}/", "Connection: close", method="TRACE"))
    assert got.startswith(b"HTTP/1.1 405 ")
    assert b"allow: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n" in got


async def test_it_is_measured_and_described_without_ids(api: RunningApi) -> None:
    endpoint_id = await endpoint_with(api)
    await api.client.get(f"/e/{endpoint_id}/secret/path")
    metrics = (await api.client.get("/metrics")).text
    assert 'queue_engine_http_requests_total{code="503",method="GET",route="/e/{id}/{path}"}' in metrics
    assert "secret/path" not in metrics
    described = (await api.client.get("/openapi.json")).json()["paths"]["/e/{id}/{path}"]
    assert set(described) == {"get", "post", "put", "patch", "delete", "head", "options"}


async def test_ipv6_workers_are_reached(api: RunningApi) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        server = await asyncio.start_server(lambda _, writer: writer.write(OK), "::1", 0)
    except OSError:
        pytest.skip("no IPv6 loopback here")
    async with server:
        endpoint_id = await endpoint_with(api)
        await add_worker(api, endpoint_id, "w", f"[::1]:{server.sockets[0].getsockname()[1]}")
        assert (await api.client.get(f"/e/{endpoint_id}/")).text == "ok"


async def test_a_tenant_has_a_limit_of_requests_in_progress_and_others_are_served(valkey_url: str) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        arrived.set()
        if visit.request.startswith("GET /slow"):
            await go_on.wait()
        await visit.answer(OK)

    async with running_api(valkey_url, alb_max_requests_per_tenant=1) as api, worker_doing(script) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        slow = asyncio.create_task(api.client.get(f"/e/{endpoint_id}/slow"))
        await arrived.wait()
        got = await api.client.get(f"/e/{endpoint_id}/")
        assert (got.status_code, got.json()["code"], got.headers["Retry-After"]) == (429, 429, "1")
        assert "at most 1 ALB requests of a tenant" in got.json()["message"]
        assert len(worker.visits) == 1
        go_on.set()
        assert (await slow).status_code == 200
        assert (await api.client.get(f"/e/{endpoint_id}/")).status_code == 200


@pytest.mark.parametrize(("networks", "address"), [("127.0.0.0/8", "198.51.100.7"), ("192.0.2.0/24", "127.0.0.1")])
async def test_the_worker_gets_the_address_of_the_client_that_a_trusted_proxy_names(
    valkey_url: str, networks: str, address: str
) -> None:
    async with running_api(valkey_url, trusted_proxies=networks) as api, worker_doing(answering(OK)) as worker:
        endpoint_id = await endpoint_with(api, worker.port)
        headers = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}
        assert (await api.client.get(f"/e/{endpoint_id}/", headers=headers)).status_code == 200
        assert worker.visits[0].values("x-forwarded-for") == [address]
