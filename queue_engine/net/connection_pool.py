"""HTTP connections of one process: those in use, and idle ones that are kept for the next request to their address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from queue_engine.net.connection import Connection
from queue_engine.net.error_types import CONNECT_TIMEOUT, INVALID_REQUEST, CallError, not_connected

Address = TypeVar("Address", bound=Hashable)


class ConnectionPool(Generic[Address]):
    """At most `max_connections` connections, idle ones included. Safe to use from many tasks of one event loop.

    `connect` opens a connection to an address, within `connect_seconds`. An idle connection is kept for
    `keepalive_seconds`, or until another address needs its place.
    """

    def __init__(
        self,
        connect: Callable[[Address], Awaitable[Connection]],
        max_connections: int,
        *,
        keepalive_seconds: float,
        connect_seconds: float,
    ) -> None:
        self._connect = connect
        self._max_connections = max_connections
        self._keepalive_seconds = keepalive_seconds
        self._connect_seconds = connect_seconds
        self._free = asyncio.Semaphore(max_connections)
        self._in_use = 0
        self._idle: dict[Connection, tuple[float, Address]] = {}
        """The time since when a connection is idle, and its address; the longest idle first."""
        self._idle_at: dict[Address, list[Connection]] = {}
        """The same connections by address, in the same order. No list is empty."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def acquire(self, address: Address, *, fresh: bool = False) -> Connection:
        """Return a connection that nothing else uses; `release` it. A `fresh` one has not served a request.

        Raises CallError, and RuntimeError after `close`.
        """
        await self._free.acquire()
        self._in_use += 1
        try:
            if self._is_closed:
                raise RuntimeError("the connection pool is closed")
            return (None if fresh else self._take_idle(address)) or await self._open(address)
        except BaseException:
            self._in_use -= 1
            self._free.release()
            raise

    def release(self, address: Address, connection: Connection) -> None:
        """Take a connection back. It is kept if it can be used again."""
        self._in_use -= 1
        self._free.release()
        if self._is_closed:
            connection.close()
        elif connection.is_usable:
            self._idle[connection] = (_now(), address)
            self._idle_at.setdefault(address, []).append(connection)
            if self._sweeper is None:
                self._sweep_later()

    def close(self) -> None:
        """Close the idle connections now, and those in use when they are released."""
        self._is_closed = True
        while self._idle:
            self._close_longest_idle()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _take_idle(self, address: Address) -> Connection | None:
        """Return the connection that was used last: the server will keep it the longest."""
        oldest = _now() - self._keepalive_seconds
        while (same := self._idle_at.get(address)) is not None:
            connection = same.pop()
            if not same:
                del self._idle_at[address]
            since, _ = self._idle.pop(connection)
            if since > oldest and connection.is_usable:
                return connection
            connection.close()
        return None

    async def _open(self, address: Address) -> Connection:
        while self._idle and self._in_use + len(self._idle) > self._max_connections:
            self._close_longest_idle()
        try:
            async with asyncio.timeout(self._connect_seconds):
                return await self._connect(address)
        except TimeoutError:
            raise CallError(CONNECT_TIMEOUT) from None
        except OSError as error:
            raise not_connected(error) from error
        except UnicodeError as error:
            raise CallError(INVALID_REQUEST) from error

    def _close_longest_idle(self) -> None:
        connection = next(iter(self._idle))
        _, address = self._idle.pop(connection)
        same = self._idle_at[address]
        same.remove(connection)  # the first of its list
        if not same:
            del self._idle_at[address]
        connection.close()

    def _sweep_later(self) -> None:
        since, _ = next(iter(self._idle.values()))
        self._sweeper = asyncio.get_running_loop().call_at(since + self._keepalive_seconds, self._sweep)

    def _sweep(self) -> None:
        """Close connections that were idle for too long."""
        self._sweeper = None
        oldest = _now() - self._keepalive_seconds
        while self._idle and next(iter(self._idle.values()))[0] <= oldest:
            self._close_longest_idle()
        if self._idle:
            self._sweep_later()


def _now() -> float:
    """Return the time on the event loop's clock, which is this one. Asking for the loop costs more than the time."""
    return time.monotonic()
