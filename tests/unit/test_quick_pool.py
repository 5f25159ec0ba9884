"""The pool of connections to the store stays bounded."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from queue_engine.store.redis.pools import QuickPool
from tests.waiting import GIVE_UP_SECONDS


class StubConnection:
    """A connection that is always connected, unless it is broken."""

    def __init__(self, **_options: Any) -> None:
        self.is_connected = self.is_broken = False
        self.connects = 0

    async def connect(self) -> None:
        if not self.is_connected:
            self.connects += 1
            self.is_connected, self.is_broken = True, False

    async def disconnect(self, *_arguments: Any, **_options: Any) -> None:
        self.is_connected = False

    async def re_auth(self) -> None:
        pass

    async def can_read_destructive(self) -> bool:
        if self.is_broken:
            raise RedisConnectionError("the server has closed the connection")
        return False


def pool_of(size: int, *, seconds: float = GIVE_UP_SECONDS) -> QuickPool:
    return QuickPool(connection_class=StubConnection, max_connections=size, timeout=seconds)


async def test_an_idle_connection_is_used_again() -> None:
    pool = pool_of(2)
    first = await pool.get_connection()
    await pool.release(first)
    assert await pool.get_connection() is first


async def test_an_idle_connection_that_was_lost_is_connected_again() -> None:
    pool = pool_of(1)
    connection: Any = await pool.get_connection()
    await pool.release(connection)
    connection.is_broken, before = True, connection.connects
    assert await pool.get_connection() is connection
    assert connection.connects == before + 1


async def test_no_more_connections_than_the_limit_are_in_use() -> None:
    pool = pool_of(1, seconds=0.01)
    await pool.get_connection()
    with pytest.raises(RedisConnectionError, match="No connection available"):
        await pool.get_connection()


async def test_a_caller_waits_until_a_connection_is_released() -> None:
    pool = pool_of(1)
    connection = await pool.get_connection()
    waiting = asyncio.create_task(pool.get_connection())
    await asyncio.sleep(0)
    assert not waiting.done()
    await pool.release(connection)
    async with asyncio.timeout(GIVE_UP_SECONDS):
        assert await waiting is connection
