"""Connections that are given up when they are not made in time, the server's first answers included, and when their
server is the master no more.

Whatever ends one is a ConnectionError or a TimeoutError, on every event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

CONNECT_TIMEOUT_SECONDS = 2.0


class _Watchful(AbstractConnection):
    """A frozen server still takes connections, and then says nothing: redis-py bounds the first step only.

    A master that has become a replica keeps its connections. Who meets one connects anew for the next command: the name
    or the address may lead to the new master by now.
    """

    _demoted = False

    async def connect(self) -> None:
        if self.is_connected:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await super().connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("the server does not answer a new connection") from None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """uvloop refuses to write to a transport that the peer has closed: one that accepts a connection and resets it
        at once. redis-py passes its RuntimeError on, and nobody would take it for a store that is away for a moment."""
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise RedisConnectionError(f"the connection is closed: {error}") from error

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            self._demoted = True
            raise

    async def can_read_destructive(self) -> bool:
        """Asked by the pool before the connection is used again; an error makes it connect anew."""
        if self._demoted:
            self._demoted = False
            raise RedisConnectionError("the server is a replica now")
        return bool(await super().can_read_destructive())  # type: ignore[no-untyped-call]


class PlainConnection(_Watchful, Connection):
    pass


class TlsConnection(_Watchful, SSLConnection):
    pass


class MasterConnection(_Watchful, SentinelManagedConnection):
    pass


class TlsMasterConnection(_Watchful, SentinelManagedSSLConnection):
    pass
