"""The Lua scripts, and running them: many calls that come at once share one round trip."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from time import perf_counter
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine import metrics

Argument = str | bytes | int | float
MAX_BATCH = 128
"""Script calls in one pipeline."""


@dataclass(frozen=True)
class Script:
    """One transition. `text` is the file with lib.lua put in after its first line."""

    name: str
    text: str
    sha: str


@cache
def load_scripts() -> dict[str, Script]:
    """All scripts of the package by name."""
    folder = files("queue_engine.store") / "lua"
    library = (folder / "lib.lua").read_text()
    scripts = {}
    for entry in folder.iterdir():
        name = entry.name.removesuffix(".lua")
        if name == "lib" or not entry.name.endswith(".lua"):
            continue
        shebang, _, body = entry.read_text().partition("\n")
        text = f"{shebang}\n{library}\n{body}"
        scripts[name] = Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    return scripts


@dataclass
class _Call:
    script: Script
    arguments: list[Argument]
    done: asyncio.Future[Any]
    asked_at: float


class ScriptRunner:
    """Runs scripts over one Redis client.

    Calls made while a round trip is under way are gathered and go out together in the next one, in the order they came.
    Every script is idempotent, so a call whose reply was lost is simply sent once more on a new connection; what fails
    twice is raised as the RedisError it is.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = load_scripts()
        self._waiting: deque[_Call] = deque()
        self._flusher: asyncio.Task[None] | None = None

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """The script's reply, as redis-py gives it (bytes). Raises RedisError."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = _Call(self._scripts[name], [len(keys), *keys, *arguments], done, perf_counter())
        self._waiting.append(call)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                await self._send(batch)
        finally:
            self._flusher = None
            if self._waiting:  # a cancelled flush must not strand the others
                self._flusher = asyncio.create_task(self._flush())

    async def _send(self, batch: list[_Call]) -> None:
        try:
            replies = await self._exchange(batch)
        except BaseException as error:
            for call in batch:
                _settle(call, error if isinstance(error, Exception) else RedisConnectionError("interrupted"))
            if not isinstance(error, Exception):
                raise
            return
        for call, reply in zip(batch, replies, strict=True):
            _settle(call, reply)

    async def _exchange(self, batch: list[_Call]) -> list[Any]:
        try:
            replies = await self._pipeline(batch)
        except (RedisConnectionError, RedisTimeoutError):
            replies = await self._pipeline(batch)
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            for script in {batch[index].script.name: batch[index].script for index in missing}.values():
                await self._redis.script_load(script.text)
            for index, reply in zip(missing, await self._pipeline([batch[i] for i in missing]), strict=True):
                replies[index] = reply
        return replies

    async def _pipeline(self, batch: list[_Call]) -> list[Any]:
        if len(batch) == 1:
            call = batch[0]
            try:
                return [
                    await self._redis.execute_command(  # type: ignore[no-untyped-call]
                        "EVALSHA", call.script.sha, *call.arguments
                    )
                ]
            except (RedisConnectionError, RedisTimeoutError):
                raise
            except RedisError as error:
                return [error]
        pipeline = self._redis.pipeline(transaction=False)
        for call in batch:
            pipeline.execute_command("EVALSHA", call.script.sha, *call.arguments)
        return await pipeline.execute(raise_on_error=False)


def _settle(call: _Call, reply: Any) -> None:
    metrics.redis_command_duration.labels(op=call.script.name).observe(perf_counter() - call.asked_at)
    if isinstance(reply, Exception):
        metrics.redis_errors.labels(op=call.script.name).inc()
    if call.done.done():
        return
    if isinstance(reply, Exception):
        call.done.set_exception(reply)
    else:
        call.done.set_result(reply)
