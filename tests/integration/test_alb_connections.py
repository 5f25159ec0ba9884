"""Connections to workers of ALB endpoints: which are used again, and what happens when one breaks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from queue_engine.api.proxy import exchange
from queue_engine.api.proxy.access import MAX_KEPT_PER_WORKER
from tests.api_server import ENDPOINT, RunningApi, running_api
from tests.integration.test_alb import add_worker, endpoint_with
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
KEPT_SECONDS = 30.0
"""Longer than a test, so that only what a test does closes a connection."""


class Call:
    """A request that a worker has received: the number of its connection, and of the request on that connection."""

    def __init__(self, connection: int, number: int, head: bytes, writer: asyncio.StreamWriter) -> None:
        self.connection = connection
        self.number = number
        self.path = head.split(b" ", 2)[1].decode()
        self.writer = writer

    def answer(self, response: bytes = OK) -> None:
        self.writer.write(response)


Script = Callable[[Call], Awaitable[bool | None]]
"""Handles a request. The connection is closed after True."""


class Worker:
    """A container on loopback that keeps its connections open."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.opened = self.closed = 0

    @property
    def seen(self) -> list[tuple[int, str]]:
        """Connection and path of all requests, in order."""
        return [(call.connection, call.path) for call in self.calls]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        connection, number = self.opened, 0
        with suppress(OSError, EOFError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                number += 1
                call = Call(connection, number, head, writer)
                self.calls.append(call)
                if await self.script(call):
                    break
        self.closed += 1
        writer.close()


async def answer_ok(call: Call) -> None:
    call.answer()


@asynccontextmanager
async def worker_doing(script: Script) -> AsyncIterator[tuple[Worker, int]]:
    worker = Worker(script)
    server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
    try:
        yield worker, server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def keeping(store_url: str, seconds: float = KEPT_SECONDS, **settings: Any) -> AsyncIterator[RunningApi]:
    async with running_api(store_url, alb_keepalive_seconds=seconds, **settings) as running:
        running.client.headers = httpx.Headers({"Authorization": f"Bearer {running.key}"})
        yield running


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with keeping(valkey_url) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_connection_is_used_again(api: RunningApi, method: str) -> None:
    async with worker_doing(answer_ok if method != "HEAD" else answer_head) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        for _ in range(3):
            assert (await api.client.request(method, f"/e/{endpoint_id}/")).status_code == 200
    assert [(call.connection, call.number) for call in worker.calls] == [(1, 1), (1, 2), (1, 3)]


async def answer_head(call: Call) -> None:
    call.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")


async def test_without_keep_alive_each_request_has_a_connection(valkey_url: str) -> None:
    async with keeping(valkey_url, 0.0) as api, worker_doing(answer_ok) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        for _ in range(3):
            assert (await api.client.get(f"/e/{endpoint_id}/")).text == "ok"
        assert [call.connection for call in worker.calls] == [1, 2, 3]


async def test_a_worker_that_closes_after_its_response_gets_a_new_connection(api: RunningApi) -> None:
    async def script(call: Call) -> bool:
        call.answer()
        return True

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        for count in range(1, 6):
            assert (await api.client.post(f"/e/{endpoint_id}/", content=b"")).text == "ok"
            await wait_until_async(lambda count=count: worker.closed == count)  # type: ignore[misc]
        assert worker.opened == 5


async def test_endpoints_and_tenants_with_one_address_share_no_connection(api: RunningApi) -> None:
    """Workers have the same id, as agents that are started by hand may have."""
    async with worker_doing(answer_ok) as (worker, port):
        first, second = await endpoint_with(api, port), await endpoint_with(api, port)
        key = await api.new_key("stranger")
        async with httpx.AsyncClient(base_url=api.url, headers={"X-Api-Key": key}) as stranger:
            created = await stranger.post("/v2/serverless", json=ENDPOINT | {"serviceMode": "ALB"})
            third = created.json()["data"]["id"]
            await add_worker(api, third, "w0", f"127.0.0.1:{port}")
            for _ in range(2):
                for client, one in ((api.client, first), (api.client, second), (stranger, third)):
                    assert (await client.get(f"/e/{one}/of/{one}")).text == "ok"
    assert worker.opened == 3
    assert len({*worker.seen}) == 3, "each connection has requests of one endpoint"


async def test_workers_of_an_endpoint_share_no_connection(api: RunningApi) -> None:
    async with worker_doing(answer_ok) as (worker, port):
        endpoint_id = await endpoint_with(api, port, port)
        for _ in range(4):
            assert (await api.client.get(f"/e/{endpoint_id}/")).text == "ok"
    assert sorted(call.connection for call in worker.calls) == [1, 1, 2, 2]


def breaking_once(response: bytes = b"") -> Script:
    """A worker that closes a connection at its second request, after `response`."""

    async def script(call: Call) -> bool:
        if call.number == 2:
            call.answer(response)
            return True
        call.answer()
        return False

    return script


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_an_idempotent_request_on_a_connection_that_was_closed_is_sent_again_once(
    api: RunningApi, method: str
) -> None:
    async with worker_doing(breaking_once()) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        for path in ("a", "b"):
            assert (await api.client.request(method, f"/e/{endpoint_id}/{path}")).text == "ok"
    assert worker.seen == [(1, "/a"), (1, "/b"), (2, "/b")]


async def test_the_second_try_has_a_new_connection(api: RunningApi) -> None:
    count, all_arrived = 5, asyncio.Event()

    async def script(call: Call) -> bool:
        if call.number == 2:
            return True
        if len(worker.calls) == count:
            all_arrived.set()
        await all_arrived.wait()
        call.answer()
        return False

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        await asyncio.gather(*(api.client.get(f"/e/{endpoint_id}/a") for _ in range(count)))
        assert (await api.client.get(f"/e/{endpoint_id}/b")).text == "ok"
    assert [call.path for call in worker.calls].count("/b") == 2
    assert worker.opened == count + 1


@pytest.mark.parametrize(
    ("method", "content"), [("POST", b""), ("POST", b"body"), ("PATCH", b""), ("PUT", b"body"), ("DELETE", b"body")]
)
async def test_another_request_is_not_sent_again(api: RunningApi, method: str, content: bytes) -> None:
    async with worker_doing(breaking_once()) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        await api.client.get(f"/e/{endpoint_id}/a")
        failed = await api.client.request(method, f"/e/{endpoint_id}/b", content=content)
        assert (failed.status_code, failed.headers["Retry-After"]) == (503, "1")
        assert "the worker gave no response: it broke the connection" in failed.json()["message"]
    assert worker.seen == [(1, "/a"), (1, "/b")]


@pytest.mark.parametrize("response", [b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_a_request_whose_response_had_begun_is_not_sent_again(api: RunningApi, response: bytes) -> None:
    async with worker_doing(breaking_once(response)) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        await api.client.get(f"/e/{endpoint_id}/a")
        assert (await api.client.get(f"/e/{endpoint_id}/b")).status_code == 503
    assert worker.seen == [(1, "/a"), (1, "/b")]


async def test_a_request_on_a_new_connection_is_not_sent_again(api: RunningApi) -> None:
    async def script(_: Call) -> bool:
        return True

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        assert (await api.client.get(f"/e/{endpoint_id}/a")).status_code == 503
    assert worker.seen == [(1, "/a")]


async def test_a_request_is_sent_at_most_twice(api: RunningApi) -> None:
    """Several kept connections, and each is closed when the next request arrives."""
    arrived, all_arrived = 0, asyncio.Event()

    async def script(call: Call) -> bool:
        nonlocal arrived
        if call.path != "/first":
            return True
        arrived += 1
        if arrived == 5:
            all_arrived.set()
        await all_arrived.wait()
        call.answer()
        return False

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        await asyncio.gather(*(api.client.get(f"/e/{endpoint_id}/first") for _ in range(5)))
        assert (await api.client.get(f"/e/{endpoint_id}/second")).status_code == 503
    assert [call.path for call in worker.calls].count("/second") == 2


@pytest.mark.parametrize("together", [True, False])
async def test_bytes_after_a_response_are_not_the_next_response(api: RunningApi, together: bool) -> None:
    async def script(call: Call) -> bool:
        more = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate"
        call.answer(OK + more if together else OK)
        if not together:
            await call.writer.drain()
            call.answer(more)
        return False

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        for count in range(1, 4):
            answer = await api.client.get(f"/e/{endpoint_id}/")
            assert (answer.status_code, answer.text) == (200, "ok")
            await wait_until_async(lambda count=count: worker.closed == count, message="it is kept")  # type: ignore[misc]
    assert worker.opened == 3


async def test_bytes_that_come_with_the_end_of_a_response_are_not_the_next_response(api: RunningApi) -> None:
    relayed = asyncio.Event()

    async def script(call: Call) -> bool:
        call.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await relayed.wait()
        relayed.clear()
        call.answer(b"okHTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate")
        return False

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        for _ in range(3):
            async with api.client.stream("GET", f"/e/{endpoint_id}/") as answer:
                relayed.set()
                assert (answer.status_code, await answer.aread()) == (200, b"ok")
    assert worker.opened == 3


async def test_a_connection_whose_request_was_not_read_is_not_used_again(api: RunningApi) -> None:
    async def script(call: Call) -> bool:
        call.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        if call.path == "/large":
            await asyncio.sleep(GIVE_UP_SECONDS)  # the test ends before
        return False

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        large = await api.client.post(f"/e/{endpoint_id}/large", content=b"x" * 64 * 1024 * 1024)
        assert large.status_code == 413
        assert (await api.client.get(f"/e/{endpoint_id}/small")).status_code == 413
    assert worker.seen == [(1, "/large"), (2, "/small")]


async def test_an_idle_connection_is_closed(valkey_url: str) -> None:
    async with keeping(valkey_url, 0.2) as api, worker_doing(answer_ok) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        assert (await api.client.get(f"/e/{endpoint_id}/")).text == "ok"
        await wait_until_async(lambda: worker.closed == 1, message="the connection stays open")


async def test_idle_connections_to_a_worker_are_limited(api: RunningApi) -> None:
    count, ready = MAX_KEPT_PER_WORKER + 10, asyncio.Event()

    async def script(call: Call) -> None:
        if len(worker.calls) == count:
            ready.set()
        await ready.wait()
        call.answer()

    async with worker_doing(script) as (worker, port):
        endpoint_id = await endpoint_with(api, port)
        await asyncio.gather(*(api.client.get(f"/e/{endpoint_id}/") for _ in range(count)))
        await wait_until_async(lambda: worker.closed == count - MAX_KEPT_PER_WORKER)
        assert worker.opened == count


async def test_idle_connections_to_all_workers_are_limited(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_KEPT", 3)
    calls, ready = 0, asyncio.Event()

    async def script(call: Call) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            ready.set()
        await ready.wait()
        call.answer()

    async with worker_doing(script) as (first, one), worker_doing(script) as (second, other):
        ids = [await endpoint_with(api, port) for port in (one, other) for _ in range(2)]
        await asyncio.gather(*(api.client.get(f"/e/{endpoint_id}/") for endpoint_id in ids))
        await wait_until_async(lambda: first.closed + second.closed == 1, timeout=KEPT_SECONDS / 2)
        assert first.opened + second.opened == 4
