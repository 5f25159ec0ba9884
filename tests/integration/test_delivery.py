"""The delivery process: what a receiver gets, the schedule, and what survives the process's own death."""

import asyncio
import json
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from standardwebhooks import Webhook

from queue_engine.domain.tasks import DeliveryStatus, Failed, Outcome, Succeeded, Task, TaskStatus
from queue_engine.store.endpoints import new_signing_secret
from queue_engine.store.store import Store
from tests.integration.parts import (
    TENANT,
    HttpServer,
    Programs,
    Reply,
    Request,
    new_endpoint,
    open_store,
    programs_on,
    replies,
    submit,
)
from tests.ports import free_port
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until, wait_until_async

OUTPUT = b'{"label": "cat", "score": 0.123456789012345678901}'


@pytest.fixture(scope="module")
def sender_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a store beside which a delivery process runs, for tests that leave both as they were.

    They share it, because a process takes half a second of processor time to start.
    """

    async def prepare(url: str) -> None:
        store = open_store(url)
        await store.prepare()
        await store.close()

    directory = tmp_path_factory.mktemp("sender")
    with StoreServer(valkey_binary(), directory) as server, programs_on(server.url, directory) as programs:
        asyncio.run(prepare(server.url))
        programs.delivery(schedule="0.1,0.1")
        yield server.url


@pytest.fixture
async def sender(sender_url: str) -> AsyncIterator[Store]:
    """The store of the delivery process that is shared. Each test has endpoints and receivers of its own."""
    store = open_store(sender_url)
    yield store
    await store.close()


async def end_task(
    store: Store, endpoint_id: str, task_id: str = "task", outcome: Outcome | None = None, **given: Any
) -> None:
    """Submit a task and end it as an agent would, without one."""
    await submit(store, endpoint_id, task_id, **given)
    claims = store.queue(endpoint_id=endpoint_id, worker_id="w", lease_ms=30_000)
    [entry] = await claims.claim(1, block_ms=1000)
    started = await claims.start(entry, address="127.0.0.1:1")
    assert started is not None
    await claims.settle(started.lease, outcome or Succeeded(OUTPUT))


async def delivery_at(store: Store, endpoint_id: str, status: DeliveryStatus, task_id: str = "task") -> Task:
    async def reached() -> Task | None:
        task = await store.tasks.get(endpoint_id, task_id)
        return task if task is not None and task.delivery_status is status else None

    task = await wait_until_async(reached, message=f"the delivery is never {status}")
    assert task is not None
    return task


async def test_a_result_is_delivered_with_key_and_signature(sender: Store, receiver: HttpServer) -> None:
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, webhook=f"{receiver.url}/hook", auth_key="top secret key")
    request = receiver.next()
    assert request.path == "/hook"
    assert request.headers["x-api-key"] == "top secret key"
    assert request.headers["content-type"] == "application/json"
    secret = await sender.endpoints.signing_secret(endpoint_id)
    assert secret is not None
    Webhook(secret).verify(request.body, request.headers)
    assert OUTPUT in request.body
    body = json.loads(request.body)
    assert isinstance(body.pop("task_id"), int)
    assert len(body.pop("timestamp")) == len("2026-01-01 00:00:00.000")
    assert body == {
        "user_task_id": "task",
        "endpoint_id": endpoint_id,
        "status": "Success",
        "success": True,
        "retry_count": 1,
        "result": json.loads(OUTPUT),
    }
    task = await delivery_at(sender, endpoint_id, DeliveryStatus.SUCCESS)
    assert task.status is TaskStatus.DELIVERED
    assert task.delivery_attempts == 1
    assert task.delivered_at_ms is not None


async def test_receivers_with_the_replaced_and_the_new_secret_verify_a_result(
    sender: Store, receiver: HttpServer
) -> None:
    endpoint_id = await new_endpoint(sender)
    secrets = [await sender.endpoints.signing_secret(endpoint_id), new_signing_secret()]
    await sender.endpoints.rotate_signing_secret(endpoint_id, TENANT, str(secrets[1]), overlap_seconds=3600)
    await end_task(sender, endpoint_id, webhook=f"{receiver.url}/hook")
    request = receiver.next()
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    for secret in secrets:
        Webhook(str(secret)).verify(request.body, request.headers)


async def test_an_auth_key_that_signs_is_not_sent(sender: Store, receiver: HttpServer) -> None:
    endpoint_id, own = await new_endpoint(sender), new_signing_secret()
    await end_task(sender, endpoint_id, webhook=f"{receiver.url}/hook", auth_key=own)
    request = receiver.next()
    assert "x-api-key" not in request.headers
    assert own not in str(request.headers)
    assert len(request.headers["webhook-signature"].split(" ")) == 1
    Webhook(own).verify(request.body, request.headers)


async def test_a_failure_is_delivered_and_stays_failed(sender: Store, receiver: HttpServer) -> None:
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, outcome=Failed("out of memory"), webhook=f"{receiver.url}/hook")
    request = receiver.next()
    body = json.loads(request.body)
    assert (body["status"], body["success"], body["failed_reason"]) == ("Failed", False, "out of memory")
    assert "result" not in body
    assert "x-api-key" not in request.headers
    task = await delivery_at(sender, endpoint_id, DeliveryStatus.SUCCESS)
    assert task.status is TaskStatus.FAILED


async def test_a_large_output_is_left_out_and_said_so(sender: Store, receiver: HttpServer) -> None:
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, outcome=Succeeded(b'"' + b"x" * 300_000 + b'"'), webhook=f"{receiver.url}/hook")
    body = json.loads(receiver.next().body)
    assert body["result_truncated"] is True
    assert "result" not in body


async def test_a_receiver_that_fails_twice_gets_it_a_third_time_under_the_same_id(
    sender: Store, receiver: HttpServer
) -> None:
    receiver.answer = replies(Reply(500), Reply(503), Reply(204, b""))
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, webhook=f"{receiver.url}/hook")
    requests = [receiver.next() for _ in range(3)]
    assert [json.loads(request.body)["retry_count"] for request in requests] == [1, 2, 3]
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    task = await delivery_at(sender, endpoint_id, DeliveryStatus.SUCCESS)
    assert task.delivery_attempts == 3
    log = await sender.deliveries.ledger(endpoint_id, "task")
    assert [one.status for one in log] == [500, 503, 204]


async def test_the_schedule_ends_with_max_retries_exceeded(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    receiver.answer = replies(Reply(500, b"I am broken"))
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook")
    programs.delivery(schedule="0.1,0.2")
    task = await delivery_at(store, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED)
    assert (task.status, task.delivery_attempts, len(receiver.requests)) == (TaskStatus.SUCCESS, 3, 3)
    assert "status 500" in (task.delivery_error or "")
    assert "I am broken" in (task.delivery_error or "")


async def test_between_attempts_the_status_is_failed_and_the_next_time_is_known(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    receiver.answer = replies(Reply(500))
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook")
    programs.delivery(schedule="3600")
    task = await delivery_at(store, endpoint_id, DeliveryStatus.FAILED)
    assert task.next_delivery_at_ms is not None
    wait_seconds = (task.next_delivery_at_ms - task.updated_at_ms) / 1000
    assert 3600 * 0.8 <= wait_seconds <= 3600 * 1.2


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), "redirect"),
        (Reply(410, b""), "gone"),
        (Reply(429, b"", {"Retry-After": "0"}), "rate_limited"),
        (Reply(404, b""), "http_4xx"),
    ],
    ids=["redirect", "gone", "rate limited", "not found"],
)
async def test_what_is_not_2xx_is_a_failure_with_its_class(
    sender: Store, receiver: HttpServer, reply: Reply, fault: str
) -> None:
    receiver.answer = replies(reply)
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, webhook=f"{receiver.url}/hook")
    task = await delivery_at(sender, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED)
    assert task.delivery_attempts == (1 if fault == "gone" else 3)
    assert {one.error_type for one in await sender.deliveries.ledger(endpoint_id, "task")} == {fault}


async def test_a_refused_connection_is_a_failure_like_any_other(sender: Store) -> None:
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, webhook=f"http://127.0.0.1:{free_port()}/hook")
    task = await delivery_at(sender, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED)
    assert "connect_refused" in (task.delivery_error or "")


async def test_no_connection_is_made_to_a_refused_address(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook")
    programs.delivery(schedule="0.1", QUEUE_ENGINE_WEBHOOK_ALLOW="10.0.0.0/8")
    task = await delivery_at(store, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED)
    assert "blocked_address" in (task.delivery_error or "")
    assert receiver.requests == []


async def test_a_response_that_never_comes_is_given_up(store: Store, programs: Programs, receiver: HttpServer) -> None:
    never = threading.Event()
    receiver.answer = lambda _: Reply(hold=never)
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook")
    programs.delivery(schedule="0.1", QUEUE_ENGINE_DELIVERY_TIMEOUT_SECONDS="0.5")
    task = await delivery_at(store, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED)
    never.set()
    assert "read_timeout" in (task.delivery_error or "")


async def test_a_process_killed_between_post_and_record_has_the_delivery_sent_again_under_the_same_id(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    never = threading.Event()
    receiver.answer = replies(Reply(hold=never), Reply())
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook")
    first = programs.delivery()
    before = receiver.next()
    first.kill()
    programs.delivery()
    again = receiver.next(20)
    never.set()
    assert again.headers["webhook-id"] == before.headers["webhook-id"]
    assert json.loads(again.body)["task_id"] == json.loads(before.body)["task_id"]
    task = await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS)
    assert task.delivery_attempts == 1


async def test_a_retry_that_was_due_while_no_process_ran_is_sent_when_one_runs(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    receiver.answer = replies(Reply(500), Reply())
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook")
    first = programs.delivery(schedule="0.1")
    receiver.next()
    await delivery_at(store, endpoint_id, DeliveryStatus.FAILED)
    first.kill()
    programs.delivery(schedule="0.1")
    await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS)


async def test_sigterm_records_what_is_in_flight(store: Store, programs: Programs, receiver: HttpServer) -> None:
    release = threading.Event()
    receiver.answer = lambda _: Reply(hold=release)
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook")
    process = programs.delivery()
    receiver.next()
    process.signal(signal.SIGTERM)
    release.set()
    assert process.wait() == 0
    await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS)
    assert len(receiver.requests) == 1


async def test_two_processes_send_each_delivery_once(store: Store, programs: Programs, receiver: HttpServer) -> None:
    endpoint_id = await new_endpoint(store)
    programs.delivery()
    programs.delivery()
    for number in range(60):
        await end_task(store, endpoint_id, f"t{number}", webhook=f"{receiver.url}/hook")
    for number in range(60):
        await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, f"t{number}")
    assert len(receiver.requests) == 60


async def test_a_receiver_that_hangs_does_not_delay_another(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    never = threading.Event()
    with HttpServer(lambda _: Reply(hold=never)) as hanging:
        endpoint_id = await new_endpoint(store)
        for number in range(100):
            await end_task(store, endpoint_id, f"slow{number}", webhook=f"{hanging.url}/hook")
        await end_task(store, endpoint_id, "quick", webhook=f"{receiver.url}/hook")
        programs.delivery(QUEUE_ENGINE_DELIVERY_SLOTS="16")
        wait_until(lambda: len(hanging.requests) > 0)
        receiver.next(5)
        await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, "quick")
        assert len(hanging.requests) < 16
        never.set()


async def test_slow_receivers_of_one_tenant_do_not_delay_those_of_another(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    """They hold all slots that a tenant may have, more deliveries than a process keeps in memory wait behind them."""
    never = threading.Event()
    slow = [HttpServer(lambda _: Reply(hold=never)) for _ in range(4)]
    with ExitStack() as stack:
        hanging = [stack.enter_context(server) for server in slow]
        crowd, good = await new_endpoint(store, "crowd"), await new_endpoint(store)
        for number in range(120):
            url = f"{hanging[number % 4].url}/hook"
            await end_task(store, crowd, f"slow{number}", webhook=url, tenant="crowd")
        programs.delivery(QUEUE_ENGINE_DELIVERY_SLOTS="16")
        wait_until(lambda: sum(len(server.requests) for server in hanging) >= 8)
        for number in range(20):
            await end_task(store, good, f"quick{number}", webhook=f"{receiver.url}/hook")
        for number in range(20):
            await delivery_at(store, good, DeliveryStatus.SUCCESS, f"quick{number}")
        assert sum(len(server.requests) for server in hanging) <= 15, "no attempt of the crowd has ended"
        never.set()


async def test_a_backlog_that_no_process_has_room_for_is_delivered_in_full(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    for number in range(40):
        await end_task(store, endpoint_id, f"t{number}", webhook=f"{receiver.url}/hook")
    programs.start(
        "delivery", "tests.integration.small_delivery", "delivery", QUEUE_ENGINE_DELIVERY_SCHEDULE="0.1",
        QUEUE_ENGINE_DELIVERY_LEASE_SECONDS="1",
    )  # fmt: skip
    for number in range(40):
        await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, f"t{number}")
    assert len(receiver.requests) == 40


async def test_what_a_drained_process_has_not_sent_is_sent_by_the_next_one(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    release = threading.Event()
    receiver.answer = replies(*[Reply(hold=release)] * 8, Reply())
    endpoint_id = await new_endpoint(store)
    for number in range(20):
        await end_task(store, endpoint_id, f"t{number}", webhook=f"{receiver.url}/hook")
    process = programs.delivery()
    for _ in range(8):
        receiver.next()
    process.signal(signal.SIGTERM)
    release.set()
    assert process.wait() == 0
    programs.delivery()
    for number in range(20):
        await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, f"t{number}")
    assert len(receiver.requests) == 20


async def test_a_retry_after_holds_for_all_deliveries_to_the_receiver(sender: Store, receiver: HttpServer) -> None:
    receiver.answer = replies(Reply(429, b"", {"Retry-After": "200"}))
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, "first", webhook=f"{receiver.url}/hook")
    await delivery_at(sender, endpoint_id, DeliveryStatus.FAILED, "first")
    await end_task(sender, endpoint_id, "second", webhook=f"{receiver.url}/other")

    async def is_parked() -> bool:
        task = await sender.tasks.get(endpoint_id, "second")
        return task is not None and task.delivery_parked

    await wait_until_async(is_parked)
    task = await sender.tasks.get(endpoint_id, "second")
    assert task is not None
    assert task.delivery_attempts == 0
    wait_seconds = ((task.next_delivery_at_ms or 0) - (task.finished_at_ms or 0)) / 1000
    assert 150 <= wait_seconds <= 205
    assert len(receiver.requests) == 1


async def test_an_idle_process_does_not_look_for_due_deliveries(store: Store, programs: Programs) -> None:
    process = programs.delivery(lease=3600.0)
    wait_until(lambda: '"started"' in process.output())

    async def scripts_in_a_read() -> int:
        scripts = await _calls_of(store, "evalsha")
        await _next_read(store)
        return await _calls_of(store, "evalsha") - scripts

    async def is_idle() -> bool:
        return await scripts_in_a_read() <= 5

    await wait_until_async(is_idle)  # on a busy machine it looks for what was due at its start during some reads
    assert await scripts_in_a_read() <= 5


async def _next_read(store: Store) -> None:
    """Wait until the process reads again. A read of an idle process takes two seconds."""
    reads = await _calls_of(store, "xreadgroup")

    async def has_read_again() -> bool:
        return await _calls_of(store, "xreadgroup") > reads

    await wait_until_async(has_read_again)


async def _calls_of(store: Store, command: str) -> int:
    stats = await store.redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_deliveries_go_on_after_the_store_was_away(
    store: Store, programs: Programs, receiver: HttpServer, valkey_server: StoreServer
) -> None:
    endpoint_id = await new_endpoint(store)
    process = programs.delivery()
    await end_task(store, endpoint_id, "before", webhook=f"{receiver.url}/hook")
    await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, "before")
    valkey_server.pause()
    wait_until(lambda: "the store is away" in process.output())
    valkey_server.resume()
    await end_task(store, endpoint_id, "after", webhook=f"{receiver.url}/hook")
    await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, "after")


async def test_secrets_are_in_no_log(store: Store, programs: Programs, receiver: HttpServer) -> None:
    def answer(request: Request) -> Reply:
        return Reply(500, f"you sent {request.headers['x-api-key']}".encode())

    receiver.answer = answer
    endpoint_id = await new_endpoint(store)
    await end_task(store, endpoint_id, webhook=f"{receiver.url}/hook", auth_key="canary-4711")
    process = programs.delivery(schedule="0.1")
    task = await delivery_at(store, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED)
    assert "canary-4711" not in process.output()
    assert "canary-4711" not in (task.delivery_error or "")
    assert "canary-4711" not in str(await store.deliveries.ledger(endpoint_id, "task"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("QUEUE_ENGINE_DELIVERY_SCHEDULE", "5,soon"),
        ("QUEUE_ENGINE_DELIVERY_SCHEDULE", "5,-1"),
        ("QUEUE_ENGINE_WEBHOOK_ALLOW", "10.0.0.1/8"),
        ("QUEUE_ENGINE_SECRET_KEY", "not-a-key"),
        ("QUEUE_ENGINE_DELIVERY_SLOTS", "0"),
    ],
)
def test_a_bad_setting_is_named_at_start(programs: Programs, variable: str, value: str) -> None:
    process = programs.start("delivery", "queue_engine", "delivery", **{variable: value})
    assert process.wait() == 2
    assert variable in process.output()
    assert "Traceback" not in process.output()


async def test_a_name_that_resolves_inside_is_recorded_like_one_that_does_not_resolve(sender: Store) -> None:
    """A tenant must not learn the names of the private network from the difference."""
    endpoint_id = await new_endpoint(sender)
    await end_task(sender, endpoint_id, "inside", webhook="http://db.localhost:9/")  # ::1 is not allowed
    await end_task(sender, endpoint_id, "unresolved", webhook="http://db.invalid:9/")
    seen = []
    for task_id in ("inside", "unresolved"):
        task = await delivery_at(sender, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED, task_id)
        log = await sender.deliveries.ledger(endpoint_id, task_id)
        seen.append((task.delivery_error, [(one.status, one.error_type, one.excerpt) for one in log]))
    assert seen[0] == seen[1]
    assert [row[2] for row in seen[0][1]] == ["the host name does not resolve to an address that is allowed"] * 3


async def test_loopback_is_closed_as_soon_as_there_is_a_second_tenant(
    store: Store, programs: Programs, receiver: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    await store.api_keys.put("first-key", tenant="default", name="")
    programs.delivery(schedule="0.1", QUEUE_ENGINE_WEBHOOK_ALLOW="", QUEUE_ENGINE_WEBHOOK_LOOPBACK="true")
    await end_task(store, endpoint_id, "before", webhook=f"{receiver.url}/hook")
    await delivery_at(store, endpoint_id, DeliveryStatus.SUCCESS, "before")
    await store.api_keys.put("second-key", tenant="second", name="")
    await end_task(store, endpoint_id, "after", webhook=f"{receiver.url}/hook")
    await delivery_at(store, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED, "after")
    assert [one.error_type for one in await store.deliveries.ledger(endpoint_id, "after")] == ["blocked_address"] * 2
    assert len(receiver.requests) == 1


async def test_the_stores_port_and_an_own_host_get_nothing_although_everything_is_allowed(
    store: Store, programs: Programs, receiver: HttpServer, valkey_server: StoreServer
) -> None:
    endpoint_id = await new_endpoint(store)
    own = f"http://me.localhost:{receiver.port}/"
    for number, url in enumerate((f"http://127.0.0.1:{valkey_server.port}/", own)):
        await end_task(store, endpoint_id, f"t{number}", webhook=url)
    programs.delivery(
        schedule="0.1", QUEUE_ENGINE_WEBHOOK_ALLOW="0.0.0.0/0,::/0", QUEUE_ENGINE_OWN_HOSTS="ME.localhost."
    )
    for number in range(2):
        await delivery_at(store, endpoint_id, DeliveryStatus.MAX_RETRIES_EXCEEDED, f"t{number}")
    assert [one.error_type for one in await store.deliveries.ledger(endpoint_id, "t0")] == ["blocked_address"] * 2
    assert receiver.requests == []
