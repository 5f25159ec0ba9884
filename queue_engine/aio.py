"""Small asyncio tools: a loop that drives a step, retries while a service is unavailable, and the delays of both."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

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


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until all have ended. Repeats the cancellation, because a library may swallow it."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=1.0)


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
