"""Processes that are killed, paused or asked to end."""

from __future__ import annotations

import asyncio
import signal

from tests.faults.engine import LEASE_SECONDS, Worker
from tests.faults.scenarios import AGENT_GOAL_SECONDS, scenario
from tests.faults.stage import Stage, kill


@scenario("kill agent", goal_seconds=AGENT_GOAL_SECONDS)
async def kill_agents(stage: Stage) -> None:
    """kill -9 of agents with tasks under way: each of their tasks runs again elsewhere, and ends once."""
    async with stage.steady_load(rate=12, ms=1500):
        for worker in _victims(stage):
            killed = await _kill_when_busy(stage, worker, "agent")
            await stage.hold(0.2, 1)
            await stage.note_held(worker, killed)
            await asyncio.to_thread(worker.start_agent)


@scenario("kill container", goal_seconds=AGENT_GOAL_SECONDS)
async def kill_containers(stage: Stage) -> None:
    """kill -9 of containers with tasks under way: the connection breaks, and their tasks are tried again."""
    async with stage.steady_load(rate=12, ms=1000):
        for worker in _victims(stage):
            await _kill_when_busy(stage, worker, "container")
            await stage.hold(0.2, 1)
            await asyncio.to_thread(worker.keep_container)


@scenario("kill agent and container", workers=5, endpoint={"concurrency": 10}, goal_seconds=AGENT_GOAL_SECONDS)
async def kill_whole_workers(stage: Stage) -> None:
    """kill -9 of whole workers: as if their machine had gone.

    Two or three are dead at once. The others have slots for the load: else a task would wait for one of these, which
    says nothing of how soon its loss was noticed.
    """
    async with stage.steady_load(rate=28, ms=1500):
        for worker in _victims(stage):
            killed = await _kill_when_busy(stage, worker, "agent", "container")
            await stage.hold(0.2, 1)
            await stage.note_held(worker, killed)
            await asyncio.to_thread(worker.heal)


def _victims(stage: Stage) -> list[Worker]:
    """Whom to hit, one after the other."""
    return [worker for _ in range(3) for worker in stage.rng.sample(stage.workers, 2)]


async def _kill_when_busy(stage: Stage, worker: Worker, *parts: str) -> float:
    """Returns when."""
    await stage.until_busy(worker)
    with stage.fault(f"kill {' and '.join(parts)}", worker) as began:
        await asyncio.to_thread(kill, worker, *parts)
    return began


@scenario("kill api")
async def kill_apis(stage: Stage) -> None:
    """kill -9 of the API with many submits in flight: what was acknowledged is there, what was not is tried again."""
    loads = []
    for name in ("api-1", "api-2", "api-1"):
        loads.append(stage.load(stage.mix.quick(100, ms=(1, 20)), rate=60))
        acknowledged = stage.producer.acknowledged
        await stage.until(lambda before=acknowledged: stage.producer.acknowledged > before + 20)  # type: ignore[misc]
        await _kill_role(stage, name)
        if stage.over_api:
            # The next one to be killed is the only other one: without any API for a lease, agents that use it cannot
            # renew theirs, and rightly lose their tasks.
            await asyncio.to_thread(stage.engine.wait_until_ready)
    await asyncio.gather(*loads)


@scenario("kill delivery")
async def kill_deliveries(stage: Stage) -> None:
    """kill -9 of delivery processes with webhooks in flight: each result is told, perhaps twice, under one id."""
    stage.to_receiver.delay(0.1)
    load = stage.load(stage.mix.quick(200, ms=(1, 20)), rate=40)
    for name in ("delivery-1", "delivery-2", "delivery-1"):
        before = len(stage.seen("webhook", "receiver.jsonl"))
        await stage.until(lambda before=before: len(stage.seen("webhook", "receiver.jsonl")) > before + 10)  # type: ignore[misc]
        await _kill_role(stage, name)
    await load


@scenario("kill controller", goal_seconds=AGENT_GOAL_SECONDS)
async def kill_controllers(stage: Stage) -> None:
    """kill -9 of each controller, and of an agent while only the other one is left to notice."""
    async with stage.steady_load(rate=12, ms=1500):
        for name in ("controller-1", "controller-2"):
            with stage.fault(f"kill {name}"):
                await asyncio.to_thread(stage.engine.program(name).kill)
            worker = stage.rng.choice(stage.workers)
            await _kill_when_busy(stage, worker, "agent")
            await stage.hold(0.5, 1)
            await asyncio.to_thread(worker.start_agent)
            await asyncio.to_thread(stage.engine.start_role, name)
            # The next one to be killed is the only other one: without any controller for a while, leases get grace.
            await asyncio.to_thread(stage.engine.wait_until_ready)


async def _kill_role(stage: Stage, name: str) -> None:
    with stage.fault(f"kill {name}"):
        await asyncio.to_thread(stage.engine.program(name).kill)
    await stage.hold(0.2, 1)
    await asyncio.to_thread(stage.engine.start_role, name)


@scenario("drain agent")
async def drain_agents(stage: Stage) -> None:
    """SIGTERM of agents, a notice: what outlasts the grace goes back to the queue at no cost to its budgets."""
    async with stage.steady_load(rate=6, ms=3000):
        for worker in stage.rng.sample(stage.workers, 2):
            await stage.until_busy(worker)
            with stage.fault("drain agent", worker):
                status = await asyncio.to_thread(worker.agent.stop)
            if status != 0:
                stage.violations.append(f"an agent that drained ended with status {status}")
            await asyncio.to_thread(worker.start_agent)
    await stage.until(stage.all_ended, what="tasks do not end")
    await _no_worker_was_lost(stage)


async def _no_worker_was_lost(stage: Stage) -> None:
    """A drain must not look like a lost worker; the checker allows as many as there were faults."""

    async def any_lost() -> list[str]:
        keys = stage.store.partitions.of(stage.endpoint_id)
        names = [f"{keys.task(record['task'])}" for record in stage.seen("submit", "harness.jsonl")]
        values = [await stage.store.redis.hget(name, "lost") for name in names]  # type: ignore[misc]
        return [name for name, value in zip(names, values, strict=True) if value not in (None, b"0")]

    stage.violations += [f"{name} lost its worker to a drain" for name in await any_lost()]


@scenario("pause agent")
async def pause_agents(stage: Stage) -> None:
    """SIGSTOP of an agent for two leases and back: a zombie finds its tasks run by another, or keeps them."""
    async with stage.steady_load(rate=12, ms=1500):
        for worker in stage.rng.sample(stage.workers, 2):
            await stage.until_busy(worker)
            with stage.fault("pause agent", worker):
                worker.agent.signal(signal.SIGSTOP)
                await stage.hold(2 * LEASE_SECONDS)
                worker.agent.signal(signal.SIGCONT)
