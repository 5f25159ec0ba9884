"""Long work of many requests: one step of one of them in a round of the event loop."""

import asyncio
import itertools
from collections.abc import Generator

import pytest

from queue_engine.api.http.turns import Turns
from tests.waiting import wait_until_async

REQUESTS, STEPS = 5, 7


class Work:
    """Steps of requests, in the order in which they are done."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def of(self, request: int) -> Generator[None, None, int]:
        for _ in range(STEPS):
            self.done.append(request)
            yield
        return request


async def test_other_work_is_done_between_two_steps_of_any_requests() -> None:
    work, turns, seen = Work(), Turns(), [0]

    async def other_work() -> None:
        while True:
            seen.append(len(work.done))
            await asyncio.sleep(0)

    other = asyncio.create_task(other_work())
    results = await asyncio.gather(*(turns.run(work.of(request)) for request in range(REQUESTS)))
    other.cancel()
    assert results == list(range(REQUESTS))
    assert max(after - before for before, after in itertools.pairwise(seen)) == 1


async def test_each_request_has_its_turn() -> None:
    work, turns = Work(), Turns()
    await asyncio.gather(*(turns.run(work.of(request)) for request in range(REQUESTS)))
    assert work.done == list(range(REQUESTS)) * STEPS


async def test_an_error_of_a_step_leaves_the_turn_to_the_others() -> None:
    work, turns = Work(), Turns()

    def wrong() -> Generator[None, None, int]:
        yield
        raise ValueError("damaged")

    failing = asyncio.create_task(turns.run(wrong()))
    assert await turns.run(work.of(1)) == 1
    with pytest.raises(ValueError, match="damaged"):
        await failing


async def test_a_cancelled_request_leaves_the_turn_to_the_others() -> None:
    work, turns = Work(), Turns()
    first = asyncio.create_task(turns.run(work.of(0)))
    second = asyncio.create_task(turns.run(work.of(1)))
    await wait_until_async(lambda: bool(work.done))
    first.cancel()
    assert await second == 1
