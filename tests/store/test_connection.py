"""A connection that has ended says so by a ConnectionError, on every event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from queue_engine.store.redis.client import connect
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
