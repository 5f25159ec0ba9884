"""Time limits that share one timer."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from queue_engine.aio import CommonTimeout
from tests.waiting import GIVE_UP_SECONDS

SHORT = 0.02


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_block_that_ends_in_time_is_not_disturbed() -> None:
    timeout = CommonTimeout(GIVE_UP_SECONDS)
    with timeout.limit():
        await asyncio.sleep(0)


async def test_a_block_beyond_its_limit_raises_and_leaves_its_task_uncancelled() -> None:
    timeout = CommonTimeout(SHORT)
    with pytest.raises(TimeoutError), timeout.limit():
        await forever()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_each_block_has_its_own_limit() -> None:
    """The timer of a block that has ended in time neither ends the next block early nor leaves it without a limit."""
    timeout, loop = CommonTimeout(SHORT), asyncio.get_running_loop()
    with timeout.limit():
        await asyncio.sleep(0)
    await asyncio.sleep(SHORT / 2)
    began = loop.time()
    with pytest.raises(TimeoutError), timeout.limit():
        await asyncio.wait_for(forever(), GIVE_UP_SECONDS)
    assert SHORT <= loop.time() - began < GIVE_UP_SECONDS


async def test_many_blocks_at_once_reach_their_limits() -> None:
    timeout = CommonTimeout(SHORT)

    async def one() -> None:
        with timeout.limit():
            await forever()

    async with asyncio.timeout(GIVE_UP_SECONDS):
        results = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError] * 20


async def test_a_block_can_end_before_the_limit_of_the_others() -> None:
    timeout, loop = CommonTimeout(GIVE_UP_SECONDS), asyncio.get_running_loop()
    began = loop.time()

    async def ends_early() -> None:
        with timeout.limit() as limit:
            limit.end_within(SHORT)
            await asyncio.wait_for(forever(), GIVE_UP_SECONDS)

    with timeout.limit():
        with pytest.raises(TimeoutError):
            await ends_early()
        await asyncio.sleep(0)  # the other block goes on
    assert SHORT <= loop.time() - began < GIVE_UP_SECONDS


async def test_a_block_that_has_ended_is_not_ended_early() -> None:
    timeout = CommonTimeout(GIVE_UP_SECONDS)
    with timeout.limit() as limit:
        limit.end_within(SHORT)
    await asyncio.sleep(2 * SHORT)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_cancelled_task_is_cancelled_and_not_timed_out() -> None:
    timeout = CommonTimeout(GIVE_UP_SECONDS)
    began = asyncio.Event()

    async def one() -> None:
        with timeout.limit():
            began.set()
            await forever()

    task = asyncio.create_task(one())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_at_the_limit_is_not_replaced() -> None:
    timeout = CommonTimeout(SHORT)

    async def one() -> None:
        with timeout.limit():
            try:
                await forever()
            finally:
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await one()


def test_event_loops_have_separate_timers() -> None:
    timeout = CommonTimeout(SHORT)

    async def times_out() -> bool:
        try:
            with timeout.limit():
                await forever()
        except TimeoutError:
            return True
        return False

    def run(work: Coroutine[Any, Any, bool]) -> bool:
        return asyncio.run(asyncio.wait_for(work, GIVE_UP_SECONDS))

    assert run(times_out())
    assert run(times_out())
