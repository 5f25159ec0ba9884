"""Processes without work: an agent, and all of `queue-engine up`."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import httpx
from redis.asyncio import Redis

from tests.bench.figures import OURS, Figure, Measured
from tests.bench.measures.store_cost import client_commands
from tests.bench.processes import Program, cpu_seconds, resident_bytes, tree_of, until
from tests.bench.stage import Stage, python
from tests.environment import inherited
from tests.ports import free_port

SETTLE_SECONDS = 5.0
"""After the start, before an idle process is measured."""
WINDOW_SECONDS = 15.0
MEGABYTE = 1_000_000


async def measure_agent(stage: Stage) -> Measured:
    async with stage.agents(await stage.endpoint()) as [agent], Redis.from_url(stage.server.url) as redis:
        await asyncio.sleep(SETTLE_SECONDS)
        async with client_commands(redis) as commands:
            before = await _exchanges(redis)
            memory, share, seconds = await _window(stage, agent)
            calls = (await _exchanges(redis) - before - 1) / seconds
            sent = (commands() - 1) / seconds
    return Measured(
        (
            Figure("memory", OURS, "MB", (sum(memory.values()) / MEGABYTE,), lower_is_better=True),
            Figure("cpu", OURS, "% of a core", (share * 100,), lower_is_better=True),
            Figure("store calls", OURS, "/s", (calls,), lower_is_better=True),
            Figure("store commands", OURS, "/s", (sent,), lower_is_better=True),
        ),
        notes=(f"{seconds:.0f} s without a task",),
    )


async def _exchanges(redis: Redis) -> int:
    """Return how often the server has read from clients, once for the commands of a pipeline, this call included."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def measure_up(stage: Stage) -> Measured:
    with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
        port, began = free_port(), time.perf_counter()
        command = python("queue_engine", "up", "--port", str(port), "--data-dir", str(Path(folder) / "data"))
        async with stage.programs.running("up", command, inherited()) as up:
            await until(lambda: _is_ready(up, port), "`queue-engine up` is not ready")
            ready = time.perf_counter() - began
            await asyncio.sleep(SETTLE_SECONDS)
            memory, share, seconds = await _window(stage, up)
    parts = ", ".join(f"{size / MEGABYTE:.0f}" for size in sorted(memory.values(), reverse=True))
    return Measured(
        (
            Figure("memory", OURS, "MB", (sum(memory.values()) / MEGABYTE,), lower_is_better=True, note=parts),
            Figure("cpu", OURS, "% of a core", (share * 100,), lower_is_better=True),
            Figure("ready", OURS, "s", (ready,), lower_is_better=True),
        ),
        notes=(f"{seconds:.0f} s without a request; resident memory of {len(memory)} processes: {parts} MB",),
    )


async def _window(stage: Stage, program: Program) -> tuple[dict[int, int], float, float]:
    """Return the resident memory by process, the share of a core that all together use, and the seconds measured."""
    pids = tree_of(program.pid)
    before, began = cpu_seconds(pids), time.perf_counter()
    await asyncio.sleep(stage.seconds(WINDOW_SECONDS))
    seconds = time.perf_counter() - began
    return resident_bytes(pids), (cpu_seconds(pids) - before) / seconds, seconds


async def _is_ready(up: Program, port: int) -> bool:
    up.check_runs()
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False
