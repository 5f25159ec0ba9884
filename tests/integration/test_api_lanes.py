"""Priorities and fairness keys over HTTP: in submissions, settings, views, counts, filters and operations."""

import json
from typing import Any

import pytest

from queue_engine.controller.operations import Operations
from queue_engine.domain.workers import WorkerStatus
from tests.api_server import TASK, RunningApi
from tests.waiting import wait_until_async

WRONG_TASKS: list[tuple[str, Any]] = [
    ("priority", "urgent"), ("priority", "HIGH"), ("priority", ""), ("priority", 1), ("priority", True),
    ("priority", ["high"]), ("fairnessKey", ""), ("fairnessKey", "a b"), ("fairnessKey", "x" * 41),
    ("fairnessKey", "é"), ("fairnessKey", 7), ("fairnessKey", "a\n"), ("fairnessKey", {"a": 1}),
]  # fmt: skip
WRONG_SETTINGS: list[tuple[str, Any]] = [
    ("maxConcurrencyPerKey", 0), ("maxConcurrencyPerKey", -1), ("maxConcurrencyPerKey", 1.5),
    ("maxConcurrencyPerKey", "2"), ("maxConcurrencyPerKey", True), ("maxConcurrencyPerKey", 10**9),
    ("defaultPriority", "urgent"), ("defaultPriority", 1), ("defaultPriority", []),
]  # fmt: skip


async def task_of(api: RunningApi, endpoint_id: str, task_id: str) -> dict[str, Any]:
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()["data"]
    return task


async def lane_of(api: RunningApi, endpoint_id: str, task_id: str) -> tuple[str, str | None]:
    task = await task_of(api, endpoint_id, task_id)
    return task["priority"], task["fairnessKey"]


async def listed(api: RunningApi, endpoint_id: str, query: str = "") -> dict[str, tuple[str, str | None]]:
    page = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks{query}")).json()["data"]
    return {one["taskId"]: (one["priority"], one["fairnessKey"]) for one in page["items"]}


async def counts_of(api: RunningApi, endpoint_id: str) -> dict[str, Any]:
    counts: dict[str, Any] = (await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/count")).json()["data"]
    return counts


async def test_a_task_shows_its_priority_and_key_in_the_detail_and_the_list(api: RunningApi, endpoint_id: str) -> None:
    given: dict[str, dict[str, Any]] = {
        "plain": {},
        "null": {"priority": None, "fairnessKey": None},
        "high": {"priority": "high"},
        "key": {"fairnessKey": "acme@x.y_z-1"},
        "both": {"priority": "low", "fairnessKey": "x" * 40},
        "later": {"priority": "low", "fairnessKey": "acme", "delaySeconds": 3600},
    }
    shown = {
        "plain": ("normal", None),
        "null": ("normal", None),
        "high": ("high", None),
        "key": ("normal", "acme@x.y_z-1"),
        "both": ("low", "x" * 40),
        "later": ("low", "acme"),
    }
    for task_id, fields in given.items():
        answer = await api.submit(endpoint_id, taskId=task_id, **fields)
        assert answer.status_code == 200, answer.text
    assert {task_id: await lane_of(api, endpoint_id, task_id) for task_id in given} == shown
    assert await listed(api, endpoint_id) == shown


async def test_a_task_without_a_priority_gets_the_endpoints_default(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(defaultPriority="low")
    for task_id, priority in (("default", None), ("normal", "normal"), ("high", "high")):
        await api.submit(endpoint_id, taskId=task_id, priority=priority)
    assert await listed(api, endpoint_id) == {
        "default": ("low", None), "normal": ("normal", None), "high": ("high", None)
    }  # fmt: skip
    await api.client.patch(f"/v2/serverless/{endpoint_id}", json={"defaultPriority": None})
    await api.submit(endpoint_id, taskId="later")
    assert await lane_of(api, endpoint_id, "later") == ("normal", None)
    assert await lane_of(api, endpoint_id, "default") == ("low", None)


@pytest.mark.parametrize(("field", "value"), WRONG_TASKS)
async def test_a_wrong_field_is_named_and_nothing_is_submitted(
    api: RunningApi, endpoint_id: str, field: str, value: object
) -> None:
    answer = await api.submit(endpoint_id, **{field: value})
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"].startswith(f"{field}: must be")
    assert (await counts_of(api, endpoint_id))["total"] == 0


async def test_a_repeated_submission_must_give_the_same_priority_and_key(api: RunningApi, endpoint_id: str) -> None:
    given = {"taskId": "a", "priority": "normal", "fairnessKey": "acme"}
    for _ in range(2):
        assert (await api.submit(endpoint_id, **given)).status_code == 200
    others: list[dict[str, Any]] = [{"priority": None}, {"priority": "high"}, {"fairnessKey": None}]
    for changed in others:
        assert (await api.submit(endpoint_id, **(given | changed))).status_code == 409
    assert (await api.submit(endpoint_id, taskId="plain")).status_code == 200
    assert (await api.submit(endpoint_id, taskId="plain", priority=None, fairnessKey=None)).status_code == 200
    assert (await api.submit(endpoint_id, taskId="plain", priority="normal")).status_code == 409
    assert (await counts_of(api, endpoint_id))["queued"] == 2


async def test_a_submission_that_waits_returns_them(api: RunningApi, endpoint_id: str) -> None:
    body = TASK | {"taskId": "a", "priority": "high", "fairnessKey": "acme"}
    task = (await api.post(f"/v2/serverless/{endpoint_id}/tasks?wait=0", body)).json()["data"]
    assert (task["priority"], task["fairnessKey"]) == ("high", "acme")


MIXED: list[dict[str, Any]] = [
    {"taskId": "a", "priority": "high", "fairnessKey": "acme"},
    {"taskId": "b", "priority": "urgent"},
    {"taskId": "c"},
    {"taskId": "d", "fairnessKey": "a b"},
    {"taskId": "e", "fairnessKey": "acme"},
    {"taskId": "a", "priority": "high", "fairnessKey": "acme"},
    {"taskId": "a", "priority": "low", "fairnessKey": "acme"},
]


@pytest.mark.parametrize("has_lines", [False, True])
async def test_each_task_of_a_batch_has_its_own(api: RunningApi, endpoint_id: str, has_lines: bool) -> None:
    path = f"/v2/serverless/{endpoint_id}/tasks/batch"
    tasks = [TASK | one for one in MIXED]
    if has_lines:
        body = b"".join(json.dumps(one).encode() + b"\n" for one in tasks)
        answer = await api.client.post(path, content=body, headers={"Content-Type": "application/x-ndjson"})
        *items, _ = [json.loads(one) for one in answer.text.splitlines()]
    else:
        items = (await api.post(path, {"tasks": tasks})).json()["data"]["items"]
    accepted, refused = ("accepted", 10000), ("rejected", 10001)
    assert [(one["result"], one["code"]) for one in items] == [
        accepted, refused, accepted, refused, accepted, ("duplicate", 10000), ("rejected", 12001)
    ]  # fmt: skip
    assert items[1]["message"].startswith("priority: must be")
    assert items[3]["message"].startswith("fairnessKey: must be")
    assert await listed(api, endpoint_id) == {
        "a": ("high", "acme"), "c": ("normal", None), "e": ("normal", "acme")
    }  # fmt: skip


async def test_queued_tasks_are_counted_by_priority(api: RunningApi, endpoint_id: str) -> None:
    assert (await counts_of(api, endpoint_id))["queuedByPriority"] == {"high": 0, "normal": 0, "low": 0}
    given: list[dict[str, Any]] = [
        {}, {}, {"fairnessKey": "a"}, {"priority": "high"}, {"priority": "low"},
        {"priority": "low", "fairnessKey": "a"}, {"priority": "low", "delaySeconds": 3600},
    ]  # fmt: skip
    for number, fields in enumerate(given):
        await api.submit(endpoint_id, taskId=f"t{number}", **fields)
    counts = await counts_of(api, endpoint_id)
    assert (counts["queued"], counts["scheduled"]) == (6, 1)
    assert counts["queuedByPriority"] == {"high": 1, "normal": 3, "low": 2}
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/t5/cancel")
    assert (await counts_of(api, endpoint_id))["queuedByPriority"] == {"high": 1, "normal": 3, "low": 1}


async def test_tasks_are_found_by_their_key(api: RunningApi, endpoint_id: str) -> None:
    for number, key in enumerate(["acme", "acm", "acme", None, "acme.b"]):
        await api.submit(endpoint_id, taskId=f"t{number}", fairnessKey=key, priority="high" if number == 2 else None)
    found = {"t0": ("normal", "acme"), "t2": ("high", "acme")}
    assert await listed(api, endpoint_id, "?fairnessKey=acme") == found
    export = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks/export?fairnessKey=acme")
    lines = [json.loads(one) for one in export.text.splitlines()]
    assert [one.get("taskId") for one in lines] == ["t0", "t2", None]
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/tasks?fairnessKey=a%20b")
    assert (answer.status_code, answer.json()["message"].partition(":")[0]) == (400, "fairnessKey")


async def test_an_operation_changes_the_tasks_of_a_key(api: RunningApi, endpoint_id: str) -> None:
    for task_id, key in (("a", "acme"), ("b", "other"), ("c", "acme"), ("d", None)):
        await api.submit(endpoint_id, taskId=task_id, fairnessKey=key)
    body = {"action": "cancel", "filter": {"fairnessKey": "acme"}, "operationId": "op"}
    path = f"/v2/serverless/{endpoint_id}/operations"
    assert (await api.post(path, body)).json()["data"]["filter"] == {"fairnessKey": "acme"}
    controller = Operations(api.store)
    while await controller.step():
        pass
    assert (await api.client.get(f"{path}/op")).json()["data"]["done"] == 2
    assert set(await listed(api, endpoint_id, "?state=queued")) == {"b", "d"}
    assert await lane_of(api, endpoint_id, "a") == ("normal", "acme")


async def test_the_settings_of_lanes_are_set_changed_and_cleared(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxConcurrencyPerKey=3, defaultPriority="high")
    path = f"/v2/serverless/{endpoint_id}"

    async def settings() -> tuple[Any, Any]:
        endpoint = (await api.client.get(path)).json()["data"]
        return endpoint["maxConcurrencyPerKey"], endpoint["defaultPriority"]

    assert await settings() == (3, "high")
    for changes, after in (
        ({"maxConcurrencyPerKey": 1}, (1, "high")),
        ({"defaultPriority": "low"}, (1, "low")),
        ({"maxConcurrencyPerKey": None}, (None, "low")),
        ({"defaultPriority": None}, (None, None)),
        ({"workers": 2}, (None, None)),
    ):
        answer = await api.client.patch(path, json=changes)
        assert answer.status_code == 200, answer.text
        assert await settings() == after


@pytest.mark.parametrize(("field", "value"), WRONG_SETTINGS)
async def test_a_wrong_setting_of_lanes_is_named_and_nothing_changes(
    api: RunningApi, field: str, value: object
) -> None:
    endpoint_id = await api.create_endpoint(maxConcurrencyPerKey=3, defaultPriority="high")
    path = f"/v2/serverless/{endpoint_id}"
    before = (await api.client.get(path)).json()
    answer = await api.client.patch(path, json={"workers": 3, field: value})
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"].startswith(f"{field}: must be")
    assert (await api.client.get(path)).json() == before


async def test_a_default_priority_puts_no_task_into_a_lane_while_an_agent_of_an_earlier_version_works(
    api: RunningApi,
) -> None:
    """The agent would never run it. It may have begun after the default was set, which is refused later."""
    endpoint_id = await api.create_endpoint()
    stored = api.store.partitions.of(endpoint_id).endpoint
    await api.store.redis.hset(stored, "default_priority", "low")  # type: ignore[misc]
    workers, path = api.store.workers, f"/v2/serverless/{endpoint_id}"
    await workers.put(endpoint_id, "w1", managed=False)
    await workers.report(endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="127.0.0.1:1")
    worker = api.store.partitions.of(endpoint_id).of_worker("w1").worker
    await api.store.redis.hset(worker, "protocol", "2")  # type: ignore[misc]
    for fields in ({}, {"tags": ["a"]}, {"delaySeconds": 60}, {}):
        answer = await api.submit(endpoint_id, **fields)
        assert (answer.status_code, answer.json()["code"]) == (409, 12001)
    batch = (await api.post(f"{path}/tasks/batch", {"tasks": [TASK, TASK | {"tags": ["a"]}]})).json()["data"]["items"]
    assert [one["code"] for one in batch] == [12001, 12001]
    assert await listed(api, endpoint_id) == {}
    await api.store.redis.hset(stored, "default_priority", "")  # type: ignore[misc]
    assert (await api.submit(endpoint_id, taskId="plain")).status_code == 200
    assert await listed(api, endpoint_id) == {"plain": ("normal", None)}


async def test_an_agent_of_an_earlier_version_that_begins_later_ends_the_use_of_a_default_priority(
    api: RunningApi,
) -> None:
    endpoint_id = await api.create_endpoint(defaultPriority="low")
    assert (await api.submit(endpoint_id, taskId="before")).status_code == 200
    workers = api.store.workers
    await workers.put(endpoint_id, "w1", managed=False)
    await workers.report(endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="127.0.0.1:1")
    worker = api.store.partitions.of(endpoint_id).of_worker("w1").worker
    await api.store.redis.hset(worker, "protocol", "2")  # type: ignore[misc]

    async def is_refused() -> bool:
        return (await api.submit(endpoint_id)).status_code == 409

    await wait_until_async(is_refused)
    await api.client.patch(f"/v2/serverless/{endpoint_id}", json={"defaultPriority": None})
    assert (await api.submit(endpoint_id, taskId="plain")).status_code == 200


async def test_lanes_are_refused_while_an_agent_of_an_earlier_version_works(api: RunningApi, endpoint_id: str) -> None:
    workers, path = api.store.workers, f"/v2/serverless/{endpoint_id}"
    await workers.put(endpoint_id, "w1", managed=False)
    await workers.report(endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="127.0.0.1:1")
    await api.store.redis.hset(api.store.partitions.of(endpoint_id).of_worker("w1").worker, "protocol", "2")  # type: ignore[misc]
    refused = [
        await api.submit(endpoint_id, priority="high"),
        await api.submit(endpoint_id, fairnessKey="acme"),
        await api.client.patch(path, json={"maxConcurrencyPerKey": 1}),
        await api.client.patch(path, json={"defaultPriority": "low", "workers": 2}),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (409, 12001)
        assert answer.json()["message"].startswith("workers are being upgraded")
    tasks = [TASK | {"taskId": "a", "priority": "low"}, TASK | {"taskId": "b"}]
    batch = (await api.post(f"{path}/tasks/batch", {"tasks": tasks})).json()["data"]["items"]
    assert [(one["result"], one["code"]) for one in batch] == [("rejected", 12001), ("accepted", 10000)]
    assert set(await listed(api, endpoint_id)) == {"b"}
    endpoint = (await api.client.get(path)).json()["data"]
    assert (endpoint["maxConcurrencyPerKey"], endpoint["defaultPriority"], endpoint["totalWorkers"]) == (None, None, 1)
    assert (await api.client.patch(path, json={"workers": 3, "defaultPriority": None})).status_code == 200
    await workers.remove(endpoint_id, "w1")

    async def is_taken() -> bool:
        return (await api.client.patch(path, json={"maxConcurrencyPerKey": 1})).status_code == 200

    await wait_until_async(is_taken, message="the gate stays closed")
