"""The rate of the writes to a cluster."""

import asyncio

from queue_engine.backends.kubernetes.budget import MAX_PAUSE_SECONDS, Budget
from queue_engine.backends.turns import Party


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


async def test_a_tenant_with_many_writes_does_not_delay_those_of_others() -> None:
    clock = Clock()
    budget = Budget(500, 60, clock=clock)
    assert passes(budget) == 60  # so that every caller below has to wait
    order: list[str] = []

    async def caller(party: Party) -> None:
        await budget.take(party)
        order.append(party.tenant)

    callers = [asyncio.create_task(caller(Party("a", str(number % 3)))) for number in range(50)]
    callers += [asyncio.create_task(caller(Party("b", "9"))) for _ in range(2)]
    await asyncio.sleep(0)
    assert order == []
    clock.now += 1
    await asyncio.gather(*callers)
    assert [number for number, tenant in enumerate(order) if tenant == "b"] == [1, 3]


async def test_a_caller_that_is_cancelled_takes_no_pass() -> None:
    clock = Clock()
    budget = Budget(100, 1, clock=clock)
    await budget.take()
    callers = [asyncio.create_task(budget.take()) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    callers[1].cancel()
    clock.now += 0.0101  # one pass
    await callers[2]
    assert all(one.cancelled() for one in callers[:2])
    assert passes(budget) == 0
