"""A connection that has ended says so by a ConnectionError, on every event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.store.redis.client import close, connect, store_errors
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
            with pytest.raises(StoreUnavailable, match="does not speak the protocol of Redis"):
                async with store_errors():
                    await client.ping()
        finally:
            await close(client)
