"""Requests that wait for ends of tasks: submit, get, several tasks, limits, disconnected clients, a stopping API."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from queue_engine.domain.principals import Role
from queue_engine.domain.tasks import Outcome, Succeeded, TaskState
from queue_engine.engine import waits
from queue_engine.engine.principals import REVOCATION_SECONDS
from queue_engine.engine.waits import MAX_RESPONSE_BYTES
from queue_engine.store.api_keys import hash_of
from queue_engine.store.redis.client import NotDurable
from tests.api_server import TASK, RunningApi, running_api
from tests.waiting import wait_until_async

LONG = 120
"""Seconds of waits that end earlier, or the test fails."""


def tasks_of(endpoint_id: str) -> str:
    return f"/v2/serverless/{endpoint_id}/tasks"


def wait_for(api: RunningApi, endpoint_id: str, task_id: str, seconds: int = LONG) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.client.get(f"{tasks_of(endpoint_id)}/{task_id}?wait={seconds}"))


async def submit_and_wait(api: RunningApi, endpoint_id: str, query: str = f"wait={LONG}", **changes: Any) -> Any:
    return await api.post(f"{tasks_of(endpoint_id)}?{query}", TASK | changes)


async def wait_for_any(api: RunningApi, endpoint_id: str, *task_ids: str, wait: int = LONG) -> Any:
    answer = await api.post(f"{tasks_of(endpoint_id)}/wait", {"taskIds": task_ids, "wait": wait})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def are_waited_for(api: RunningApi, count: int) -> None:
    """Wait until that many tasks are waited for at this API."""
    await wait_until_async(lambda: api.engine.waits.in_flight == count)


async def finish(api: RunningApi, endpoint_id: str, outcome: Outcome | None = None) -> None:
    """Run the task that waits first."""
    agent = api.store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=60_000)
    (entry,) = await agent.claim(1, block_ms=1000)
    started = await agent.start(entry, address="127.0.0.1:9000")
    assert started is not None
    await agent.settle(started.lease, outcome or Succeeded(b'{"ok": 1.50}'))


async def state_of(api: RunningApi, endpoint_id: str, task_id: str) -> TaskState:
    task = await api.store.tasks.get(endpoint_id, task_id)
    assert task is not None
    return task.state


@asynccontextmanager
async def disconnecting_client(api: RunningApi, request: str, body: bytes = b"") -> AsyncIterator[None]:
    """Send a request, and disconnect at the end of the block without a response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = f"{request} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {api.key}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    yield
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""


async def test_a_submission_that_waits_gets_the_ended_task(api: RunningApi, endpoint_id: str) -> None:
    waiting = asyncio.create_task(submit_and_wait(api, endpoint_id, taskId="t1"))
    await are_waited_for(api, 1)
    await finish(api, endpoint_id)
    answer = await waiting
    task = (await api.client.get(f"{tasks_of(endpoint_id)}/t1")).json()["data"]
    assert (answer.status_code, answer.json()["data"]) == (200, task)
    assert (task["taskId"], task["status"], task["output"]) == ("t1", "SUCCESS", {"ok": 1.5})
    assert '"output":{"ok": 1.50}' in answer.text


async def test_a_submission_without_a_wait_gets_the_id_only(api: RunningApi, endpoint_id: str) -> None:
    answer = await submit_and_wait(api, endpoint_id, query="other=1", taskId="t1")
    assert answer.json()["data"] == {"taskId": "t1"}


async def test_any_number_of_requests_at_any_api_get_the_same_end(
    valkey_url: str, api: RunningApi, endpoint_id: str
) -> None:
    async with running_api(valkey_url) as second:
        second.client.headers["X-Api-Key"] = api.key
        waiting = [
            asyncio.create_task(submit_and_wait(api, endpoint_id, taskId="t1")),
            asyncio.create_task(submit_and_wait(second, endpoint_id, taskId="t1")),
            wait_for(api, endpoint_id, "t1"),
            wait_for(second, endpoint_id, "t1"),
        ]
        await are_waited_for(api, 2)
        await are_waited_for(second, 2)
        await finish(api, endpoint_id)
        texts = {answer.text for answer in await asyncio.gather(*waiting)}
        assert len(texts) == 1
        assert '"status":"SUCCESS"' in texts.pop()


async def test_a_wait_ends_with_the_task_as_it_is(api: RunningApi, endpoint_id: str) -> None:
    began = time.monotonic()
    answer = await submit_and_wait(api, endpoint_id, query="wait=1", taskId="t1")
    assert time.monotonic() - began >= 1
    assert (answer.status_code, answer.json()["data"]["state"]) == (200, "queued")
    for path in ("?wait=0", "?wait=0&onDisconnect=cancel"):
        assert (await api.post(tasks_of(endpoint_id) + path, TASK)).json()["data"]["state"] == "queued"
    assert (await wait_for(api, endpoint_id, "t1", 0)).json()["data"]["state"] == "queued"


async def test_an_ended_task_and_a_missing_one_need_no_wait(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="t1")
    await finish(api, endpoint_id)
    assert (await wait_for(api, endpoint_id, "t1")).json()["data"]["status"] == "SUCCESS"
    assert (await wait_for(api, endpoint_id, "none")).status_code == 404
    assert (await wait_for(api, "99", "t1")).status_code == 404


async def test_a_task_that_fails_is_a_successful_response(api: RunningApi, endpoint_id: str) -> None:
    waiting = asyncio.create_task(submit_and_wait(api, endpoint_id, taskId="t1"))
    await are_waited_for(api, 1)
    await api.client.post(f"{tasks_of(endpoint_id)}/t1/cancel")
    answer = await waiting
    assert (answer.status_code, answer.json()["data"]["status"]) == (200, "FAILED")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("wait=301", "wait"),
        ("wait=-1", "wait"),
        ("wait=1.5", "wait"),
        ("wait=", "wait"),
        ("wait=x", "wait"),
        ("wait=1&wait=2", "wait"),
        ("wait=1&onDisconnect=stop", "onDisconnect"),
        ("onDisconnect=KEEP", "onDisconnect"),
    ],
)
async def test_a_wrong_query_is_named_and_submits_nothing(
    api: RunningApi, endpoint_id: str, query: str, field: str
) -> None:
    answer = await submit_and_wait(api, endpoint_id, query=query, taskId="t1")
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"].startswith(f"{field}: must be ")
    assert (await api.client.get(f"{tasks_of(endpoint_id)}/t1")).status_code == 404
    if field == "wait":
        assert (await api.client.get(f"{tasks_of(endpoint_id)}/t1?{query}")).status_code == 400


# Several tasks


async def test_the_first_ends_of_several_tasks_are_returned(api: RunningApi, endpoint_id: str) -> None:
    for name in ("t1", "t2", "t3"):
        await api.submit(endpoint_id, taskId=name)
    waiting = asyncio.create_task(wait_for_any(api, endpoint_id, "t1", "t2", "t3", "none", "t1"))
    await are_waited_for(api, 4)
    await finish(api, endpoint_id)
    found = await waiting
    assert [task["taskId"] for task in found["ended"]] == ["t1"]
    assert (found["pending"], found["unknown"]) == (["t2", "t3"], ["none"])
    assert found["ended"][0] == (await api.client.get(f"{tasks_of(endpoint_id)}/t1")).json()["data"]


async def test_tasks_that_end_shortly_after_the_first_are_returned_with_it(
    api: RunningApi, endpoint_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shortly is two seconds here, because 20 ms are nothing on a busy machine."""
    monkeypatch.setattr(waits, "GATHER_SECONDS", 2.0)
    for name in ("t1", "t2", "t3"):
        await api.submit(endpoint_id, taskId=name)
    agent = api.store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=60_000)
    started = [await agent.start(entry, address="127.0.0.1:9000") for entry in await agent.claim(2, block_ms=1000)]
    waiting = asyncio.create_task(wait_for_any(api, endpoint_id, "t1", "t2", "t3"))
    await are_waited_for(api, 3)
    for one in started:
        assert one is not None
        await agent.settle(one.lease, Succeeded(b"1"))
    found = await waiting
    assert sorted(task["taskId"] for task in found["ended"]) == ["t1", "t2"]
    assert found["pending"] == ["t3"]


async def test_ended_tasks_are_returned_at_once_and_none_at_the_limit(api: RunningApi, endpoint_id: str) -> None:
    for name in ("t1", "t2", "t3"):
        await api.submit(endpoint_id, taskId=name)
    assert await wait_for_any(api, endpoint_id, "t1", "none", wait=0) == {
        "pending": ["t1"], "unknown": ["none"], "ended": []
    }  # fmt: skip
    began = time.monotonic()
    assert (await wait_for_any(api, endpoint_id, "t1", wait=1))["pending"] == ["t1"]
    assert time.monotonic() - began >= 1
    await finish(api, endpoint_id)
    await finish(api, endpoint_id)
    for wait in (0, LONG):
        found = await wait_for_any(api, endpoint_id, "t1", "t2", "t3", wait=wait)
        assert sorted(task["taskId"] for task in found["ended"]) == ["t1", "t2"]
    assert (await wait_for_any(api, endpoint_id, "none"))["unknown"] == ["none"]


async def test_a_response_for_several_tasks_has_a_bounded_size(api: RunningApi, endpoint_id: str) -> None:
    """Texts that are too long to be read as a whole are sent in parts. The rest comes with the next request."""
    output = b'"' + b"x" * (MAX_RESPONSE_BYTES // 2) + b'"'
    names = ["t1", "t2", "t3"]
    for name in names:
        await api.submit(endpoint_id, taskId=name)
        await finish(api, endpoint_id, Succeeded(output))
    found: list[str] = []
    while names:
        answer = await wait_for_any(api, endpoint_id, *names)
        assert len(answer["ended"]) == 1
        assert answer["ended"][0]["output"] == json.loads(output)
        found += [task["taskId"] for task in answer["ended"]]
        names = answer["pending"]
    assert found == ["t1", "t2", "t3"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"wait": 1}, "taskIds: is required"),
        ({"taskIds": []}, "taskIds: must have 1 items or more"),
        ({"taskIds": ["a"] * 257}, "taskIds: must have 256 items or fewer"),
        ({"taskIds": "a"}, "taskIds: must be an array"),
        ({"taskIds": ["a-b"]}, "taskIds[0]: must be 1–255 of letters, digits and _"),
        ({"taskIds": ["a", 1]}, "taskIds[1]: must be a string"),
        ({"taskIds": ["a"], "wait": 301}, "wait: must be at most 300"),
        ({"taskIds": ["a"], "wait": -1}, "wait: must be at least 0"),
        ({"taskIds": ["a"], "wait": True}, "wait: must be an integer"),
        ({"taskIds": ["a"], "wait": 1.0}, "wait: must be an integer"),
    ],
)
async def test_a_wrong_list_is_named(api: RunningApi, endpoint_id: str, body: Any, message: str) -> None:
    answer = await api.post(f"{tasks_of(endpoint_id)}/wait", body)
    assert (answer.status_code, answer.json()["message"]) == (400, message)


# Access


async def test_a_key_that_submits_waits_for_its_own_tasks_only(api: RunningApi, endpoint_id: str) -> None:
    """Also it learns at once that a task is not its own, as of one that does not exist."""
    await api.submit(endpoint_id, taskId="other")
    key = {"X-Api-Key": await api.new_key("default", role=Role.SUBMIT)}
    own = await api.client.post(tasks_of(endpoint_id), json=TASK | {"taskId": "own"}, headers=key)
    assert own.status_code == 200
    answer = await api.client.get(f"{tasks_of(endpoint_id)}/other?wait={LONG}", headers=key)
    assert answer.status_code == 404
    body = {"taskIds": ["own", "other", "none"], "wait": 1}
    found = (await api.client.post(f"{tasks_of(endpoint_id)}/wait", json=body, headers=key)).json()["data"]
    assert found == {"pending": ["own"], "unknown": ["other", "none"], "ended": []}
    stranger = {"X-Api-Key": await api.new_key("acme")}
    for method, path in (("GET", "own?wait=9"), ("POST", "wait")):
        path = f"{tasks_of(endpoint_id)}/{path}"
        assert (await api.client.request(method, path, json=body, headers=stranger)).status_code == 404


async def test_a_key_that_is_revoked_during_a_wait_gets_no_task(valkey_url: str) -> None:
    now = time.monotonic()
    async with running_api(valkey_url, monotonic=lambda: now) as api:
        endpoint_id = await api.create_endpoint()
        await api.submit(endpoint_id, taskId="t1")
        waiting = wait_for(api, endpoint_id, "t1")
        await are_waited_for(api, 1)
        await api.store.api_keys.revoke(hash_of(api.key))
        now += REVOCATION_SECONDS + 1
        await finish(api, endpoint_id)
        assert (await waiting).status_code == 401


# Clients that disconnect


@pytest.mark.parametrize("word", ["keep", "cancel"])
async def test_the_task_of_a_client_that_disconnects(api: RunningApi, endpoint_id: str, word: str) -> None:
    body = json.dumps(TASK | {"taskId": "t1"}).encode()
    path = f"POST {tasks_of(endpoint_id)}?wait={LONG}&onDisconnect={word}"
    async with disconnecting_client(api, path, body):
        await are_waited_for(api, 1)
    await are_waited_for(api, 0)
    if word == "cancel":
        await wait_until_async(lambda: _is_cancelled(api, endpoint_id))
        record = await wait_until_async(lambda: _audited_cancellation(api))
        assert (record["target"], record["address"]) == (f"endpoint {endpoint_id}, task t1", "127.0.0.1")
        return
    assert (await wait_for(api, endpoint_id, "t1", 0)).json()["data"]["state"] == "queued"
    async with disconnecting_client(api, f"GET {tasks_of(endpoint_id)}/t1?wait={LONG}&onDisconnect=cancel"):
        await are_waited_for(api, 1)
    await are_waited_for(api, 0)
    assert await state_of(api, endpoint_id, "t1") is TaskState.QUEUED


async def _audited_cancellation(api: RunningApi) -> Any:
    newest = (await api.client.get("/v2/audit")).json()["data"]["items"][0]
    return newest if newest["action"] == "cancel_task" else None


async def _is_cancelled(api: RunningApi, endpoint_id: str) -> bool:
    return await state_of(api, endpoint_id, "t1") is TaskState.CANCELLED


async def test_the_end_of_a_wait_cancels_no_task(api: RunningApi, endpoint_id: str) -> None:
    answer = await submit_and_wait(api, endpoint_id, query="wait=1&onDisconnect=cancel", taskId="t1")
    assert answer.json()["data"]["state"] == "queued"
    assert await state_of(api, endpoint_id, "t1") is TaskState.QUEUED


# A stopping API, limits, and a store that is away


async def test_a_stopping_api_responds_to_all_waits_and_cancels_no_task(api: RunningApi, endpoint_id: str) -> None:
    await api.submit(endpoint_id, taskId="t0")
    waiting = [
        asyncio.create_task(submit_and_wait(api, endpoint_id, query=f"wait={LONG}&onDisconnect=cancel", taskId="t1")),
        wait_for(api, endpoint_id, "t0"),
        asyncio.create_task(api.post(f"{tasks_of(endpoint_id)}/wait", {"taskIds": ["t0", "t1"], "wait": LONG})),
    ]
    await are_waited_for(api, 4)
    began = time.monotonic()
    api.stop()
    answers = await asyncio.gather(*waiting)
    assert time.monotonic() - began < 5
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.headers["connection"] for answer in answers] == ["close"] * 3
    assert [answer.json()["data"]["state"] for answer in answers[:2]] == ["queued", "queued"]
    assert answers[2].json()["data"]["pending"] == ["t0", "t1"]
    assert await state_of(api, endpoint_id, "t1") is TaskState.QUEUED


@pytest.mark.parametrize("limit", ["max_waits", "max_waits_per_tenant"])
async def test_a_wait_beyond_a_limit_ends_at_once(valkey_url: str, limit: str) -> None:
    settings: dict[str, Any] = {limit: 3}
    async with running_api(valkey_url, **settings) as api:
        endpoint_id = await api.create_endpoint()
        for name in ("t1", "t2"):
            await api.submit(endpoint_id, taskId=name)
        several = asyncio.create_task(wait_for_any(api, endpoint_id, "t1", "t2"))
        await are_waited_for(api, 2)
        refused = await api.post(f"{tasks_of(endpoint_id)}/wait", {"taskIds": ["t1", "t2"], "wait": LONG})
        assert (refused.headers["retry-after"], refused.json()["data"]["pending"]) == ("1", ["t1", "t2"])
        one = wait_for(api, endpoint_id, "t2")
        await are_waited_for(api, 3)
        for refused in (await wait_for(api, endpoint_id, "t2"), await submit_and_wait(api, endpoint_id)):
            assert (refused.status_code, refused.headers["retry-after"]) == (200, "1")
            assert refused.json()["data"]["state"] == "queued"
        page = (await api.client.get("/metrics")).text
        assert "queue_engine_task_waits 3.0" in page
        await finish(api, endpoint_id)
        await finish(api, endpoint_id)
        await asyncio.gather(several, one)
        await are_waited_for(api, 0)


async def test_a_wait_counts_as_one_request_of_the_rate_limit(valkey_url: str) -> None:
    now = 0.0
    async with running_api(valkey_url, rate_limit_per_second=3, monotonic=lambda: now) as api:
        endpoint_id = await api.create_endpoint()
        answer = await submit_and_wait(api, endpoint_id, query="wait=1", taskId="t1")
        assert answer.status_code == 200
        assert (await wait_for_any(api, endpoint_id, "t1", wait=0))["pending"] == ["t1"]
        assert (await wait_for(api, endpoint_id, "t1", 0)).status_code == 429


async def test_an_end_is_returned_only_when_it_is_durable(
    api: RunningApi, endpoint_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed: list[str] = []

    async def confirm(key: str) -> None:
        confirmed.append(key)
        if len(confirmed) < 3:
            raise NotDurable("0 of 1 replicas acknowledged a write")

    monkeypatch.setattr(api.store.task_watch, "_confirm", confirm)
    await api.submit(endpoint_id, taskId="t1")
    waiting = wait_for(api, endpoint_id, "t1")
    await are_waited_for(api, 1)
    assert confirmed == []
    await finish(api, endpoint_id)
    assert (await waiting).json()["data"]["status"] == "SUCCESS"
    assert confirmed == [api.store.partitions.of(endpoint_id).counts] * 3
