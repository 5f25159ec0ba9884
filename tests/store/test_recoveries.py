"""A recovery sends each given-up delivery of its period once, a few at a time, whichever processes die."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from queue_engine.controller.controller import Controller, ControllerConfig
from queue_engine.delivery.lanes import LaneLimits
from queue_engine.domain.deliveries import RecoveryState, Trigger
from queue_engine.domain.endpoints import DesiredState
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.recoveries import RECOVERED_AT_ONCE, Start
from queue_engine.store.store import Store
from tests.store.bench import DELIVERED, GIVEN_UP, LONG_LEASE_MS, TENANT, TICK_MS, Bench, again, answer, config

LATER = 10**14


async def give_up(bench: Bench, count: int, *, first: int = 0) -> Outbox:
    """Give up deliveries at the times 1000, 1001, …, and return the outbox."""
    outbox = await bench.outbox()
    for number in range(first, first + count):
        await bench.finish(f"t{number}", webhook=True)
        await bench.deliver(outbox, GIVEN_UP)
        await bench.probe.ask("ZADD", bench.keys.given_up, "XX", 1000 + number, f"t{number}")
    return outbox


async def start(bench: Bench, since_ms: int = 0, until_ms: int | None = None, recovery_id: str = "r1") -> Start:
    return await bench.store.recoveries.start(bench.endpoint_id, recovery_id, since_ms=since_ms, until_ms=until_ms)


async def advance(bench: Bench) -> int:
    return await bench.store.recoveries.advance(bench.endpoint_id)


async def state(bench: Bench) -> tuple[str, int, int]:
    """Return state, number of recovered deliveries, and number of remaining ones."""
    found = await bench.store.recoveries.get(bench.endpoint_id)
    assert found is not None
    return found.state.value, found.sent, found.remaining


def task_of(entry: OutboxEntry) -> str:
    return entry.delivery_id.rpartition(":")[2]


async def settle_all(outbox: Outbox, *, at_most: int = 1000) -> list[str]:
    """Deliver what is due until nothing is, and return the tasks in their order."""
    tasks: list[str] = []
    while entries := await outbox.read(10, block_ms=1):
        for entry in entries:
            assert await outbox.open(entry) is not None
            assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
            tasks.append(task_of(entry))
            assert len(tasks) <= at_most
    return tasks


def controller(store: Store) -> Controller:
    config = ControllerConfig(
        controller_id="c", jobs_redis_url="", lease_seconds=30, max_lost=3, leader_lease_seconds=15, grace_seconds=1
    )
    return Controller(config, store, None, None)  # type: ignore[arg-type]


async def test_every_delivery_is_sent_once_and_each_that_ends_brings_the_next(bench: Bench) -> None:
    count = 3 * RECOVERED_AT_ONCE + 1
    outbox = await give_up(bench, count)
    assert await start(bench) is Start.STARTED
    assert await state(bench) == ("running", 0, count)
    assert await advance(bench) == RECOVERED_AT_ONCE
    assert await settle_all(outbox) == [f"t{number}" for number in range(count)]
    assert await state(bench) == ("done", count, 0)
    found = await bench.store.recoveries.get(bench.endpoint_id)
    assert found is not None
    assert (found.total, found.ended_at_ms) == (count, found.updated_at_ms)
    for number in range(count):
        ledger = await bench.store.deliveries.ledger(bench.endpoint_id, f"t{number}")
        assert [one.trigger for one in ledger] == [Trigger.RESULT, Trigger.RECOVER]


async def test_at_most_a_few_deliveries_are_due_at_a_time(bench: Bench) -> None:
    outbox = await give_up(bench, 3 * RECOVERED_AT_ONCE)
    await start(bench)
    await asyncio.gather(*(advance(bench) for _ in range(10)))
    assert await outbox.pending() == {"fresh": RECOVERED_AT_ONCE, "retry": 0, "parked": 0}
    assert await advance(bench) == 0
    assert len(await outbox.read(10, block_ms=1)) == RECOVERED_AT_ONCE


def test_recovered_deliveries_leave_slots_of_every_destination_to_fresh_ones() -> None:
    limits = LaneLimits()
    assert min(limits.unproven_slots_each, limits.trusted_slots_each) // 2 >= RECOVERED_AT_ONCE


async def test_a_fresh_result_is_read_behind_a_few_recovered_ones_at_most(bench: Bench) -> None:
    outbox = await give_up(bench, 10 * RECOVERED_AT_ONCE)
    await start(bench)
    await advance(bench)
    await bench.finish("fresh", webhook=True)
    assert (await settle_all(outbox)).index("fresh") <= RECOVERED_AT_ONCE


async def test_only_deliveries_of_the_period_are_sent(bench: Bench) -> None:
    outbox = await give_up(bench, 6)
    await start(bench, 1001, 1003)
    await advance(bench)
    assert await settle_all(outbox) == ["t1", "t2", "t3"]
    assert await state(bench) == ("done", 3, 0)


async def test_a_period_ends_with_the_start_of_the_recovery(bench: Bench) -> None:
    await give_up(bench, 1)
    await start(bench, 0, LATER)
    found = await bench.store.recoveries.get(bench.endpoint_id)
    assert found is not None
    assert found.until_ms == found.created_at_ms


async def test_a_delivery_that_is_given_up_again_is_not_sent_twice(bench: Bench) -> None:
    """Not even if the store's clock was set back after the recovery began."""
    outbox = await give_up(bench, 2)
    await start(bench)
    await bench.probe.ask("HSET", bench.keys.recovery, "upto", LATER)
    await advance(bench)
    for entry in await outbox.read(10, block_ms=1):
        assert await outbox.open(entry) is not None
        await outbox.settle(entry, answer(410), GIVEN_UP, at_ms=1)
    assert await advance(bench) == 0
    assert await state(bench) == ("done", 2, 0)
    assert await outbox.read(10, block_ms=1) == []
    found = await bench.store.given_up.page(bench.endpoint_id, page=1, size=10)
    assert {one.task.task_id for one in found.items} == {"t0", "t1"}


async def test_a_delivery_that_waits_again_makes_room_for_the_next(bench: Bench) -> None:
    outbox = await give_up(bench, RECOVERED_AT_ONCE + 2)
    await start(bench)
    await advance(bench)
    for entry in await outbox.read(10, block_ms=1):
        assert await outbox.open(entry) is not None
        await outbox.settle(entry, answer(500), again(60), at_ms=1)
    assert await outbox.pending() == {"fresh": 2, "retry": RECOVERED_AT_ONCE, "parked": 0}


async def test_a_recovery_goes_on_after_the_delivery_process_was_killed(bench: Bench) -> None:
    count = RECOVERED_AT_ONCE + 3
    dead = await give_up(bench, count)
    await start(bench)
    await advance(bench)
    assert len(await dead.read(10, block_ms=1)) == RECOVERED_AT_ONCE
    heir = bench.store.outbox("d2")
    await bench.probe.ask("ZADD", bench.partition.senders, 1, "d1")
    await bench.steady()
    adopted = await heir.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS)
    for entry in adopted:
        assert await heir.open(entry) is not None
        assert (await heir.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    tasks = [task_of(entry) for entry in adopted] + await settle_all(heir)
    assert sorted(tasks) == sorted(f"t{number}" for number in range(count))
    assert (await state(bench))[:2] == ("done", count)


async def test_the_controllers_advance_a_recovery_that_no_delivery_process_advances(bench: Bench) -> None:
    outbox = await give_up(bench, RECOVERED_AT_ONCE + 1)
    await start(bench)
    first, second = controller(bench.store), controller(bench.store)
    assert sum(await asyncio.gather(first.recover(), second.recover())) == RECOVERED_AT_ONCE
    assert await first.recover() == 0, "those that are due are waited for"
    for entry in await outbox.read(10, block_ms=1):
        await outbox.defer(entry, delay_ms=60_000)
    assert await second.recover() == 1
    assert await second.recover() == 0
    assert (await state(bench))[0] == "done"
    assert await bench.probe.ask("EXISTS", bench.partition.recoveries) == 0


async def test_a_cancelled_recovery_sends_nothing_more(bench: Bench) -> None:
    outbox = await give_up(bench, 3 * RECOVERED_AT_ONCE)
    await start(bench)
    await advance(bench)
    assert await bench.store.recoveries.cancel(bench.endpoint_id)
    assert len(await settle_all(outbox)) == RECOVERED_AT_ONCE, "those that were due are still sent"
    assert await advance(bench) == 0
    assert await controller(bench.store).recover() == 0
    assert await state(bench) == ("cancelled", RECOVERED_AT_ONCE, 2 * RECOVERED_AT_ONCE)
    assert not await bench.store.recoveries.cancel(bench.endpoint_id)
    assert await start(bench, recovery_id="r2") is Start.STARTED
    await advance(bench)
    assert len(await settle_all(outbox)) == 2 * RECOVERED_AT_ONCE


async def test_a_delivery_of_a_cancelled_recovery_is_not_made_due_late(bench: Bench) -> None:
    """The process has read the deliveries before the cancellation, and goes on after it."""
    outbox = await give_up(bench, 1)
    await start(bench)
    await bench.store.recoveries.cancel(bench.endpoint_id)
    late = await bench.store.scripts.recover_delivery(bench.keys.of_task("t0"), recovery_id="r1", limit=9)
    assert late.word == "ENDED"
    assert await outbox.read(10, block_ms=1) == []


async def test_an_endpoint_has_one_recovery_at_a_time(bench: Bench) -> None:
    await give_up(bench, 3 * RECOVERED_AT_ONCE)
    assert await start(bench) is Start.STARTED
    assert await start(bench) is Start.STARTED, "the same call, after a lost reply"
    assert await start(bench, recovery_id="r2") is Start.SAME
    assert await start(bench, 5, recovery_id="r3") is Start.OTHER
    assert await start(bench, 0, LATER, recovery_id="r4") is Start.OTHER
    missing = await bench.store.recoveries.start("987654", "r1", since_ms=0, until_ms=None)
    assert missing is Start.NOT_FOUND
    await bench.store.recoveries.cancel(bench.endpoint_id)


async def test_a_recovery_without_deliveries_ends_at_once(bench: Bench) -> None:
    await start(bench)
    assert await advance(bench) == 0
    assert await state(bench) == (RecoveryState.DONE, 0, 0)


async def test_entries_that_are_not_given_up_any_longer_do_not_stop_a_recovery(bench: Bench) -> None:
    """A process of an older version has removed a task, or sent its result, and left the entries."""
    outbox = await give_up(bench, 1)
    stale = {f"gone{number}": number + 1 for number in range(RECOVERED_AT_ONCE)}
    await bench.store.redis.zadd(bench.keys.given_up, stale)
    await start(bench)
    assert [await advance(bench), await advance(bench)] == [0, 1]
    assert await settle_all(outbox) == ["t0"]


@pytest.mark.parametrize("end", ["rerun", "delete"])
async def test_a_recovered_delivery_whose_task_is_gone_makes_room(bench: Bench, end: str) -> None:
    outbox = await give_up(bench, RECOVERED_AT_ONCE + 1)
    await start(bench)
    await advance(bench)
    remove: dict[str, Callable[[], Awaitable[object]]] = {
        "rerun": lambda: bench.store.tasks.rerun(bench.endpoint_id, "t0", "call"),
        "delete": lambda: bench.store.tasks.delete(bench.endpoint_id, "t0"),
    }
    await remove[end]()
    assert await advance(bench) == 1
    assert len(await settle_all(outbox)) == RECOVERED_AT_ONCE


async def test_a_removed_endpoint_leaves_no_recovery_behind(store: Store, bench: Bench) -> None:
    endpoint = await store.endpoints.create(TENANT, config())
    other = Bench(store, endpoint.endpoint_id, bench.probe, [endpoint.endpoint_id])
    await give_up(other, 2 * RECOVERED_AT_ONCE)
    await start(other)
    await store.endpoints.set_desired_state(other.endpoint_id, TENANT, DesiredState.DELETED)
    await controller(store).delete()
    left = {name for name in await bench.probe.keys() if f":{other.endpoint_id}" in name}
    assert left == set()
    assert await bench.probe.ask("EXISTS", other.partition.recoveries) == 0
