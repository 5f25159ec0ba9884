"""Small asyncio tools: a loop that drives a step, retries while a service is away, and the waits of both."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from queue_engine.observability import outages

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """Waits that double from `first_seconds` to `max_seconds`."""

    first_seconds: float
    max_seconds: float

    def delay_after(self, failures: int, *, luck: float = 1.0) -> float:
        """Return the seconds to wait after that many failures in a row (1 for the first).

        `luck`, a random number in [0, 1), shortens the wait by up to half, so that callers do not retry in step.
        """
        doublings = min(failures - 1, 64)  # a float has room for these, and no wait for more
        return min(self.max_seconds, self.first_seconds * 2.0**doublings) * (1 + luck) / 2


DEFAULT_BACKOFF = Backoff(0.05, 1.0)


async def retry_while_unavailable(
    call: Callable[[], Awaitable[T]],
    *,
    passing: Callable[[BaseException], str | None],
    backoff: Backoff = DEFAULT_BACKOFF,
    what: str = "",
) -> T:
    """Retry `call` until it succeeds, for as long as its errors mean that a service is unavailable.

    `passing` gives the reason when an error is of that kind, None otherwise; any other error is raised. Ends early only
    by cancellation. `what` names the work in the lines that are logged about the outage.
    """
    failures = 0
    caller = object()
    try:
        while True:
            try:
                result = await call()
            except Exception as error:
                reason = passing(error)
                if reason is None:
                    raise
                failures += 1
                outages.STORE.failed(caller, what, reason)
            else:
                outages.STORE.succeeded(caller)
                return result
            await asyncio.sleep(backoff.delay_after(failures, luck=random.random()))
    finally:
        outages.STORE.left(caller)


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Return whether `event` is set within that time; None waits forever.

    Not asyncio.wait_for: before Python 3.12 it can lose a cancellation that comes at the same moment as the event.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def end_tasks(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and return when all have ended. A cancellation that a library has swallowed is sent again."""
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
    """Run `step` forever. It returns how much it did: after 0 comes a pause of `idle_seconds`, after more none.

    A step that raises is retried with backoff: one bad round must not end a process. `passing` gives the reason
    when an error passes by itself; such an error is part of an outage and has no line of its own. Any other error is
    logged with its traceback, a lasting one less and less often.
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
