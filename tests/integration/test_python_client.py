"""The Python client, synchronous and asynchronous, against a running engine with two workers."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from queue_engine.client import (
    ApiError,
    AsyncClient,
    AsyncEndpoint,
    Client,
    Conflict,
    Download,
    Endpoint,
    Forbidden,
    Head,
    InvalidRequest,
    NotFound,
    OperationTimeout,
    TaskCancelled,
    TaskFailed,
    TaskInfo,
    Unauthorized,
    WaitTimeout,
    verify_webhook,
)
from tests.integration.parts import HttpServer
from tests.integration.test_up import API_KEY, Up, delete_endpoints, wait_for_workers
from tests.waiting import GIVE_UP_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = f"exec {sys.executable} {ROOT / 'tests/integration/obedient_server.py'}"
EXAMPLE = ROOT / "deploy" / "examples" / "client" / "submit_and_wait.py"
RESOURCES = [{"region": "here", "gpuType": "CPU", "gpuCount": 1}]


@pytest.fixture(scope="module")
def endpoint_id(lasting_up: Up) -> Iterator[str]:
    with Client(lasting_up.url, API_KEY) as client:
        made = client.create_endpoint(
            name="echo",
            image="none",
            resources=RESOURCES,
            workers=2,
            container_volume_in_gb=20,
            service_mode="QUEUE",
            initialization_command=CONTAINER,
            expose={"port": 8000, "protocol": "http"},
            concurrency=8,
        )
        assert made.webhook_secret is not None
        wait_for_workers(lasting_up, int(made.id), 2)
        yield made.id
    delete_endpoints(lasting_up)


@pytest.fixture
def echo(lasting_up: Up, endpoint_id: str) -> Iterator[Endpoint]:
    with Client(lasting_up.url, API_KEY) as client:
        yield client.endpoint(endpoint_id)


@pytest.fixture
async def async_echo(lasting_up: Up, endpoint_id: str) -> AsyncIterator[AsyncEndpoint]:
    async with AsyncClient(lasting_up.url, API_KEY) as client:
        yield client.endpoint("echo")


def test_the_example_submits_and_waits(lasting_up: Up, endpoint_id: str) -> None:
    script = subprocess.run(
        [sys.executable, EXAMPLE],
        env=os.environ | {"QUEUE_ENGINE_URL": lasting_up.url, "QUEUE_ENGINE_API_KEY": API_KEY},
        capture_output=True,
        text=True,
        timeout=GIVE_UP_SECONDS,
        check=False,
    )
    assert (script.returncode, script.stdout, script.stderr) == (0, "{'text': 'hi'}\n", "")


def test_a_task_is_submitted_and_its_output_returned(echo: Endpoint) -> None:
    task = echo.submit({"prompt": "grüße", "n": [1, 2**70, None]}, path="/run", headers={"X-A": "b"})
    assert task.result(timeout=30) == {"prompt": "grüße", "n": [1, 2**70, None]}
    info = task.info()
    assert (info.status, info.state, info.attempts, info.headers) == ("SUCCESS", "succeeded", 1, {"X-A": "b"})
    text = json.dumps({"prompt": "grüße", "n": [1, 2**70, None]}, ensure_ascii=False, separators=(",", ":")).encode()
    assert task.download_input() == Download(text, "application/json", f"{task.id}-input.json")
    assert json.loads(task.download_output().content) == task.result()
    head = task.info("head")
    assert (head.input, head.input_head) == (None, Head(text=text.decode(), bytes=len(text), is_cut=False))
    assert task.info("none").output_head is None
    with pytest.raises(NotFound):
        echo.task("none").download_output()
    assert [attempt.outcome for attempt in task.attempts()] == ["ok"]
    assert task.id in [row.task_id for row in echo.tasks(status="success")]
    created = datetime.fromtimestamp(info.created_at / 1000, UTC)
    found = list(echo.tasks(state=["succeeded", "dead"], created_after=created, id_prefix=task.id, input="grüße"))
    assert [row.task_id for row in found] == [task.id]
    assert list(echo.tasks(state="succeeded", created_before=info.created_at, id_prefix=task.id)) == []
    assert echo.count().success >= 1


async def test_the_asynchronous_client_does_the_same(async_echo: AsyncEndpoint) -> None:
    task = await async_echo.submit([1], path="/run", task_id="asynchronous")
    assert (await task.result(timeout=30)) == [1]
    assert (await task.download_input()).content == (await task.download_output()).content == b"[1]"
    assert (await task.info("head")).output_head == Head(text="[1]", bytes=3, is_cut=False)
    assert [attempt.outcome for attempt in await task.attempts()] == ["ok"]
    assert "asynchronous" in [row.task_id async for row in async_echo.tasks()]
    assert [row.task_id async for row in async_echo.tasks(id_prefix="asynchronous")] == ["asynchronous"]
    assert (await async_echo.count()).total >= 1
    assert len(await async_echo.workers()) == 2
    outputs = [item.output async for item in async_echo.map(range(20), path="/run", window=8, ordered=True)]
    assert outputs == list(range(20))


def test_the_same_id_is_the_same_task(echo: Endpoint) -> None:
    first = echo.submit(1, path="/run", task_id="twice").result(timeout=30)
    assert echo.submit(1, path="/run", task_id="twice").result(timeout=30) == first
    with pytest.raises(Conflict):
        echo.submit(2, path="/run", task_id="twice")


def test_many_tasks_are_changed_by_one_operation(lasting_up: Up, echo: Endpoint) -> None:
    ids = [f"bulk_{number}" for number in range(5)]
    tasks = [echo.submit(1, path="/run", task_id=task_id) for task_id in ids]
    for task in tasks:
        task.wait(timeout=30)
    assert echo.retry_tasks(id_prefix="bulk_", dry_run=True).wait(timeout=60).done == 5
    retried = echo.retry_tasks(id_prefix="bulk_", operation_id="again").wait(timeout=60, progress=True)
    assert (retried.status, retried.matched, retried.done, retried.skipped) == ("done", 5, 5, 0)
    assert echo.retry_tasks(id_prefix="bulk_", operation_id="again").id == "again"
    for task in tasks:
        assert task.wait(timeout=30).status == "SUCCESS"
        assert len(task.attempts()) == 2
    deleted = echo.delete_tasks(task_ids=[*ids, "none"])
    assert deleted.wait(timeout=60).skip_reasons == {"notFound": 1}
    with pytest.raises(NotFound):
        tasks[0].info()
    assert [one.operation_id for one in echo.operations()][:2] == [deleted.id, "again"]
    with Client(lasting_up.url, API_KEY) as client:
        assert deleted.id in [one.operation_id for one in client.operations()]
    assert echo.operation("again").cancel() == retried


async def test_the_asynchronous_client_changes_many_tasks(async_echo: AsyncEndpoint) -> None:
    task = await async_echo.submit(1, path="/run", task_id="bulk_async")
    await task.wait(timeout=30)
    operation = await async_echo.delete_tasks(id_prefix="bulk_async", state="succeeded")
    ended = await operation.wait(timeout=60)
    assert (ended.done, (await operation.info()).status, (await operation.cancel()).status) == (1, "done", "done")
    assert operation.id in [one.operation_id async for one in async_echo.operations()]
    cancelled = await async_echo.cancel_tasks(task_ids=["bulk_async"])
    with pytest.raises(OperationTimeout) as found:
        await cancelled.wait(timeout=0)
    assert found.value.operation.operation_id == cancelled.id
    assert (await cancelled.wait(timeout=60)).skipped == 1


def test_a_map_gives_each_result_once_and_goes_on_where_it_was(echo: Endpoint) -> None:
    interrupted = echo.map(range(30), path="/run", window=10, batch_id="thirty")
    seen = {next(interrupted).index for _ in range(12)}
    interrupted.close()  # type: ignore[attr-defined] # as Ctrl-C does
    assert len(seen) == 12
    items = sorted(echo.map(range(30), path="/run", window=10, batch_id="thirty"), key=lambda item: item.index)
    assert [(item.index, item.result()) for item in items] == [(n, n) for n in range(30)]
    runs = [echo.task(item.task_id).info().attempts for item in items]
    assert runs == [1] * 30


def test_a_change_of_what_was_read_is_refused_if_another_was_made_since(lasting_up: Up) -> None:
    with Client(lasting_up.url, API_KEY) as client:
        made = client.create_endpoint(
            name="versions", image="none", resources=RESOURCES, workers=0, container_volume_in_gb=20,
            service_mode="QUEUE", expose={"port": 8000, "protocol": "http"},
        )  # fmt: skip
        by_id, by_name = client.endpoint(made.id), client.endpoint("versions")
        read = by_name.info().etag
        assert read is not None
        assert by_id.info().etag == read
        changed = by_id.update(max_attempts=7, if_match=read).etag
        assert changed == by_id.info().etag != read
        changes: list[Callable[[], object]] = [
            lambda: by_id.update(max_attempts=8, if_match=read),
            *(partial(order, if_match=read) for order in (by_id.stop, by_id.pause, by_id.delete)),
        ]
        for change in changes:
            with pytest.raises(ApiError) as raised:
                change()
            assert raised.value.status == 412
        assert by_id.info().etag == changed
        by_id.delete(if_match=changed)


async def test_the_asynchronous_client_deletes_what_it_has_read(lasting_up: Up) -> None:
    async with AsyncClient(lasting_up.url, API_KEY) as client:
        made = await client.create_endpoint(
            name="versions", image="none", resources=RESOURCES, workers=0, container_volume_in_gb=20,
            service_mode="QUEUE", expose={"port": 8000, "protocol": "http"},
        )  # fmt: skip
        endpoint = client.endpoint("versions")
        read = (await endpoint.info()).etag
        changed = (await endpoint.update(max_attempts=7, if_match=read)).etag
        with pytest.raises(ApiError) as raised:
            await endpoint.delete(if_match=read)
        assert raised.value.status == 412
        await client.endpoint(made.id).delete(if_match=changed)


def test_a_batch_is_submitted_once_and_its_tasks_run(echo: Endpoint) -> None:
    """A request whose response is late is sent again, so also the first call may report tasks as duplicates."""
    task_ids = [f"hundreds_{number}" for number in range(1, 302)]
    done = echo.batch(range(300), path="/run", batch_id="hundreds")
    assert ([item.task_id for item in done.items], done.rejected) == (task_ids[:300], 0)
    again = echo.batch([*range(300), "more"], path="/run", batch_id="hundreds")
    assert ([item.task_id for item in again.items], again.rejected) == (task_ids, 0)
    assert {item.result for item in again.items[:300]} == {"duplicate"}

    def succeeded() -> list[TaskInfo]:
        return list(echo.tasks(id_prefix="hundreds_", state="succeeded"))

    wait_until(lambda: len(succeeded()) >= len(task_ids), message="not all tasks have run")
    assert {task.task_id: task.attempts for task in succeeded()} == dict.fromkeys(task_ids, 1)
    assert len(list(echo.tasks(id_prefix="hundreds_"))) == len(task_ids)
    assert [echo.task(task_ids[index]).result() for index in (0, 299, 300)] == [0, 299, "more"]


def test_a_rejected_task_of_a_batch_has_its_error(echo: Endpoint) -> None:
    echo.submit(1, path="/run", task_id="used_1")
    done = echo.batch([2, None, 3], path="/run", batch_id="used")
    assert [type(item.error) for item in done.items] == [Conflict, InvalidRequest, type(None)]


def test_a_failed_task_is_an_error_and_in_a_map_a_result(echo: Endpoint) -> None:
    with pytest.raises(TaskFailed, match="404") as raised:
        echo.submit(1, path="/missing").result(timeout=30)
    assert raised.value.task.state == "failed"
    (item,) = echo.map([1], path="/missing")
    assert isinstance(item.error, TaskFailed)


def test_a_wait_that_times_out_can_be_continued(echo: Endpoint) -> None:
    task = echo.submit({"sleep": 1.5}, path="/run")
    with pytest.raises(WaitTimeout) as raised:
        task.result(timeout=0.2)
    assert raised.value.task.task_id == task.id
    assert task.result(timeout=30) == {"sleep": 1.5}


def test_a_task_is_cancelled(echo: Endpoint) -> None:
    task = echo.submit({"sleep": 60}, path="/run")
    task.cancel()
    with pytest.raises(TaskCancelled):
        task.result(timeout=30)
    task.delete()
    with pytest.raises(NotFound):
        task.info()


def test_the_webhook_is_verified_with_the_secret_of_the_endpoint(lasting_up: Up, echo: Endpoint) -> None:
    secret = lasting_up.get(f"/v2/serverless/{echo.id}/webhook-secret")["secret"]
    with HttpServer() as receiver:
        task = echo.submit("ring", path="/run", webhook=receiver.url)
        request = receiver.next()
    event = verify_webhook(request.headers, request.body, secret)
    assert (event.user_task_id, event.success, event.result) == (task.id, True, "ring")
    wait_until(lambda: [delivery.status for delivery in task.deliveries()] == [200], 30, "no delivery is recorded")


def test_a_copy_differs_in_the_fields_that_are_given(echo: Endpoint) -> None:
    with HttpServer() as receiver:
        first = echo.submit("first", path="/run", webhook=receiver.url, tags=["night"], metadata={"a": "b"})
        receiver.next()
        first.wait(timeout=30)
        same = first.clone(task_id="the_same")
        assert first.clone(task_id="the_same").id == same.id == "the_same"
        assert same.result(timeout=30) == "first"
        assert json.loads(receiver.next().body)["user_task_id"] == "the_same"
    other = first.clone(input="other", webhook=None, tags=None, run_at=datetime.now(UTC)).wait(timeout=30)
    assert (other.output, other.webhook, other.tags, other.metadata) == ("other", None, [], {"a": "b"})
    with pytest.raises(InvalidRequest):
        first.clone(port=0)


def test_results_that_match_are_sent_again(echo: Endpoint) -> None:
    with HttpServer() as receiver:
        task = echo.submit("again", path="/run", webhook=receiver.url, tags=["send-again"])
        first = receiver.next()
        wait_until(lambda: task.info().delivery_status == "SUCCESS", 30, "it is not delivered")
        ended = echo.redeliver_tasks(tag="send-again").wait(timeout=60)
        assert (ended.action, ended.matched, ended.done) == ("redeliver", 1, 1)
        assert receiver.next().headers["webhook-id"] == first.headers["webhook-id"]
        wait_until(lambda: task.info().delivery_status == "SUCCESS", 30, "it is not delivered")
        task.redeliver()
        assert receiver.next().headers["webhook-id"] == first.headers["webhook-id"]


async def test_the_asynchronous_client_copies_and_sends_again(async_echo: AsyncEndpoint) -> None:
    task = await async_echo.submit("first", path="/run")
    await task.wait(timeout=30)
    copy = await task.clone(input="second")
    assert (await copy.result(timeout=30), copy.id != task.id) == ("second", True)
    operation = await async_echo.redeliver_tasks(task_ids=[task.id])
    assert (await operation.wait(timeout=60)).skip_reasons == {"noWebhook": 1}


def test_an_endpoint_is_changed_and_deleted(lasting_up: Up, echo: Endpoint) -> None:
    with Client(lasting_up.url, API_KEY) as client:
        settings: Any = {"image": "none", "resources": RESOURCES, "workers": 0, "container_volume_in_gb": 20}
        made = client.create_endpoint(name="other", service_mode="QUEUE", **settings)
        other = client.endpoint("other")
        assert other.id == made.id
        assert other.update(max_attempts=2).model_extra["maxAttempts"] == 2  # type: ignore[index]
        other.stop()
        wait_until(lambda: other.info().status == "STOPPED", 30, "the endpoint does not stop")
        other.start()
        with pytest.raises(ValueError, match="port: is required"):
            other.submit(1)
        other.delete()
        wait_until(lambda: [one.name for one in client.endpoints()] == ["echo"], 30, "the endpoint is still listed")
        with pytest.raises(InvalidRequest, match="name"):
            client.create_endpoint(name="9", service_mode="QUEUE", **settings)


def test_the_log_of_a_worker_is_read(echo: Endpoint) -> None:
    echo.submit("logged", path="/run").wait(timeout=30)
    workers = [worker.worker_id for worker in echo.workers()]
    assert len(workers) == 2
    assert all(isinstance(line.log, str) for line in echo.logs(workers[0]))


def test_a_key_that_only_submits_runs_a_task(lasting_up: Up, endpoint_id: str) -> None:
    headers = {"X-Api-Key": API_KEY}
    made = httpx.post(
        f"{lasting_up.url}/v2/keys", json={"name": "ci", "role": "submit"}, headers=headers, trust_env=False
    )
    with Client(lasting_up.url, made.raise_for_status().json()["data"]["key"]) as client:
        assert client.endpoint(int(endpoint_id), port=8000).submit("by id", path="/run").result(timeout=30) == "by id"
        with pytest.raises(Forbidden, match=r"the role submit does not allow this.*; give port=, because"):
            client.endpoint(int(endpoint_id)).submit("no port", path="/run")


def test_a_wrong_key_and_a_wrong_name_are_named(lasting_up: Up) -> None:
    with Client(lasting_up.url, "wrong", timeout=1) as client, pytest.raises(Unauthorized):
        client.endpoints()
    with Client(lasting_up.url, API_KEY) as client, pytest.raises(NotFound, match="no endpoint is named missing"):
        client.endpoint("missing").submit(1)
