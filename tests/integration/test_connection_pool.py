"""The pool that agents and deliveries share: which connection a request gets, and which ones are closed."""

import weakref
from collections.abc import AsyncIterator

import pytest

from queue_engine.net.connecting import connect_to_host
from queue_engine.net.connection import Connection
from queue_engine.net.connection_pool import ConnectionPool
from queue_engine.net.request_head import post_head
from queue_engine.net.response_head import Head
from tests.integration.receivers import OK, Receiver, answering, receiver
from tests.waiting import wait_until_async

Pool = ConnectionPool[tuple[str, int]]
LIMIT = 3


class Nothing:
    """Needs nothing of a response but its end."""

    def begin(self, head: Head) -> bool:
        return True

    def feed(self, data: bytes) -> bool:
        return True


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = ConnectionPool(connect_to_host, LIMIT, keepalive_seconds=60.0, connect_seconds=10.0)
    yield made
    made.close()


async def acquired(pool: Pool, target: Receiver, *, fresh: bool = False) -> Connection:
    return await pool.acquire(("127.0.0.1", target.port), fresh=fresh)


async def post(connection: Connection) -> None:
    await connection.post(post_head("/", [("Host", "x")], 2), b"{}", Nothing())


async def kept(pool: Pool, *targets: Receiver) -> list[Connection]:
    """Use connections to these receivers at the same time, and release them in this order."""
    used = [await acquired(pool, target) for target in targets]
    for connection, target in zip(used, targets, strict=True):
        await post(connection)
        pool.release(("127.0.0.1", target.port), connection)
    return used


async def test_the_connection_that_was_used_last_is_used_first(pool: Pool) -> None:
    async with receiver(answering(OK)) as target:
        _, last = await kept(pool, target, target)
        again = await acquired(pool, target)
        assert again is last
        await post(again)
        assert again.is_reused
        pool.release(("127.0.0.1", target.port), again)


async def test_a_fresh_connection_has_served_no_request_although_an_idle_one_exists(pool: Pool) -> None:
    async with receiver(answering(OK)) as target:
        [idle] = await kept(pool, target)
        fresh = await acquired(pool, target, fresh=True)
        await post(fresh)
        assert (fresh.is_reused, idle.is_usable, target.connections) == (False, True, 2)
        pool.release(("127.0.0.1", target.port), fresh)


async def test_an_idle_connection_keeps_nothing_of_its_last_response(pool: Pool) -> None:
    async with receiver(answering(OK)) as target:
        connection, reader = await acquired(pool, target), Nothing()
        await connection.post(post_head("/", [("Host", "x")], 2), b"{}", reader)
        pool.release(("127.0.0.1", target.port), connection)
        left = weakref.ref(reader)
        del reader
        assert connection.is_usable
        assert left() is None


async def test_the_longest_idle_connection_makes_room_for_another_address(pool: Pool) -> None:
    async with receiver(answering(OK)) as first, receiver(answering(OK)) as second:
        oldest, middle, youngest = await kept(pool, first, second, first)
        pool.release(("127.0.0.1", second.port), await acquired(pool, second, fresh=True))
        assert [one.is_usable for one in (oldest, middle, youngest)] == [False, True, True]
        assert await acquired(pool, first) is youngest
        pool.release(("127.0.0.1", first.port), youngest)


async def test_connections_to_many_addresses_never_exceed_the_limit(pool: Pool) -> None:
    async with receiver(answering(OK)) as one, receiver(answering(OK)) as two, receiver(answering(OK)) as three:
        targets = (one, two, three) * 4
        for target in targets:
            await kept(pool, target, target)
        await wait_until_async(lambda: sum(target.connections - target.left for target in (one, two, three)) <= LIMIT)


async def test_an_idle_connection_that_its_server_has_closed_is_passed_over(pool: Pool) -> None:
    async with receiver(answering(OK)) as target:
        alive, dead = await kept(pool, target, target)
        dead.close()
        assert await acquired(pool, target) is alive
        pool.release(("127.0.0.1", target.port), alive)


async def test_a_closed_pool_closes_the_connections_in_use_when_they_are_released(pool: Pool) -> None:
    async with receiver(answering(OK)) as target:
        idle, in_use = await kept(pool, target, target)
        assert await acquired(pool, target) is in_use
        pool.close()
        assert (idle.is_usable, in_use.is_usable) == (False, True)
        pool.release(("127.0.0.1", target.port), in_use)
        await wait_until_async(lambda: target.left == target.connections)
        with pytest.raises(RuntimeError, match="closed"):
            await acquired(pool, target)
