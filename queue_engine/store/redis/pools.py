"""A pool of connections that is quick while it has idle ones."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection


class QuickPool(BlockingConnectionPool):
    """A bounded pool. An idle connection is taken without the pool's lock and timer.

    Both are needed only to wait for a connection. They take 10 µs for each exchange, of which a busy process makes
    hundreds a second.
    """

    def __init__(self, *, timeout: float = 20.0, **options: Any) -> None:
        super().__init__(timeout=timeout, **options)  # type: ignore[arg-type]

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
