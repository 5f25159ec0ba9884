"""A pool of connections that is quick while it has idle ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection


class QuickPool(BlockingConnectionPool):
    """A bounded pool. An idle connection is taken without the pool's lock and timer.

    Both are needed only to wait for a connection. They take 10 µs for each exchange, of which a busy process makes
    hundreds a second.

    With `kept_seconds` connections that were not used for that time are closed, so that a process without work has one.
    That happens when a connection is released, because the pool has no task of its own.
    """

    def __init__(
        self,
        *,
        timeout: float = 20.0,
        kept_seconds: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, **options)  # type: ignore[arg-type]
        self._kept_seconds = kept_seconds
        self._monotonic = monotonic
        self._idle_since: dict[AbstractConnection, float] = {}

    async def get_connection(self, *_arguments: Any, **_options: Any) -> Any:
        if not self._available_connections:
            return await super().get_connection()
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back, and close those that were idle for too long."""
        await super().release(connection)
        if self._kept_seconds is not None:
            now = self._monotonic()
            self._idle_since[connection] = now
            await self._close_unused(now - self._kept_seconds)

    async def _close_unused(self, before: float) -> None:
        """Close the connections that are idle since `before`. The latest one to be released is used first, so they are
        at the beginning of the list."""
        while self._available_connections:
            unused: AbstractConnection = self._available_connections[0]
            if self._idle_since.get(unused, before) >= before:
                return
            self._available_connections.pop(0)  # first, so that no other task gets it while it is closed
            del self._idle_since[unused]
            await unused.disconnect(nowait=True)
