"""Status events of workers: each event is delivered in order, and no worker blocks another."""

import json
from dataclasses import replace
from typing import Any

import pytest

from queue_engine.domain.deliveries import Delivery, Verdict
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.observability import metrics
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import DEFAULT_MAX_AGE_MS, Outbox
from tests.store.bench import DELIVERED, DESTINATION, GIVEN_UP, TENANT, WEBHOOK, Bench, again, answer, config

INITIALIZING, RUNNING, STOPPING = WorkerStatus.INITIALIZING, WorkerStatus.RUNNING, WorkerStatus.STOPPING
STOPPED, FAILED = WorkerStatus.STOPPED, WorkerStatus.FAILED
MAX_EVENTS = 100
MAX_ENDPOINT_EVENTS = 10_000
"""As in library.lua."""
OTHER_WEBHOOK, OTHER_DESTINATION = "https://other.example:8443/status", "https://other.example:8443"


@pytest.fixture
async def told(bench: Bench) -> Bench:
    """An endpoint whose webhook receives the status events of its workers."""
    endpoint = await bench.store.endpoints.create(TENANT, config(webhook=WEBHOOK))
    bench.endpoint_ids.append(endpoint.endpoint_id)
    return Bench(bench.store, endpoint.endpoint_id, bench.probe, bench.endpoint_ids)


async def put(bench: Bench, worker_id: str = "w1", *, managed: bool = True) -> None:
    await bench.store.workers.put(bench.endpoint_id, worker_id, managed=managed)


async def mark(bench: Bench, status: WorkerStatus, worker_id: str = "w1") -> None:
    await bench.store.workers.mark(bench.endpoint_id, worker_id, status, reason="because")


async def report(bench: Bench, status: WorkerStatus, worker_id: str = "w1") -> DesiredState | None:
    return await bench.store.workers.report(
        bench.endpoint_id, worker_id, status, running_tasks=0, address="127.0.0.1:1", reason="it says so"
    )


async def status_of(bench: Bench, worker_id: str = "w1") -> WorkerStatus:
    worker = await bench.store.workers.get(bench.endpoint_id, worker_id)
    assert worker is not None
    return worker.status


async def due(outbox: Outbox) -> list[OutboxEntry]:
    return await outbox.read(10, block_ms=1)


async def opened(outbox: Outbox, entry: OutboxEntry) -> Delivery:
    delivery = await outbox.open(entry)
    assert delivery is not None
    return delivery


async def send_one(outbox: Outbox, verdict: Verdict = DELIVERED) -> dict[str, Any]:
    """Make a delivery attempt for the only due event; return the sent event."""
    [entry] = await due(outbox)
    delivery = await opened(outbox, entry)
    assert (await outbox.settle(entry, answer(), verdict, at_ms=1)).accepted
    body: dict[str, Any] = json.loads(delivery.body)
    return body


async def events(bench: Bench) -> int:
    """Return the endpoint's count of waiting events."""
    return int((await bench.probe.hash(bench.keys.counts)).get("events", 0))


# Changes that are events


async def test_every_change_of_status_is_delivered_once_in_order(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await put(told)
    await report(told, INITIALIZING)
    await report(told, RUNNING)
    await report(told, RUNNING)
    await mark(told, STOPPING)
    await told.store.workers.remove(told.endpoint_id, "w1", reason="not wanted")
    await told.store.workers.remove(told.endpoint_id, "w1", reason="not wanted")
    bodies = [await send_one(outbox) for _ in range(4)]
    assert [(body["previousStatus"], body["status"]) for body in bodies] == [
        (None, "INITIALIZING"),
        ("INITIALIZING", "RUNNING"),
        ("RUNNING", "STOPPING"),
        ("STOPPING", "STOPPED"),
    ]
    assert [body["reason"] for body in bodies] == ["created", "it says so", "because", "not wanted"]
    assert {(body["workerId"], body["endpointId"]) for body in bodies} == {("w1", told.endpoint_id)}
    assert await due(outbox) == []
    assert await outbox.pending() == {"fresh": 0, "retry": 0, "parked": 0}
    assert await events(told) == 0
    assert not [name for name in await told.probe.keys() if "w1" in name]


async def test_an_endpoint_without_a_webhook_has_no_events(bench: Bench) -> None:
    outbox = await bench.outbox()
    await put(bench)
    await report(bench, RUNNING)
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    assert await due(outbox) == []
    assert await events(bench) == 0


async def test_what_a_controller_decided_about_its_worker_stands(told: Bench) -> None:
    await put(told)
    await mark(told, STOPPING)
    await report(told, RUNNING)
    assert await status_of(told) is STOPPING
    await put(told, "w2")
    await mark(told, FAILED, "w2")
    await report(told, INITIALIZING, "w2")
    assert await status_of(told, "w2") is FAILED
    await report(told, RUNNING, "w2")
    assert await status_of(told, "w2") is RUNNING


async def test_an_unmanaged_agent_reports_itself_that_it_runs_again(told: Bench) -> None:
    await put(told, managed=False)
    for status in (RUNNING, STOPPING, RUNNING, STOPPING, STOPPED, RUNNING):
        await report(told, status)
        assert await status_of(told) is status


async def test_a_deleted_endpoint_gets_no_new_worker(told: Bench) -> None:
    await put(told, "before")
    await told.store.endpoints.set_desired_state(told.endpoint_id, TENANT, DesiredState.DELETED)
    await put(told, "after")
    assert [one.worker_id for one in await told.store.workers.of_endpoint(told.endpoint_id)] == ["before"]
    assert await report(told, RUNNING, "after") is None
    assert await report(told, RUNNING, "before") is DesiredState.DELETED


# Order


async def test_the_next_event_of_a_worker_is_due_when_the_one_before_is_done_with(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await report(told, RUNNING)
    [first] = await due(outbox)
    await opened(outbox, first)
    assert await due(outbox) == []
    await outbox.settle(first, answer(), DELIVERED, at_ms=1)
    assert (await send_one(outbox))["status"] == "RUNNING"


async def test_events_of_several_workers_are_due_at_once(told: Bench) -> None:
    outbox = await told.outbox()
    for worker_id in ("w1", "w2", "w3"):
        await put(told, worker_id)
        await report(told, RUNNING, worker_id)
    entries = await due(outbox)
    assert {entry.delivery_id for entry in entries} == {f"s:{told.endpoint_id}:w{number}" for number in (1, 2, 3)}
    assert {entry.destination for entry in entries} == {DESTINATION}


async def test_an_event_that_failed_is_sent_again_before_the_next_one(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await report(told, RUNNING)
    ids, attempts = set(), []
    for verdict in (again(), again(), DELIVERED):
        [entry] = await due(outbox)
        delivery = await opened(outbox, entry)
        ids.add(delivery.message_id)
        attempts.append(delivery.attempts)
        assert json.loads(delivery.body)["status"] == "INITIALIZING"
        await outbox.settle(entry, answer(500), verdict, at_ms=1)
        if verdict is not DELIVERED:
            assert await due(outbox) == []
            assert await outbox.promote() == 1
    assert (len(ids), attempts) == (1, [0, 1, 2])
    [entry] = await due(outbox)
    delivery = await opened(outbox, entry)
    assert (json.loads(delivery.body)["status"], delivery.attempts) == ("RUNNING", 0)
    assert delivery.message_id not in ids


async def test_an_event_that_is_given_up_lets_the_next_one_go(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await report(told, RUNNING)
    assert (await send_one(outbox, GIVEN_UP))["status"] == "INITIALIZING"
    assert (await send_one(outbox))["status"] == "RUNNING"
    assert await events(told) == 0


async def test_an_event_that_is_put_off_keeps_its_place(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await report(told, RUNNING)
    [entry] = await due(outbox)
    await outbox.defer(entry, delay_ms=0)
    await outbox.defer(entry, delay_ms=0)
    assert await due(outbox) == []
    assert await outbox.promote() == 1
    assert [(await send_one(outbox))["status"] for _ in range(2)] == ["INITIALIZING", "RUNNING"]


async def test_an_event_goes_where_the_webhook_was_when_it_happened(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await report(told, RUNNING)
    await told.store.endpoints.update(told.endpoint_id, TENANT, lambda before: replace(before, webhook=OTHER_WEBHOOK))
    await mark(told, STOPPING)
    await told.store.endpoints.update(told.endpoint_id, TENANT, lambda before: replace(before, webhook=None))
    await told.store.workers.remove(told.endpoint_id, "w1")
    went = []
    for _ in range(3):
        [entry] = await due(outbox)
        went.append((entry.destination, (await opened(outbox, entry)).url))
        # An event that waits for its next attempt keeps its destination.
        await outbox.settle(entry, answer(500), again(), at_ms=1)
        await outbox.promote()
        [entry] = await due(outbox)
        assert entry.destination == went[-1][0]
        await opened(outbox, entry)
        await outbox.settle(entry, answer(), DELIVERED, at_ms=1)
    assert went == [(DESTINATION, WEBHOOK)] * 2 + [(OTHER_DESTINATION, OTHER_WEBHOOK)]
    assert await due(outbox) == []


# Two processes, and lost replies


async def test_a_settlement_counts_once(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await report(told, RUNNING)
    [entry] = await due(outbox)
    await opened(outbox, entry)
    accepted = [(await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted for _ in range(3)]
    assert accepted == [True, False, False]
    assert await events(told) == 1
    assert (await send_one(outbox))["status"] == "RUNNING"


async def test_an_event_that_a_dead_process_had_is_sent_by_another_under_the_same_id(told: Bench) -> None:
    dead, heir = await told.outbox("dead"), await told.outbox("heir")
    await put(told)
    await report(told, RUNNING)
    [entry] = await due(dead)
    before = await opened(dead, entry)
    assert await told.probe.ask("ZADD", told.partition.senders, "XX", "CH", 1, "dead") == 1
    await told.steady()
    [adopted] = await heir.adopt(tick_ms=1000, lease_ms=60_000)
    after = await opened(heir, adopted)
    assert (after.message_id, after.body) == (before.message_id, before.body)
    assert not (await dead.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    assert (await heir.settle(adopted, answer(), DELIVERED, at_ms=1)).accepted
    assert (await send_one(heir))["status"] == "RUNNING"


async def test_an_old_entry_of_an_event_opens_nothing(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    [entry] = await due(outbox)
    await opened(outbox, entry)
    await outbox.settle(entry, answer(500), again(), at_ms=1)
    assert await outbox.open(entry) is None
    assert await outbox.promote() == 1
    assert (await send_one(outbox))["status"] == "INITIALIZING"
    assert await outbox.open(entry) is None


async def test_a_deleted_endpoint_stays_until_its_events_are_delivered(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await told.store.endpoints.set_desired_state(told.endpoint_id, TENANT, DesiredState.DELETED)
    assert not await told.store.endpoints.remove(told.endpoint_id)
    await told.store.workers.remove(told.endpoint_id, "w1")
    assert not await told.store.endpoints.remove(told.endpoint_id)
    for _ in range(2):
        [entry] = await due(outbox)
        assert (await opened(outbox, entry)).signing_secrets
        await outbox.settle(entry, answer(), DELIVERED, at_ms=1)
    assert await told.store.endpoints.remove(told.endpoint_id)
    told.endpoint_ids.remove(told.endpoint_id)


async def test_waiting_events_of_a_crashing_worker_are_limited(told: Bench) -> None:
    """The webhook accepts none. The first event, which may be in delivery, and the latest events are kept."""
    await put(told)
    for _ in range(MAX_EVENTS):
        await mark(told, RUNNING)
        await mark(told, FAILED)
    assert await events(told) == MAX_EVENTS
    waiting = await told.probe.ask("LRANGE", told.keys.worker_events("w1"), 0, -1)
    numbers = [json.loads(event)["number"] for event in waiting]
    latest = 2 * MAX_EVENTS + 1
    assert numbers == [1, *range(latest - MAX_EVENTS + 2, latest + 1)]
    outbox = await told.outbox()
    for _ in numbers:
        await send_one(outbox)
    assert await events(told) == 0


async def come_and_go(bench: Bench, worker_id: str) -> None:
    """Record a worker and remove it, which makes two events."""
    await put(bench, worker_id)
    await bench.store.workers.remove(bench.endpoint_id, worker_id)


async def limit_events(bench: Bench, waiting: int) -> None:
    """Let the endpoint have this number of events below its limit."""
    await bench.probe.ask("HINCRBY", bench.keys.counts, "events", MAX_ENDPOINT_EVENTS - waiting)


async def test_events_of_workers_that_come_and_go_are_limited(told: Bench) -> None:
    """The webhook accepts none. The events of the worker that was removed first are dropped, with their delivery."""
    before = metrics.worker_events_dropped._value.get()
    await limit_events(told, 5)
    for number in range(4):
        await come_and_go(told, f"w{number}")
    assert await events(told) == MAX_ENDPOINT_EVENTS - 1
    assert metrics.worker_events_dropped._value.get() == before + 4
    names = await told.probe.keys()
    assert not [name for name in names if name.endswith((":w0", ":w1"))]
    outbox = await told.outbox()
    waiting = await due(outbox)
    assert [one.delivery_id.rpartition(":")[2] for one in waiting] == ["w2", "w3"]
    for _ in range(2):
        for entry in waiting:
            assert (await opened(outbox, entry)).body
            assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
        waiting = await due(outbox)
    assert not await told.probe.ask("EXISTS", told.keys.removed_events)


async def test_a_delivery_that_is_being_sent_when_its_event_is_dropped_is_fenced(told: Bench) -> None:
    await limit_events(told, 2)
    await come_and_go(told, "w0")
    outbox = await told.outbox()
    [entry] = await due(outbox)
    await opened(outbox, entry)
    await come_and_go(told, "w1")
    assert not (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    [entry] = await due(outbox)
    assert entry.delivery_id.endswith(":w1")
    await outbox.settle(entry, answer(), DELIVERED, at_ms=1)


async def test_events_that_wait_for_another_attempt_are_dropped_too(told: Bench) -> None:
    await limit_events(told, 2)
    await come_and_go(told, "w0")
    outbox = await told.outbox()
    await send_one(outbox, again(60_000))
    await come_and_go(told, "w1")
    assert await outbox.pending() == {"fresh": 1, "retry": 0, "parked": 0}


async def test_a_worker_that_came_back_keeps_its_events(told: Bench) -> None:
    await limit_events(told, 4)
    await come_and_go(told, "back")
    await put(told, "back")
    await come_and_go(told, "other")
    assert await events(told) == MAX_ENDPOINT_EVENTS - 4 + 3
    assert await told.probe.ask("LLEN", told.keys.worker_events("back")) == 3


async def test_an_event_that_has_waited_for_too_long_is_left_out(told: Bench) -> None:
    outbox = await told.outbox()
    await put(told)
    await mark(told, RUNNING)
    await mark(told, FAILED)
    await _age(told, 1)
    assert (await send_one(outbox, GIVEN_UP))["status"] == "INITIALIZING"
    assert (await send_one(outbox))["status"] == "FAILED"
    assert await events(told) == 0


@pytest.mark.parametrize("following", [True, False])
async def test_an_event_whose_receiver_is_not_served_for_too_long_is_given_up(told: Bench, following: bool) -> None:
    outbox = await told.outbox()
    await put(told)
    if following:
        await mark(told, RUNNING)
    [entry] = await due(outbox)
    long_ago = await told.probe.now_ms() - DEFAULT_MAX_AGE_MS - 1
    await told.probe.ask("HSET", told.partition.delivery(entry.delivery_id), "created", long_ago)
    assert await outbox.defer(entry, delay_ms=0) is False
    assert await events(told) == following
    if following:
        assert (await send_one(outbox))["status"] == "RUNNING"
    assert not await told.probe.ask("EXISTS", told.partition.delivery(entry.delivery_id))


async def _age(bench: Bench, index: int) -> None:
    """Pretend that one of the worker's events has waited for too long."""
    key = bench.keys.worker_events("w1")
    event = json.loads(await bench.probe.ask("LINDEX", key, index))
    event["at"] = str(int(event["at"]) - DEFAULT_MAX_AGE_MS - 1)
    await bench.probe.ask("LSET", key, index, json.dumps(event))
