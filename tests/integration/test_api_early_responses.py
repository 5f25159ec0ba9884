"""Responses that come before the request is complete: clients that send everything before they read get them."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping

import pytest

from queue_engine.api.http import protocol
from tests.api_server import ENDPOINT, RunningApi, running_api
from tests.integration.raw_http import Connection

MANY = 6_000_000
"""More bytes than the buffers of two sockets hold."""


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url) as running:
        await running.create_endpoint()
        yield running


def _refused(api: RunningApi, path: str, headers: Mapping[str, str], body: bytes | list[bytes]) -> tuple[int, int]:
    """Status and code of the error that `urllib` gets. It sends all of the body before it reads."""
    request = urllib.request.Request(f"{api.url}{path}", data=iter(body) if isinstance(body, list) else body)
    for name, value in ({"X-Api-Key": api.key, "Content-Type": "application/json"} | dict(headers)).items():
        request.add_header(name, value)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as error:
        return error.code, json.loads(error.read())["code"]


TASKS = "/v2/serverless/1/tasks"
EARLY = {
    "too large": (TASKS, {}, (413, 10001)),
    "no key": (TASKS, {"X-Api-Key": ""}, (401, 40101)),
    "no such endpoint": ("/v2/serverless/0/tasks", {}, (404, 14000)),
    "no such path": ("/v2/nothing", {}, (404, 10001)),
    "another method": ("/healthz", {}, (405, 10001)),
    "not JSON": (TASKS, {"Content-Type": "text/plain"}, (415, 10001)),
    "a delivery": (TASKS, {"webhook-id": "1"}, (400, 10001)),
    "a bad host": (TASKS, {"Host": "a b"}, (400, 10001)),
    "an unknown coding": (TASKS, {"Transfer-Encoding": "br"}, (501, 10001)),
    "requests to a worker": ("/e/1/x", {}, (400, 10001)),
}


@pytest.mark.parametrize("name", EARLY)
async def test_a_client_that_reads_last_gets_the_response(api: RunningApi, name: str) -> None:
    path, headers, expected = EARLY[name]
    assert await asyncio.to_thread(_refused, api, path, headers, b" " * MANY) == expected
    assert await asyncio.to_thread(_refused, api, path, headers, [b" " * 100_000] * (MANY // 100_000)) == expected


async def test_a_rate_limit_reaches_a_client_that_reads_last(valkey_url: str) -> None:
    async with running_api(valkey_url, rate_limit_per_second=0.001) as limited:
        await limited.post("/v2/serverless", ENDPOINT)
        assert await asyncio.to_thread(_refused, limited, TASKS, {}, b" " * MANY) == (429, 429)


async def test_a_head_that_is_too_large_reaches_a_client_that_reads_last(api: RunningApi) -> None:
    connection = await Connection.to(api)
    await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MANY + b"\r\n\r\n")
    assert (await connection.answer()).status == 431
    assert await connection.is_closed()
    connection.close()


async def test_a_connection_goes_on_after_a_body_that_was_refused(api: RunningApi) -> None:
    connection = await Connection.to(api)
    await connection.send(_request(api, MANY) + b" " * MANY)
    assert (await connection.answer()).status == 413
    await connection.send(_request(api, 2) + b"{}")
    assert (await connection.answer()).status == 400
    connection.close()


@pytest.mark.parametrize("last", ["Connection: close\r\n", ""])
async def test_a_client_that_falls_silent_after_the_response_is_closed(
    api: RunningApi, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "IGNORED_SILENCE_SECONDS", 0.2)
    with _connected(api) as client:
        await _send(client, _request(api, MANY, last) + b" ")
        assert b"413" in (await _read(client)).split(b"\r\n")[0]
        await _is_reset(client, None, pause=0.5)


@pytest.mark.parametrize("last", ["Connection: close\r\n", ""])
async def test_a_client_that_drips_after_the_response_is_closed(
    api: RunningApi, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "IGNORED_SECONDS", 0.3)
    with _connected(api) as client:
        await _send(client, _request(api, MANY, last) + b" ")
        await _is_reset(client, b" ", pause=0.02)


@pytest.mark.parametrize("last", ["Connection: close\r\n", ""])
async def test_a_client_that_sends_without_end_after_the_response_is_closed(
    api: RunningApi, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_IGNORED_BYTES", 1_000_000)
    with _connected(api) as client:
        await _send(client, _request(api, 10**12, last))
        sent = await _is_reset(client, b" " * 65536)
        assert sent < 50_000_000


def _request(api: RunningApi, size: int, last: str = "") -> bytes:
    head = f"POST {TASKS} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {api.key}\r\nContent-Type: application/json\r\n"
    return f"{head}{last}Content-Length: {size}\r\n\r\n".encode()


def _connected(api: RunningApi) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", api.port))
    client.setblocking(False)
    return client


async def _send(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


async def _read(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(client, 65536)


async def _is_reset(client: socket.socket, data: bytes | None, pause: float = 0.0) -> int:
    """Wait until the server has closed both sides. Sends `data` again and again until then; returns how much."""
    sent = 0
    async with asyncio.timeout(30):
        while True:
            try:
                if data is not None or not await _read(client):
                    await _send(client, data or b" ")
                    sent += len(data or b" ")
                await asyncio.sleep(pause)
            except (ConnectionResetError, BrokenPipeError):
                return sent
