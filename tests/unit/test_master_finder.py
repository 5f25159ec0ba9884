"""The search for the master, with sentinels that respond as told."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from queue_engine.config.store_url import Address
from queue_engine.store.redis.sentinel import MasterFinder

MASTER = Address("127.0.0.1", 6379)


class Sentinel:
    """Responds with what `respond` returns."""

    def __init__(self, respond: Callable[[], Awaitable[Any]]) -> None:
        self._respond = respond

    async def execute_command(self, *_: object) -> Any:
        return await self._respond()


async def names_the_master() -> list[bytes]:
    return [b"127.0.0.1", b"6379"]


async def breaks_when_cancelled() -> list[bytes]:
    try:
        await asyncio.Event().wait()
    finally:
        raise RedisConnectionError("Connection closed by server.")


async def test_a_sentinel_that_breaks_after_the_majority_responded_leaves_no_unretrieved_error() -> None:
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    sentinels = [Sentinel(names_the_master), Sentinel(names_the_master), Sentinel(breaks_when_cancelled)]
    finder = MasterFinder("main", cast("list[Redis]", sentinels))
    assert await finder.find() == MASTER
    await asyncio.sleep(0)
    gc.collect()
    assert unhandled == []
