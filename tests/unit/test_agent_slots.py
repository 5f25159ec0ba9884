"""The slots of an agent: how many attempts have one, how many may wait for one, and for how long."""

import asyncio

import pytest

from queue_engine.domain.workers import Pace
from tests.waiting import wait_until_async
from worker_agent.slots import MEAN_OF_RUNS, Slots

LONG = 3600.0


async def test_without_short_calls_no_attempt_begins_beyond_the_slots() -> None:
    slots, ends = Slots(2), asyncio.Event()
    for _ in range(2):
        slots.run(hold(slots, ends))
    assert slots.room == 0
    ends.set()
    await wait_until_async(lambda: not slots.runners, 60)
    assert slots.room >= 2


@pytest.mark.parametrize(("ended", "ahead"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 2)])
async def test_half_as_many_attempts_may_wait_as_slots_became_free(ended: int, ahead: int) -> None:
    slots = Slots(4, recent_seconds=LONG)
    for _ in range(ended):
        async with slots.slot():
            pass
    assert slots.room == 4 + ahead


async def test_slots_that_became_free_earlier_do_not_count() -> None:
    slots = Slots(4, recent_seconds=0)
    for _ in range(4):
        async with slots.slot():
            pass
    await wait_until_async(lambda: slots.room == 4, 60)


async def test_slots_are_given_in_the_order_of_the_attempts() -> None:
    slots, ends = Slots(1, max_wait_seconds=LONG), asyncio.Event()
    order: list[int] = []

    async def attempt(number: int) -> None:
        async with slots.slot() as has_slot:
            assert has_slot
            order.append(number)
            await ends.wait()

    for number in range(4):
        slots.run(attempt(number))
    await wait_until_async(lambda: order == [0], 60)
    ends.set()
    await wait_until_async(lambda: order == [0, 1, 2, 3], 60)


async def test_a_wait_for_a_slot_is_bounded() -> None:
    slots = Slots(1, max_wait_seconds=0.01)
    async with slots.slot(), slots.slot() as has_slot:
        assert not has_slot
    async with slots.slot() as has_slot:
        assert has_slot


async def test_cancelled_waits_take_no_slot() -> None:
    slots, ends = Slots(1, max_wait_seconds=LONG), asyncio.Event()

    async def first() -> None:
        await hold(slots, ends)
        late.cancel()  # in the moment between its turn and its next step

    running = asyncio.create_task(first())
    early, late = [asyncio.create_task(hold(slots, ends)) for _ in range(2)]
    await asyncio.sleep(0)
    early.cancel()  # before the slot is free
    await asyncio.wait({early})
    ends.set()
    await asyncio.wait({running, late})
    assert late.cancelled()
    async with asyncio.timeout(60), slots.slot() as has_slot:
        assert has_slot


async def test_an_attempt_that_has_left_its_slot_makes_room_within_a_limit() -> None:
    slots, ends = Slots(2, recent_seconds=0), asyncio.Event()

    async def attempt() -> None:
        slot = slots.slot()
        async with slot:
            slot.leave()
            await ends.wait()

    for room in (2, 2, 2, 1):
        await wait_until_async(lambda: slots.room == room, 60)  # noqa: B023
        slots.run(attempt())
    await wait_until_async(lambda: slots.room == 0, 60)
    await wait_until_async(lambda: not slots.is_full, 60)
    ends.set()
    await wait_until_async(lambda: slots.room == 2, 60)


class Clock:
    """A clock that a test sets."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


async def test_the_pace_is_the_mean_time_for_which_a_task_has_a_slot() -> None:
    clock = Clock()
    slots = Slots(3, monotonic=clock)
    assert slots.pace == Pace(3)
    for run_seconds in (1.0, 2.0, 6.0):
        async with slots.slot() as has_slot:
            assert has_slot
            clock.seconds += run_seconds
    assert slots.pace.mean_run_ms == pytest.approx(3000, rel=0.05)
    for _ in range(10 * MEAN_OF_RUNS):
        slot = slots.slot()
        async with slot:
            clock.seconds += 0.5
            slot.leave()
            clock.seconds += 5  # its outcome is recorded, and its slot is free
    assert slots.pace.mean_run_ms == pytest.approx(500, rel=0.01)


async def test_the_pace_has_the_gaps_between_short_tasks_and_no_idle_time() -> None:
    clock = Clock()
    slots = Slots(1, monotonic=clock)
    for _ in range(10 * MEAN_OF_RUNS):
        async with slots.slot():
            clock.seconds += 0.001
        clock.seconds += 0.019  # the next task is claimed
    assert slots.pace.mean_run_ms == pytest.approx(20, rel=0.02)
    for _ in range(10 * MEAN_OF_RUNS):
        async with slots.slot():
            clock.seconds += 0.2
        clock.seconds += 3600  # no task waits
    assert slots.pace.mean_run_ms == pytest.approx(200, rel=0.01)


async def hold(slots: Slots, ends: asyncio.Event) -> None:
    """An attempt that keeps its slot until `ends`."""
    async with slots.slot():
        await ends.wait()
