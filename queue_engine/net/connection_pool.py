"""The connections to a container: those in use, and idle ones that are kept for the next request."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from aiohappyeyeballs import start_connection

from queue_engine.net.connection import Connection
from queue_engine.net.error_types import CONNECT_TIMEOUT, INVALID_REQUEST, CallError, not_connected

CONNECT_TIMEOUT_SECONDS = 5.0
HAPPY_EYEBALLS_SECONDS = 0.25
"""Time after which the next address of a name is tried beside the one that has not responded (RFC 8305, section 8)."""
KEEPALIVE_SECONDS = 1.5
"""Idle time after which a connection is closed. It is shorter than that of common servers (gunicorn 2 s, uvicorn 5 s),
because a task that is sent on a connection which the container is just closing would fail without having run."""

Address = tuple[str, int]
"""Host and port."""


class ConnectionPool:
    """At most `max_connections` connections, idle ones included. Safe to use from many tasks of one event loop."""

    def __init__(
        self,
        max_connections: int,
        *,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        connect_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> None:
        self._max_connections = max_connections
        self._keepalive_seconds = keepalive_seconds
        self._connect_seconds = connect_seconds
        self._free = asyncio.Semaphore(max_connections)
        self._in_use = 0
        self._idle: list[tuple[float, Address, Connection]] = []
        """The time since when it is idle, which only grows in the list."""
        self._sweeper: asyncio.TimerHandle | None = None

    async def acquire(self, address: Address) -> Connection:
        """Return a connection that nothing else uses; `release` it. Raises CallError."""
        await self._free.acquire()
        self._in_use += 1
        try:
            return self._take_idle(address) or await self._open(address)
        except BaseException:
            self._in_use -= 1
            self._free.release()
            raise

    def release(self, address: Address, connection: Connection) -> None:
        """Take a connection back. It is kept if it can be used again."""
        self._in_use -= 1
        self._free.release()
        if connection.is_usable:
            self._idle.append((_now(), address, connection))
            if self._sweeper is None:
                self._sweep_later()

    def close(self) -> None:
        """Close the idle connections."""
        for _, _, connection in self._idle:
            connection.close()
        self._idle.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _take_idle(self, address: Address) -> Connection | None:
        """Return the connection that was used last: the server will keep it the longest."""
        oldest = _now() - self._keepalive_seconds
        for number in range(len(self._idle) - 1, -1, -1):
            since, found, connection = self._idle[number]
            if since <= oldest:
                return None
            if found == address and connection.is_usable:
                del self._idle[number]
                return connection
        return None

    async def _open(self, address: Address) -> Connection:
        while self._idle and self._in_use + len(self._idle) > self._max_connections:
            self._idle.pop(0)[2].close()
        try:
            async with asyncio.timeout(self._connect_seconds):
                return await _connected(address)
        except TimeoutError:
            raise CallError(CONNECT_TIMEOUT) from None
        except OSError as error:
            raise not_connected(error) from error
        except UnicodeError as error:
            raise CallError(INVALID_REQUEST) from error

    def _sweep_later(self) -> None:
        since, _, _ = self._idle[0]
        self._sweeper = asyncio.get_running_loop().call_at(since + self._keepalive_seconds, self._sweep)

    def _sweep(self) -> None:
        """Close connections that were idle for too long, and forget those that the container has closed."""
        self._sweeper = None
        oldest = _now() - self._keepalive_seconds
        idle, self._idle = self._idle, []
        for one in idle:
            since, _, connection = one
            if since > oldest and connection.is_usable:
                self._idle.append(one)
            else:
                connection.close()
        if self._idle:
            self._sweep_later()


async def _connected(address: Address) -> Connection:
    """Connect to the first address of the host that accepts, of both families."""
    loop = asyncio.get_running_loop()
    host, port = address
    flags = 0 if _is_literal(host) else socket.AI_ADDRCONFIG
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    connected = await start_connection(found, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, loop=loop)
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, connection = await loop.create_connection(Connection, sock=connected)
    except BaseException:
        connected.close()
        raise
    return connection


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _now() -> float:
    return asyncio.get_running_loop().time()
