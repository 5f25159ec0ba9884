"""Measure bulk operations over many tasks: what they cost submits beside them, and how soon one can be stopped.

One API process and one controller work on a store that writes to disk. A cancellation of all tasks is stopped in its
middle, another one cancels the rest, and then all tasks are deleted. A client submits tasks to another endpoint of the
same tenant at a steady rate, before and during the deletion.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import NewTask, TaskSpec
from queue_engine.local.embedded import server_environment
from queue_engine.store.store import Store
from tests.bench.figures import percentile
from tests.bench.growth import INPUT, server_seconds
from tests.bench.idle_endpoints import Goal
from tests.bench.stage import AS_OPERATED
from tests.integration.parts import Programs, programs_on, wait_for_port
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until_async

TASKS = 100_000
CHUNK = 500
RATE = 50
SECONDS = 15.0
"""Duration of the submits without an operation."""
END_SECONDS = 3600.0
STILL_SECONDS = 1.0
"""Time for which a stopped operation is watched: several of its steps."""
TENANT = "bulk"
P99_MS, STOP_MS = 20.0, 100.0
"""Goals: of a submit beside a deletion, and of the response to the order to stop."""


async def run(binary: Path, *, tasks: int = TASKS) -> list[Goal]:
    """Measure and print the figures."""
    with tempfile.TemporaryDirectory(prefix="queue-engine-bulk-") as folder:
        directory = Path(folder)
        server = StoreServer(binary, directory / "store", options=AS_OPERATED, variables=server_environment())
        with server, programs_on(server.url, directory) as programs:
            store = Store(server.url, Sealer(None))
            try:
                await store.prepare()
                goals = await _measured(store, programs, tasks)
            finally:
                await store.close()
    sys.stdout.writelines(f"{goal.line}\n" for goal in goals)
    return goals


async def _measured(store: Store, programs: Programs, tasks: int) -> list[Goal]:
    api_key = new_api_key()
    await store.api_keys.put(api_key, tenant=TENANT, name="bench")
    bulk, other = await _new_endpoint(store, 2 * tasks), await _new_endpoint(store, 2 * tasks)
    await _fill(store, bulk, tasks)
    port = free_port()
    programs.start("api", "queue_engine", "api", "--port", str(port))
    programs.controller(lease=30)
    await asyncio.to_thread(wait_for_port, port)
    url = f"http://127.0.0.1:{port}/v2/serverless"
    async with httpx.AsyncClient(headers={"X-Api-Key": api_key}, trust_env=False, timeout=60) as client:
        operations = _Operations(client, f"{url}/{bulk}/operations")
        async with _submits(client, f"{url}/{other}/tasks") as alone:
            await asyncio.sleep(SECONDS)
        stopped_ms = await _stopped(operations, tasks)
        await operations.run("cancel", "queued")
        used, began = await server_seconds(store.redis), time.monotonic()
        async with _submits(client, f"{url}/{other}/tasks") as beside:
            deleted = await operations.run("delete", "cancelled")
        seconds = time.monotonic() - began
        used = await server_seconds(store.redis) - used
    if deleted["done"] != tasks:
        raise RuntimeError(f"of {tasks} tasks, {deleted['done']} were deleted")
    rate, cost = tasks / seconds, used * 1e6 / tasks
    _say(f"delete of {tasks:,} tasks: {seconds:.0f} s, {rate:,.0f} tasks/s, {len(beside)} submits beside it")
    _say(f"store, with these submits: {cost:.0f} µs of its processor a task, {used / seconds:.2f} of a core")
    _say(f"submit, p50 / p99: {_ms(alone, 0.5)} / {_ms(alone, 0.99)} alone")
    _say(f"submit, p50 / p99: {_ms(beside, 0.5)} / {_ms(beside, 0.99)} beside the deletion")
    return [
        Goal(f"submit beside a bulk delete of {tasks:,}, p99", 1000 * percentile(beside, 0.99), P99_MS, "ms"),
        Goal("stop of a bulk cancel", stopped_ms, STOP_MS, "ms"),
    ]


async def _stopped(operations: _Operations, tasks: int) -> float:
    """Begin to cancel the tasks, and stop that soon; return the milliseconds of the response.

    Raises RuntimeError if tasks are changed after it.
    """
    name = await operations.begin("cancel", "queued")
    await wait_until_async(partial(operations.has_changed, name, tasks // 20), message="the operation changes no tasks")
    began = time.perf_counter()
    await operations.stop(name)
    took = time.perf_counter() - began
    at_response = await operations.read(name)
    await asyncio.sleep(STILL_SECONDS)
    later = await operations.read(name)
    if later["status"] != "cancelled" or later["done"] != at_response["done"] or later["done"] >= tasks:
        raise RuntimeError(f"the operation was not stopped: {at_response}, later {later}")
    return 1000 * took


class _Operations:
    """The operations of one endpoint, over the API."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url

    async def run(self, action: str, state: str) -> dict[str, Any]:
        """Change all tasks with this state; return the operation when it is done."""
        name = await self.begin(action, state)
        await wait_until_async(partial(self.has_ended, name), END_SECONDS, "the operation does not end")
        found = await self.read(name)
        if found["status"] != "done":
            raise RuntimeError(f"the operation failed: {found}")
        return found

    async def has_ended(self, name: str) -> bool:
        return bool((await self.read(name))["status"] != "running")

    async def begin(self, action: str, state: str) -> str:
        name = uuid.uuid4().hex
        await self._data("POST", self._url, {"action": action, "filter": {"state": state}, "operationId": name})
        return name

    async def read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._data("GET", f"{self._url}/{name}")
        return found

    async def has_changed(self, name: str, tasks: int) -> bool:
        """Return True if the operation has changed at least this number of tasks."""
        return int((await self.read(name))["done"]) >= tasks

    async def stop(self, name: str) -> None:
        await self._data("POST", f"{self._url}/{name}/cancel")

    async def _data(self, method: str, url: str, body: object = None) -> Any:
        response = await self._client.request(method, url, json=body)
        if response.status_code != 200:
            raise RuntimeError(f"{method} {url} got {response.status_code}: {response.text[:300]}")
        return response.json()["data"]


@asynccontextmanager
async def _submits(client: httpx.AsyncClient, url: str) -> AsyncIterator[list[float]]:
    """Submit RATE tasks a second during the block; the list gets the seconds of each."""
    took: list[float] = []
    body = {"input": {"prompt": "x" * 50}, "workerPort": 8000, "processUri": "/run"}

    async def submit() -> None:
        began = time.perf_counter()
        response = await client.post(url, json=body)
        took.append(time.perf_counter() - began)
        response.raise_for_status()

    async def submit_all() -> None:
        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
                group.create_task(submit())
                number += 1

    submitting = asyncio.create_task(submit_all())
    try:
        yield took
    finally:
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)


async def _new_endpoint(store: Store, max_queued_tasks: int) -> str:
    config = EndpointConfig(
        "bulk", "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 0, 20, max_queued_tasks=max_queued_tasks
    )
    return (await store.endpoints.create(TENANT, config)).endpoint_id


async def _fill(store: Store, endpoint_id: str, tasks: int) -> None:
    for first in range(0, tasks, CHUNK):
        new = (
            NewTask(f"task-{number:09}", endpoint_id, TENANT, TaskSpec(8000, "/run"), INPUT, "f" * 32)
            for number in range(first, min(tasks, first + CHUNK))
        )
        await asyncio.gather(*map(store.tasks.enqueue, new))


def _ms(seconds: list[float], share: float) -> str:
    return f"{1000 * percentile(seconds, share):.1f} ms"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
