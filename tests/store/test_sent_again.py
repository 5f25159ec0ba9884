"""The result of an ended task is sent again on request, once for each request, and the index of what was given up."""

import asyncio
import json

import pytest

from queue_engine.domain.deliveries import Trigger
from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import DeliveryStatus, Failed, Outcome, Succeeded, TaskStatus
from queue_engine.store.deliveries import Resend
from queue_engine.store.given_up import DONE
from queue_engine.store.keys import FORMAT, GIVEN_UP_BUILD, META
from queue_engine.store.outbox.outbox import Outbox
from tests.store.bench import DELIVERED, GIVEN_UP, TOO_LARGE_TO_JOIN, Bench, again, answer

COUNTED = ("cmdstat_hgetall", "cmdstat_zrange", "cmdstat_zrevrange")
OUTCOMES = [Succeeded(b"1"), TOO_LARGE_TO_JOIN, Failed("no")]


async def send(bench: Bench, task_id: str = "t1", trigger: Trigger = Trigger.RETRY, call_id: str = "c1") -> Resend:
    return await bench.store.deliveries.send_now(bench.endpoint_id, task_id, call_id, trigger)


async def given_up(bench: Bench, page: int = 1, size: int = 10) -> list[str]:
    found = await bench.store.given_up.page(bench.endpoint_id, page=page, size=size)
    return [one.task.task_id for one in found.items]


async def give_up(bench: Bench, outbox: Outbox, *task_ids: str) -> None:
    for task_id in task_ids:
        await bench.finish(task_id, webhook=True)
        await bench.deliver(outbox, GIVEN_UP)


async def retry_count(bench: Bench, outbox: Outbox) -> int:
    """Deliver the only result that is due, and return the `retry_count` that its receiver has got."""
    (entry,) = await outbox.read(10, block_ms=1)
    delivery = await outbox.open(entry)
    assert delivery is not None
    assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    count: int = json.loads(delivery.body)["retry_count"]
    return count


# Send now


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_a_given_up_result_is_sent_again_under_the_same_id(bench: Bench, outcome: Outcome) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", outcome=outcome, webhook=True)
    (entry,) = await outbox.read(10, block_ms=1)
    first = await outbox.open(entry)
    assert first is not None
    await outbox.settle(entry, answer(410), GIVEN_UP, at_ms=1)

    assert await send(bench) is Resend.SENT
    task = await bench.task("t1")
    assert (task.delivery_status, task.delivery_error, task.delivery_attempts) == (DeliveryStatus.FAILED, None, 1)
    assert task.next_delivery_at_ms == task.updated_at_ms
    assert await given_up(bench) == []

    (entry,) = await outbox.read(10, block_ms=1)
    second = await outbox.open(entry)
    assert second is not None
    assert (second.message_id, second.attempts) == (first.message_id, 0), "all attempts of the schedule are left"
    assert json.loads(second.body)["retry_count"] == 2
    await outbox.settle(entry, answer(), DELIVERED, at_ms=2)
    task = await bench.task("t1")
    assert task.delivery_status is DeliveryStatus.SUCCESS
    ledger = await bench.store.deliveries.ledger(bench.endpoint_id, "t1")
    assert [one.trigger for one in ledger] == [Trigger.RESULT, Trigger.RETRY]


@pytest.mark.parametrize("place", ["retry", "parked"])
async def test_a_result_that_waits_is_sent_now_as_its_next_attempt(bench: Bench, place: str) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.bring_delivery_to(place, outbox)
    assert await send(bench) is Resend.SENT
    assert await outbox.pending() == {"fresh": 1, "retry": 0, "parked": 0}
    (entry,) = await outbox.read(10, block_ms=1)
    delivery = await outbox.open(entry)
    assert delivery is not None
    assert delivery.attempts == (1 if place == "retry" else 0)
    await outbox.settle(entry, answer(500), again(), at_ms=1)
    await outbox.promote()
    await bench.deliver(outbox)
    triggers = [one.trigger for one in await bench.store.deliveries.ledger(bench.endpoint_id, "t1")]
    assert triggers[-2:] == [Trigger.RETRY, Trigger.RETRY], "a later attempt belongs to the same order"


@pytest.mark.parametrize("place", ["ready", "read"])
@pytest.mark.parametrize("trigger", [Trigger.RETRY, Trigger.REDELIVER])
async def test_a_result_that_is_being_sent_is_not_sent_twice(bench: Bench, place: str, trigger: Trigger) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.bring_delivery_to(place, outbox)
    before = await bench.probe.dump()
    assert await send(bench, trigger=trigger) is Resend.DUE
    assert await bench.probe.dump() == before


async def test_of_repeated_orders_one_sends(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1")
    calls = [send(bench, call_id=f"c{number % 5}") for number in range(10)]
    results = await asyncio.gather(*calls)
    assert results.count(Resend.SENT) == 1
    assert set(results) <= {Resend.SENT, Resend.DUPLICATE, Resend.DUE}
    assert len(await outbox.read(10, block_ms=1)) == 1


async def test_an_order_whose_reply_was_lost_is_carried_out_once(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1")
    assert [await send(bench), await send(bench)] == [Resend.SENT, Resend.DUPLICATE]
    assert len(await outbox.read(10, block_ms=1)) == 1


@pytest.mark.parametrize("trigger", [Trigger.RETRY, Trigger.REDELIVER])
async def test_an_order_that_is_repeated_after_its_delivery_sends_nothing(bench: Bench, trigger: Trigger) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1")
    assert await send(bench, trigger=trigger) is Resend.SENT
    await bench.deliver(outbox)
    before = await bench.probe.dump()
    assert await send(bench, trigger=trigger) is Resend.DUPLICATE
    assert await bench.probe.dump() == before


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_a_delivered_result_is_sent_again_only_when_that_is_ordered(bench: Bench, outcome: Outcome) -> None:
    outbox = await bench.outbox()
    ended = await bench.finish("t1", outcome=outcome, webhook=True)
    await bench.deliver(outbox)
    before = await bench.probe.dump()
    assert await send(bench) is Resend.DELIVERED
    assert await bench.probe.dump() == before

    assert await send(bench, trigger=Trigger.REDELIVER) is Resend.SENT
    task = await bench.task("t1")
    assert (task.status, task.delivery_status, task.delivered_at_ms) == (ended.status, DeliveryStatus.INIT, None)
    assert await bench.check() == []
    assert await retry_count(bench, outbox) == 2
    task = await bench.task("t1")
    assert task.status is (TaskStatus.FAILED if isinstance(outcome, Failed) else TaskStatus.DELIVERED)
    assert task.delivery_status is DeliveryStatus.SUCCESS


async def test_a_redelivery_that_fails_is_given_up_like_a_delivery(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox)
    await send(bench, trigger=Trigger.REDELIVER)
    await bench.deliver(outbox, GIVEN_UP)
    assert (await bench.task("t1")).delivery_status is DeliveryStatus.MAX_RETRIES_EXCEEDED
    assert await given_up(bench) == ["t1"]
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts(success=1)


async def test_only_the_result_of_an_ended_task_with_a_webhook_is_sent(bench: Bench) -> None:
    await bench.finish("plain")
    await bench.submit("waits")
    before = await bench.probe.dump()
    results = [await send(bench, task_id) for task_id in ("plain", "waits", "nobody")]
    assert results == [Resend.NO_WEBHOOK, Resend.NOT_ENDED, Resend.NOT_FOUND]
    assert await bench.probe.dump() == before


async def test_the_data_of_a_result_that_is_sent_again_is_kept(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1")
    for key in await bench.data_keys("t1"):
        await bench.probe.ask("PEXPIRE", key, 5_000)
    await send(bench)
    for key in await bench.data_keys("t1"):
        assert await bench.probe.ask("PTTL", key) > 86_400_000
    assert await bench.purge() == 0, "a task is kept until its delivery has ended"


async def test_a_rerun_and_a_deletion_end_a_delivery_that_is_sent_again(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1", "t2")
    for task_id in ("t1", "t2"):
        await send(bench, task_id)
    await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")
    await bench.store.tasks.delete(bench.endpoint_id, "t2")
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}


# The index of what was given up


async def test_given_up_deliveries_are_listed_in_pages_newest_first(bench: Bench) -> None:
    outbox = await bench.outbox()
    names = [f"t{number}" for number in range(5)]
    for number, name in enumerate(names):
        await give_up(bench, outbox, name)
        await bench.probe.ask("ZADD", bench.keys.given_up, "XX", number + 1, name)
    assert [await given_up(bench, page, 2) for page in (1, 2, 3, 4)] == [["t4", "t3"], ["t2", "t1"], ["t0"], []]
    found = await bench.store.given_up.page(bench.endpoint_id, page=1, size=2)
    assert (found.total, found.items[0].at_ms) == (5, 5)
    assert found.items[0].task.delivery_error == GIVEN_UP.reason


async def test_a_delivery_is_listed_as_long_as_it_is_given_up(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "sent_again", "run_again", "deleted", "purged")
    assert len(await given_up(bench)) == 4
    await send(bench, "sent_again")
    await bench.store.tasks.rerun(bench.endpoint_id, "run_again", "call")
    await bench.store.tasks.delete(bench.endpoint_id, "deleted")
    assert await given_up(bench) == ["purged"]
    assert await bench.purge() == 1
    assert await given_up(bench) == []
    assert not await bench.probe.ask("EXISTS", bench.keys.given_up)


async def test_a_delivery_that_is_too_old_to_be_deferred_is_listed(bench: Bench) -> None:
    outbox = bench.store.outbox("d1", max_age_ms=0)
    await outbox.make_groups()
    await bench.finish("t1", webhook=True)
    await bench.probe.ask("HSET", bench.keys.delivery("t1"), "created", 1)
    (entry,) = await outbox.read(10, block_ms=1)
    assert not await outbox.defer(entry, delay_ms=1000)
    assert await given_up(bench) == ["t1"]


async def test_the_index_expires_with_its_last_task(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1")
    assert await _lives_as_long(bench, "t1")
    await bench.probe.ask("PEXPIRE", bench.keys.given_up, 1_000)
    await give_up(bench, outbox, "t2")
    assert await _lives_as_long(bench, "t2")


async def _lives_as_long(bench: Bench, task_id: str) -> bool:
    index, task = [await bench.probe.ask("PTTL", key) for key in (bench.keys.given_up, bench.keys.task(task_id))]
    return bool(index >= task > 0)


async def test_entries_of_a_process_that_does_not_know_the_index_are_skipped_and_removed(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "there")
    await bench.finish("fine", webhook=True)
    await bench.deliver(outbox)
    await bench.probe.ask("ZADD", bench.keys.given_up, 1, "removed", 2, "fine")
    found = await bench.store.given_up.page(bench.endpoint_id, page=1, size=10)
    assert ([one.task.task_id for one in found.items], found.total) == (["there"], 1)
    assert list(await bench.probe.scores(bench.keys.given_up)) == ["there"]


async def test_a_purge_removes_the_entry_of_a_task_whose_data_has_expired(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1")
    await bench.probe.ask("DEL", *await bench.data_keys("t1"), bench.partition.attempts_log(bench.endpoint_id, "t1"))
    await bench.purge()
    assert await bench.probe.scores(bench.keys.given_up) == {}


@pytest.mark.parametrize("count", [10, 300])
async def test_a_page_costs_the_same_however_many_deliveries_were_given_up(bench: Bench, count: int) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, "t1", "t2")
    others = {f"x{number}": number for number in range(1, count)}
    await bench.store.redis.zadd(bench.keys.given_up, others)
    await bench.probe.ask("CONFIG", "RESETSTAT")
    assert len(await given_up(bench, size=2)) == 2
    stats = await bench.probe.redis.info("commandstats")
    reads = sum(one["calls"] for name, one in stats.items() if name in COUNTED)
    assert reads == 3
    await bench.store.redis.zrem(bench.keys.given_up, *others)


# Data from before the index


async def test_what_was_given_up_before_the_index_is_found_in_pages(bench: Bench) -> None:
    outbox = await bench.outbox()
    await give_up(bench, outbox, *(f"t{number}" for number in range(5)))
    await bench.finish("fine", webhook=True)
    await bench.deliver(outbox)
    expected = await bench.probe.scores(bench.keys.given_up)
    await bench.probe.ask("DEL", bench.keys.given_up)
    await bench.store.prepare()

    steps = 0
    while await bench.store.given_up_build(page_size=2).step():  # each step by another leader
        steps += 1
        assert steps < 10
    assert steps == 3
    assert await bench.probe.scores(bench.keys.given_up) == expected
    assert (await bench.probe.hash(META))[GIVEN_UP_BUILD] == DONE
    assert await bench.check() == []


async def test_one_build_goes_through_all_pages(bench: Bench) -> None:
    await give_up(bench, await bench.outbox(), *(f"t{number}" for number in range(5)))
    await bench.probe.ask("DEL", bench.keys.given_up)
    await bench.store.prepare()
    build = bench.store.given_up_build(page_size=2)
    assert [await build.step() for _ in range(5)] == [1, 1, 1, 0, 0]
    assert len(await given_up(bench)) == 5


async def test_the_build_waits_until_no_process_of_the_format_before_writes(bench: Bench) -> None:
    await give_up(bench, await bench.outbox(), "t1")
    await bench.probe.ask("DEL", bench.keys.given_up)
    await bench.store.prepare()
    await bench.probe.ask("HSET", META, FORMAT, "1")
    build = bench.store.given_up_build()
    assert await build.step() == 0
    assert await bench.probe.scores(bench.keys.given_up) == {}
    await bench.probe.ask("HSET", META, FORMAT, "2")
    assert await build.step() == 1
    assert await given_up(bench) == ["t1"]
