"""Inputs and outputs of 10 MB: copies that a process holds at once, and what other tasks notice.

Both limits are raised to 16 MiB. Copies are the peak of a process's resident memory over its size before the first
large task, in bodies: one copy is the body itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import httpx

from tests.bench.contestants import Contestant, Round, alternate
from tests.bench.figures import OURS, Figure, Measured
from tests.bench.measures.latency import P99, ages_round
from tests.bench.processes import Program, resident_bytes
from tests.bench.stage import Stage, endpoint_path, payload_of, submission

BODY_BYTES = 10_000_000
LIMIT_BYTES = 16 * 1024 * 1024
LARGE_TASKS = 3
WITHOUT = "without large tasks"
COUNT = 200
VARIABLES = {
    "QUEUE_ENGINE_MAX_BODY_BYTES": str(LIMIT_BYTES),
    "WORKER_AGENT_MAX_ANSWER_BYTES": str(LIMIT_BYTES),
}


async def measure(stage: Stage) -> Measured:
    async with AsyncExitStack() as stack:
        api, port = await stack.enter_async_context(stage.api(VARIABLES))
        endpoint_id = await stage.endpoint()
        [agent] = await stack.enter_async_context(stage.agents(endpoint_id, variables=VARIABLES))
        await ages_round(stage, port, endpoint_id, 50)
        copies = await _copies(stage, {"api": api, "agent": agent}, port, endpoint_id)
        others = await alternate(
            [
                Contestant(OURS, partial(_beside_large_tasks, stage, port, endpoint_id)),
                Contestant(WITHOUT, partial(ages_round, stage, port, endpoint_id, COUNT)),
            ],
            [P99],
        )
    figures = (
        Figure(f"copies in the {name}", OURS, "× 10 MB", (value,), lower_is_better=True)
        for name, value in copies.items()
    )
    return Measured((*figures, *others.figures), others.failures, samples=others.samples)


async def _copies(stage: Stage, programs: Mapping[str, Program], port: int, endpoint_id: str) -> dict[str, float]:
    """Run large tasks one after the other; return the peak of each process over its start, in bodies."""
    before = {name: _forget_peak(program.pid) for name, program in programs.items()}
    for number in range(LARGE_TASKS):
        await _run_large(stage, port, endpoint_id, f"large_{number}")
    return {name: max(0, peak_bytes(one.pid) - before[name]) / BODY_BYTES for name, one in programs.items()}


async def _run_large(stage: Stage, port: int, endpoint_id: str, task_id: str) -> None:
    """Submit a large task, wait for its end, and read it with its output."""
    url = f"http://127.0.0.1:{port}{endpoint_path(endpoint_id)}"
    headers = {"X-Api-Key": stage.api_key, "Content-Type": "application/json"}
    before = await stage.done(endpoint_id, "success")
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=60) as client:
        more = f', "taskId": "{task_id}"'.encode()
        body = submission(payload_of(BODY_BYTES), more)
        (await client.post(url, content=body)).raise_for_status()
        await stage.wait_for(endpoint_id, "success", before + 1)
        async with client.stream("GET", f"{url}/{task_id}") as response:
            response.raise_for_status()
            async for _ in response.aiter_raw():
                pass


async def _beside_large_tasks(stage: Stage, port: int, endpoint_id: str) -> Round:
    """Measure other tasks while large ones are submitted and executed, one a second."""
    loading = asyncio.create_task(
        stage.load(
            [port], endpoint_path(endpoint_id), submission(payload_of(BODY_BYTES)), count=1000, connections=1, rate=1
        )
    )
    try:
        return await ages_round(stage, port, endpoint_id, COUNT)
    finally:
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading


def _forget_peak(pid: int) -> int:
    """Set the peak of a process's resident memory to its present size; return that."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return resident_bytes([pid])[pid]


def peak_bytes(pid: int) -> int:
    """Return the peak of a process's resident memory; its present size where the kernel does not say."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident_bytes([pid])[pid]
