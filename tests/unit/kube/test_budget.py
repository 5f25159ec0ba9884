"""The rate of the writes to a cluster."""

import asyncio

from queue_engine.backends.kubernetes.budget import MAX_PAUSE_SECONDS, Budget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def passes(budget: Budget) -> int:
    """The number of passes that can be had now."""
    count = 0
    while budget._wait_for_pass() <= 0:
        count += 1
    return count


def test_a_burst_passes_at_once_and_then_a_number_per_second() -> None:
    clock = Clock()
    budget = Budget(20, 40, clock=clock)
    assert passes(budget) == 40
    clock.now += 1.001
    assert passes(budget) == 20
    clock.now += 3600
    assert passes(budget) == 40


def test_nothing_passes_for_the_time_that_the_server_asks_for() -> None:
    clock = Clock()
    budget = Budget(20, 40, clock=clock)
    budget.pause(7)
    assert passes(budget) == 0
    assert round(budget._wait_for_pass()) == 7
    clock.now += 7.001
    assert passes(budget) == 40
    budget.pause(10**9)
    clock.now += MAX_PAUSE_SECONDS + 0.001
    assert passes(budget) == 40


async def test_callers_pass_in_their_order() -> None:
    budget = Budget(200, 1)
    order: list[int] = []

    async def caller(number: int) -> None:
        await budget.take()
        order.append(number)

    await asyncio.gather(*map(caller, range(6)))
    assert order == [0, 1, 2, 3, 4, 5]
