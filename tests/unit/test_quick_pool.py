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
        await asyncio.sleep(0)  # as a real one may
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


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def _used_together(pool: QuickPool, count: int) -> list[Any]:
    """Use as many connections at the same time, and return them, the first that is released first."""
    connections = [await pool.get_connection() for _ in range(count)]
    for connection in connections:
        await pool.release(connection)
    return connections


async def test_connections_that_are_not_used_are_closed_and_the_one_in_use_is_kept() -> None:
    clock = Clock()
    pool = QuickPool(connection_class=StubConnection, max_connections=4, kept_seconds=10, monotonic=clock)
    first, second, used = await _used_together(pool, 3)
    for clock.now in (4.0, 8.0, 10.0):
        assert await _used_together(pool, 1) == [used]
        assert [one.is_connected for one in (first, second)] == [True, True]
    clock.now = 10.1
    await _used_together(pool, 1)
    assert [one.is_connected for one in (first, second, used)] == [False, False, True]
    clock.now = 100.0
    assert await _used_together(pool, 1) == [used]
    assert used.connects == 1


async def test_a_connection_that_is_being_closed_is_given_to_no_other_caller() -> None:
    clock = Clock()
    pool = QuickPool(connection_class=StubConnection, max_connections=4, kept_seconds=10, monotonic=clock)
    _, used = await _used_together(pool, 2)
    clock.now = 11.0
    assert await pool.get_connection() is used
    releasing = asyncio.create_task(pool.release(used))
    await asyncio.sleep(0)
    taken = [await pool.get_connection() for _ in range(3)]
    await releasing
    assert all(connection.is_connected for connection in taken)


async def test_without_a_time_unused_connections_are_kept() -> None:
    clock = Clock()
    pool = QuickPool(connection_class=StubConnection, max_connections=4, monotonic=clock)
    first, _ = await _used_together(pool, 2)
    clock.now = 1e6
    await _used_together(pool, 1)
    assert first.is_connected
