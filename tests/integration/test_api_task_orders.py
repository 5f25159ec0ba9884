"""What may be asked of a task that is there, over HTTP: cancel it, run it again, look at its attempts, remove it."""

from typing import Any

import httpx
import pytest

from queue_engine.domain.deliveries import DeliverAgain, Delivered, WebhookResponse
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.tasks import AttemptOutcome, Failed, Outcome, Succeeded, TryAgain
from queue_engine.observability import metrics
from queue_engine.store.queue import Started
from tests.api_server import RunningApi
from tests.integration.test_api_tasks import NO_TASKS

WEBHOOK = "http://a.example/x"
NOT_FOUND = {"message": "task not found", "code": 24011, "data": None}


class Orders:
    """One task of one endpoint."""

    def __init__(self, api: RunningApi, endpoint_id: str, task_id: str = "a") -> None:
        self.api = api
        self.endpoint_id = endpoint_id
        self.path = f"/v2/serverless/{endpoint_id}/tasks/{task_id}"
        self.claims = api.store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=30_000)

    async def post(self, order: str, **given: Any) -> httpx.Response:
        return await self.api.client.post(f"{self.path}/{order}", **given)

    async def ordered(self, order: str) -> dict[str, Any]:
        answer = await self.post(order)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    async def read(self, more: str = "") -> Any:
        answer = await self.api.client.get(self.path + more)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def start(self) -> Started:
        (entry,) = await self.claims.claim(1, block_ms=1000)
        started = await self.claims.start(entry, address="127.0.0.1:8000")
        assert started is not None
        return started

    async def run(self, outcome: Outcome) -> None:
        started = await self.start()
        settled = await self.claims.settle(started.lease, outcome)
        assert settled.word == "OK"


@pytest.fixture
async def task(api: RunningApi, endpoint_id: str) -> Orders:
    """A task that waits."""
    assert (await api.submit(endpoint_id, taskId="a", webhook=WEBHOOK)).status_code == 200
    return Orders(api, endpoint_id)


def _cancelled() -> float:
    return float(metrics.tasks_finished.labels(state="cancelled")._value.get())


# Cancel


async def test_a_waiting_task_is_cancelled_at_once(task: Orders) -> None:
    before = _cancelled()
    stands = {"taskId": "a", "status": "FAILED", "state": "cancelled", "cancelRequested": True}
    assert await task.ordered("cancel") == stands
    assert await task.ordered("cancel") == stands
    assert _cancelled() == before + 1
    read = await task.read()
    assert (read["status"], read["state"], read["cancelRequested"]) == ("FAILED", "cancelled", True)
    assert "cancelled before it was started" in read["error"]
    assert (read["output"], read["durationMs"], read["attempts"]) == (None, None, 0)


@pytest.mark.parametrize("body", [None, b"", b"{}", b"nonsense"])
async def test_cancelling_needs_no_body(task: Orders, body: bytes | None) -> None:
    headers = {"Content-Type": "application/json"} if body else {}
    answer = await task.post("cancel", content=body, headers=headers)
    assert (answer.status_code, answer.json()["data"]["state"]) == (200, "cancelled")


async def test_a_running_task_says_that_its_cancellation_was_asked_for(task: Orders) -> None:
    started = await task.start()
    stands = {"taskId": "a", "status": "PROCESSING", "state": "running", "cancelRequested": True}
    assert [await task.ordered("cancel") for _ in range(2)] == [stands, stands]
    assert (await task.read())["cancelRequested"] is True
    listed = (await task.api.client.get(task.path.rpartition("/")[0])).json()["data"]["items"]
    assert [one["cancelRequested"] for one in listed] == [True]
    # It had finished before its agent heard of it.
    await task.claims.settle(started.lease, Succeeded(b"1"))
    assert await task.ordered("cancel") == stands | {"status": "SUCCESS", "state": "succeeded"}


async def test_a_task_that_is_cancelled_between_attempts_has_no_duration(task: Orders) -> None:
    await task.run(TryAgain("the worker is busy", 60, AttemptOutcome.BUSY))
    assert (await task.ordered("cancel"))["state"] == "cancelled"
    read = await task.read()
    assert "while it waited for another attempt" in read["error"]
    assert read["startedAt"] <= read["finishedAt"]
    assert read["durationMs"] is None


async def test_an_ended_task_is_not_cancelled(task: Orders) -> None:
    await task.run(Failed("no"))
    stands = {"taskId": "a", "status": "FAILED", "state": "failed", "cancelRequested": False}
    assert await task.ordered("cancel") == stands
    assert (await task.read())["error"] == "no"


async def test_a_task_of_a_stopped_endpoint_is_cancelled_too(task: Orders) -> None:
    await task.api.store.endpoints.set_desired_state(task.endpoint_id, "default", DesiredState.STOPPED)
    assert (await task.ordered("cancel"))["state"] == "cancelled"


# Limits of its own


async def test_a_task_has_limits_of_its_own(api: RunningApi, endpoint_id: str) -> None:
    own = {"executionTimeoutSeconds": 7, "queueTtlSeconds": 2.5}
    assert (await api.submit(endpoint_id, taskId="a", **own)).status_code == 200
    assert (await api.submit(endpoint_id, taskId="a", **own)).status_code == 200
    assert (await api.submit(endpoint_id, taskId="a")).json()["code"] == 12001
    read = await Orders(api, endpoint_id).read()
    assert own.items() <= read.items()
    assert (await Orders(api, endpoint_id).start()).timeout_seconds == 7


async def test_a_task_has_the_limits_of_its_endpoint_else(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(queueTtlSeconds=60, executionTimeoutSeconds=9)
    await api.submit(endpoint_id, taskId="a")
    read = await Orders(api, endpoint_id).read()
    assert (read["executionTimeoutSeconds"], read["queueTtlSeconds"]) == (9, 60)


async def test_a_task_that_waited_too_long_shows_as_expired(task: Orders, api: RunningApi) -> None:
    await api.submit(task.endpoint_id, taskId="b", queueTtlSeconds=0.001)
    keys = api.store.partitions.of(task.endpoint_id)

    async def swept() -> int:
        found = await api.store.sweeper.sweep(keys.partition, tick_ms=1000, lease_ms=30_000, max_lost=3)
        return found.expired

    assert await swept() == 1
    read = await Orders(api, task.endpoint_id, "b").read()
    assert (read["status"], read["state"]) == ("FAILED", "expired")
    assert "0.001 s" in read["error"]
    counts = (await api.client.get(f"/v2/serverless/{task.endpoint_id}/tasks/count")).json()["data"]
    assert (counts["failed"], counts["queued"], counts["total"]) == (1, 1, 2)
    listed = (await api.client.get(f"/v2/serverless/{task.endpoint_id}/tasks?status=FAILED")).json()["data"]["items"]
    assert [(one["taskId"], one["state"]) for one in listed] == [("b", "expired")]


async def test_an_endpoint_shows_when_its_workers_are_ready(api: RunningApi) -> None:
    given = {"readyPath": "/healthz", "startTimeoutSeconds": 60.5, "maxBusySeconds": 30}
    expose = {"port": 8000, "protocol": "HTTP"}
    endpoint_id = await api.create_endpoint(**given, expose=expose)
    path = f"/v2/serverless/{endpoint_id}"
    endpoint = (await api.client.get(path)).json()["data"]
    assert given.items() <= endpoint.items()
    refused = await api.client.patch(path, json={"expose": None})
    assert (refused.status_code, refused.json()["code"]) == (400, 10001)
    assert refused.json()["message"].startswith("readyPath: requires expose")
    kept = (await api.client.patch(path, json={})).json()["data"]
    assert given.items() <= kept.items()
    cleared = (await api.client.patch(path, json={"expose": None, "readyPath": None})).json()["data"]
    assert (cleared["readyPath"], cleared["expose"], cleared["startTimeoutSeconds"]) == (None, None, 60.5)


async def test_an_endpoint_shows_how_its_tasks_are_tried(api: RunningApi) -> None:
    given = {"queueTtlSeconds": 60, "cancelUri": "/stop", "retryOn": ["503", "timeout"], "retryDelaysSeconds": [1, 2.5]}
    endpoint_id = await api.create_endpoint(**given)
    path = f"/v2/serverless/{endpoint_id}"
    endpoint = (await api.client.get(path)).json()["data"]
    assert given.items() <= endpoint.items()
    cleared = dict.fromkeys(given)
    changed = (await api.client.patch(path, json=cleared)).json()["data"]
    assert (changed["queueTtlSeconds"], changed["cancelUri"]) == (None, None)
    assert changed["retryOn"] == ["no_connection", "connection_lost", "429", "503"]
    assert changed["retryDelaysSeconds"] == [1, 3, 9, 27, 60]
    kept = (await api.client.patch(path, json={"retryOn": []})).json()["data"]
    assert (kept["retryOn"], kept["retryDelaysSeconds"]) == ([], [1, 3, 9, 27, 60])


# Attempts


async def test_the_attempts_of_a_task_are_listed_oldest_first(task: Orders) -> None:
    assert await task.read("/attempts") == []
    await task.run(TryAgain("the worker is busy", 0, AttemptOutcome.BUSY))
    keys = task.api.store.partitions.of(task.endpoint_id)
    await task.api.store.sweeper.sweep(keys.partition, tick_ms=1000, lease_ms=30_000, max_lost=3)
    started = await task.start()
    first, second = await task.read("/attempts")
    assert (first["attempt"], first["outcome"], first["error"]) == (1, "busy", "the worker is busy")
    assert first["startedAt"] <= first["endedAt"] <= second["startedAt"]
    assert second == {
        "attempt": 2, "workerId": "w1", "startedAt": started.started_at_ms, "endedAt": None, "outcome": "running",
        "error": None,
            "tries": 1,
    }  # fmt: skip
    await task.claims.settle(started.lease, Succeeded(b"1"))
    assert [one["outcome"] for one in await task.read("/attempts")] == ["busy", "ok"]


# Run again


async def test_an_ended_task_runs_again_and_its_new_result_is_delivered(task: Orders) -> None:
    outbox = task.api.store.outbox()
    await outbox.make_groups()
    await task.run(Succeeded(b"1"))
    (old,) = await outbox.read(1, block_ms=1000)
    first = await outbox.open(old)
    assert first is not None
    await outbox.settle(old, WebhookResponse(500, "http_5xx"), DeliverAgain(60, "http_5xx"), at_ms=1)

    stands = {"taskId": "a", "status": "PROCESSING", "state": "queued", "cancelRequested": False}
    assert await task.ordered("retry") == stands
    read = await task.read()
    nothing = ("output", "error", "finishedAt", "durationMs", "deliveredAt", "nextDeliveryAt", "deliveryError")
    assert {name: read[name] for name in nothing} == dict.fromkeys(nothing)
    assert (read["deliveryStatus"], read["deliveryAttempts"], read["attempts"]) == ("INIT", 0, 1)
    await task.run(Succeeded(b"2"))

    (new,) = await outbox.read(1, block_ms=1000)
    second = await outbox.open(new)
    assert second is not None
    assert second.message_id != first.message_id
    assert b'"result": 2' in second.body
    assert (await outbox.settle(new, WebhookResponse(200, None), Delivered(), at_ms=2)).accepted
    read = await task.read()
    assert (read["status"], read["output"], read["attempts"]) == ("DELIVERED", 2, 2)
    assert [(one["attempt"], one["outcome"]) for one in await task.read("/attempts")] == [(1, "ok"), (2, "ok")]


async def test_a_task_that_has_not_ended_is_not_run_again(task: Orders) -> None:
    for _ in range(2):
        answer = await task.post("retry")
        assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (409, 12001, None)
        assert answer.json()["message"].startswith("taskId: ")
    await task.start()
    assert (await task.post("retry")).status_code == 409


@pytest.mark.parametrize("how", ["stopped", "failed"])
async def test_a_closed_endpoint_runs_nothing_again(task: Orders, how: str) -> None:
    await task.run(Failed("no"))
    endpoints = task.api.store.endpoints
    if how == "stopped":
        await endpoints.set_desired_state(task.endpoint_id, "default", DesiredState.STOPPED)
    else:
        await endpoints.set_failed(task.endpoint_id, True)
    answer = await task.post("retry")
    assert (answer.status_code, answer.json()["code"]) == (409, 24000)
    assert answer.json()["message"].startswith(f"the endpoint {'is stopped' if how == 'stopped' else 'has failed'} and")
    assert (await task.read())["state"] == "failed"


async def test_a_full_queue_takes_no_task_again(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxQueuedTasks=1)
    await api.submit(endpoint_id, taskId="a")
    task = Orders(api, endpoint_id)
    await task.run(Failed("no"))
    await api.submit(endpoint_id, taskId="b")
    answer = await task.post("retry")
    assert (answer.status_code, answer.json()["code"]) == (429, 429)
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await task.read())["state"] == "failed"


# Remove


async def test_an_ended_task_is_removed_with_all_that_belongs_to_it(task: Orders) -> None:
    before = set(await task.api.store.redis.keys("*:a"))
    await task.run(Succeeded(b"1"))
    answer = await task.api.client.delete(task.path)
    assert (answer.status_code, answer.json()["data"]) == (200, True)
    assert before
    assert await task.api.store.redis.keys("*:a") == []
    for more in ("", "/attempts", "/deliveries"):
        answer = await task.api.client.get(task.path + more)
        assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
    answer = await task.api.client.delete(task.path)
    assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
    assert (await task.api.client.get(f"/v2/serverless/{task.endpoint_id}/tasks/count")).json()["data"]["total"] == 0
    assert (await task.api.submit(task.endpoint_id, taskId="a", input="new")).status_code == 200
    assert (await task.read())["input"] == "new"


async def test_a_task_that_has_not_ended_is_not_removed(task: Orders) -> None:
    for _ in ("queued", "running"):
        answer = await task.api.client.delete(task.path)
        assert (answer.status_code, answer.json()["code"]) == (409, 12001)
        assert answer.json()["message"].startswith("taskId: ")
        if (await task.read())["state"] == "queued":
            await task.start()
    assert (await task.read())["state"] == "running"


# What is not there


@pytest.mark.parametrize(
    ("method", "rest"), [("POST", "/cancel"), ("POST", "/retry"), ("GET", "/attempts"), ("DELETE", "")]
)
async def test_a_task_that_is_not_there_is_not_found(api: RunningApi, endpoint_id: str, method: str, rest: str) -> None:
    for name in NO_TASKS:
        answer = await api.client.request(method, f"/v2/serverless/{endpoint_id}/tasks/{name}{rest}")
        assert (answer.status_code, answer.json()) == (404, NOT_FOUND), name


@pytest.mark.parametrize(
    ("method", "rest"), [("POST", "/cancel"), ("POST", "/retry"), ("GET", "/attempts"), ("DELETE", "")]
)
async def test_anothers_task_is_not_found_and_left_alone(task: Orders, method: str, rest: str) -> None:
    key = await task.api.new_key("other")
    answer = await task.api.client.request(method, task.path + rest, headers={"X-Api-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (404, 14000)
    assert (await task.read())["state"] == "queued"
