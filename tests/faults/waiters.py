"""Clients that wait for tasks, while each kind of process is killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from tests.faults.checker import TERMINAL
from tests.faults.engine import API_KEY
from tests.faults.producer import PAUSES, TRANSIENT
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage, kill

WAIT_SECONDS = 300
"""Longer than the scenario, so that a response comes only when the API has learned of the end."""
NOTICE_SECONDS = 30.0
"""Time after the end of all tasks within which all clients have a response. Each may have lost its connection."""
ENDS_UNHEARD = 20
"""Number of executions that end while subscriptions are cut."""
CUT_PAUSE_SECONDS = 0.005
"""Pause between two cuts, shorter than a new subscription takes."""


@scenario("waiters", play_seconds=360)
async def waiters(stage: Stage) -> None:
    """kill -9 of agents, containers, APIs, a controller and the store, SIGTERM of an API, and subscriptions that are
    cut again and again, while a client waits for each task: every client gets the recorded end."""
    async with _waits_for_each_task(stage), stage.steady_load(rate=12, ms=1500):
        for worker, part in zip(stage.rng.sample(stage.workers, 2), ("agent", "container"), strict=True):
            await stage.until_busy(worker)
            with stage.fault(f"kill {part}", worker):
                await asyncio.to_thread(kill, worker, part)
            await stage.hold(0.2, 1)
            await asyncio.to_thread(worker.start_agent if part == "agent" else worker.keep_container)
        for name in ("api-1", "controller-1", "api-2"):
            await stage.until_busy(*stage.workers)
            with stage.fault(f"kill {name}"):
                await asyncio.to_thread(stage.engine.program(name).kill)
            await stage.hold(0.2, 1)
            await asyncio.to_thread(stage.engine.start_role, name)
            await asyncio.to_thread(stage.engine.wait_until_ready)
        for seconds in (0.0, stage.rng.uniform(2, 5)):
            await stage.until_busy(*stage.workers)
            with stage.fault("kill store"):
                await asyncio.to_thread(stage.engine.store_server.kill)
                await stage.hold(seconds)
                await asyncio.to_thread(stage.engine.store_server.start)
            await stage.hold(2, 3)
        await stage.until_busy(*stage.workers)
        with stage.fault("stop api"):
            stage.engine.program("api-1").signal(signal.SIGTERM)
            await asyncio.to_thread(stage.engine.program("api-1").wait)
        await asyncio.to_thread(stage.engine.start_role, "api-1")
        await asyncio.to_thread(stage.engine.wait_until_ready)
        # Last, because a client that loses its API asks again at another one.
        await stage.until_busy(*stage.workers)
        with stage.fault("cut subscriptions"):
            await _cut_subscriptions(stage)


async def _cut_subscriptions(stage: Stage) -> None:
    """Close the subscriptions of all processes as soon as they exist, while at least ENDS_UNHEARD tasks end."""
    ended = len(stage.seen("end"))
    while len(stage.seen("end")) < ended + ENDS_UNHEARD:
        await stage.read(lambda: stage.store.redis.client_kill_filter(_type="pubsub"))
        await stage.hold(CUT_PAUSE_SECONDS)


@asynccontextmanager
async def _waits_for_each_task(stage: Stage) -> AsyncIterator[None]:
    """Let a client wait for each task that is acknowledged. At the end all have a response, or it is a violation."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"X-Api-Key": API_KEY}
    ) as session:
        clients: dict[str, asyncio.Task[None]] = {}

        async def begin_all() -> None:
            while True:
                for task_id in stage.producer.known[len(clients) :]:
                    clients[task_id] = asyncio.create_task(_wait_for(stage, session, task_id))
                await asyncio.sleep(0.05)

        beginning = asyncio.create_task(begin_all())
        try:
            yield
            await stage.until(stage.all_ended, what="tasks do not end")
            await stage.until(lambda: len(clients) == len(stage.producer.known))
            with suppress(AssertionError):  # what is missing is named
                await stage.until(lambda: all(one.done() for one in clients.values()), NOTICE_SECONDS)
            for task_id, client in clients.items():
                if not client.done():
                    stage.violations.append(f"{task_id} has ended and its client still waits")
        finally:
            for one in (beginning, *clients.values()):
                one.cancel()
            await asyncio.gather(beginning, *clients.values(), return_exceptions=True)


async def _wait_for(stage: Stage, session: aiohttp.ClientSession, task_id: str) -> None:
    """Wait until the API responds with the ended task, and journal it. Repeat what is cut off."""
    failures = 0
    while True:
        url = stage.rng.choice(stage.engine.api_urls)
        status, task = await _asked(session, f"{url}/v2/serverless/{stage.endpoint_id}/tasks/{task_id}")
        if status == 200 and task["state"] in TERMINAL:
            stage.journal.write("waited", task=task_id, state=task["state"], output=task["output"], error=task["error"])
            return
        if status not in (0, 200, *TRANSIENT):
            stage.violations.append(f"a client that waits for {task_id} got {status}")
            return
        failures += 1
        await asyncio.sleep(PAUSES.delay_after(failures, luck=stage.rng.random()))


async def _asked(session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    """Return status and task; 0 and None without a complete response."""
    try:
        timeout = aiohttp.ClientTimeout(total=WAIT_SECONDS + 10)
        async with session.get(url, params={"wait": str(WAIT_SECONDS)}, timeout=timeout) as answer:
            body = await answer.json(content_type=None)
            return answer.status, body.get("data") if isinstance(body, dict) else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return 0, None
