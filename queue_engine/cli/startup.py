"""Start a command that has settings: read them from environment and options, open the store, run on uvloop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from queue_engine.config.base import ProcessSettings, text_of, variable_of, without_prefix
from queue_engine.config.shared import StoreSettings
from queue_engine.config.variables import removed_variables
from queue_engine.domain.errors import EngineError
from queue_engine.processes.interrupts import exit_on_interrupt
from queue_engine.store.redis.client import store_errors
from queue_engine.store.store import Store

Settings = TypeVar("Settings", bound=BaseSettings)

EXIT_USAGE = 2


def option(settings: type[ProcessSettings], name: str) -> Any:
    """Return a command line option for a setting, with its description and variable as help."""
    return typer.Option(help=f"{text_of(settings, name)} ({variable_of(settings, name)})")


RedisUrl = Annotated[str | None, option(StoreSettings, "redis_url")]


def settings_from(kind: type[Settings], **options: Any) -> Settings:
    """Return the settings; options take precedence over the environment. Ends the program if a setting is invalid."""
    if removed := removed_variables(os.environ):
        fail("\n".join(removed))
    try:
        return kind(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        fail("\n".join(_messages_of(error)))
    except ValueError as error:  # a secret whose file cannot be read, or that is set twice
        fail(str(error))


def _messages_of(error: ValidationError) -> Iterable[str]:
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        yield f"QUEUE_ENGINE_{str(one['loc'][0]).upper()}: {without_prefix(one['msg'])}"


def fail(message: str) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"queue-engine: {line}", err=True)
    sys.exit(EXIT_USAGE)


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


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` on uvloop. For an EngineError, print its message without a traceback and exit."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
    else:
        run = uvloop.run
    try:
        return run(work)
    except EngineError as error:
        fail(str(error))
    finally:
        exit_on_interrupt()  # again, because the event loop has restored Python's own handler
