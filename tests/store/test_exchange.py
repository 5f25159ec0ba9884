"""An exchange sends packed commands in one write and gives each its own reply, or ends the connection."""

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, ReadOnlyError

from queue_engine.config.store_url import Address
from queue_engine.store.redis.client import close, exchange, is_refused_write
from queue_engine.store.redis.connections import MasterConnection
from queue_engine.store.redis.sentinel import MasterPool
from tests.store.scripted_server import OK, READONLY, echo, serving
from tests.waiting import wait_until_async


async def test_replies_that_no_command_asked_for_end_the_connection() -> None:
    def respond(connection: int, command: list[bytes]) -> bytes:
        return echo(connection, command) + (b"$3\r\nold\r\n" if connection == 1 else b"")

    async with serving(respond) as (server, client):
        assert await exchange(client, [("ECHO", "a")]) == [b"a"]
        assert await exchange(client, [("ECHO", "b")]) == [b"b"]
        assert server.connections == 2


async def test_a_reply_that_comes_between_exchanges_is_given_to_neither() -> None:
    async with serving(echo) as (server, client):
        assert await exchange(client, [("ECHO", "a")]) == [b"a"]
        server.writers[0].write(b"$3\r\nold\r\n")
        stream = _idle_stream(client)
        await wait_until_async(lambda: len(stream._buffer) > 0)
        assert await exchange(client, [("ECHO", "b")]) == [b"b"]
        assert server.connections == 2


async def test_an_idle_connection_that_the_server_closed_costs_no_retry() -> None:
    async with serving(echo) as (server, client):
        await exchange(client, [("ECHO", "a")])
        server.writers[0].close()
        stream = _idle_stream(client)
        await wait_until_async(lambda: bool(stream.at_eof()))

        def break_second(connection: int, command: list[bytes]) -> bytes:
            if connection == 2:
                server.writers[1].close()
                return b""
            return echo(connection, command)

        server._respond = break_second
        assert await exchange(client, [("ECHO", "b")]) == [b"b"]
        assert [number for number, _ in server.commands] == [1, 2, 3]


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_refusal_after_a_lost_connection_leaves_the_outcome_unknown(is_lost: bool) -> None:
    def refuse(connection: int, _command: list[bytes]) -> bytes:
        if connection == 1 and is_lost:
            server.writers[0].close()
            return b""
        return b"-MISCONF Errors writing to the append only file.\r\n"

    async with serving(refuse) as (server, client):
        (reply,) = await exchange(client, [("SET", "a", "b")])
        assert is_refused_write(reply) is not is_lost


async def test_a_connection_that_breaks_between_replies_is_repeated_whole_on_a_new_one() -> None:
    async with serving(echo) as (server, client):

        def break_first(connection: int, command: list[bytes]) -> bytes:
            if (connection, command[1]) == (1, b"b"):
                server.writers[0].close()
                return b""
            return echo(connection, command)

        server._respond = break_first
        commands = [("ECHO", "a"), ("ECHO", "b")]
        assert await exchange(client, commands) == [b"a", b"b"]
        assert [(number, command[1]) for number, command in server.commands if number == 2] == [(2, b"a"), (2, b"b")]


async def test_a_server_that_loads_its_data_is_asked_again_on_a_new_connection() -> None:
    loading = b"-LOADING the dataset\r\n"
    async with serving(lambda number, command: loading if number == 1 else echo(number, command)) as (server, client):
        assert await exchange(client, [("ECHO", "a")]) == [b"a"]
        assert server.connections == 2
    async with serving(lambda *_: loading) as (server, client):
        with pytest.raises(BusyLoadingError):
            await exchange(client, [("ECHO", "a")])
        assert server.connections == 2


async def test_after_a_read_only_reply_the_next_exchange_connects_again() -> None:
    async with serving(lambda number, command: READONLY if number == 1 else echo(number, command)) as (server, client):
        (reply,) = await exchange(client, [("ECHO", "a")])
        assert isinstance(reply, ReadOnlyError)
        assert await exchange(client, [("ECHO", "b")]) == [b"b"]
        assert server.connections == 2


async def test_commands_that_a_demoted_master_refuses_are_sent_to_the_master_that_the_sentinels_name() -> None:
    async with serving(lambda *_: READONLY) as (old, _), serving(echo) as (new, _):
        finder: Any = Finder(old.port, new.port)
        pool = MasterPool(finder, connection_class=MasterConnection, max_connections=1, socket_timeout=3)
        client = Redis.from_pool(pool)
        try:
            assert await exchange(client, [("ECHO", "a"), ("ECHO", "b")]) == [b"a", b"b"]
            assert len(new.commands) == 2
        finally:
            await close(client)


class Finder:
    """Names one master after the other."""

    def __init__(self, *ports: int) -> None:
        self._ports = list(ports)

    async def find(self) -> Address:
        return Address("127.0.0.1", self._ports.pop(0))

    async def aclose(self) -> None:
        pass


def _idle_stream(client: Redis) -> Any:
    return client.connection_pool._available_connections[0]._reader


async def test_a_connection_goes_on_after_a_large_reply_and_keeps_none_of_it() -> None:
    large = bytes(4 * 1024 * 1024)
    reply = b"$%d\r\n%b\r\n" % (len(large), large)
    async with serving(lambda number, command: reply if command[0] == b"GET" else OK) as (server, client):
        for _ in range(2):
            assert await exchange(client, [("GET", "k"), ("SET", "k", "v")]) == [large, b"OK"]
        (connection,) = client.connection_pool._available_connections
        parser: Any = connection._parser
        before = parser._reader
        assert await exchange(client, [("SET", "k", "v")]) == [b"OK"]
        assert parser._reader is before  # only after large replies
        assert await exchange(client, [("GET", "k")]) == [large]
        assert parser._reader is not before
        assert server.connections == 1
