"""The note why the platform of the workers does not respond, while it does not.

Only the leading controller knows. The API shows the note to the owners of endpoints that have no running worker.
"""

from __future__ import annotations

from redis.asyncio import Redis

from queue_engine.store.keys import PLATFORM_PROBLEM

NOTE_MS = 30_000
"""Time after which a note expires, because its controller may have ended. Controllers repeat it more often."""


class PlatformNote:
    """The note. Every method raises RedisError, and is safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def write(self, problem: str | None) -> None:
        """Note why the platform does not respond; None: it does."""
        if problem is None:
            await self._redis.delete(PLATFORM_PROBLEM)
        else:
            await self._redis.set(PLATFORM_PROBLEM, problem, px=NOTE_MS)

    async def read(self) -> str:
        """Return why the platform does not respond; empty while it does, or if no controller leads."""
        problem: bytes | None = await self._redis.get(PLATFORM_PROBLEM)
        return "" if problem is None else problem.decode()
