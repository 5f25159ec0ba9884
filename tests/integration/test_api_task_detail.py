"""Members that only the detail of a task has, in each state of the task."""

from collections.abc import Mapping
from typing import Any

import pytest

from queue_engine.domain.deliveries import Delivered, WebhookResponse
from queue_engine.domain.tasks import (
    AttemptOutcome,
    ContainerResponse,
    Failed,
    Outcome,
    Succeeded,
    TryAgain,
    error_of,
)
from queue_engine.engine.queries import MAX_WHOLE_BYTES
from tests.api_server import RunningApi

DAY_SECONDS = 86_400
RETENTION_SECONDS = 600
LOST = TryAgain("the connection was lost", 0, AttemptOutcome.CONNECTION_LOST)
ONLY_IN_THE_DETAIL = {
    "workerId", "workerPort", "processUri", "nextAttemptAt", "expiresAt", "purgeAt", "lost", "connectionsLost",
    "suspect", "runs", "inputBytes", "outputBytes", "traceId", "waiting", "input", "output", "headers",
}  # fmt: skip


async def detail_of(
    api: RunningApi, endpoint_id: str, task_id: str = "a", query: Mapping[str, str | int] | None = None
) -> dict[str, Any]:
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}", params=query)
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()["data"]
    return task


async def start(api: RunningApi, endpoint_id: str) -> Any:
    """Begin the next task as an agent would. Return a function that settles it."""
    queue = api.store.queue(endpoint_id=endpoint_id, worker_id="w-1", lease_ms=30_000)
    (entry,) = await queue.claim(1, block_ms=1000)
    started = await queue.start(entry, address="127.0.0.1:8000")
    assert started is not None

    async def settle(outcome: Outcome) -> None:
        assert (await queue.settle(started.lease, outcome)).word == "OK"

    return settle


async def queue_what_is_due(api: RunningApi, endpoint_id: str) -> None:
    partition = api.store.partitions.of(endpoint_id).partition
    swept = await api.store.sweeper.sweep(partition, tick_ms=1000, lease_ms=30_000, max_lost=3, limit=10)
    assert swept.promoted == 1


async def test_a_task_that_waits_for_a_retry(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", queueTtlSeconds=90)
    await (await start(api, endpoint_id))(TryAgain("no room", 60))
    task = await detail_of(api, endpoint_id)
    assert (task["state"], task["workerId"], task["suspect"]) == ("scheduled", "w-1", False)
    assert task["nextAttemptAt"] == task["waiting"]["until"] == task["updatedAt"] + 60_000
    assert task["expiresAt"] == task["createdAt"] + 90_000
    assert (task["purgeAt"], task["outputBytes"]) == (None, None)


async def test_a_delayed_task(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", delaySeconds=60, queueTtlSeconds=90)
    task = await detail_of(api, endpoint_id)
    assert task["nextAttemptAt"] == task["runAt"] == task["createdAt"] + 60_000
    assert (task["state"], task["workerId"], task["expiresAt"], task["purgeAt"]) == ("scheduled", None, None, None)


async def test_a_queued_task(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", queueTtlSeconds=90, workerPort=8123, processUri="v1/run/")
    task = await detail_of(api, endpoint_id)
    assert task["expiresAt"] == task["createdAt"] + 90_000
    assert (task["workerPort"], task["processUri"]) == (8123, "/v1/run/")
    assert (task["nextAttemptAt"], task["purgeAt"], task["workerId"]) == (None, None, None)


async def test_a_running_task(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", queueTtlSeconds=90, input="é")
    await start(api, endpoint_id)
    task = await detail_of(api, endpoint_id)
    assert (task["state"], task["workerId"]) == ("running", "w-1")
    assert (task["nextAttemptAt"], task["expiresAt"], task["purgeAt"]) == (None, None, None)
    assert (task["inputBytes"], task["outputBytes"]) == (len(r'"\u00e9"'), None)


@pytest.mark.parametrize("size", [10, 5000, MAX_WHOLE_BYTES], ids=["small", "medium", "long"])
async def test_an_ended_task(api: RunningApi, size: int) -> None:
    endpoint_id = await api.create_endpoint(resultRetentionSeconds=RETENTION_SECONDS)
    await api.submit(endpoint_id, taskId="a", queueTtlSeconds=90, input="x" * (size // 2))
    await (await start(api, endpoint_id))(Succeeded(b'"%b"' % (b"y" * size)))
    for query in ({}, {"payload": "none"}):
        task = await detail_of(api, endpoint_id, query=query)
        assert task["purgeAt"] == task["finishedAt"] + RETENTION_SECONDS * 1000
        assert (task["inputBytes"], task["outputBytes"]) == (size // 2 + 2, size + 2)
        assert (task["workerId"], task["nextAttemptAt"], task["expiresAt"]) == ("w-1", None, None)


async def test_a_failed_task_has_no_output(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await (await start(api, endpoint_id))(Failed("out of order"))
    task = await detail_of(api, endpoint_id, query={"payload": "none"})
    assert (task["error"], task["outputBytes"]) == ("out of order", None)
    assert task["purgeAt"] == task["finishedAt"] + DAY_SECONDS * 1000


async def test_the_retention_of_a_delivered_task_counts_from_the_delivery(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a", webhook="http://a.example/")
    await (await start(api, endpoint_id))(Succeeded(b"1"))
    keys = api.store.partitions.of(endpoint_id)
    outbox = api.store.outbox()
    await outbox.make_groups()
    (entry,) = await outbox.read(1, block_ms=1000)
    assert await outbox.open(entry) is not None
    await api.store.redis.hset(keys.task("a"), "finished", "5")  # type: ignore[misc]
    assert (await outbox.settle(entry, WebhookResponse(200, None, ""), Delivered(), at_ms=5)).accepted
    task = await detail_of(api, endpoint_id)
    assert (task["status"], task["finishedAt"]) == ("DELIVERED", 5)
    assert task["purgeAt"] == task["deliveredAt"] + DAY_SECONDS * 1000


async def test_a_longer_retention_does_not_exceed_the_life_of_the_data(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(resultRetentionSeconds=RETENTION_SECONDS)
    await api.submit(endpoint_id, taskId="a")
    await (await start(api, endpoint_id))(Succeeded(b"1"))
    for seconds, expected in ((60, 60), (10 * DAY_SECONDS, 2 * DAY_SECONDS + RETENTION_SECONDS)):
        await api.client.patch(f"/v2/serverless/{endpoint_id}", json={"resultRetentionSeconds": seconds})
        task = await detail_of(api, endpoint_id)
        assert 0 <= task["purgeAt"] - task["finishedAt"] - expected * 1000 < 1000


def signs_of_a_crasher(task: Mapping[str, Any]) -> tuple[int, int, bool]:
    return task["lost"], task["connectionsLost"], task["suspect"]


async def test_a_task_that_may_crash_its_worker(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    for lost, suspect in ((1, False), (2, True)):
        await (await start(api, endpoint_id))(LOST)
        await queue_what_is_due(api, endpoint_id)
        assert signs_of_a_crasher(await detail_of(api, endpoint_id)) == (0, lost, suspect)
    await (await start(api, endpoint_id))(Failed("out of order"))
    assert signs_of_a_crasher(await detail_of(api, endpoint_id)) == (0, 2, True)
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/a/retry")
    assert signs_of_a_crasher(await detail_of(api, endpoint_id)) == (0, 0, False)


async def test_the_attempt_that_ends_a_task_as_a_crasher_counts(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    await (await start(api, endpoint_id))(LOST)
    await queue_what_is_due(api, endpoint_id)
    error = error_of(ContainerResponse(error_type="reset", detail="closed")) + " (attempt 2 of 2)"
    await (await start(api, endpoint_id))(Failed(error))
    assert signs_of_a_crasher(await detail_of(api, endpoint_id)) == (0, 2, True)
    path = f"/v2/serverless/{endpoint_id}/tasks/a/attempts"
    attempts = (await api.client.get(path)).json()["data"]
    assert [one["outcome"] for one in attempts] == ["connection_lost", "connection_lost"]


async def test_the_text_of_a_container_is_no_lost_connection(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    lost = error_of(ContainerResponse(error_type="reset"))
    await (await start(api, endpoint_id))(Failed(error_of(ContainerResponse(500, excerpt=lost))))
    assert signs_of_a_crasher(await detail_of(api, endpoint_id)) == (0, 0, False)


async def test_lost_workers_count(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    partition = api.store.partitions.of(endpoint_id).partition
    for lost, state in ((1, "queued"), (2, "dead")):
        await start(api, endpoint_id)
        await api.store.redis.zadd(partition.leases, {f"{endpoint_id}:a": 1})
        seconds, _ = await api.store.redis.time()
        await api.store.redis.delete(partition.ticks)
        await api.store.redis.hset(partition.ticks, "sweep", str(seconds * 1000))  # type: ignore[misc]
        await api.store.sweeper.sweep(partition, tick_ms=60_000, lease_ms=30_000, max_lost=1, limit=10)
        task = await detail_of(api, endpoint_id)
        assert (task["state"], *signs_of_a_crasher(task)) == (state, lost, 0, lost == 2)


async def test_retries_by_hand_are_counted(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    for runs in (1, 2, 3):
        assert (await detail_of(api, endpoint_id))["runs"] == runs
        await (await start(api, endpoint_id))(Failed("out of order"))
        assert (await detail_of(api, endpoint_id))["runs"] == runs
        await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/a/retry")


async def test_the_trace_of_the_submission(api: RunningApi, endpoint_id: str) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    api.client.headers["traceparent"] = f"00-{trace_id}-00f067aa0ba902b7-01"
    await api.submit(endpoint_id, taskId="a")
    api.client.headers["traceparent"] = "wrong"
    await api.submit(endpoint_id, taskId="b")
    assert (await detail_of(api, endpoint_id))["traceId"] == trace_id
    assert (await detail_of(api, endpoint_id, "b"))["traceId"] is None


@pytest.mark.parametrize("wait", [{}, {"wait": 5}], ids=["at once", "with a wait"])
async def test_input_and_output_are_left_out_on_demand(api: RunningApi, endpoint_id: str, wait: dict[str, int]) -> None:
    await api.submit(endpoint_id, taskId="a", headers={"X-A": "1"})
    await (await start(api, endpoint_id))(Succeeded(b"1"))
    full = await detail_of(api, endpoint_id, query=wait)
    assert await detail_of(api, endpoint_id, query={"payload": "full", **wait}) == full
    assert full["output"] == 1
    del full["input"], full["output"]
    assert await detail_of(api, endpoint_id, query={"payload": "none", **wait}) == full


@pytest.mark.parametrize("word", ["heads", "", "none,full", "0"])
async def test_another_payload_is_refused(api: RunningApi, endpoint_id: str, word: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/a", params={"payload": word})
    assert (answer.status_code, answer.json()["message"]) == (400, "payload: must be one of full, head, none")


async def test_lists_have_none_of_it(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="a")
    detail = await detail_of(api, endpoint_id)
    for query in ({}, {"cursor": ""}, {"idPrefix": "a"}):
        answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks", params=query)
        (listed,) = answer.json()["data"]["items"]
        assert set(detail) - set(listed) == ONLY_IN_THE_DETAIL
