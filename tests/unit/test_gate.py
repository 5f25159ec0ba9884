"""The gate: many at once or one alone, in the order in which they came."""

import asyncio

from worker_agent.gate import Gate


class Guests:
    """Who is inside, and a way to let each of them go."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside: set[str] = set()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def come(self, name: str, *, alone: bool = False) -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, alone))
        await settled()

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await settled()

    async def _stay(self, name: str, alone: bool) -> None:
        async with self.gate.passed(alone=alone):
            self.inside.add(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.discard(name)


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def is_open(gate: Gate) -> bool:
    waiting = asyncio.create_task(gate.wait_until_open())
    await settled()
    waiting.cancel()
    return waiting.done()


async def test_many_are_inside_at_once() -> None:
    guests = Guests(Gate())
    for name in "abc":
        await guests.come(name)
    assert guests.inside == {"a", "b", "c"}
    assert await is_open(guests.gate)


async def test_one_alone_waits_for_the_others_and_lets_no_other_in() -> None:
    guests = Guests(Gate())
    await guests.come("a")
    await guests.come("alone", alone=True)
    await guests.come("late")
    assert guests.inside == {"a"}
    assert not await is_open(guests.gate)
    await guests.go("a")
    assert guests.inside == {"alone"}
    assert not await is_open(guests.gate)
    await guests.go("alone")
    assert guests.inside == {"late"}
    assert await is_open(guests.gate)


async def test_two_who_want_to_be_alone_take_turns() -> None:
    guests = Guests(Gate())
    await guests.come("first", alone=True)
    await guests.come("second", alone=True)
    assert guests.inside == {"first"}
    await guests.go("first")
    assert guests.inside == {"second"}


async def test_a_cancelled_waiter_delays_no_other() -> None:
    guests = Guests(Gate())
    await guests.come("a")
    await guests.come("alone", alone=True)
    await guests.come("late")
    guests.tasks["alone"].cancel()
    await settled()
    assert guests.inside == {"a", "late"}
    assert await is_open(guests.gate)


async def test_who_is_cancelled_inside_leaves() -> None:
    guests = Guests(Gate())
    await guests.come("alone", alone=True)
    await guests.come("late")
    guests.tasks["alone"].cancel()
    await settled()
    assert guests.inside == {"late"}


async def test_a_turn_that_comes_with_the_cancellation_is_given_on() -> None:
    guests = Guests(Gate())
    await guests.come("a")
    await guests.come("alone", alone=True)
    await guests.come("late")
    guests._leave["a"].set()
    await asyncio.sleep(0)  # "a" leaves and lets "alone" in, which has not run yet
    guests.tasks["alone"].cancel()
    await settled()
    assert guests.inside == {"late"}
    assert await is_open(guests.gate)
