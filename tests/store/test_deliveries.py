"""The outbox: each ended task with a webhook is delivered or given up once, whichever process dies."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.deliveries import (
    MAX_RESULT_BYTES,
    DeliverAgain,
    Delivery,
    DeliveryAttempt,
    GivenUp,
    Phases,
    Trigger,
    Verdict,
)
from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import (
    DeliveryStatus,
    Failed,
    Outcome,
    Payload,
    Succeeded,
    TaskState,
    TaskStatus,
    TryAgain,
)
from queue_engine.store.constants import MAX_DELIVERY_RECORDS
from queue_engine.store.keys import FORMAT, META
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import DEFAULT_MAX_AGE_MS, Outbox
from queue_engine.store.queue import TaskQueue
from queue_engine.store.store import Store
from queue_engine.store.tasks import Cancellation
from tests.store.bench import (
    DELIVERED,
    DESTINATION,
    GIVEN_UP,
    LONG_LEASE_MS,
    TENANT,
    TICK_MS,
    TOO_LARGE_TO_JOIN,
    WEBHOOK,
    Bench,
    again,
    answer,
    config,
    spec,
)
from tests.waiting import wait_until_async

HOUR_MS = 3_600_000


async def test_an_ended_task_with_a_webhook_is_read_from_the_outbox(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    (entry,) = await (await bench.outbox()).read(10, block_ms=1)
    assert (entry.delivery_id, entry.destination) == (f"t:{bench.endpoint_id}:t1", DESTINATION)
    assert entry.partition == bench.partition


async def test_an_open_delivery_has_all_that_an_attempt_needs(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, spec=spec(webhook=True, auth_key="let me in"))
    await bench.settle(agent, started, Succeeded(b'{"big": 12345678901234567890,  "x":1}'))
    outbox = await bench.outbox()

    delivery = await _open(outbox, await _read_one(outbox))

    task = await bench.task("t1")
    assert (delivery.url, delivery.auth_key, delivery.attempts) == (WEBHOOK, "let me in", 0)
    assert delivery.signing_secrets == (await bench.store.endpoints.signing_secret(bench.endpoint_id),)
    assert delivery.created_at_ms == task.finished_at_ms
    assert delivery.body.endswith(b'"result": {"big": 12345678901234567890,  "x":1}}')
    body = json.loads(delivery.body)
    assert body["task_id"] == task.number
    assert (body["user_task_id"], body["endpoint_id"]) == ("t1", bench.endpoint_id)
    assert (body["status"], body["success"], body["retry_count"]) == ("Success", True, 1)


async def test_a_failed_task_is_delivered_with_its_error(bench: Bench) -> None:
    await bench.finish("t1", outcome=Failed("no answer", TaskState.TIMED_OUT), webhook=True)
    body = await _body(bench)
    assert (body["status"], body["success"], body["failed_reason"]) == ("Failed", False, "no answer")
    assert "result" not in body


async def test_a_dead_task_is_delivered_with_its_error(bench: Bench) -> None:
    await bench.submit_and_start("t1", spec=spec(webhook=True))
    await bench.lose("t1", max_lost=0)
    assert str((await _body(bench))["failed_reason"]).startswith("the worker was lost 1 times while it ran the task")


@pytest.mark.parametrize(("size", "truncated"), [(MAX_RESULT_BYTES, False), (MAX_RESULT_BYTES + 1, True)])
async def test_an_output_above_the_limit_is_not_sent(bench: Bench, size: int, truncated: bool) -> None:
    output = b'"' + b"x" * (size - 2) + b'"'
    await bench.finish("t1", outcome=Succeeded(output), webhook=True)
    body = await _body(bench)
    assert body["success"] is True
    assert body.get("result_truncated", False) is truncated
    assert ("result" in body) is not truncated


async def test_a_delivered_success_moves_to_delivered(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    await bench.deliver(await bench.outbox())
    task = await bench.task("t1")
    assert (task.status, task.state) == (TaskStatus.DELIVERED, TaskState.SUCCEEDED)
    assert (task.delivery_status, task.delivery_attempts) == (DeliveryStatus.SUCCESS, 1)
    assert task.delivered_at_ms == task.updated_at_ms
    assert (task.next_delivery_at_ms, task.delivery_error) == (None, None)
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts(delivered=1)


async def test_a_failed_task_stays_failed_when_its_webhook_is_delivered(bench: Bench) -> None:
    await bench.finish("t1", outcome=Failed("no"), webhook=True)
    await bench.deliver(await bench.outbox())
    task = await bench.task("t1")
    assert (task.status, task.delivery_status) == (TaskStatus.FAILED, DeliveryStatus.SUCCESS)
    assert task.delivered_at_ms is not None
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts(failed=1)


async def test_a_failed_attempt_waits_for_its_next_time(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again(60))

    task = await bench.task("t1")
    assert (task.status, task.delivery_status) == (TaskStatus.SUCCESS, DeliveryStatus.FAILED)
    assert task.next_delivery_at_ms == task.updated_at_ms + 60_000
    assert await outbox.pending() == {"fresh": 0, "retry": 1, "parked": 0}
    assert await outbox.promote() == 0
    assert await outbox.read(10, block_ms=1) == []


async def test_a_delivery_whose_wait_is_over_is_read_again(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again(60))
    await bench.probe.ask("ZADD", bench.partition.outbox_due, 1, f"t:{bench.endpoint_id}:t1")
    assert await outbox.promote() == 1
    assert await outbox.promote() == 0
    assert await outbox.pending() == {"fresh": 1, "retry": 0, "parked": 0}

    delivery = await _open(outbox, await _read_one(outbox))

    assert (delivery.attempts, json.loads(delivery.body)["retry_count"]) == (1, 2)


async def test_a_wait_ends_by_itself(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again(0.05))
    due = (await bench.task("t1")).next_delivery_at_ms
    assert due is not None

    async def is_promoted() -> bool:
        return await outbox.promote() == 1

    await wait_until_async(is_promoted)
    assert await bench.probe.now_ms() >= due


async def test_the_webhook_id_is_the_same_on_all_attempts_and_processes(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    ids, counts = set(), []
    for number in range(4):
        outbox = await bench.outbox(f"d{number}")
        entry = await _read_one(outbox)
        delivery = await _open(outbox, entry)
        ids.add(delivery.message_id)
        counts.append(json.loads(delivery.body)["retry_count"])
        await outbox.settle(entry, answer(500), again(), at_ms=1)
        await outbox.promote()
    assert len(ids) == 1
    assert counts == [1, 2, 3, 4]


async def test_webhook_ids_of_different_results_differ(bench: Bench) -> None:
    outbox = await bench.outbox()
    ids = []
    for _ in range(2):  # the same task id twice, with retention in between
        await bench.finish("t1", webhook=True)
        entry = await _read_one(outbox)
        ids.append((await _open(outbox, entry)).message_id)
        await outbox.settle(entry, answer(), DELIVERED, at_ms=1)
        await bench.purge()
    assert ids[0] != ids[1]


async def test_a_delivery_that_is_given_up_says_why(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again())
    await outbox.promote()
    await bench.deliver(outbox, GivenUp("http_5xx (status 500); attempt 2 of 2 was the last"))

    task = await bench.task("t1")
    assert (task.status, task.delivery_status) == (TaskStatus.SUCCESS, DeliveryStatus.MAX_RETRIES_EXCEEDED)
    assert (task.delivery_attempts, task.next_delivery_at_ms, task.delivered_at_ms) == (2, None, None)
    assert task.delivery_error == "http_5xx (status 500); attempt 2 of 2 was the last"
    assert await outbox.promote() == 0
    assert await bench.store.tasks.counts(bench.endpoint_id) == TaskCounts(success=1)


async def test_the_detail_of_a_task_has_the_error_of_the_latest_failed_attempt(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    tasks = bench.store.tasks
    assert (await bench.task("t1")).delivery_error is None
    for response in (answer(500, "http_5xx", "first"), answer(None, "connect_refused")):
        (entry,) = await outbox.read(10, block_ms=1)
        assert await outbox.open(entry) is not None
        assert (await outbox.settle(entry, response, again(), at_ms=1)).accepted
        await outbox.promote()

    for found in (
        await bench.task("t1"),
        await tasks.get(bench.endpoint_id, "t1", max_bytes=0),
        await tasks.get(bench.endpoint_id, "t1", payload=Payload.HEAD),
        await tasks.texts(bench.endpoint_id, "t1"),
    ):
        assert found is not None
        assert (found.delivery_status, found.delivery_error) == (DeliveryStatus.FAILED, "connect_refused")
    assert (await tasks.counts(bench.endpoint_id)).waiting_deliveries == 1
    brief = await tasks.brief(bench.endpoint_id, "t1")
    assert brief is not None
    assert brief.delivery_error is None, "a list does without the ledger"

    await bench.deliver(outbox)
    assert (await bench.task("t1")).delivery_error is None
    assert (await tasks.counts(bench.endpoint_id)).waiting_deliveries == 0


@pytest.mark.parametrize("verdict", [DELIVERED, again(), GIVEN_UP])
async def test_a_second_settlement_is_refused_and_changes_nothing(bench: Bench, verdict: Verdict) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await bench.deliver(outbox, verdict)
    before = await bench.probe.dump()
    for second in (DELIVERED, again(), GIVEN_UP):
        assert not (await outbox.settle(entry, answer(), second, at_ms=1)).accepted
    assert await outbox.open(entry) is None
    assert await bench.probe.dump() == before


async def test_a_late_settlement_does_not_count_for_the_next_attempt(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    old = await bench.deliver(outbox, again())
    await outbox.promote()
    new = await _read_one(outbox)
    await _open(outbox, new)
    assert not (await outbox.settle(old, answer(), DELIVERED, at_ms=1)).accepted
    assert (await bench.task("t1")).status is TaskStatus.SUCCESS
    assert (await outbox.settle(new, answer(), DELIVERED, at_ms=1)).accepted


async def test_a_delivery_that_was_deferred_again_is_not_promoted(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again(60))
    promoted = await bench.store.scripts.promote_result(bench.keys.of_task("t1"), waiting=bench.partition.outbox_due)
    assert promoted.word == "STALE"
    assert await outbox.pending() == {"fresh": 0, "retry": 1, "parked": 0}


@pytest.mark.parametrize("length", [0, 500], ids=["in the task", "in the spec"])
async def test_a_delivery_that_waits_for_a_retry_has_its_destination_from_its_task(bench: Bench, length: int) -> None:
    destination = "https://hooks.example:443" + "x" * length
    outbox = await bench.outbox()
    await bench.finish("t1", spec=replace(spec(webhook=True), webhook_destination=destination))
    await bench.deliver(outbox, again())
    assert await outbox.promote() == 1
    entry = await _read_one(outbox)
    assert entry.destination == destination
    assert await outbox.defer(entry, delay_ms=0)
    assert await outbox.promote() == 1
    assert (await bench.deliver(outbox)).destination == destination


@pytest.mark.parametrize("place", ["retry", "parked"])
async def test_a_delivery_that_waits_has_no_key_and_goes_on_as_it_was(bench: Bench, place: str) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    key = bench.keys.delivery("t1")
    before = await bench.probe.hash(key)
    await bench.bring_delivery_to(place, outbox)
    assert not await bench.probe.ask("EXISTS", key)
    for waiting in (bench.partition.outbox_due, bench.partition.outbox_parked):
        await bench.probe.ask("ZADD", waiting, "XX", 1, f"t:{bench.endpoint_id}:t1")
    assert await outbox.promote() == 1
    after = await bench.probe.hash(key)
    assert (after["created"], after["attempts"]) == (before["created"], str(int(place == "retry")))
    assert "kept_delivery" not in await bench.probe.hash(bench.keys.task("t1"))
    await bench.deliver(outbox)
    assert (await bench.store.usage.of(TENANT)).waiting_deliveries == 0


@pytest.mark.parametrize("place", ["retry", "parked"])
async def test_a_waiting_delivery_has_its_key_while_processes_of_an_earlier_version_may_run(
    bench: Bench, place: str
) -> None:
    await bench.probe.ask("HSET", META, FORMAT, 1)
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.bring_delivery_to(place, outbox)
    assert "destination" in await bench.probe.hash(bench.keys.delivery("t1"))
    assert "kept_delivery" not in await bench.probe.hash(bench.keys.task("t1"))
    for waiting in (bench.partition.outbox_due, bench.partition.outbox_parked):
        await bench.probe.ask("ZADD", waiting, "XX", 1, f"t:{bench.endpoint_id}:t1")
    assert await outbox.promote() == 1
    await bench.deliver(outbox)


async def test_a_waiting_delivery_of_a_task_whose_data_has_expired_ends(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again())
    await bench.probe.ask("DEL", *await bench.data_keys("t1"), bench.partition.attempts_log(bench.endpoint_id, "t1"))
    assert await outbox.promote() == 0
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    assert await bench.probe.ask("EXISTS", bench.keys.delivery("t1")) == 0
    assert (await bench.store.usage.of(TENANT)).waiting_deliveries == 0
    assert await bench.purge() == 1


async def test_a_settlement_tells_the_time_since_the_task_ended(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.probe.ask("HSET", bench.keys.delivery("t1"), "created", await bench.probe.now_ms() - 90_000)
    entry = await _read_one(outbox)
    await _open(outbox, entry)
    settled = await outbox.settle(entry, answer(), DELIVERED, at_ms=1)
    assert 90 <= settled.latency_seconds < 95


async def test_of_settlements_at_once_one_is_accepted(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    await _open(outbox, entry)
    settled = await asyncio.gather(*(outbox.settle(entry, answer(), DELIVERED, at_ms=1) for _ in range(10)))
    assert sum(one.accepted for one in settled) == 1
    assert (await bench.task("t1")).delivery_attempts == 1


async def test_a_delivery_can_be_opened_again_by_who_has_it(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    assert await _open(outbox, entry) == await _open(outbox, entry)
    assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted


# The ledger


async def test_every_attempt_is_logged(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    assert await bench.store.deliveries.ledger(bench.endpoint_id, "t1") == []
    entry = await _read_one(outbox)
    await _open(outbox, entry)
    await outbox.settle(entry, answer(None, "dns_error", "no such näme \ud800"), again(), at_ms=1_700_000_000_000)
    await outbox.promote()
    await bench.deliver(outbox)

    first, second = await bench.store.deliveries.ledger(bench.endpoint_id, "t1")

    assert (first.at_ms, first.status, first.error_type) == (1_700_000_000_000, None, "dns_error")
    assert (first.duration_ms, first.excerpt) == (12, "no such näme \ud800")
    assert (second.status, second.error_type) == (200, None)


async def test_an_attempt_says_when_the_next_one_was_due_and_how_long_its_phases_took(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    await _open(outbox, entry)
    phases = Phases(connect_ms=3, send_ms=0, wait_ms=12)
    await outbox.settle(entry, replace(answer(500, "http_5xx"), phases=phases), again(60), at_ms=1)
    due = (await bench.task("t1")).next_delivery_at_ms

    (first,) = await bench.store.deliveries.ledger(bench.endpoint_id, "t1")
    assert (first.phases, first.next_at_ms, first.trigger) == (phases, due, Trigger.RESULT)

    await bench.probe.ask("ZADD", bench.partition.outbox_due, 1, f"t:{bench.endpoint_id}:t1")
    await outbox.promote()
    await bench.deliver(outbox)
    _, last = await bench.store.deliveries.ledger(bench.endpoint_id, "t1")
    assert last.next_at_ms is None


async def test_an_attempt_that_an_earlier_version_has_recorded_is_shown(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    await bench.deliver(await bench.outbox())
    record = '{"at": 1700000000000, "status": 500, "error": "http_5xx", "durationMs": 12, "response": "no"}'
    await bench.probe.ask("LPUSH", bench.partition.attempts_log(bench.endpoint_id, "t1"), record)
    bench.has_use = False
    first, _ = await bench.store.deliveries.ledger(bench.endpoint_id, "t1")
    assert first == DeliveryAttempt(1_700_000_000_000, 500, "http_5xx", 12, "no")


async def test_a_trigger_of_a_later_version_is_shown_as_stored(bench: Bench) -> None:
    await bench.finish("t1", webhook=True)
    await bench.deliver(await bench.outbox())
    log = bench.partition.attempts_log(bench.endpoint_id, "t1")
    record = json.loads(await bench.probe.ask("LINDEX", log, 0))
    await bench.probe.ask("LPUSH", log, json.dumps(record | {"trigger": "replayed"}))
    bench.has_use = False
    attempts = await bench.store.deliveries.ledger(bench.endpoint_id, "t1")
    assert [one.trigger for one in attempts] == ["replayed", Trigger.RESULT]


async def test_the_log_keeps_the_latest_attempts(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    for number in range(MAX_DELIVERY_RECORDS + 3):
        entry = await _read_one(outbox)
        await _open(outbox, entry)
        await outbox.settle(entry, answer(500, "http_5xx"), again(), at_ms=number)
        await outbox.promote()
    log = await bench.store.deliveries.ledger(bench.endpoint_id, "t1")
    assert [one.at_ms for one in log] == list(range(3, MAX_DELIVERY_RECORDS + 3))
    assert (await bench.task("t1")).delivery_attempts == MAX_DELIVERY_RECORDS + 3


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), TOO_LARGE_TO_JOIN])
async def test_the_data_outlives_the_wait_for_the_next_attempt(bench: Bench, outcome: Succeeded) -> None:
    endpoint = await bench.store.endpoints.create(TENANT, config(result_retention_seconds=1))
    brief = Bench(bench.store, endpoint.endpoint_id, bench.probe)
    bench.endpoint_ids.append(endpoint.endpoint_id)
    await brief.finish("t1", outcome=outcome, webhook=True)
    await brief.deliver(await bench.outbox(), again(10 * 86_400))
    for key in await brief.data_keys("t1"):
        assert await bench.probe.ask("PTTL", key) > 11 * 86_400_000
    assert await bench.probe.ask("PTTL", brief.partition.attempts_log(endpoint.endpoint_id, "t1")) > 11 * 86_400_000


# Deferring


async def test_a_deferred_delivery_uses_up_no_attempt(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    await outbox.defer(entry, delay_ms=0)
    await outbox.defer(entry, delay_ms=HOUR_MS)  # repeated as after a lost reply: the first call counts
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 1}
    assert await outbox.promote() == 1

    delivery = await _open(outbox, await _read_one(outbox))

    assert (delivery.attempts, json.loads(delivery.body)["retry_count"]) == (0, 1)
    task = await bench.task("t1")
    assert (task.delivery_status, task.delivery_attempts, task.next_delivery_at_ms) == (DeliveryStatus.INIT, 0, None)
    assert await bench.store.deliveries.ledger(bench.endpoint_id, "t1") == []


async def test_a_task_says_that_its_receiver_is_parked_and_until_when(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, again())
    assert await outbox.promote() == 1
    for delay_ms in (0, 60_000):
        before = await bench.probe.now_ms()
        await outbox.defer(await _read_one(outbox), delay_ms=delay_ms, parked=True)
        task = await bench.task("t1")
        assert task.delivery_parked
        assert task.next_delivery_at_ms is not None
        assert before + delay_ms <= task.next_delivery_at_ms <= await bench.probe.now_ms() + delay_ms
        assert await outbox.promote() == (1 if delay_ms == 0 else 0)
    assert (task.delivery_status, task.delivery_attempts) == (DeliveryStatus.FAILED, 1)


@pytest.mark.parametrize("verdict", [DELIVERED, again(60), GivenUp("no more attempts")])
async def test_a_task_whose_delivery_was_attempted_is_parked_no_longer(bench: Bench, verdict: Verdict) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await outbox.defer(await _read_one(outbox), delay_ms=0, parked=True)
    assert await outbox.promote() == 1
    await bench.deliver(outbox, verdict)
    task = await bench.task("t1")
    assert not task.delivery_parked
    assert (task.next_delivery_at_ms is None) is (not isinstance(verdict, DeliverAgain))


async def test_a_delivery_put_off_for_another_reason_is_not_parked(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await outbox.defer(await _read_one(outbox), delay_ms=0, parked=True)
    assert await outbox.promote() == 1
    await outbox.defer(await _read_one(outbox), delay_ms=0)
    assert not (await bench.task("t1")).delivery_parked


async def test_a_deferred_delivery_waits_for_its_time(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await outbox.defer(await _read_one(outbox), delay_ms=60_000)
    assert await outbox.promote() == 0
    assert await outbox.read(10, block_ms=1) == []


async def test_an_opened_delivery_can_be_deferred_and_not_settled_then(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    await _open(outbox, entry)
    await outbox.defer(entry, delay_ms=60_000)
    assert not (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    assert (await bench.task("t1")).status is TaskStatus.SUCCESS


async def test_a_settled_delivery_is_not_deferred(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await bench.deliver(outbox)
    await outbox.defer(entry, delay_ms=0)
    assert await outbox.promote() == 0


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), TOO_LARGE_TO_JOIN])
async def test_the_data_of_a_task_outlive_the_wait_of_its_deferred_delivery(bench: Bench, outcome: Succeeded) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", outcome=outcome, webhook=True)
    await bench.deliver(outbox, again())
    assert await outbox.promote() == 1
    await outbox.defer(await _read_one(outbox), delay_ms=10 * 24 * HOUR_MS)
    log = bench.partition.attempts_log(bench.endpoint_id, "t1")
    for key in (*await bench.data_keys("t1"), log):
        assert await bench.probe.ask("PTTL", key) > 11 * 24 * HOUR_MS


async def test_a_wait_never_shortens_the_life_of_a_task(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.probe.ask("PEXPIRE", bench.keys.task("t1"), 100 * 24 * HOUR_MS)
    await outbox.defer(await _read_one(outbox), delay_ms=0)
    assert await bench.probe.ask("PTTL", bench.keys.task("t1")) > 99 * 24 * HOUR_MS


async def test_a_delivery_whose_receiver_is_not_served_for_too_long_is_given_up(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    long_ago = await bench.probe.now_ms() - DEFAULT_MAX_AGE_MS - 1
    await bench.probe.ask("HSET", bench.partition.delivery(entry.delivery_id), "created", long_ago)

    assert await outbox.defer(entry, delay_ms=0) is False

    task = await bench.task("t1")
    assert task.delivery_status is DeliveryStatus.MAX_RETRIES_EXCEEDED
    assert "not served" in (task.delivery_error or "")
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    assert await bench.purge() == 1


async def test_a_deferred_delivery_is_deleted_with_its_task(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    await bench.probe.ask("DEL", *await bench.data_keys("t1"))
    await outbox.defer(entry, delay_ms=0)
    assert not await bench.probe.ask("EXISTS", bench.partition.delivery(entry.delivery_id))
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    assert await bench.purge() == 1


# Deliveries of dead processes


async def test_the_name_of_a_dead_process_that_read_nothing_goes(bench: Bench) -> None:
    await bench.outbox("dead")
    heir = await bench.outbox("heir")
    await _die(bench, "dead")
    await bench.steady()
    await heir.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS)
    assert set(await bench.probe.scores(bench.partition.senders)) == {"heir"}


async def test_what_a_dead_process_has_read_is_adopted(bench: Bench) -> None:
    dead, heir = await bench.outbox("dead"), await bench.outbox("heir")
    await bench.finish("t1", webhook=True)
    entry = await _read_one(dead)
    before = await _open(dead, entry)
    await _die(bench, "dead")

    (adopted,) = await _adopt(bench, heir)

    assert adopted == entry
    delivery = await _open(heir, adopted)
    assert (delivery.message_id, delivery.attempts) == (before.message_id, 0)
    assert not (await dead.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    assert (await heir.settle(adopted, answer(), DELIVERED, at_ms=1)).accepted
    assert await _adopt(bench, heir) == []


async def test_what_a_living_process_has_read_is_left_to_it(bench: Bench) -> None:
    living, other = await bench.outbox("living"), await bench.outbox("other")
    await bench.finish("t1", webhook=True)
    entry = await _read_one(living)
    assert await _adopt(bench, other) == []
    assert await _adopt(bench, living) == []
    await _open(living, entry)
    assert (await living.settle(entry, answer(), DELIVERED, at_ms=1)).accepted


async def test_a_living_process_that_holds_nothing_stays_known(bench: Bench) -> None:
    living, other = await bench.outbox("living"), await bench.outbox("other")
    await bench.finish("t1", webhook=True)
    await bench.deliver(living)
    assert await _adopt(bench, other) == []
    await bench.finish("t2", webhook=True)
    await _read_one(living)
    assert await _adopt(bench, other) == []


async def test_what_a_process_holds_is_not_given_out_to_it_again(bench: Bench) -> None:
    outbox = await bench.outbox()
    for number in range(3):
        await bench.finish(f"t{number}", webhook=True)
    first, second, third = await outbox.read(10, block_ms=1)
    await outbox.defer(second, delay_ms=HOUR_MS)
    await _open(outbox, third)
    await outbox.settle(third, answer(), DELIVERED, at_ms=1)
    assert await outbox.adopt(tick_ms=TICK_MS, lease_ms=0) == []
    await _open(outbox, first)
    assert (await outbox.settle(first, answer(), DELIVERED, at_ms=1)).accepted


async def test_each_delivery_of_a_dead_process_is_adopted_once(bench: Bench) -> None:
    dead = await bench.outbox("dead")
    heirs = [await bench.outbox(f"heir{number}") for number in range(4)]
    for number in range(5):
        await bench.finish(f"t{number}", webhook=True)
    assert len(await dead.read(10, block_ms=1)) == 5
    await _die(bench, "dead")
    await bench.steady()
    adopted = await asyncio.gather(*(one.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS) for one in heirs))
    assert sorted(len(one) for one in adopted) == [0, 0, 0, 5]


async def test_many_deliveries_of_the_dead_are_adopted_round_by_round(bench: Bench) -> None:
    dead, heir = await bench.outbox("dead"), await bench.outbox("heir")
    for number in range(5):
        await bench.finish(f"t{number}", webhook=True)
    await dead.read(10, block_ms=1)
    await _die(bench, "dead")
    rounds = [await _adopt(bench, heir, limit=2) for _ in range(4)]
    assert [len(entries) for entries in rounds] == [2, 2, 1, 0]
    assert len({entry.delivery_id for entries in rounds for entry in entries}) == 5


async def test_deliveries_are_adopted_again_when_the_adopting_process_dies(bench: Bench) -> None:
    first, second, third = [await bench.outbox(name) for name in ("first", "second", "third")]
    await bench.finish("t1", webhook=True)
    await _read_one(first)
    await _die(bench, "first")
    assert len(await _adopt(bench, second)) == 1
    await _die(bench, "second")
    (entry,) = await _adopt(bench, third)
    await _open(third, entry)
    assert (await third.settle(entry, answer(), DELIVERED, at_ms=1)).accepted


async def test_a_dead_process_is_forgotten_when_nothing_of_it_is_left(bench: Bench) -> None:
    dead, heir = await bench.outbox("dead"), await bench.outbox("heir")
    await bench.finish("t1", webhook=True)
    await _read_one(dead)
    await _die(bench, "dead")
    await _adopt(bench, heir)
    await _adopt(bench, heir)
    consumers = await bench.probe.ask("XINFO", "CONSUMERS", bench.partition.outbox, "delivery")
    assert "dead" not in str(consumers)
    assert set(await bench.probe.scores(bench.partition.senders)) == {"heir"}


@pytest.mark.parametrize("last_check_ms_ago", [4 * TICK_MS, HOUR_MS, -HOUR_MS])
async def test_after_a_gap_nothing_is_adopted_for_one_lease(bench: Bench, last_check_ms_ago: int) -> None:
    silent, heir = await bench.outbox("silent"), await bench.outbox("heir")
    await bench.finish("t1", webhook=True)
    await _read_one(silent)
    await _die(bench, "silent")
    await bench.probe.ask("DEL", bench.partition.ticks)
    await bench.probe.ask("HSET", bench.partition.ticks, "adopt", await bench.probe.now_ms() - last_check_ms_ago)

    for _ in range(3):
        assert await heir.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS) == []

    assert len(await _adopt(bench, heir)) == 1


async def test_a_process_that_died_before_the_clock_went_back_is_noticed_within_a_lease(bench: Bench) -> None:
    dead, heir = await bench.outbox("dead"), await bench.outbox("heir")
    await bench.finish("t1", webhook=True)
    await _read_one(dead)
    now = await bench.probe.now_ms()
    await bench.probe.ask("ZADD", bench.partition.senders, now + HOUR_MS, "dead")
    await bench.probe.ask("HSET", bench.partition.ticks, "adopt", now + HOUR_MS)

    async def is_adopted() -> bool:
        return len(await heir.adopt(tick_ms=TICK_MS, lease_ms=50)) == 1

    await wait_until_async(is_adopted)


# Missing and invalid data


async def test_an_entry_without_its_task_is_dropped_with_its_delivery(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    await bench.probe.ask("DEL", *await bench.data_keys("t1"))
    assert await outbox.open(await _read_one(outbox)) is None
    assert await bench.probe.stream(bench.partition.outbox) == {}
    assert not await bench.probe.ask("EXISTS", bench.keys.delivery("t1"))
    await bench.purge()


async def test_a_settlement_after_the_tasks_deletion_ends_the_delivery(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    entry = await _read_one(outbox)
    await _open(outbox, entry)
    await bench.probe.ask("DEL", *await bench.data_keys("t1"))
    assert (await outbox.settle(entry, answer(500), again(), at_ms=1)).accepted
    assert await outbox.promote() == 0
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    assert await bench.probe.ask("EXISTS", bench.keys.delivery("t1")) == 0
    await bench.purge()


async def test_a_wait_without_its_delivery_ends(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.probe.ask("ZADD", bench.partition.outbox_due, 1, "t:1:nobody")
    assert await outbox.promote() == 0
    assert await bench.probe.scores(bench.partition.outbox_due) == {}


@pytest.mark.parametrize(
    "garbage", [("x", "y"), ("d", b"\xff\xfe"), ("d", "no colons"), ("d", "a:b:c:d:e"), ("d", ""), ("h", b"\xff")]
)
async def test_invalid_outbox_entries_are_removed_and_block_no_delivery(
    bench: Bench, garbage: tuple[str, str | bytes]
) -> None:
    await bench.probe.ask("XADD", bench.partition.outbox, "*", *garbage)
    await bench.finish("t1", webhook=True)
    outbox = await bench.outbox()
    entries = await outbox.read(10, block_ms=1)
    opened = [delivery for entry in entries if (delivery := await outbox.open(entry)) is not None]
    assert [delivery.delivery_id for delivery in opened] == [f"t:{bench.endpoint_id}:t1"]
    assert len(await bench.probe.stream(bench.partition.outbox)) == 1


async def test_a_process_makes_its_groups_when_the_store_came_back_empty(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.probe.ask("FLUSHALL")
    bench.endpoint_ids.clear()
    assert await outbox.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS) == []
    assert await outbox.read(10, block_ms=1) == []
    await bench.probe.ask("XADD", bench.partition.outbox, "*", "d", "t:1:t1", "h", DESTINATION)
    entry = await _read_one(outbox)
    assert entry.delivery_id == "t:1:t1"
    assert await outbox.open(entry) is None


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["no key", "another key"])
async def test_a_process_that_cannot_open_the_secrets_gets_the_reason(bench: Bench, key: bytes | None) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, spec=spec(webhook=True, auth_key="let me in"))
    await bench.settle(agent, started, Succeeded(b"1"))
    stranger = Store(bench.store.url, Sealer(key), partitions=bench.store.partitions.count)
    try:
        outbox = stranger.outbox("stranger")
        await outbox.make_groups()
        delivery = await _open(outbox, await _read_one(outbox))
    finally:
        await stranger.close()
    assert delivery.unreadable is not None
    assert "QUEUE_ENGINE_SECRET_KEY" in delivery.unreadable
    assert (delivery.auth_key, delivery.signing_secrets) == (None, ())


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), Failed("no")])
async def test_deliveries_of_many_endpoints_come_to_one_process(bench: Bench, outcome: Outcome) -> None:
    for _ in range(6):
        endpoint = await bench.store.endpoints.create(TENANT, config())
        bench.endpoint_ids.append(endpoint.endpoint_id)
        other = Bench(bench.store, endpoint.endpoint_id, bench.probe)
        await other.finish("t1", outcome=outcome, webhook=True)
    outbox = await bench.outbox()
    entries = await outbox.read(10, block_ms=1)
    assert {entry.delivery_id for entry in entries} == {f"t:{one}:t1" for one in bench.endpoint_ids[1:]}
    for entry in entries:
        await _open(outbox, entry)
        assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}


async def _read_one(outbox: Outbox) -> OutboxEntry:
    (entry,) = await outbox.read(10, block_ms=1)
    return entry


async def _open(outbox: Outbox, entry: OutboxEntry) -> Delivery:
    delivery = await outbox.open(entry)
    assert delivery is not None
    return delivery


async def _body(bench: Bench) -> dict[str, object]:
    outbox = await bench.outbox()
    body: dict[str, object] = json.loads((await _open(outbox, await _read_one(outbox))).body)
    return body


async def _die(bench: Bench, process_id: str) -> None:
    """Pretend that the process was silent for longer than its lease."""
    assert await bench.probe.ask("ZADD", bench.partition.senders, "XX", "CH", 1, process_id) == 1


async def _adopt(bench: Bench, outbox: Outbox, *, limit: int = 256) -> list[OutboxEntry]:
    """Adopt without grace."""
    await bench.steady()
    return await outbox.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS, limit=limit)


async def _finished(bench: Bench, agent: TaskQueue) -> None:
    await bench.settle(agent, await bench.start(agent), Succeeded(b"1"))


async def _failed_by_an_agent_without_the_key(bench: Bench, agent: TaskQueue) -> None:
    store = Store(bench.store.url, Sealer(None), partitions=bench.store.partitions.count)
    try:
        keyless = store.queue(endpoint_id=bench.endpoint_id, worker_id="keyless", lease_ms=LONG_LEASE_MS)
        await bench.settle(keyless, await bench.start(keyless), Failed("no key"))
    finally:
        await store.close()


async def _cancelled_while_it_waited(bench: Bench, agent: TaskQueue) -> None:
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")


async def _cancelled_when_it_was_released(bench: Bench, agent: TaskQueue) -> None:
    started = await bench.start(agent)
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    await bench.release(agent, started)


async def _cancelled_when_it_was_retried(bench: Bench, agent: TaskQueue) -> None:
    started = await bench.start(agent)
    await bench.store.tasks.cancel(bench.endpoint_id, "t1")
    await bench.settle(agent, started, TryAgain("busy", 60))


async def _dead(bench: Bench, agent: TaskQueue) -> None:
    await bench.start(agent)
    await bench.lose("t1", max_lost=0)


async def _expired(bench: Bench, agent: TaskQueue) -> None:
    await bench.pass_deadline("t1")
    await bench.sweep()


async def _ended_with_its_endpoint(bench: Bench, agent: TaskQueue) -> None:
    await bench.store.sweeper.end_waiting(bench.endpoint_id, "the endpoint was deleted")


End = Callable[[Bench, TaskQueue], Awaitable[None]]
ENDS: tuple[End, ...] = (
    _finished, _failed_by_an_agent_without_the_key, _cancelled_while_it_waited, _cancelled_when_it_was_released,
    _cancelled_when_it_was_retried, _dead, _expired, _ended_with_its_endpoint,
)  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
async def test_the_delivery_has_the_destination_that_was_given_at_submit(bench: Bench, end: End) -> None:
    await bench.submit("t1", spec=spec(webhook=True), queue_ttl_seconds=60)
    await end(bench, bench.agent())
    assert await _destination(bench) == DESTINATION


@pytest.mark.parametrize("end", ENDS)
async def test_a_task_of_an_older_version_has_its_destination_in_its_spec(bench: Bench, end: End) -> None:
    await bench.submit("t1", spec=spec(webhook=True, headers={"A": '"destination":"x"'}), queue_ttl_seconds=60)
    assert await bench.probe.ask("HSET", bench.keys.task("t1"), "webhook", 1) == 0
    await end(bench, bench.agent())
    assert await _destination(bench) == DESTINATION


async def test_a_long_destination_leaves_the_task_compact(bench: Bench) -> None:
    destination = f"https://{'h' * 60}.example:443"
    await bench.submit("t1", spec=replace(spec(webhook=True), webhook_destination=destination))
    assert (await bench.probe.hash(bench.keys.task("t1")))["webhook"] == "1"
    await _finished(bench, bench.agent())
    assert await _destination(bench) == destination


async def test_a_task_without_its_body_ends(bench: Bench) -> None:
    await bench.submit("t1", spec=spec(webhook=True))
    await bench.probe.ask("HSET", bench.keys.task("t1"), "webhook", 1)
    await bench.probe.ask("DEL", bench.keys.body("t1"))
    await bench.recount_bytes()
    assert await bench.store.tasks.cancel(bench.endpoint_id, "t1") is Cancellation.CANCELLED
    assert await _destination(bench) == ""
    await bench.store.tasks.delete(bench.endpoint_id, "t1")


async def _destination(bench: Bench) -> str:
    """Return the destination of the only delivery, which the outbox and the delivery's record agree on."""
    (entry,) = await (await bench.outbox()).read(10, block_ms=1)
    assert entry.delivery_id == f"t:{bench.endpoint_id}:t1"
    assert (await bench.probe.hash(bench.keys.delivery("t1")))["destination"] == entry.destination
    return entry.destination
