"""Containers that hang, drip, flood or die of their tasks, and clients that withdraw them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.faults.scenarios import scenario
from tests.faults.stage import Stage

MOST_AGENT_BYTES = 400_000_000
"""More than any agent needs; less than an answer of 1 GB."""


@scenario("container hangs, drips, floods", endpoint={"executionTimeoutSeconds": 3})
async def misbehave(stage: Stage) -> None:
    """Containers that never answer, send a byte a second, or 1 GB: their tasks fail by the rules, the others go on."""
    bad = [*stage.mix.of(6, do="hang"), *stage.mix.of(6, do="drip"), *stage.mix.of(6, do="huge")]
    plans = [*bad, *stage.mix.quick(60)]
    stage.rng.shuffle(plans)
    await stage.load(plans, rate=15)
    await stage.until(stage.all_ended, what="tasks do not end")
    for worker in stage.workers:
        most = _peak_bytes(worker.agent.pid)
        if most > MOST_AGENT_BYTES:
            stage.violations.append(f"the agent of {worker.name} took {most} bytes of memory")


@scenario("poison tasks", endpoint={"maxAttempts": 3})
async def poison(stage: Stage) -> None:
    """Tasks that end their container's process: they run out of attempts, and take no other task along."""
    keeping = asyncio.create_task(_keep_containers(stage))
    try:
        load = stage.load(stage.mix.quick(80, ms=(5, 50)), rate=8)
        await stage.load([*stage.mix.of(2, do="exit"), *stage.mix.of(2, do="crash", times=1)], rate=2)
        await load
        await stage.until(stage.all_ended, 120, what="tasks do not end")
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep_containers(stage: Stage) -> None:
    while True:
        for worker in stage.workers:
            await asyncio.to_thread(worker.keep_container)
        await stage.hold(0.1)


@scenario("cancel")
async def cancel(stage: Stage) -> None:
    """Tasks are withdrawn while they wait and while they run: each ends once, as the client was told."""
    plans = stage.mix.quick_and_steady(60, 60, ms=1500)
    load = stage.load(plans, rate=15)
    for plan in stage.rng.sample(plans, 40):
        await stage.until(lambda plan=plan: stage.is_acknowledged(plan.task_id))  # type: ignore[misc]
        await stage.client.cancel(plan.task_id)
    await load


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has had. Linux only; 0 elsewhere."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
