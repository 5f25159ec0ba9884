"""Wait for a condition: the only place in the tests where anything sleeps.

A timeout is when a failing test gives up. A passing test never spends it, so that it has room for a machine under load.
Shorter ones are for what must happen within a time, and the test's name says so.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

GIVE_UP_SECONDS = 120.0
MIN_PAUSE_SECONDS = 0.01
MAX_PAUSE_SECONDS = 0.1
PAUSE_SHARE = 0.1
"""A pause is at most this share of the time waited so far, so that long waits ask rarely and end hardly later."""


def wait_until(
    condition: Callable[[], T],
    timeout: float = GIVE_UP_SECONDS,
    message: str | Callable[[], str] = "condition not met",
) -> T:
    """Return the first true answer of `condition`; AssertionError with `message` after `timeout` seconds.

    A function as the message is called after that time, so that it can say what the state is then.
    """
    began = time.monotonic()
    while not (answer := condition()):
        waited = time.monotonic() - began
        if waited >= timeout:
            raise _not_met(message if isinstance(message, str) else message(), timeout)
        time.sleep(_pause(waited))  # noqa: TID251 - the one place that the rule points to
    return answer


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout: float = GIVE_UP_SECONDS, message: str = "condition not met"
) -> T: ...
@overload
async def wait_until_async(
    condition: Callable[[], T], timeout: float = GIVE_UP_SECONDS, message: str = "condition not met"
) -> T: ...
async def wait_until_async(
    condition: Callable[[], object], timeout: float = GIVE_UP_SECONDS, message: str = "condition not met"
) -> object:
    """As `wait_until`, for a plain or an async condition; a condition that hangs is given up at the same time."""
    try:
        async with asyncio.timeout(timeout) as limit:
            clock = asyncio.get_running_loop().time
            began = clock()
            while not (answer := await _answer_of(condition)):
                await asyncio.sleep(_pause(clock() - began))
                # A library that swallows a cancellation (asyncio.wait_for may, before Python 3.12) loses the time-out.
                if clock() - began >= timeout + MAX_PAUSE_SECONDS:
                    raise _not_met(message, timeout)
            return answer
    except TimeoutError:
        if not limit.expired():
            raise
        raise _not_met(message, timeout) from None


def _pause(waited: float) -> float:
    return min(max(MIN_PAUSE_SECONDS, waited * PAUSE_SHARE), MAX_PAUSE_SECONDS)


async def _answer_of(condition: Callable[[], object]) -> object:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer


def _not_met(message: str, timeout: float) -> AssertionError:
    return AssertionError(f"{message} (waited {timeout:g} s)")
