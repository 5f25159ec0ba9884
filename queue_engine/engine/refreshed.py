"""Values that are read from the store now and then, so that requests do not wait for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from queue_engine.domain.errors import StoreUnavailable

T = TypeVar("T")

MAX_VALUES = 10_000
"""Limit of values that are kept. At the limit all are removed, so that those in use are read once more."""


@dataclass(frozen=True)
class _Kept(Generic[T]):
    value: T
    fresh_until: float


class Refreshed(Generic[T]):
    """A value for each name, read when it is first used.

    When a value is used that was read more than `seconds` ago, it is read again in the background. So a value in use is
    hardly older, an idle one costs nothing, and no use waits for the store. The first use after a pause still gets the
    old value. A value that cannot be read again stays.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[T]],
        seconds: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._monotonic = monotonic
        self._kept: dict[str, _Kept[T]] = {}
        self._reading: dict[str, asyncio.Task[T]] = {}

    async def get(self, name: str) -> T:
        """Return the value. Waits only for a value that was not read before, and then raises the errors of `read`."""
        value = self.kept(name)
        return await asyncio.shield(self._begin(name)) if value is None else value

    def kept(self, name: str) -> T | None:
        """Return the value as `get` does, but None if `get` would wait for it."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        if self._monotonic() >= kept.fresh_until:
            self._begin(name)
        return kept.value

    async def recent(self, name: str) -> T:
        """Return a value that is at most `seconds` old, and wait for it if it must be read. Raises as `get` does."""
        kept = self._kept.get(name)
        if kept is None or self._monotonic() >= kept.fresh_until:
            return await asyncio.shield(self._begin(name))
        return kept.value

    def forget(self, name: str) -> None:
        """Read the value again before its next use. The value of a read under way may be old, so it is not kept."""
        self._kept.pop(name, None)
        self._reading.pop(name, None)

    def _begin(self, name: str) -> asyncio.Task[T]:
        """Return the task that reads the value; it is started unless it is under way."""
        reading = self._reading.get(name)
        if reading is None:
            reading = self._reading[name] = asyncio.create_task(self._refresh(name))
            reading.add_done_callback(lambda done: self._end(name, done))
        return reading

    async def _refresh(self, name: str) -> T:
        value = await self._read(name)
        if self._reading.get(name) is not asyncio.current_task():
            return value
        if len(self._kept) >= MAX_VALUES:
            self._kept.clear()
        self._kept[name] = _Kept(value, self._monotonic() + self._seconds)
        return value

    def _end(self, name: str, done: asyncio.Task[T]) -> None:
        if self._reading.get(name) is done:
            del self._reading[name]
        with suppress(asyncio.CancelledError, StoreUnavailable):
            done.result()  # any other error is a defect, which the event loop logs
