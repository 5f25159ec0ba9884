"""Connections to Redis or Valkey, and what their errors mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.domain.errors import StoreUnavailable

COMMAND_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0
MAX_BLOCK_SECONDS = 5.0
"""How long a blocking read may wait; its connection's timeout is above it."""

_PASSING = (
    "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "LOADING", "READONLY", "UNKILLABLE",
    "BUSY",
)  # fmt: skip
"""Error replies by which the store says that it cannot now, not that the command is wrong."""


def connect(url: str, *, max_connections: int = 32, blocking: bool = False) -> Redis:
    """A client that does not decode replies. Connections are made when they are first needed.

    With `blocking` its timeout is above MAX_BLOCK_SECONDS, for reads that wait on the server.
    """
    timeout = MAX_BLOCK_SECONDS + COMMAND_TIMEOUT_SECONDS if blocking else COMMAND_TIMEOUT_SECONDS
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=COMMAND_TIMEOUT_SECONDS,
        socket_timeout=timeout,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[RedisConnectionError],
    )
    return Redis.from_pool(pool)


def unavailability(error: BaseException) -> str | None:
    """Why the store cannot serve now, when that is what `error` says; None for any other error."""
    if isinstance(error, BusyLoadingError):
        return "it is loading its data"
    if isinstance(error, ReadOnlyError):
        return "it is a read-only replica"
    if isinstance(error, OutOfMemoryError):
        return "it has reached maxmemory"
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        return "it cannot be reached"
    if isinstance(error, ResponseError) and str(error).startswith(_PASSING):
        return f"it refuses writes ({str(error).split(' ', 1)[0]})"
    return None


@asynccontextmanager
async def store_errors() -> AsyncIterator[None]:
    """Turn errors by which the store cannot serve now into StoreUnavailable; let all others pass."""
    try:
        yield
    except (RedisError, OSError) as error:
        reason = unavailability(error)
        if reason is None:
            raise
        raise StoreUnavailable(reason) from error


def word_of(reply: list[Any]) -> str:
    """The first element of a script's reply: its verdict."""
    word = reply[0]
    return word.decode() if isinstance(word, bytes) else str(word)


def pairs(flat: list[bytes]) -> dict[str, str]:
    """A hash as HGETALL gives it inside a script's reply."""
    return {flat[index].decode(): flat[index + 1].decode() for index in range(0, len(flat), 2)}


def optional_int(text: str | None) -> int | None:
    return int(text) if text else None
