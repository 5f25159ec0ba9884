"""The store's cost of one task with 300 bytes of input and output: processor time, commands, memory.

- Scripts: the time that the server counts for the commands of a submit, a claim and a finish, called 100 at a time from
  this process, so that the server is not disturbed. The lower quartile of the rounds.
- Why: the time of the script that tells why a task waits, measured in the same way: for tasks in the middle of a long
  queue and of a long lane, the dearer of both.
- Server: the processor time of the whole server process for each task, connections included, while an agent or a
  peer's worker works on a queue.
- Commands: what clients send, as MONITOR shows it, without the commands that scripts run.
- Bytes: the server's used memory, of queued tasks and after they have finished.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from redis.asyncio import Redis

from queue_engine.crypto.sealing import Sealer
from queue_engine.store.keys import TaskKeys
from queue_engine.store.store import Store
from tests.bench import growth
from tests.bench.figures import OURS, Figure, Measured
from tests.bench.peer_workers import ARQ, BULLMQ, PeerWorker
from tests.bench.processes import ProgramFailed
from tests.bench.stage import Stage, store_server

SIZE = 300 - len(b'{"prompt": ""}')
SCRIPT_ROUNDS = 15
COUNT = 3000
COMMANDS_COUNT = 300
PEERS = (ARQ, BULLMQ)
WHY_TASKS = 1000
UNITS = {"scripts": "µs", "why": "µs", "server": "µs", "commands": "", "bytes queued": "B", "bytes finished": "B"}


async def measure(stage: Stage) -> Measured:
    figures = list(await _ours(stage))
    failures = stage.missing(*PEERS)
    async with Redis.from_url(stage.peer_server.url) as redis:
        for peer in PEERS:
            if peer.name in failures:
                continue
            try:
                figures += await _peer(stage, redis, peer)
            except ProgramFailed as error:
                failures[peer.name] = str(error)
    return Measured(tuple(figures), failures)


def _figure(measure: str, subject: str, *values: float) -> Figure:
    return Figure(measure, subject, UNITS[measure], values, lower_is_better=True)


async def _ours(stage: Stage) -> list[Figure]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(store_server(stage.binary, stage.folder / "cost-store"))
        store = Store(server.url, Sealer(None))
        stack.push_async_callback(store.close)
        await store.prepare()
        fresh = replace(stage, server=server, store=store, variables=_variables(stage, server.url))
        endpoint_id = await fresh.endpoint()
        async with fresh.agents(endpoint_id) as [agent]:
            done = 0

            async def enqueue(count: int) -> None:
                agent.pause()
                await fresh.enqueue(endpoint_id, f"c{done}", count, size=SIZE)

            async def work(count: int) -> None:
                nonlocal done
                agent.resume()
                done += count
                await fresh.wait_for(endpoint_id, "success", done)

            figures = await _costs(stage, store.redis, OURS, enqueue, work)
        costs = [
            _figure("scripts", OURS, *await _script_rounds(fresh)),
            _figure("why", OURS, *await _why_rounds(fresh)),
        ]
        return costs + figures


def _variables(stage: Stage, url: str) -> dict[str, str]:
    left_out = ("QUEUE_ENGINE_SECRET_KEY",)
    kept = {name: value for name, value in stage.variables.items() if name not in left_out}
    return kept | {"QUEUE_ENGINE_REDIS_URL": url}


async def _peer(stage: Stage, redis: Redis, peer: PeerWorker) -> list[Figure]:
    url = stage.peer_server.url

    async def enqueue(count: int) -> None:
        await stage.run(peer.name, peer.command("enqueue", url, "-", count=count, size=SIZE))

    async def work(count: int) -> None:
        await stage.output(peer.name, peer.command("work", url, "-", count=count, size=SIZE))

    stage.empty_peer_store()
    return await _costs(stage, redis, peer.name, enqueue, work)


async def _costs(
    stage: Stage,
    redis: Redis,
    subject: str,
    enqueue: Callable[[int], Awaitable[None]],
    work: Callable[[int], Awaitable[None]],
) -> list[Figure]:
    """Measure all but the scripts' own time. The first tasks fill caches and tables, and their commands are counted."""
    async with client_commands(redis) as commands:
        await enqueue(COMMANDS_COUNT)
        await work(COMMANDS_COUNT)
        sent = commands()
    count = stage.count(COUNT)
    empty, used = await growth.settled_memory(redis), await growth.server_seconds(redis)
    await enqueue(count)
    queued = await growth.settled_memory(redis)
    await work(count)
    used = await growth.server_seconds(redis) - used
    finished = await growth.settled_memory(redis)
    return [
        _figure("server", subject, used * 1e6 / count),
        _figure("commands", subject, sent / COMMANDS_COUNT),
        _figure("bytes queued", subject, (queued - empty) / count),
        _figure("bytes finished", subject, (finished - empty) / count),
    ]


@asynccontextmanager
async def client_commands(redis: Redis) -> AsyncIterator[Callable[[], int]]:
    """Count during the block the commands that clients send, without those that scripts run."""
    count = 0

    async def read(monitor: Any) -> None:
        nonlocal count
        async for command in monitor.listen():
            count += command["client_type"] != "lua"

    async with redis.monitor() as monitor:
        reading = asyncio.create_task(read(monitor))
        try:
            yield lambda: count
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _script_rounds(stage: Stage) -> list[float]:
    """Return the scripts' time of a task: the lower quartile of the rounds, which other programs disturb least."""
    history = growth.History(stage.store, await stage.endpoint(), 0, payload=b'{"prompt": "' + b"x" * SIZE + b'"}')
    found: dict[str, list[float]] = {"submit": [], "claim": [], "finish": []}
    for number in range(SCRIPT_ROUNDS + 1):
        for name, values in found.items():
            cost = await growth.spent(history, name)
            if number:  # the first round warms up
                values.append(cost.server)
    return [sum(statistics.quantiles(values, n=4)[0] for values in found.values())]


async def _why_rounds(stage: Stage) -> list[float]:
    """Return the time of a call that tells why a task waits."""
    places = [await _waiting(stage, None), await _waiting(stage, "key")]
    found: list[list[float]] = [[] for _ in places]
    for number in range(SCRIPT_ROUNDS + 1):
        for tasks, values in zip(places, found, strict=True):
            await stage.store.redis.config_resetstat()
            await asyncio.gather(*map(stage.store.scripts.why, tasks))
            stats = cast("dict[str, dict[str, Any]]", await stage.store.redis.info("commandstats"))
            if number:  # the first round warms up
                values.append(float(stats["cmdstat_evalsha"]["usec"]) / len(tasks))
    return [max(statistics.quantiles(values, n=4)[0] for values in found)]


async def _waiting(stage: Stage, key: str | None) -> list[TaskKeys]:
    """Let tasks wait, in a lane if they have a key; return those in the middle."""
    endpoint_id = await stage.endpoint()
    made = [replace(stage.task(endpoint_id, f"w{one}", b"1"), fairness_key=key) for one in range(WHY_TASKS)]
    for one in made:
        await stage.store.tasks.enqueue(one)
    first = (WHY_TASKS - growth.CALLS) // 2
    keys = stage.store.partitions.of(endpoint_id)
    return [keys.of_task(one.task_id) for one in made[first : first + growth.CALLS]]
