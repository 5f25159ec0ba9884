"""Limits of connections to a served API."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_network
from itertools import chain

import pytest
import uvicorn
from uvicorn.server import ServerState

from queue_engine.api.http.connections import ConnectionLimits, Connections
from queue_engine.api.http.protocol import limited_protocol
from tests.api_server import RunningApi, running_api
from tests.integration.raw_http import Connection
from tests.waiting import wait_until_async

ANONYMOUS = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def with_key(api: RunningApi) -> bytes:
    return f"GET /v2/serverless HTTP/1.1\r\nHost: x\r\nX-Api-Key: {api.key}\r\n\r\n".encode()


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url, max_connections_per_address=2, max_connections_per_tenant=3) as running:
        yield running


async def test_connections_without_a_key_are_limited_and_those_with_one_are_not(api: RunningApi) -> None:
    first, second = await Connection.to(api), await Connection.to(api)
    await first.send(ANONYMOUS)
    assert (await first.answer()).status == 200
    refused = await Connection.to(api)
    received = await refused.answer()
    assert (received.status, received.told["code"], received.headers["retry-after"]) == (429, 429, "1")
    assert received.told["message"] == "at most 2 connections of an address are served without a valid key"
    assert await refused.is_closed()
    await second.send(with_key(api))
    assert (await second.answer()).status == 200
    third = await Connection.to(api)
    await third.send(ANONYMOUS)
    assert (await third.answer()).status == 200
    for one in (first, second, third, refused):
        one.close()


async def test_a_tenant_has_a_limit_of_connections_and_a_closed_one_makes_room(api: RunningApi) -> None:
    kept = [await Connection.to(api) for _ in range(2)]
    for one in kept:
        await one.send(with_key(api))
        assert (await one.answer()).status == 200
    third = await Connection.to(api)
    await third.send(with_key(api))
    assert (await third.answer()).status == 200
    fourth = await Connection.to(api)
    await fourth.send(with_key(api))
    assert (await fourth.answer()).status == 429
    third.close()

    async def is_served() -> bool:
        await fourth.send(with_key(api))
        return (await fourth.answer()).status == 200

    await wait_until_async(is_served)
    for one in (*kept, fourth):
        one.close()


async def test_a_trusted_proxy_is_exempt_and_names_the_client(valkey_url: str) -> None:
    networks = (ip_network("127.0.0.0/8"),)
    async with running_api(valkey_url, max_connections_per_address=1, trusted_proxies=networks) as api:
        proxies = [await Connection.to(api) for _ in range(3)]
        for one in proxies:
            await one.send(ANONYMOUS)
            assert (await one.answer()).status == 200
            one.close()


async def test_the_keep_alive_of_a_connection_is_short_until_a_key_was_valid() -> None:
    async def app(scope: dict[str, object], _receive: object, send: object) -> None:
        if scope["path"] == "/valid":
            scope["queue_engine.connection"].admit("a")  # type: ignore[attr-defined]
        await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    connections = Connections(ConnectionLimits())
    protocol = limited_protocol(9, connections)
    protocol.anonymous_keep_alive_seconds = 0.01
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        known, stranger = [Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2)]
        await known.send(b"GET /valid HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await known.line()).startswith("HTTP/1.1 204")
        await stranger.send(ANONYMOUS)
        assert (await stranger.rest()).startswith(b"HTTP/1.1 204")  # reads until the server closes
        await known.send(b"GET /valid HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await known.line()).startswith("HTTP/1.1 204")
        known.close()
    finally:
        server.close()


async def test_unknown_keys_of_an_address_are_limited_and_valid_keys_are_not(valkey_url: str) -> None:
    async with running_api(valkey_url, unknown_keys_per_minute=2, trusted_proxies="127.0.0.0/8") as api:

        async def status(key: str, address: str) -> int:
            headers = {"X-Api-Key": key, "X-Forwarded-For": address}
            return (await api.client.get("/v2/serverless", headers=headers)).status_code

        assert await status(api.key, "192.0.2.1") == 200
        assert [await status(f"guess{number}", "192.0.2.1") for number in range(3)] == [401, 401, 429]
        assert await status(api.key, "192.0.2.1") == 200
        assert await status(await api.new_key("other"), "192.0.2.1") == 200
        assert await status("guess", "192.0.2.2") == 401


async def test_valid_keys_are_admitted_beside_a_flood_of_unknown_ones_behind_the_same_proxy(valkey_url: str) -> None:
    async with running_api(valkey_url) as api:

        async def status(key: str) -> int:
            return (await api.client.get("/v2/serverless", headers={"X-Api-Key": key})).status_code

        async def guess(numbers: Iterable[int]) -> list[int]:
            """Send requests one after the other on connections of its own, which cost less than those of a client."""
            connection, statuses = await Connection.to(api), []
            for number in numbers:
                await connection.send(
                    f"GET /v2/serverless HTTP/1.1\r\nHost: x\r\nX-Api-Key: guess{number}\r\n\r\n".encode()
                )
                received = await connection.answer()
                statuses.append(received.status)
                if received.headers.get("connection") == "close":
                    connection.close()
                    connection = await Connection.to(api)
            connection.close()
            return statuses

        assert await status(api.key) == 200
        guesses = asyncio.gather(*(guess(range(first, 1000, 20)) for first in range(20)))
        fresh = [await api.new_key("other") for _ in range(10)]
        assert await asyncio.gather(*(status(key) for key in (api.key, *fresh))) == [200] * 11
        refused = list(chain.from_iterable(await guesses))
        assert set(refused) == {401, 429}
        assert refused.count(429) > 500
