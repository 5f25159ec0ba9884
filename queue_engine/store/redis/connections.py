"""Connections with a timeout for connecting, including the handshake, that detect a demoted master.

A lost connection always raises a ConnectionError or a TimeoutError, on every event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.net.names import is_literal, look_up

CONNECT_TIMEOUT_SECONDS = 2.0
MAX_KEPT_READS = 16
"""Number of reads from a socket, of 64 KiB at most, after whose replies a connection's parser is replaced. It keeps the
bytes until the next ones come, which would be a second copy of a large input while its task runs."""
MAX_COPIED_BYTES = 32 * 1024
"""Longest argument that is copied into one buffer with the rest of its command."""


class Pieces(tuple[bytes | memoryview, ...]):
    """An argument in pieces that are sent one after the other, so that a long one is not joined with another."""

    __slots__ = ()


class Watchful(AbstractConnection):
    """Limits the whole handshake, and reconnects after the server was demoted to a replica.

    A frozen server still accepts connections but never replies to the handshake. redis-py has a timeout for the TCP
    connection only. A master that was demoted keeps its connections open. After a ReadOnlyError the connection is
    opened again for the next command, because the host name or the sentinels may point to the new master by then.
    """

    _demoted = False
    _follows_master = False
    """True if a new connection asks the sentinels for the master, so that refused commands are sent to it at once."""

    host: str
    port: int
    _found_host: str | None = None
    """The address of `host` to connect to; None for `host` itself."""

    async def connect(self) -> None:
        if self.is_connected:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await super().connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("the server does not respond to a new connection") from None
        self._demoted = False

    async def _connect(self) -> None:
        """Connect to the first address of the host that accepts. Raises OSError and TimeoutError."""
        if is_literal(self.host):
            self._found_host = None
            await super()._connect()  # type: ignore[no-untyped-call,safe-super]
            return
        error: OSError | None = None
        for *_, address in await look_up(self.host, int(self.port)):
            self._found_host = str(address[0])
            try:
                await super()._connect()  # type: ignore[no-untyped-call,safe-super]
            except OSError as refused:
                error = error or refused
            else:
                return
        raise error or OSError(f"{self.host} has no address")

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(super()._connection_arguments())  # type: ignore[misc]
        if self._found_host is not None:
            arguments["host"] = self._found_host
            if arguments.get("ssl") is not None:
                arguments.setdefault("server_hostname", self.host)  # the name that the certificate must have
        return arguments

    def pack_command(self, *args: Any) -> list[Any]:
        """Return the command as buffers. Raises DataError for an argument that is no bytes, string or number.

        In C, because redis-py packs in Python where it is asynchronous: 17 µs for the 20 arguments of a script, beside
        4 µs. A long argument and one in pieces are sent without a copy.
        """
        words = args[0].split() if type(args[0]) in (str, bytes) else ()
        words = (*words, *args[1:])
        try:
            for word in words:  # a loop, because a generator costs as much as the packing
                if _is_sent_apart(word):
                    return _packed_apart(words)
            return [hiredis.pack_command(words)]
        except TypeError as error:
            raise DataError(f"{args[0]!r}: {error}") from None

    async def exchange(self, commands: Sequence[Iterable[Any]], *, seconds: float | None = None) -> list[Any]:
        """Send commands in one write; return the reply or the ResponseError of each, in order.

        No pause between replies may be longer than `seconds`, by default the socket timeout. When one does not come,
        the connection is closed, so that it is never read as the reply to a later command. Raises ConnectionError and
        TimeoutError of redis-py.
        """
        packed = self.packed(commands)
        await self.connect()
        self.write(packed)
        return await self.replies(len(commands), seconds=seconds)

    def packed(self, commands: Iterable[Iterable[Any]]) -> list[Any]:
        """Return the commands as buffers. Raises DataError."""
        return [piece for command in commands for piece in self.pack_command(*command)]

    @property
    def is_demoted(self) -> bool:
        """True if the server has refused a write because it is a replica now."""
        return self._demoted

    @property
    def has_sent_all(self) -> bool:
        """True if the system has taken everything that was written."""
        transport = cast(asyncio.StreamWriter, self._writer).transport
        return not transport.is_closing() and not transport.get_write_buffer_size()

    def write(self, packed: Sequence[Any]) -> None:
        """Send packed commands. A broken connection is noticed by `replies`, which returns their replies."""
        with suppress(OSError, RuntimeError):  # of uvloop, for a connection that is closed
            cast(asyncio.StreamWriter, self._writer).writelines(packed)

    async def replies(
        self, count: int, *, seconds: float | None = None, are_all: Callable[[], bool] = lambda: True
    ) -> list[Any]:
        """Return the next `count` replies, of commands that were written, as `exchange` does.

        `are_all` returns False when the replies to other commands follow.
        """
        try:
            return await self._next_replies(count, seconds or self.socket_timeout, are_all)
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("the server does not reply in time") from None
        except (OSError, RuntimeError) as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"the connection is lost: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    async def _next_replies(self, count: int, seconds: float | None, are_all: Callable[[], bool]) -> list[Any]:
        """Read replies, with one timer for all, which data sets again.

        Takes the replies from the parser without `read_response`, which costs a coroutine for each.
        """
        replies: list[Any] = []
        reads = 0
        parser = cast(Any, self._parser)
        next_reply = parser._reader.gets
        async with asyncio.timeout(seconds) as limit:
            await cast(asyncio.StreamWriter, self._writer).drain()
            while True:
                while len(replies) < count and (reply := next_reply()) is not NOT_ENOUGH_DATA:
                    if isinstance(reply, Exception):
                        self._check(reply)
                    replies.append(reply)
                if len(replies) == count:
                    break
                if reads and seconds is not None:
                    limit.reschedule(asyncio.get_running_loop().time() + seconds)
                await parser.read_from_socket()
                reads += 1
        if are_all() and next_reply() is not NOT_ENOUGH_DATA:
            raise RedisConnectionError("the server has sent more replies than it got commands")
        if reads > MAX_KEPT_READS and not parser._reader.has_data():
            parser.on_connect(self)  # makes a new parser of replies
        return replies

    async def send(self, commands: Sequence[Iterable[Any]]) -> None:
        """Send commands in one write, without waiting for replies. Raises errors of redis-py."""
        await self.connect()
        await self.send_packed_command(
            [piece for command in commands for piece in self.pack_command(*command)], check_health=False
        )

    async def received(self, seconds: float) -> list[Any]:
        """Return the next replies and messages from the server; none when it sends none for `seconds`.

        An error reply is an item of the list. Raises ConnectionError of redis-py.
        """
        parser = cast(Any, self._parser)
        if not self.is_connected:
            raise RedisConnectionError("the connection is closed")
        try:
            async with asyncio.timeout(seconds):
                while not (found := list(iter(parser._reader.gets, NOT_ENOUGH_DATA))):
                    await parser.read_from_socket()
        except TimeoutError:
            return []
        except (OSError, RuntimeError) as error:
            raise RedisConnectionError(f"the connection is lost: {error}") from error
        return found

    def _check(self, reply: Exception) -> None:
        """Raise ConnectionError when an error reply means that the commands need another connection."""
        if isinstance(reply, RedisConnectionError):
            raise reply
        if isinstance(reply, ReadOnlyError):
            if self._follows_master:
                raise RedisConnectionError("the server is a replica now")
            self._demoted = True

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command that `pack_command` has packed. Raises ConnectionError and TimeoutError of redis-py.

        In place of redis-py's, which waits with asyncio.wait_for. Before Python 3.12 that loses a cancellation in the
        moment in which the write ends, so a job or a time limit that is cancelled then goes on. When the peer accepts a
        connection and resets it at once, uvloop raises RuntimeError on the next write.
        """
        if not self.is_connected:
            await self.connect()
        elif check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self.socket_timeout):
                writer = cast(asyncio.StreamWriter, self._writer)
                writer.writelines(command)
                await writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("the server does not read what is sent") from None
        except (OSError, RuntimeError) as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"the connection is closed: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # because a part of the command may have been sent
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            self._demoted = True
            raise

    async def can_read_destructive(self) -> bool:
        """Return True if there is unread data. The pool calls this before reuse, and reconnects when it raises.

        redis-py starts a read and cancels it, which costs as much as a call of the store. The event loop reads whatever
        arrives, so looking into its buffer tells the same.
        """
        if self._demoted:
            self._demoted = False
            raise RedisConnectionError("the server is a replica now")
        reader, writer = cast(Any, self._reader), cast(asyncio.StreamWriter, self._writer)
        if reader.at_eof() or writer.is_closing():
            raise RedisConnectionError("the server has closed the connection")
        return bool(reader._buffer) or bool(cast(Any, self._parser)._reader.has_data())


def _is_sent_apart(word: Any) -> bool:
    kind = type(word)
    return kind is Pieces or ((kind is bytes or kind is memoryview) and len(word) > MAX_COPIED_BYTES)


def _packed_apart(words: Sequence[Any]) -> list[bytes | bytearray | memoryview]:
    """Return the buffers of a command; long words and those in pieces are buffers of their own."""
    copied = bytearray(b"*%d\r\n" % len(words))
    packed: list[bytes | bytearray | memoryview] = []
    for word in words:
        if not _is_sent_apart(word):
            copied += memoryview(hiredis.pack_command((word,)))[len(_ONE_WORD) :]
            continue
        pieces = word if type(word) is Pieces else (word,)
        copied += b"$%d\r\n" % sum(map(len, pieces))
        packed += [copied, *pieces]
        copied = bytearray(b"\r\n")
    return [*packed, copied]


_ONE_WORD = b"*1\r\n"
"""The beginning of a packed command of one word."""


class PlainConnection(Watchful, Connection):
    pass


class TlsConnection(Watchful, SSLConnection):
    pass


class MasterConnection(Watchful, SentinelManagedConnection):
    _follows_master = True


class TlsMasterConnection(Watchful, SentinelManagedSSLConnection):
    _follows_master = True
