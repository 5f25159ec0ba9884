"""The queue is paused and resumed under load, while agents and the store are killed."""

from __future__ import annotations

import asyncio
import time

from queue_engine.store.keys import EndpointKeys
from tests.faults.engine import LEASE_SECONDS
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage, kill
from tests.store.probe import Probe

BEGIN_SECONDS = 3.0
"""Time within which a task that was claimed before the pause begins, also when the store was away."""


@scenario("pause under load")
async def pause_under_load(stage: Stage) -> None:
    """Agents and the store are killed while the queue is paused: no task begins then, and all end afterwards."""
    async with stage.steady_load(rate=12, ms=1500):
        for hurt in (_kill_agent, _kill_store, _kill_agent):
            await stage.until_busy(*stage.workers)
            await asyncio.to_thread(stage.engine.order, stage.endpoint_id, "pause")
            claimed = await stage.read(lambda: _claimed(stage))
            paused = time.monotonic()
            await hurt(stage)
            settled = time.monotonic() + BEGIN_SECONDS
            # During the pause the leases of a dead agent end, and its tasks are queued again.
            await stage.hold(BEGIN_SECONDS + LEASE_SECONDS + 1)
            resumed = time.monotonic()
            await asyncio.to_thread(stage.engine.order, stage.endpoint_id, "resume")
            await stage.until_all_work(time.monotonic())
            stage.violations += _begun_while_paused(stage, claimed, (paused, settled, resumed))
    await stage.until(stage.all_ended, what="tasks do not end")


async def _kill_agent(stage: Stage) -> None:
    worker = stage.rng.choice(stage.workers)
    with stage.fault("kill agent", worker) as began:
        await asyncio.to_thread(kill, worker, "agent")
    await stage.note_held(worker, began)
    await asyncio.to_thread(worker.start_agent)


async def _kill_store(stage: Stage) -> None:
    with stage.fault("kill store", *stage.workers):
        await asyncio.to_thread(stage.engine.store_server.kill)
        await stage.hold(0, 1)
        await asyncio.to_thread(stage.engine.store_server.start)


async def _claimed(stage: Stage) -> set[str]:
    """Return the tasks that agents have claimed, which may begin, and those that run, which may call again."""
    keys: EndpointKeys = stage.store.partitions.of(stage.endpoint_id)
    probe = Probe(stage.store.redis)
    streams = (keys.queue, keys.retry_queue, keys.turn)
    pending = {entry for stream in streams for entry in await probe.pending(stream, "agents")}
    entries = {entry_id: fields for stream in streams for entry_id, fields in (await probe.stream(stream)).items()}
    running = {name.rpartition(":")[2] for name in await probe.scores(keys.partition.leases)}
    return running | {fields["t"] for entry_id, fields in entries.items() if entry_id in pending}


def _begun_while_paused(stage: Stage, claimed: set[str], times: tuple[float, float, float]) -> list[str]:
    paused, settled, resumed = times
    return [
        f"{record['task']} began {record['mono'] - paused:.2f} s after the pause"
        for record in stage.seen("begin")
        if paused < record["mono"] < resumed and (record["task"] not in claimed or record["mono"] > settled)
    ]
