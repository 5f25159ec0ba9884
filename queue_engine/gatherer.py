"""Items that are sent together: while a call is under way, items are gathered for the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Waiting = tuple[Item, asyncio.Future[Result]]


class Gatherer(Generic[Item, Result]):
    """Sends items of one event loop, at most `limit` in a call, one call after the other.

    `send` returns the results of the first items, at least of one, in their order; the others are sent again. A result
    that is an exception is the error of its item. An exception that `send` raises is the error of all its items.
    """

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]], *, limit: int
    ) -> None:
        self._send = send
        self._limit = limit
        self._waiting: deque[Waiting[Item, Result]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, item: Item) -> asyncio.Future[Result]:
        """Return the future of the item's result or error. The item is sent although the future may be cancelled."""
        loop = self._loop
        if loop is None:  # kept, because asking for the loop is a call of the system
            loop = self._loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, result))
        if self._sender is None:
            self._sender = loop.create_task(self._send_all())
        return result

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
                await self._send_batch(batch)
        finally:
            self._sender = None
            if self._waiting:  # a cancelled sender must not strand the others
                self._sender = asyncio.create_task(self._send_all())

    async def _send_batch(self, batch: Sequence[Waiting[Item, Result]]) -> None:
        results: Sequence[Result | Exception]
        try:
            results = await self._send([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is the result of the items
            results = [error] * len(batch)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        self._waiting.extendleft(reversed(batch[len(results) :]))
        for (_, future), result in zip(batch, results, strict=False):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
