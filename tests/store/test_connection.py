"""Connections: a closed connection raises ConnectionError, on every event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.store.redis.client import close, connect, exchange, store_errors
from tests.waiting import wait_until_async


async def write_to_a_closed_connection(url: str) -> None:
    client = connect(url)
    try:
        connection = await client.connection_pool.get_connection()
        transport = connection._writer.transport
        transport.abort()
        await wait_until_async(lambda: connection._reader.at_eof() or connection._reader.exception() is not None)
        try:
            await connection.send_packed_command(connection.pack_command("PING"), check_health=False)
            await connection.read_response()
        finally:
            await client.connection_pool.release(connection)
    finally:
        await client.aclose()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_writing_to_a_closed_connection_is_a_connection_error(
    valkey_url: str, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    with pytest.raises(RedisConnectionError):
        run(write_to_a_closed_connection(valkey_url))


async def test_a_server_of_another_protocol_is_named_as_that() -> None:
    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_http, "127.0.0.1", 0) as server:
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        try:
            with pytest.raises(StoreUnavailable, match="does not speak the Redis protocol"):
                async with store_errors():
                    await client.ping()
        finally:
            await close(client)


async def _has_blocked_client(client: Redis) -> bool:
    return bool((await client.info("clients"))["blocked_clients"])


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, max_connections=1)
    yield client
    await close(client)


async def test_an_exchange_returns_each_reply_or_error_in_order(client: Redis) -> None:
    first, second, third = await exchange(client, [("ECHO", "a"), ("NONE",), ("ECHO", b"b" * 100_000)])

    assert (first, third) == (b"a", b"b" * 100_000)
    assert isinstance(second, ResponseError)


async def test_a_reply_after_the_timeout_is_not_read_as_the_next_reply(client: Redis) -> None:
    connection = await client.connection_pool.get_connection()
    connection.socket_timeout = 0.05
    await client.connection_pool.release(connection)

    with pytest.raises(RedisTimeoutError):
        await exchange(client, [("BLPOP", "nothing", "0.2")])

    assert await exchange(client, [("ECHO", "a")]) == [b"a"]


async def test_a_cancelled_exchange_does_not_leave_its_reply_to_the_next_one(client: Redis, valkey_url: str) -> None:
    waiting = asyncio.create_task(exchange(client, [("BLPOP", "nothing", "0")]))
    other = connect(valkey_url)
    await wait_until_async(lambda: _has_blocked_client(other))
    waiting.cancel()
    await asyncio.wait([waiting])
    await close(other)

    assert await exchange(client, [("ECHO", "a")]) == [b"a"]


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_in_any_moment_of_a_command_is_not_lost(client: Redis, turns: int) -> None:
    await client.ping()  # so that the connection is open
    pipeline = client.pipeline(transaction=False)
    pipeline.ping()
    call = asyncio.create_task(pipeline.execute())
    for _ in range(turns):
        await asyncio.sleep(0)
    was_done = call.done()
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled() or was_done
    assert await client.ping()


async def test_a_connection_that_the_server_closed_is_replaced(client: Redis) -> None:
    (own_id,) = await exchange(client, [("CLIENT", "ID")])
    await exchange(client, [("CLIENT", "KILL", "ID", own_id, "SKIPME", "no")])

    (new_id,) = await exchange(client, [("CLIENT", "ID")])

    assert new_id != own_id
