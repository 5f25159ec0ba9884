"""A tenant uses as much as it can. The submissions, ends and deliveries of another tenant go on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.domain.api_keys import Grant
from queue_engine.domain.tenants import DEFAULT_LIMITS, Limit
from queue_engine.engine.tenant_limits import MEMORY_REFRESH_SECONDS
from tests.faults.disks import MEBIBYTE
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage

FLOODING = "flooding"
"""The tenant that floods."""
CONNECTIONS = 16
"""Requests of the flooding tenant at a time."""
MAX_FLOOD_SECONDS = 150.0
ENDPOINT = {
    "name": "flood",
    "image": "none",
    "resources": [{"region": "local", "gpuType": "CPU", "gpuCount": 1}],
    "workers": 0,
    "containerVolumeInGb": 20,
    "serviceMode": "QUEUE",
    "maxQueuedTasks": 1_000_000,
}


class Flood:
    """The flooding tenant, with requests to all APIs in turn."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self._session = session
        self._urls = urls
        self._sent = 0
        self.refused = ""
        """Message of the latest 429."""

    async def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, object]]:
        """Return the status and the data of the response to a request below `/v2/serverless`."""
        self._sent += 1
        url = f"{self._urls[self._sent % len(self._urls)]}/v2/serverless{path}"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        async with self._session.request(method, url, data=body, headers=headers) as answer:
            told = json.loads(await answer.read())
            if answer.status == 429:
                self.refused = told["message"]
            return answer.status, told["data"]

    async def until_refused(self, path: str, body: Callable[[], bytes]) -> list[dict[str, object]]:
        """POST over all connections until each gets 429, and return the data of the accepted requests."""
        made: list[dict[str, object]] = []

        async def one() -> None:
            while True:
                status, data = await self.ask("POST", path, body())
                if status == 429:
                    return
                assert status == 200, f"the flooding tenant got {status}"
                made.append(data)

        async with asyncio.timeout(MAX_FLOOD_SECONDS):
            await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        return made

    async def remove(self, endpoint_ids: list[object]) -> None:
        """Delete these endpoints."""
        turns = asyncio.Semaphore(CONNECTIONS)

        async def one(endpoint_id: object) -> None:
            async with turns:
                status, _ = await self.ask("DELETE", f"/{endpoint_id}")
            assert status == 200, f"the deletion of {endpoint_id} got {status}"

        await asyncio.gather(*map(one, endpoint_ids))


@asynccontextmanager
async def _flood(stage: Stage) -> AsyncIterator[Flood]:
    key = new_api_key()
    await stage.store.api_keys.create(key, FLOODING, Grant("flood"))
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(headers={"X-Api-Key": key}, timeout=timeout) as session:
        yield Flood(session, stage.engine.api_urls)


async def _beside(stage: Stage, what: str, flood: Callable[[], Awaitable[None]]) -> None:
    """Flood beside a steady load of the other tenant, whose every part must go on."""
    async with stage.steady_load(rate=15):
        await stage.until_busy(*stage.workers)
        await stage.hold(5)
        began = time.monotonic()
        with stage.fault(what):
            flooding = asyncio.ensure_future(flood())
            await stage.until_all_work(began)
            await flooding
            ended = time.monotonic()
            await stage.until_all_work(ended)
    for when, since, until in (("before", 0.0, began), ("beside the flood", began, ended)):
        submits, results = (
            _seconds(stage, "submit", "acknowledged", since, until),
            _seconds(stage, "acknowledged", "webhook", since, until),
        )
        stage.notes.append(
            f"{when}: {len(submits)} submits, p99 {1000 * _p99(submits):.0f} ms; "
            f"{len(results)} results with their runs, p99 {_p99(results):.1f} s"
        )


def _seconds(stage: Stage, first: str, then: str, since: float, until: float) -> list[float]:
    """Return the times from one record to another of each task whose first record is between the two times."""
    records = [
        *stage.seen(first, "harness.jsonl"),
        *stage.seen(then, "harness.jsonl"),
        *stage.seen(then, "receiver.jsonl"),
    ]
    ends = {one["task"]: one["mono"] for one in reversed(records) if one["what"] == then}
    starts = [(one["task"], one["mono"]) for one in records if one["what"] == first and since <= one["mono"] < until]
    return [ends[task] - mono for task, mono in starts if task in ends]


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))] if seconds else 0.0


@scenario("tenant floods endpoints")
async def tenant_floods_endpoints(stage: Stage) -> None:
    """A tenant creates endpoints up to its limit, and deletes all of them: no task of another tenant waits for it."""
    limit = DEFAULT_LIMITS[Limit.ENDPOINTS]
    async with _flood(stage) as flood:

        async def fill_and_empty() -> None:
            body = json.dumps(ENDPOINT).encode()
            made = await flood.until_refused("", lambda: body)
            assert len(made) == limit, f"{len(made)} endpoints were created"
            assert flood.refused == f"endpoints: the tenant has at most {limit}", flood.refused
            await flood.remove([one["id"] for one in made])

        await _beside(stage, "flood endpoints", fill_and_empty)
        await stage.until(lambda: _has_no_endpoints(stage), 90, "the endpoints of the flood are not removed")


async def _has_no_endpoints(stage: Stage) -> bool:
    await stage.store.endpoints.of_tenant(FLOODING)  # a list removes ids that a concurrent resync has put back
    return not await stage.store.endpoints.index.ids_of(FLOODING)


@scenario("tenant floods bytes")
async def tenant_floods_bytes(stage: Stage) -> None:
    """A tenant submits large tasks until it has half of the store's memory: the other half is there for the others."""
    server = stage.engine.store_server
    async with _flood(stage) as flood:
        used = int((await stage.store.redis.info("memory"))["used_memory"])
        limit = (used + 400 * MEBIBYTE) // 2
        server.command("CONFIG", "SET", "maxmemory", str(2 * limit))
        await stage.hold(2 * MEMORY_REFRESH_SECONDS)  # until every API has read it, also one that has read it before

        async def fill() -> None:
            _, endpoint = await flood.ask("POST", "", json.dumps(ENDPOINT).encode())
            task = {"input": "x" * 200_000, "workerPort": 8000, "processUri": "/run"}
            body = json.dumps(task).encode()
            made = await flood.until_refused(f"/{endpoint['id']}/tasks", lambda: body)
            assert flood.refused == f"storedBytes: the tenant has at most {limit}", flood.refused
            stored = (await stage.store.usage.of(FLOODING)).stored_bytes
            stage.notes.append(f"{len(made)} tasks of the flood, {stored / MEBIBYTE:.0f} of {limit / MEBIBYTE:.0f} MiB")
            await stage.hold(3)
            await flood.remove([endpoint["id"]])

        await _beside(stage, "flood bytes", fill)
        assert not stage.producer.answers.get(503), "the store was full for the other tenant"
        await stage.until(lambda: _has_no_endpoints(stage), 90, "the endpoint of the flood is not removed")
    server.command("CONFIG", "SET", "maxmemory", "0")
