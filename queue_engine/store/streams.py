"""Consumer groups of the store's streams."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import ResponseError


async def make_group(redis: Redis, stream: str, group: str) -> None:
    """Create a consumer group that reads `stream` from its start; does nothing when it exists."""
    try:
        await redis.xgroup_create(stream, group, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
