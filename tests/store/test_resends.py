"""An operation sends the result of each of its tasks again once, a few at a time, whichever processes die."""

import asyncio

import pytest

from queue_engine.domain.deliveries import Trigger
from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.task_operations import OperationStatus, SkipReason, TaskAction
from queue_engine.domain.tasks import DeliveryStatus, TaskState
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.recoveries import RECOVERED_AT_ONCE
from tests.store.bench import DELIVERED, GIVEN_UP, Bench, answer
from tests.store.test_operations import counts, found, operation, start
from tests.store.test_recoveries import advance, give_up, settle_all
from tests.store.test_recoveries import start as start_recovery

SUCCEEDED = TaskFilters(state=frozenset({TaskState.SUCCEEDED}))
RESEND = operation(TaskAction.REDELIVER, SUCCEEDED)


async def deliver(bench: Bench, count: int, *, first: int = 0) -> Outbox:
    """Deliver the results of `count` tasks, and return the outbox."""
    outbox = await bench.outbox()
    for number in range(first, first + count):
        await bench.finish(f"t{number}", webhook=True)
        await bench.deliver(outbox, DELIVERED)
    return outbox


async def step(bench: Bench, limit: int = 100) -> bool:
    """Make a step as a leading controller does. Return True if the operation has no further tasks."""
    made = await bench.store.operation_steps.step(bench.endpoint_id, "op1", limit=limit)
    return made is not None and made.is_complete


async def triggers(bench: Bench, task_id: str) -> list[str]:
    return [one.trigger for one in await bench.store.deliveries.ledger(bench.endpoint_id, task_id)]


async def test_every_result_is_sent_once_and_each_that_ends_brings_the_next(bench: Bench) -> None:
    count = 3 * RECOVERED_AT_ONCE + 1
    outbox = await deliver(bench, count)
    await start(bench, RESEND)
    assert not await step(bench)
    assert await outbox.pending() == {"fresh": RECOVERED_AT_ONCE, "retry": 0, "parked": 0}
    assert sorted(await settle_all(outbox, at_most=count)) == sorted(f"t{number}" for number in range(count))
    assert await step(bench)
    await bench.store.operations.end(bench.endpoint_id, "op1", OperationStatus.DONE)
    assert counts(await found(bench)) == ("done", count, count, 0, 0)
    for number in range(count):
        assert await triggers(bench, f"t{number}") == [Trigger.RESULT, Trigger.REDELIVER]


async def test_a_result_is_settled_although_its_operation_has_a_filter_of_a_later_version(bench: Bench) -> None:
    """A later version may add a filter to an operation whose results a process of this version sends."""
    outbox = await deliver(bench, 2 * RECOVERED_AT_ONCE)
    await start(bench, RESEND)
    await step(bench)
    await bench.probe.ask("HSET", bench.keys.operation("op1"), "filters", '{"state": ["succeeded"], "colour": "red"}')
    assert len(await settle_all(outbox)) == RECOVERED_AT_ONCE
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    made = await bench.store.operation_steps.step(bench.endpoint_id, "op1", limit=100)
    assert made is not None
    assert "of a later version" in str(made.refusal)


async def test_a_fresh_result_is_read_behind_a_few_at_most(bench: Bench) -> None:
    outbox = await deliver(bench, 10 * RECOVERED_AT_ONCE)
    await start(bench, RESEND)
    await asyncio.gather(*(step(bench) for _ in range(5)))
    await bench.finish("fresh", webhook=True)
    assert (await settle_all(outbox)).index("fresh") <= RECOVERED_AT_ONCE


async def test_a_recovery_and_an_operation_share_what_is_due(bench: Bench) -> None:
    outbox = await give_up(bench, RECOVERED_AT_ONCE)
    await deliver(bench, RECOVERED_AT_ONCE, first=100)
    await start_recovery(bench)
    await advance(bench)
    await start(bench, operation(TaskAction.REDELIVER, TaskFilters(delivery_status=DeliveryStatus.SUCCESS)))
    await step(bench)
    assert (await outbox.pending())["fresh"] == RECOVERED_AT_ONCE
    assert (await found(bench)).done == 0
    assert len(await settle_all(outbox)) == RECOVERED_AT_ONCE
    await step(bench)
    assert len(await settle_all(outbox)) == RECOVERED_AT_ONCE


async def test_a_step_that_is_made_again_by_another_controller_sends_nothing_twice(bench: Bench) -> None:
    outbox = await deliver(bench, 3)
    await start(bench, RESEND)
    for _ in range(3):
        await asyncio.gather(*(step(bench, limit=2) for _ in range(4)))
        await settle_all(outbox)
    for number in range(3):
        assert await triggers(bench, f"t{number}") == [Trigger.RESULT, Trigger.REDELIVER]
    assert (await found(bench)).done == 3


async def test_a_stopped_operation_makes_no_further_result_due(bench: Bench) -> None:
    outbox = await deliver(bench, 3 * RECOVERED_AT_ONCE)
    await start(bench, RESEND)
    await step(bench)
    await bench.store.operations.end(bench.endpoint_id, "op1", OperationStatus.CANCELLED)
    assert len(await settle_all(outbox)) == RECOVERED_AT_ONCE
    assert (await found(bench)).done == RECOVERED_AT_ONCE


async def test_a_delivery_that_waits_again_makes_room_for_the_next(bench: Bench) -> None:
    outbox = await deliver(bench, RECOVERED_AT_ONCE + 2)
    await start(bench, RESEND)
    await step(bench)
    for entry in await outbox.read(10, block_ms=1):
        assert await outbox.open(entry) is not None
        await outbox.settle(entry, answer(410), GIVEN_UP, at_ms=1)
    assert (await found(bench)).done == RECOVERED_AT_ONCE + 2
    assert len(await settle_all(outbox)) == 2


async def test_a_result_that_has_waited_brings_the_next(bench: Bench) -> None:
    count = RECOVERED_AT_ONCE + 1
    outbox = await deliver(bench, count)
    await start(bench, RESEND)
    await step(bench)
    for entry in await outbox.read(10, block_ms=1):
        assert await outbox.open(entry) is not None
        await outbox.defer(entry, delay_ms=0)
    assert await outbox.promote() == RECOVERED_AT_ONCE
    assert sorted(await settle_all(outbox)) == sorted(f"t{number}" for number in range(count))


@pytest.mark.parametrize("is_dry", [True, False])
async def test_what_cannot_be_sent_is_counted_with_its_reason(bench: Bench, is_dry: bool) -> None:
    outbox = await deliver(bench, 2)
    await bench.finish("silent")
    await bench.finish("due", webhook=True)
    await bench.submit("waits")
    ids = ["t0", "t1", "silent", "due", "waits", "missing"]
    await start(bench, operation(TaskAction.REDELIVER, task_ids=ids, is_dry=is_dry))
    assert await step(bench)
    one = await found(bench)
    assert one.skips == {
        SkipReason.NO_WEBHOOK: 1, SkipReason.DUE: 1, SkipReason.NOT_ENDED: 1, SkipReason.NOT_FOUND: 1,
    }  # fmt: skip
    assert one.done == 2
    assert len(await settle_all(outbox)) == (1 if is_dry else 3)


async def test_a_result_that_a_client_sends_again_meanwhile_counts_as_the_clients(bench: Bench) -> None:
    outbox = await give_up(bench, 1)
    await start(bench, operation(TaskAction.REDELIVER, task_ids=["t0"]))
    await bench.store.deliveries.send_now(bench.endpoint_id, "t0", "call", Trigger.RETRY)
    assert await step(bench)
    assert await settle_all(outbox) == ["t0"]
    assert await triggers(bench, "t0") == [Trigger.RESULT, Trigger.RETRY]
    assert (await found(bench)).skips == {SkipReason.DUE: 1}
