"""Open the store for a command or a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from queue_engine.cli.startup import settings_from
from queue_engine.config.shared import StoreSettings
from queue_engine.domain.errors import StoreUnavailable
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
    """Return the result of `call`. Raises StoreUnavailable, which names the store of `up` if no URL was given."""
    settings = settings_from(StoreSettings, redis_url=redis_url)
    try:
        async with open_store(settings) as store:
            await store.prepare()
            async with store_errors():
                return await call(store)
    except StoreUnavailable as error:
        raise hinted(error, settings) from error


def hinted(error: StoreUnavailable, settings: StoreSettings) -> StoreUnavailable:
    """Return the error of the store at the default URL with the way to the store of `up` in this folder, if any."""
    if "redis_url" in settings.model_fields_set or not URL_OF_UP.is_file():
        return error
    return StoreUnavailable(f"{error.reason}; {HINT}", retry_after_seconds=error.retry_after_seconds)


URL_OF_UP = Path("queue-engine-data/store/store-url")
"""The file with the URL of the store of `queue-engine up` that was started in this folder."""
HINT = f"for the store of `queue-engine up`, set QUEUE_ENGINE_REDIS_URL_FILE={URL_OF_UP}"
