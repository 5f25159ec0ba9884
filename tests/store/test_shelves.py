"""Shelves: deliveries that a process has read and has no room for wait in the outbox, and any process takes them."""

import asyncio
import time

import pytest

from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.outbox.shelves import Shelf, shelf_of
from tests.store.bench import DELIVERED, LONG_LEASE_MS, TENANT, TICK_MS, Bench, again, answer
from tests.waiting import wait_until_async


async def read(bench: Bench, outbox: Outbox, count: int, first: int = 0) -> list[OutboxEntry]:
    """End tasks with a webhook, and read their entries."""
    for number in range(first, first + count):
        await bench.finish(f"t{number}", webhook=True)
    entries = await outbox.read(count, block_ms=1000)
    assert len(entries) == count
    return entries


def shelf_of_entry(entry: OutboxEntry) -> Shelf:
    return shelf_of(entry.partition, entry.tenant, entry.destination)


def ids(entries: list[OutboxEntry]) -> list[str]:
    return [entry.delivery_id for entry in entries]


async def adopt(bench: Bench, outbox: Outbox) -> list[OutboxEntry]:
    await bench.steady()
    return await outbox.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS)


async def test_an_entry_has_the_tenant_of_its_endpoint(bench: Bench) -> None:
    [entry] = await read(bench, await bench.outbox(), 1)
    assert entry.tenant == TENANT
    assert shelf_of_entry(entry).tenant == TENANT


async def test_what_is_on_a_shelf_is_taken_in_its_order_and_delivered_once(bench: Bench) -> None:
    outbox = await bench.outbox()
    entries = await read(bench, outbox, 5)
    shelf = shelf_of_entry(entries[0])
    await outbox.shelve(entries)
    assert outbox.shelves.next(time.monotonic(), lambda _: True) == (shelf, "0")

    first = await outbox.take(shelf, "0", 2)
    place = outbox.shelves.next(time.monotonic(), lambda _: True)
    assert place == (shelf, first[-1].entry_id)
    rest = await outbox.take(*place, 10)

    assert ids([*first, *rest]) == ids(entries)
    assert await bench.probe.pending(bench.partition.outbox, "delivery") == dict.fromkeys(
        [entry.entry_id for entry in entries], "d1"
    )
    for entry in (*first, *rest):
        assert await outbox.open(entry) is not None
        assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    assert await outbox.take(shelf, "0", 10) == []


async def test_an_empty_shelf_leaves_nothing_behind(bench: Bench) -> None:
    outbox = await bench.outbox()
    entries = await read(bench, outbox, 3)
    shelf = shelf_of_entry(entries[0])
    await outbox.shelve(entries)
    assert shelf.name in await consumers(bench)
    await outbox.take(shelf, "0", 10)
    assert await consumers(bench) == {"d1"}
    assert len(outbox.shelves) == 0


async def test_another_process_finds_the_shelves_and_takes_from_them(bench: Bench) -> None:
    first, second = await bench.outbox("first"), await bench.outbox("second")
    entries = await read(bench, first, 3)
    shelf = shelf_of_entry(entries[0])
    await first.shelve(entries)
    assert await adopt(bench, second) == [], "a shelf is no dead process"
    assert second.shelves.next(time.monotonic(), lambda _: True) == (shelf, "0")
    taken = await asyncio.gather(*(outbox.take(shelf, "0", 2) for outbox in (first, second)))
    assert sorted(ids([*taken[0], *taken[1]])) == sorted(ids(entries))


async def test_what_a_process_took_from_a_shelf_is_adopted_when_it_dies(bench: Bench) -> None:
    first, heir = await bench.outbox("first"), await bench.outbox("heir")
    entries = await read(bench, first, 3)
    await first.shelve(entries)
    await first.take(shelf_of_entry(entries[0]), "0", 10)
    await bench.probe.ask("ZADD", bench.partition.senders, 1, "first")
    assert ids(await adopt(bench, heir)) == ids(entries)


async def test_a_process_puts_only_its_own_entries_onto_a_shelf(bench: Bench) -> None:
    """A process that was paused may have entries that another process has adopted since."""
    paused, heir = await bench.outbox("paused"), await bench.outbox("heir")
    entries = await read(bench, paused, 3)
    await bench.probe.ask("ZADD", bench.partition.senders, 1, "paused")
    assert len(await adopt(bench, heir)) == 3
    await paused.shelve(entries)
    assert set((await bench.probe.pending(bench.partition.outbox, "delivery")).values()) == {"heir"}


async def test_a_task_that_is_deleted_leaves_its_shelf(bench: Bench) -> None:
    outbox = await bench.outbox()
    entries = await read(bench, outbox, 2)
    shelf = shelf_of_entry(entries[0])
    await outbox.shelve(entries)
    await bench.store.tasks.delete(bench.endpoint_id, "t0")
    assert ids(await outbox.take(shelf, "0", 10)) == ids(entries)[1:]


async def test_the_gauge_counts_what_is_on_shelves(bench: Bench) -> None:
    outbox = await bench.outbox()
    await outbox.shelve(await read(bench, outbox, 3))
    assert (await outbox.pending())["fresh"] == 3


async def test_a_shelf_of_a_store_that_came_back_empty_is_empty(bench: Bench) -> None:
    outbox = await bench.outbox()
    entries = await read(bench, outbox, 3)
    await outbox.shelve(entries[:1])
    await bench.probe.ask("FLUSHALL")
    bench.endpoint_ids.clear()
    await outbox.shelve(entries[1:])
    assert await outbox.take(shelf_of_entry(entries[0]), "0", 10) == []
    assert len(outbox.shelves) == 0


async def test_more_than_fits_into_one_script_is_put_onto_a_shelf(bench: Bench) -> None:
    outbox = await bench.outbox()
    entries = await read(bench, outbox, 300)
    await outbox.shelve(entries)
    assert len(await outbox.take(shelf_of_entry(entries[0]), "0", 1000)) == 300


# Looking for due deliveries when something is due


async def test_a_process_knows_when_its_own_retry_is_due(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again(0.05))
    await outbox.wait_until_due()
    await outbox.promote_due()
    assert (await outbox.pending())["fresh"] == 1


async def test_a_process_is_told_of_a_retry_that_is_due_earlier(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again(3600))
    waiting = asyncio.create_task(outbox.wait_until_due())
    await bench.finish("t2", webhook=True)
    await bench.deliver(outbox, again(0.05))
    await waiting
    await outbox.promote_due()
    assert await outbox.pending() == {"fresh": 1, "retry": 1, "parked": 0}


@pytest.mark.parametrize("is_parked", [False, True])
async def test_a_process_learns_of_the_retries_of_another_one(bench: Bench, is_parked: bool) -> None:
    first, second = await bench.outbox("first"), await bench.outbox("second")
    await bench.finish("t1", webhook=True)
    if is_parked:
        [entry] = await first.read(1, block_ms=1)
        await first.defer(entry, delay_ms=50, parked=True)
    else:
        await bench.deliver(first, again(0.05))
    await adopt(bench, second)
    await second.wait_until_due()
    await second.promote_due()
    assert (await second.pending())["fresh"] == 1


async def test_a_process_without_a_waiting_delivery_looks_for_none(bench: Bench) -> None:
    outbox = await bench.outbox()
    await adopt(bench, outbox)
    waiting = asyncio.create_task(outbox.wait_until_due())
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox)
    await bench.probe.ask("PING")
    assert not waiting.done()
    waiting.cancel()


async def test_many_due_deliveries_are_moved_round_by_round(bench: Bench) -> None:
    outbox = await bench.outbox()
    for entry in await read(bench, outbox, 200):
        await outbox.defer(entry, delay_ms=0)
    rounds = 0
    await outbox.wait_until_due()
    while await outbox.promote_due():
        rounds += 1
    assert rounds >= 1
    await wait_until_async(lambda: _all_are_fresh(outbox))


async def _all_are_fresh(outbox: Outbox) -> bool:
    await outbox.promote_due()
    return await outbox.pending() == {"fresh": 200, "retry": 0, "parked": 0}


async def consumers(bench: Bench) -> set[str]:
    found = await bench.store.redis.xinfo_consumers(bench.partition.outbox, "delivery")
    return {one["name"].decode() for one in found}
