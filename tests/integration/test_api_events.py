"""Streams of events: states of topics, each read once for all that follow it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from queue_engine.domain.principals import Role
from queue_engine.domain.tasks import Succeeded
from queue_engine.engine import topics
from queue_engine.store.api_keys import hash_of
from tests.api_server import RunningApi
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

Event = tuple[str, Any]
DAY_MS = 86_400_000


class Stream:
    """The events of a response, one after the other."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Event:
        """Return the next event."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            name = ""
            async for line in self._lines:
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                if line.startswith("data: "):
                    return name, json.loads(line.removeprefix("data: "))
        raise AssertionError("the stream has ended")

    async def until(self, name: str, **members: Any) -> Any:
        """Return the data of the first event of this kind whose data has these members."""
        while True:
            found, event = await self.next()
            data = event.get("data", event) if found not in ("hello", "bye") else event
            if found == name and members.items() <= (data or {}).items():
                return data


@asynccontextmanager
async def following(api: RunningApi, topics: str, key: str | None = None) -> AsyncIterator[Stream]:
    headers = {} if key is None else {"X-Api-Key": key}
    async with api.client.stream("GET", "/v2/events", params={"topics": topics}, headers=headers) as response:
        assert response.status_code == 200, (await response.aread(), response.text)
        yield Stream(response)


async def refusal_of(api: RunningApi, topics: str, key: str | None = None) -> tuple[int, str]:
    headers = {} if key is None else {"X-Api-Key": key}
    response = await api.client.get("/v2/events", params={"topics": topics}, headers=headers)
    return response.status_code, response.json()["message"]


async def finish(api: RunningApi, endpoint_id: str) -> None:
    """Run the task that waits first."""
    agent = api.store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=60_000)
    (entry,) = await agent.claim(1, block_ms=1000)
    started = await agent.start(entry, address="127.0.0.1:9000")
    assert started is not None
    await agent.settle(started.lease, Succeeded(b"1"))


async def test_a_stream_begins_with_the_time_and_the_states(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    async with following(api, f"overview,endpoint:{endpoint_id}") as stream:
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.response.headers["cache-control"] == "no-store"
        name, hello = await stream.next()
        assert (name, hello["topics"]) == ("hello", ["overview", f"endpoint:{endpoint_id}"])
        states = dict([await stream.next(), await stream.next()])
    assert states["overview"]["topic"] == "overview"
    assert [one["id"] for one in states["overview"]["data"]["endpoints"]] == [endpoint_id]
    shown = (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]
    assert states["endpoint"]["data"]["endpoint"] == shown
    assert states["endpoint"]["data"]["workers"] == []


async def test_a_task_is_followed_from_its_queue_to_its_end_and_again_after_a_retry(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await api.submit(endpoint_id, taskId="t1", headers={"X-A": "1"})
    async with following(api, f"task:{endpoint_id}:t1") as stream:
        first = await stream.until("task")
        assert first["task"]["headers"] == {"X-A": "1"}
        assert (first["task"]["state"], first["attempts"], first["deliveries"]) == ("queued", [], [])
        assert first["task"]["waiting"]["code"] == "NO_WORKERS"
        assert "input" not in first["task"]
        for _ in range(2):
            await finish(api, endpoint_id)
            while (ended := await stream.until("task"))["task"]["state"] != "succeeded":
                pass
            assert ended["attempts"][-1]["outcome"] == "ok"
            await api.post(f"/v2/serverless/{endpoint_id}/tasks/t1/retry", {})
            while (await stream.until("task"))["task"]["state"] != "queued":
                pass


async def test_an_object_that_is_removed_is_told_once(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    async with following(api, f"task:{endpoint_id}:t1,bulk:{endpoint_id}:none") as stream:
        events = [await stream.next() for _ in range(3)]
        assert {event["topic"]: event["data"] for _, event in events[1:]} == {
            f"task:{endpoint_id}:t1": None, f"bulk:{endpoint_id}:none": None,
        }  # fmt: skip
        await api.submit(endpoint_id, taskId="t1")
        assert (await stream.until("task"))["task"]["taskId"] == "t1"


async def test_the_lines_of_a_log_follow_each_other_without_a_gap(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await api.store.workers.put(endpoint_id, "w1", managed=True)

    async def write(number: int) -> None:
        line = f"line {number}"
        assert await api.store.logs.append(endpoint_id, "w1", f"b{number}", [line], retention_ms=DAY_MS)

    await write(1)
    async with following(api, f"log:{endpoint_id}:w1") as stream:
        first = await stream.until("log")
        assert (first["lines"], first["after"]) == ([], first["next"])
        place = first["next"]
        for number in (2, 3):
            await write(number)
            event = await stream.until("log")
            assert event["after"] == place
            assert [line["log"] for line in event["lines"]] == [f"line {number}"]
            place = event["next"]


async def test_many_that_follow_a_topic_cost_one_reader(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    keys = [await api.new_key("default") for _ in range(5)]
    async with (
        following(api, f"endpoint:{endpoint_id}", keys[0]) as one,
        following(api, f"endpoint:{endpoint_id}", keys[1]) as two,
    ):
        await one.until("endpoint")
        await two.until("endpoint")
        page = (await api.client.get("/metrics")).text
        assert "queue_engine_event_streams 2.0" in page
        assert "queue_engine_event_topics 1.0" in page
        await api.post(f"/v2/serverless/{endpoint_id}/pause", {})
        for stream in (one, two):
            while not (await stream.until("endpoint"))["endpoint"]["paused"]:
                pass

    async def are_gone() -> bool:
        page = (await api.client.get("/metrics")).text
        return "queue_engine_event_streams 0.0" in page and "queue_engine_event_topics 0.0" in page

    await wait_until_async(are_gone)


@pytest.mark.parametrize(
    "topics",
    ["", "overview:1", "endpoint", "endpoint:0", "task:1", "task:1:a-b", "log:1:_", "bulk:1:a:b", "sate", "overview,"],
)
async def test_a_topic_that_does_not_exist_is_refused(api: RunningApi, topics: str) -> None:
    status, message = await refusal_of(api, topics)
    assert status == 400
    assert message.startswith("topics: must be one or more of overview")


async def test_a_stream_has_a_limited_number_of_topics(api: RunningApi) -> None:
    status, message = await refusal_of(api, ",".join(f"endpoint:{number}" for number in range(1, 18)))
    assert (status, message) == (400, "topics: must have at most 16 topics")


async def test_an_endpoint_of_others_is_as_one_that_does_not_exist(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    limited = await api.new_key("default", endpoints=frozenset({"999"}))
    status, _ = await refusal_of(api, f"endpoint:{endpoint_id}", limited)
    assert status == 404
    other = await api.new_key("other")
    async with following(api, f"endpoint:{endpoint_id},overview", other) as stream:
        events = [await stream.next() for _ in range(3)]
        states = {name: event["data"] for name, event in events if name != "hello"}
        assert states == {"endpoint": None, "overview": {"endpoints": []}}


async def test_a_key_that_submits_follows_its_own_tasks_only(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    submitter = await api.new_key("default", role=Role.SUBMIT)
    await api.submit(endpoint_id, taskId="other")
    task = {"input": 1, "workerPort": 80, "processUri": "/", "taskId": "own"}
    headers = {"X-Api-Key": submitter}
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks", json=task, headers=headers)
    async with following(api, f"task:{endpoint_id}:own,task:{endpoint_id}:other", submitter) as stream:
        events = [event for name, event in [await stream.next() for _ in range(3)] if name == "task"]
        states = {event["topic"].rpartition(":")[2]: event["data"] for event in events}
        assert states["other"] is None
        assert states["own"]["task"]["state"] == "queued"
    status, message = await refusal_of(api, "overview", submitter)
    assert (status, "needs read" in message) == (403, True)


async def test_a_stream_ends_with_its_key(api: RunningApi) -> None:
    key = await api.new_key("default")
    async with following(api, "overview", key) as stream:
        await stream.until("overview")
        stored = await api.store.api_keys.find(hash_of(key))
        assert stored is not None
        await api.store.api_keys.revoke_key(stored)
        await stream.until("bye")


async def test_a_key_has_a_limited_number_of_streams(api: RunningApi) -> None:
    streams = [following(api, "overview") for _ in range(topics.MAX_STREAMS)]
    for stream in streams:
        await stream.__aenter__()
    status, message = await refusal_of(api, "overview")
    assert (status, "8 streams" in message) == (429, True)
    for stream in streams:
        await stream.__aexit__(None, None, None)


async def test_a_stopping_api_ends_the_streams_at_once(api: RunningApi) -> None:
    async with following(api, "overview") as stream:
        await stream.until("overview")
        api.stop()
        bye = await stream.until("bye")
        assert bye == {"reason": "the server is shutting down"}
