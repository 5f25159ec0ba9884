"""Open the store for a command or a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from queue_engine.cli.startup import settings_from
from queue_engine.config.shared import StoreSettings
from queue_engine.store.redis.client import store_errors
from queue_engine.store.store import Store


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncIterator[Store]:
    store = Store(
        settings.redis_url.get_secret_value(),
        settings.sealer(),
        partitions=settings.partitions,
        durability=settings.asked_durability(),
    )
    try:
        yield store
    finally:
        await store.close()


async def with_store(redis_url: str | None, call: Callable[[Store], Coroutine[Any, Any, Any]]) -> Any:
    async with open_store(settings_from(StoreSettings, redis_url=redis_url)) as store:
        await store.prepare()
        async with store_errors():
            return await call(store)
