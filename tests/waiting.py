"""Wait for a condition: the only place in the tests where anything sleeps."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PAUSE_SECONDS = 0.01


def wait_until(condition: Callable[[], T], timeout: float = 10.0, message: str = "condition not met") -> T:
    """Return the first true answer of `condition`; AssertionError with `message` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            raise _not_met(message, timeout)
        time.sleep(PAUSE_SECONDS)  # noqa: TID251 - the one place that the rule points to
    return answer


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout: float = 10.0, message: str = "condition not met"
) -> T: ...
@overload
async def wait_until_async(
    condition: Callable[[], T], timeout: float = 10.0, message: str = "condition not met"
) -> T: ...
async def wait_until_async(
    condition: Callable[[], object], timeout: float = 10.0, message: str = "condition not met"
) -> object:
    """As `wait_until`, for a plain or an async condition; a condition that hangs is given up at the same time."""
    try:
        async with asyncio.timeout(timeout) as limit:
            deadline = asyncio.get_running_loop().time() + timeout
            while not (answer := await _answer_of(condition)):
                await asyncio.sleep(PAUSE_SECONDS)
                # A library that swallows a cancellation (asyncio.wait_for may, before Python 3.12) loses the time-out.
                if asyncio.get_running_loop().time() >= deadline + PAUSE_SECONDS:
                    raise _not_met(message, timeout)
            return answer
    except TimeoutError:
        if not limit.expired():
            raise
        raise _not_met(message, timeout) from None


async def _answer_of(condition: Callable[[], object]) -> object:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer


def _not_met(message: str, timeout: float) -> AssertionError:
    return AssertionError(f"{message} (waited {timeout:g} s)")
