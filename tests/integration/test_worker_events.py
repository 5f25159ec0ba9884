"""What a webhook is told of workers while receivers fail and delivery processes die: in order, nothing left out."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from tests.integration.parts import TENANT, HttpServer, Programs, Reply, Request, new_endpoint, replies
from tests.waiting import wait_until, wait_until_async

INITIALIZING, RUNNING, STOPPING = WorkerStatus.INITIALIZING, WorkerStatus.RUNNING, WorkerStatus.STOPPING
OK = Reply(204, b"")


async def live(store: Store, endpoint_id: str, worker_id: str, *statuses: WorkerStatus) -> None:
    """A new worker that goes through these statuses."""
    await store.workers.put(endpoint_id, worker_id, managed=True)
    for status in statuses:
        await store.workers.mark(endpoint_id, worker_id, status, reason="test")


def told(receiver: HttpServer, worker_id: str = "w1") -> list[str]:
    """The statuses that came in for a worker, with repeats."""
    bodies = [json.loads(request.body) for request in list(receiver.requests)]
    return [body["status"] for body in bodies if body["workerId"] == worker_id]


def ids(receiver: HttpServer) -> list[str]:
    return [request.headers["webhook-id"] for request in receiver.requests]


def of_worker(worker_id: str, reply: Reply) -> Callable[[Request], Reply]:
    """This reply for one worker's events, 204 for the others'."""
    return lambda request: reply if json.loads(request.body)["workerId"] == worker_id else OK


async def done(store: Store) -> None:
    """Wait until nothing is left to deliver."""
    outbox = store.outbox("observer")

    async def empty() -> bool:
        return set((await outbox.pending()).values()) == {0}

    await wait_until_async(empty, message="events are left")


async def test_an_event_that_fails_is_repeated_before_the_next_one_is_sent(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    receiver.answer = replies(Reply(500), Reply(503), OK)
    endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
    await live(store, endpoint_id, "w1", RUNNING, STOPPING)
    programs.delivery()
    await done(store)
    assert told(receiver) == ["INITIALIZING"] * 3 + ["RUNNING", "STOPPING"]
    assert len(set(ids(receiver)[:3])) == 1
    assert len(set(ids(receiver))) == 3


async def test_the_events_of_another_worker_are_not_held_up(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    receiver.answer = of_worker("w1", Reply(500))
    endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
    await live(store, endpoint_id, "w1", RUNNING)
    await live(store, endpoint_id, "w2", RUNNING, STOPPING)
    programs.delivery(schedule="0.1,600")
    wait_until(lambda: told(receiver, "w2") == ["INITIALIZING", "RUNNING", "STOPPING"])
    wait_until(lambda: told(receiver) == ["INITIALIZING", "INITIALIZING"])


async def test_an_event_without_a_response_does_not_delay_other_workers(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    held = threading.Event()
    receiver.answer = of_worker("w1", Reply(204, b"", hold=held))
    endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
    await live(store, endpoint_id, "w1", RUNNING)
    await live(store, endpoint_id, "w2", RUNNING)
    programs.delivery()
    wait_until(lambda: told(receiver, "w2") == ["INITIALIZING", "RUNNING"])
    assert told(receiver) == ["INITIALIZING"]
    held.set()
    await done(store)
    assert told(receiver) == ["INITIALIZING", "RUNNING"]


async def test_after_a_kill_the_event_under_way_comes_again_and_the_order_stays(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    held = threading.Event()
    receiver.answer = replies(Reply(204, b"", hold=held), OK)
    endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
    await live(store, endpoint_id, "w1", RUNNING, STOPPING)
    first = programs.delivery()
    receiver.next()
    first.kill()
    held.set()
    programs.delivery()
    await done(store)
    assert told(receiver) == ["INITIALIZING", "INITIALIZING", "RUNNING", "STOPPING"]
    assert ids(receiver)[0] == ids(receiver)[1]


async def test_after_a_kill_between_two_attempts_the_order_stays(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    receiver.answer = replies(Reply(500), Reply(500), OK)
    endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
    await live(store, endpoint_id, "w1", RUNNING)
    first = programs.delivery(schedule="0.1,1.5,0.1")
    receiver.next()
    receiver.next()
    first.kill()
    programs.delivery()
    await done(store)
    assert told(receiver) == ["INITIALIZING"] * 3 + ["RUNNING"]
    assert len(set(ids(receiver)[:3])) == 1


@pytest.mark.parametrize(("status", "attempts"), [(500, 2), (410, 1)])
async def test_an_event_that_is_given_up_lets_the_next_one_go(
    store: Store, programs: Programs, receiver: HttpServer, status: int, attempts: int
) -> None:
    receiver.answer = replies(*[Reply(status)] * attempts, OK)
    endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
    await live(store, endpoint_id, "w1", RUNNING)
    programs.delivery(schedule="0.1")
    await done(store)
    assert told(receiver) == ["INITIALIZING"] * attempts + ["RUNNING"]


async def test_a_new_webhook_gets_later_events_only(store: Store, programs: Programs, receiver: HttpServer) -> None:
    with HttpServer() as other:
        receiver.answer = other.answer = replies(OK)
        endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
        await live(store, endpoint_id, "w1", RUNNING)
        await store.endpoints.update(endpoint_id, TENANT, lambda before: replace(before, webhook=f"{other.url}/status"))
        await store.workers.mark(endpoint_id, "w1", STOPPING, reason="test")
        await store.workers.remove(endpoint_id, "w1")
        programs.delivery()
        await done(store)
        assert (told(receiver), told(other)) == (["INITIALIZING", "RUNNING"], ["STOPPING", "STOPPED"])


async def test_a_change_during_an_attempt_is_sent_after_it(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    held = threading.Event()
    receiver.answer = replies(Reply(500, b"", hold=held), OK)
    endpoint_id = await new_endpoint(store, webhook=f"{receiver.url}/status")
    await live(store, endpoint_id, "w1")
    programs.delivery()
    receiver.next()
    await store.workers.mark(endpoint_id, "w1", RUNNING, reason="test")
    held.set()
    await done(store)
    assert told(receiver) == ["INITIALIZING", "INITIALIZING", "RUNNING"]
