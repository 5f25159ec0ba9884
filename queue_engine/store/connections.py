"""Connections that are given up when they are not made in time, the server's first answers included."""

from __future__ import annotations

import asyncio

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import TimeoutError as RedisTimeoutError

CONNECT_TIMEOUT_SECONDS = 2.0


class _Prompt(AbstractConnection):
    """A frozen server still takes connections, and then says nothing: redis-py bounds the first step only."""

    async def connect(self) -> None:
        if self.is_connected:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await super().connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("the server does not answer a new connection") from None


class PlainConnection(_Prompt, Connection):
    pass


class TlsConnection(_Prompt, SSLConnection):
    pass


class MasterConnection(_Prompt, SentinelManagedConnection):
    pass


class TlsMasterConnection(_Prompt, SentinelManagedSSLConnection):
    pass
