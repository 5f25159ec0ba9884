"""Small asyncio tools: a loop that drives a step, retries while a service is unavailable, and the delays of both."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from queue_engine.observability import outages

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """Delays that double from `first_seconds` to `max_seconds`."""

    first_seconds: float
    max_seconds: float

    def delay_after(self, failures: int, *, luck: float = 1.0) -> float:
        """Return the delay in seconds after `failures` consecutive failures (1 for the first).

        `luck`, a random number in [0, 1), shortens the delay by up to half, so that callers do not retry at the same
        time.
        """
        doublings = min(failures - 1, 64)  # because a float would overflow with more
        return min(self.max_seconds, self.first_seconds * 2.0**doublings) * (1 + luck) / 2


DEFAULT_BACKOFF = Backoff(0.05, 1.0)


async def retry_while_unavailable(
    call: Callable[[], Awaitable[T]],
    *,
    passing: Callable[[BaseException], str | None],
    backoff: Backoff = DEFAULT_BACKOFF,
    what: str = "",
) -> T:
    """Return the result of `call`, retrying as long as its errors mean that a service is unavailable.

    `passing` returns the reason for such an error, and None for any other error, which is raised. There is no timeout;
    the retries end early only if cancelled. `what` names the work in the log lines about the outage.
    """
    try:
        return await call()  # alone, because every task passes here several times
    except Exception as error:
        if (reason := passing(error)) is None:
            raise
    failures = 0
    caller = object()
    try:
        while True:
            failures += 1
            outages.STORE.failed(caller, what, reason)
            await asyncio.sleep(backoff.delay_after(failures, luck=random.random()))
            try:
                result = await call()
            except Exception as error:
                if (reason := passing(error)) is None:
                    raise
            else:
                outages.STORE.succeeded(caller)
                return result
    finally:
        outages.STORE.left(caller)


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `event`, and return True if it is set within that time; None waits forever.

    This does not use asyncio.wait_for, which can lose a simultaneous cancellation before Python 3.12.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


class CommonTimeout:
    """A time limit of `seconds` for many blocks, with one timer for all of them.

    For a block that is run for each request and rarely reaches its limit: `asyncio.timeout` starts and cancels a timer
    each time, which takes 4 µs beside 1 µs here. All blocks have the same limit, so they reach it in the order in which
    they began, and the timer is that of the first.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._line: _Line | None = None

    def limit(self) -> TimeLimit:
        """Return a context manager for a block, which raises TimeoutError like `asyncio.timeout(seconds)`."""
        loop = asyncio.get_running_loop()
        line = self._line
        if line is None or line.loop is not loop:  # the blocks of another loop keep their line
            line = self._line = _Line(loop)
        return TimeLimit(line, self._seconds, asyncio.current_task(loop))


class _Line:
    """The blocks that run on one event loop, the first one that reaches its limit first."""

    __slots__ = ("blocks", "loop", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.blocks: dict[TimeLimit, None] = {}
        self.timer: asyncio.TimerHandle | None = None

    def add(self, block: TimeLimit) -> None:
        self.blocks[block] = None
        if self.timer is None:
            self.timer = self.loop.call_at(block.ends_at, self._look)

    def _look(self) -> None:
        """End the blocks that have reached their limit. The timer may be that of a block that has ended in time."""
        now = self.loop.time()
        for block in [one for one in self.blocks if one.ends_at <= now]:
            del self.blocks[block]
            block.expire()
        first = next(iter(self.blocks), None)
        self.timer = None if first is None else self.loop.call_at(first.ends_at, self._look)


class TimeLimit:
    """A block with a limit: see CommonTimeout."""

    __slots__ = ("_cancelling", "_earlier", "_expired", "_line", "_task", "ends_at")

    def __init__(self, line: _Line, seconds: float, task: asyncio.Task[Any] | None) -> None:
        if task is None:
            raise RuntimeError("a time limit needs a task")
        self._line = line
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._earlier: asyncio.TimerHandle | None = None
        self.ends_at = line.loop.time() + seconds

    def __enter__(self) -> Self:
        self._line.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._line.blocks.pop(self, None)
        if self._earlier is not None:
            self._earlier.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end_within(self, seconds: float) -> None:
        """End the running block after `seconds`, if its limit is not reached before."""
        if self._earlier is None:
            self._earlier = self._line.loop.call_later(seconds, self.expire)

    def expire(self) -> None:
        if self._expired:
            return
        self._expired = True
        self._task.cancel()


async def uncut(call: Coroutine[Any, Any, T]) -> T:
    """Return the result of a call. If the caller is cancelled, wait for the call first.

    A platform carries out a call whose connection is closed, but the time of that is unknown. A second cancellation
    ends the wait.
    """
    task = asyncio.create_task(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # retrieved, because nothing depends on it any longer
        raise


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until all have ended. Repeats the cancellation, because a library may swallow it."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=1.0)


class LaterErrors:
    """Lets work go on after a part of it has failed, and raises the first error at the end.

    A `with` block is a part. Its error is kept; a cancellation ends the work at once.
    """

    def __init__(self) -> None:
        self._first: BaseException | None = None

    def __enter__(self) -> None:
        """Begin a part."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.keep(error)
        return True

    def keep(self, error: BaseException) -> None:
        """Keep an error, unless there is an earlier one."""
        self._first = self._first or error

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        if self._first is not None:
            raise self._first


async def run_forever(
    step: Callable[[], Awaitable[int]],
    *,
    idle_seconds: float,
    name: str,
    passing: Callable[[BaseException], str | None] = lambda _: None,
    backoff: Backoff = DEFAULT_BACKOFF,
) -> None:
    """Run `step` forever. If it returns 0, which means that there was no work, pause for `idle_seconds`.

    A step that raises is retried with backoff, so that a single failure does not end the process. `passing` returns the
    reason of an error that belongs to an outage; such errors are summarized in the outage's log lines. Any other error
    is logged with its traceback, at decreasing frequency if it repeats.
    """
    failures = 0
    caller = object()
    try:
        while True:
            try:
                did = await step()
            except Exception as error:
                failures += 1
                if (reason := passing(error)) is not None:
                    outages.STORE.failed(caller, name, reason)
                elif failures in (1, 10) or failures % 100 == 0:
                    log.warning("a round failed", exc_info=True, extra={"loop": name, "failures": failures})
                await asyncio.sleep(backoff.delay_after(failures, luck=random.random()))
                continue
            failures = 0
            outages.STORE.succeeded(caller)
            await asyncio.sleep(0 if did else idle_seconds)
    finally:
        outages.STORE.left(caller)
