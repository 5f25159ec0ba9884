"""Real processes send given-up results again, each once, while the processes are killed."""

import json
import threading
from collections import Counter

from queue_engine.domain.deliveries import RecoveryState
from queue_engine.domain.tasks import DeliveryStatus
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Programs, Reply, Request, new_endpoint
from tests.integration.test_delivery import end_task
from tests.waiting import wait_until, wait_until_async

COUNT = 30


def task_in(request: Request) -> str:
    task: str = json.loads(request.body)["user_task_id"]
    return task


async def wait_until_given_up(store: Store, endpoint_id: str) -> None:
    async def are_given_up() -> bool:
        return (await store.given_up.page(endpoint_id, page=1, size=1)).total == COUNT

    await wait_until_async(are_given_up, message="the deliveries are not given up")


async def test_a_recovery_ends_although_its_processes_are_killed(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    receiver.answer = lambda _: Reply(500)
    for number in range(COUNT):
        await end_task(store, endpoint_id, f"t{number}", webhook=f"{receiver.url}/hook")
    first = programs.delivery()
    await wait_until_given_up(store, endpoint_id)
    controller = programs.controller()
    hold, receiver.requests = threading.Event(), []

    def hold_some(request: Request) -> Reply:
        return Reply(200, hold=hold if len(receiver.requests) > COUNT // 3 else None)

    receiver.answer = hold_some
    await store.recoveries.start(endpoint_id, "r1", since_ms=0, until_ms=None)
    wait_until(lambda: len(receiver.requests) > COUNT // 3, message="the recovery does not begin")
    first.kill()
    controller.kill()
    hold.set()
    programs.delivery()
    programs.controller()

    async def is_done() -> bool:
        found = await store.recoveries.get(endpoint_id)
        counts = await store.tasks.counts(endpoint_id)
        return found is not None and found.state is RecoveryState.DONE and counts.delivered == COUNT

    await wait_until_async(is_done, message="the recovery does not end")
    found = await store.recoveries.get(endpoint_id)
    assert found is not None
    assert found.sent == COUNT, "each was made due once"
    seen = Counter(map(task_in, receiver.requests))
    assert seen.keys() == {f"t{number}" for number in range(COUNT)}
    # Deliveries that the killed process was sending are sent once more, by the process that has adopted them.
    assert sum(seen.values()) <= COUNT + 4
    tasks = [await store.tasks.brief(endpoint_id, task_id) for task_id in seen]
    assert {task.delivery_status for task in tasks if task} == {DeliveryStatus.SUCCESS}


async def test_a_fresh_result_passes_recovered_ones_of_a_receiver_that_hangs(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    receiver.answer = lambda _: Reply(500)
    for number in range(COUNT):
        await end_task(store, endpoint_id, f"t{number}", webhook=f"{receiver.url}/hook")
    programs.delivery()
    await wait_until_given_up(store, endpoint_id)
    hold = threading.Event()
    receiver.answer = lambda request: Reply(200, hold=None if task_in(request) == "fresh" else hold)
    receiver.requests.clear()
    await store.recoveries.start(endpoint_id, "r1", since_ms=0, until_ms=None)
    await store.recoveries.advance(endpoint_id)
    wait_until(lambda: receiver.requests, message="the recovery does not begin")
    await end_task(store, endpoint_id, "fresh", webhook=f"{receiver.url}/hook")

    async def is_delivered() -> bool:
        task = await store.tasks.brief(endpoint_id, "fresh")
        return task is not None and task.delivery_status is DeliveryStatus.SUCCESS

    await wait_until_async(is_delivered, message="the fresh result waits for recovered ones")
    assert (await store.tasks.counts(endpoint_id)).delivered == 1
    hold.set()
