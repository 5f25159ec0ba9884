"""Bulk operations over many tasks, while the processes that make them are killed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import aiohttp

from queue_engine.domain.tasks import NewTask, TaskSpec
from queue_engine.store.tasks import Submission
from tests.faults.engine import API_KEY, CONTROLLERS
from tests.faults.producer import PAUSES, TRANSIENT
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage
from tests.integration.parts import TENANT

TASKS = 100_000
FILLED_AT_ONCE = 250
READ_AT_ONCE = 1000
KILLS = 3
"""Number of kills of a controller during an operation."""
STALL_SECONDS = 120.0
"""Time within which an operation must change another task, whatever was killed."""
STEPS = (("cancel", "queued"), ("retry", "cancelled"), ("cancel", "queued"), ("delete", "cancelled"))
"""The operations, each with the state of the tasks that it changes."""


@scenario("bulk under kills", play_seconds=3600)
async def bulk_under_kills(stage: Stage) -> None:
    """kill -9 of the controllers and the store while operations cancel, retry and delete 100,000 tasks beside a steady
    load: each task is changed once and counted once."""
    endpoint_id = await asyncio.to_thread(lambda: stage.engine.new_endpoint(maxQueuedTasks=2 * TASKS))
    await _fill(stage, endpoint_id)
    async with aiohttp.ClientSession(headers={"X-Api-Key": API_KEY}) as session, stage.steady_load(rate=12, ms=500):
        bulk = _Bulk(stage, session, endpoint_id)
        for action, state in STEPS:
            began = time.monotonic()
            await bulk.run(action, state)
            _note_submits(stage, f"{action} of {TASKS} tasks", began)
            if action == "retry":
                await _check_runs(stage, endpoint_id)
    counts = await stage.read(lambda: stage.store.tasks.counts(endpoint_id))
    if counts.total:
        stage.violations.append(f"{counts.total} tasks are left of {TASKS}")
    await asyncio.to_thread(stage.engine.order, endpoint_id, "delete")
    await stage.until(lambda: stage.engine.status_of(f"/{endpoint_id}") == 404, what="the endpoint is not removed")


class _Bulk:
    """Operations of one endpoint, whose controllers are killed at random moments."""

    def __init__(self, stage: Stage, session: aiohttp.ClientSession, endpoint_id: str) -> None:
        self._stage = stage
        self._session = session
        self._path = f"/v2/serverless/{endpoint_id}/operations"

    async def run(self, action: str, state: str) -> None:
        """Begin an operation, kill the controllers in turns and the store once, and check its counts at the end."""
        rng, name = self._stage.rng, uuid.uuid4().hex
        body = {"action": action, "filter": {"state": state}, "operationId": name}
        await self._asked("POST", self._path, body)
        moments = sorted(rng.uniform(0.05, 0.9) for _ in range(KILLS + 1))
        parts = [*(CONTROLLERS[number % len(CONTROLLERS)] for number in range(KILLS)), "store"]
        rng.shuffle(parts)
        for moment, part in zip(moments, parts, strict=True):
            await self._until(name, moment * TASKS)
            with self._stage.fault(f"kill {part}"):
                await self._kill(part)
        ended = await self._until(name, TASKS + 1)
        counts = {key: ended[key] for key in ("status", "matched", "done", "skipped", "failed")}
        expected = {"status": "done", "matched": TASKS, "done": TASKS, "skipped": 0, "failed": 0}
        if counts != expected:
            self._stage.violations.append(f"the operation {action} counts {ended}, expected {expected}")

    async def _kill(self, part: str) -> None:
        engine = self._stage.engine
        if part == "store":
            await asyncio.to_thread(engine.store_server.kill)
            await asyncio.to_thread(engine.store_server.start)
        else:
            await asyncio.to_thread(engine.program(part).kill)
            await asyncio.to_thread(engine.start_role, part)

    async def _until(self, name: str, done: float) -> dict[str, Any]:
        """Return the operation when it has changed `done` tasks or has ended."""
        before, changed = -1, time.monotonic()
        while True:
            found = await self._asked("GET", f"{self._path}/{name}")
            if found["done"] >= done or found["status"] != "running":
                return found
            if found["done"] != before:
                before, changed = found["done"], time.monotonic()
            assert time.monotonic() < changed + STALL_SECONDS, f"the operation does not get on: {found}"
            await asyncio.sleep(0.05)

    async def _asked(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Return the data of the response. Repeat what is cut off, which the id in the body makes safe."""
        failures = 0
        while True:
            url = self._stage.rng.choice(self._stage.engine.api_urls) + path
            try:
                async with self._session.request(method, url, json=body, timeout=aiohttp.ClientTimeout(20)) as answer:
                    told = await answer.json(content_type=None)
                    if answer.status == 200:
                        data: dict[str, Any] = told["data"]
                        return data
                    assert answer.status in TRANSIENT, f"{method} {path} got {answer.status}: {told}"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                pass
            failures += 1
            await asyncio.sleep(PAUSES.delay_after(failures, luck=self._stage.rng.random()))


async def _fill(stage: Stage, endpoint_id: str) -> None:
    """Submit the tasks to the store itself, because the scenario is not about submissions."""
    spec = TaskSpec(worker_port=8000, process_uri="/run")
    for first in range(0, TASKS, FILLED_AT_ONCE):
        tasks = [
            NewTask(f"bulk{number}", endpoint_id, TENANT, spec, b"{}", f"{number:032x}")
            for number in range(first, first + FILLED_AT_ONCE)
        ]
        results = await asyncio.gather(*(stage.read(partial(stage.store.tasks.enqueue, one)) for one in tasks))
        # A call that is repeated finds what it has submitted.
        assert {one.result for one in results} <= {Submission.ACCEPTED, Submission.DUPLICATE}


async def _check_runs(stage: Stage, endpoint_id: str) -> None:
    """Check that each task was queued again exactly once."""
    keys, runs = stage.store.partitions.of(endpoint_id), Counter[bytes | None]()
    for first in range(0, TASKS, READ_AT_ONCE):
        names = [keys.task(f"bulk{number}") for number in range(first, first + READ_AT_ONCE)]
        runs.update(await stage.read(partial(_runs_of, stage, names)))
    if runs != {b"1": TASKS}:
        stage.violations.append(f"of {TASKS} tasks that were retried once, the numbers of retries are {dict(runs)}")


async def _runs_of(stage: Stage, names: Sequence[str]) -> list[bytes | None]:
    pipeline = stage.store.redis.pipeline(transaction=False)
    for name in names:
        pipeline.hget(name, "runs")
    return await pipeline.execute()


def _note_submits(stage: Stage, what: str, since: float) -> None:
    """Note how long the submissions of the steady load took during an operation."""
    began = {one["task"]: one["mono"] for one in stage.seen("submit", "harness.jsonl") if one["mono"] >= since}
    took = sorted(
        one["mono"] - began[one["task"]] for one in stage.seen("acknowledged", "harness.jsonl") if one["task"] in began
    )
    if took:
        p50, p99 = took[len(took) // 2], took[int(0.99 * (len(took) - 1))]
        seconds = time.monotonic() - since
        stage.notes.append(
            f"{what}: {seconds:.0f} s with {KILLS} kills of a controller and one of the store; {len(took)} submits "
            f"beside it, p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms"
        )
