"""Connections between parts that are cut, swallow everything, or work in one direction only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from queue_engine.store.queue import TaskQueue
from queue_engine.store.scripts import load_scripts
from tests.faults.engine import CONCURRENCY, LEASE_SECONDS, Worker
from tests.faults.proxy import Link
from tests.faults.scenarios import AGENT_GOAL_SECONDS, scenario
from tests.faults.stage import Stage, kill
from tests.store.probe import Probe

WAYS: Sequence[tuple[str, Callable[[Link], None]]] = (
    ("cut", Link.cut),
    ("blackhole", Link.blackhole),
    ("lost requests", Link.lose_requests),
    ("lost replies", Link.lose_replies),
)


@scenario("agent cut for half a lease")
async def cut_agents_briefly(stage: Stage) -> None:
    """An agent without the store for half a lease, in each way that a link can fail: nobody takes its tasks."""
    async with stage.steady_load(rate=10, ms=2500):
        for way, hurt in WAYS:
            worker = stage.rng.choice(stage.workers)
            await stage.until_busy(worker)
            with stage.fault(f"{way}: agent and store, half a lease"):
                hurt(worker.to_engine)
                await stage.hold(LEASE_SECONDS / 2)
                worker.to_engine.heal()
            await stage.hold(1)


@scenario("agent cut for two leases")
async def cut_agents(stage: Stage) -> None:
    """An agent without the store for two leases, in each way: its tasks run elsewhere, and what it did is fenced."""
    async with stage.steady_load(rate=10, ms=2500):
        for way, hurt in WAYS:
            worker = stage.rng.choice(stage.workers)
            await stage.until_busy(worker)
            with stage.fault(f"{way}: agent and store", worker):
                hurt(worker.to_engine)
                await stage.hold(2 * LEASE_SECONDS)
                worker.to_engine.heal()


@scenario("late results")
async def late_results(stage: Stage) -> None:
    """Agents get their containers' answers while they are cut off; the answers come after others have run the tasks."""
    async with stage.steady_load(rate=10, ms=1500):
        for worker in stage.rng.sample(stage.workers, 2):
            await stage.until_busy(worker)
            with stage.fault("blackhole: agent and store", worker):
                worker.to_engine.blackhole()
                await stage.hold(2.5 * LEASE_SECONDS)
                worker.to_engine.heal()


@scenario("engine cut from store")
async def cut_engine(stage: Stage) -> None:
    """One process of each kind without the store, in each way: the other one goes on, and so does this one after."""
    async with stage.steady_load(rate=20):
        for kind in ("api", "controller", "delivery"):
            for way, hurt in WAYS:
                link = stage.engine.link(f"{kind}-{stage.rng.choice((1, 2))}")
                with stage.fault(f"{way}: {kind} and store"):
                    hurt(link)
                    await stage.hold(1, LEASE_SECONDS)
                    link.heal()


@scenario("delivery cut from receiver")
async def cut_receiver(stage: Stage) -> None:
    """The receiver cannot be reached, hangs, or answers into nothing: each result is told in the end."""
    async with stage.steady_load(rate=20, ms=800):
        for way, hurt in WAYS:
            with stage.fault(f"{way}: delivery and receiver"):
                hurt(stage.to_receiver)
                await stage.hold(1, LEASE_SECONDS)
                stage.to_receiver.heal()
            await stage.hold(1)


@scenario("agent cut from container", container_links=True)
async def cut_containers(stage: Stage) -> None:
    """An agent without its container: what was under way is tried again."""
    async with stage.steady_load(rate=10, ms=1500):
        for way, hurt in WAYS:
            worker = stage.rng.choice(stage.workers)
            await stage.until_busy(worker)
            with stage.fault(f"{way}: agent and container", worker):
                hurt(worker.to_container)
                await stage.hold(0.5, 2)
                worker.to_container.heal()


@scenario("slow links")
async def slow_links(stage: Stage) -> None:
    """Agents a tenth of a second away from the store, killed while they record results: no result is half recorded.

    Without a goal: so many kills come so soon that some tasks are with several dead agents, one after the other.
    """
    for worker in stage.workers:
        worker.to_engine.delay(0.1)
    async with stage.steady_load(rate=12, ms=900):
        for _ in range(8):
            worker = stage.rng.choice(stage.workers)
            await stage.until(lambda worker=worker: _has_just_ended(stage, worker))  # type: ignore[misc]
            await stage.hold(0.05, 0.2)
            with stage.fault("kill agent", worker):
                await asyncio.to_thread(kill, worker, "agent")
            await asyncio.to_thread(worker.start_agent)


def _has_just_ended(stage: Stage, worker: Worker) -> bool:
    latest = max((one["mono"] for one in stage.seen("end") if one["worker"] == worker.name), default=0.0)
    return stage.age(latest) < 0.1


@scenario("killed while recording")
async def killed_while_recording(stage: Stage) -> None:
    """Agents are killed when the request with a result has reached the store and its reply has not come back.

    A result that took a second request would be half recorded.
    """
    async with stage.steady_load(rate=12, ms=300):
        for _ in range(4):
            worker = stage.rng.choice(stage.workers)
            worker.to_engine.lose_replies_to(b"succeeded")
            await stage.until(lambda link=worker.to_engine: link.has_lost)  # type: ignore[misc]
            with stage.fault("kill agent", worker):
                await asyncio.to_thread(kill, worker, "agent")
            worker.to_engine.heal()
            await asyncio.to_thread(worker.start_agent)


@scenario("killed before start", workers=0, goal_seconds=AGENT_GOAL_SECONDS)
async def killed_before_start(stage: Stage) -> None:
    """An agent dies with entries that it has read and not started, behind those of one that lives: all are reached."""
    alive = stage.store.queue(endpoint_id=stage.endpoint_id, worker_id="slow", lease_ms=1000)
    await stage.load(stage.mix.quick(HELD), rate=200)
    held = await alive.claim(HELD, block_ms=1000)
    async with _kept(alive):
        await _kill_before_start(stage)
    for entry in held:
        await alive.put_back(entry)


async def _kill_before_start(stage: Stage) -> None:
    dying = await stage.add_worker("w1")
    await asyncio.to_thread(dying.wait_until_up)
    dying.to_engine.lose_requests_with(load_scripts()["start"].sha.encode())
    stuck = stage.mix.steady(CONCURRENCY, ms=100)
    await stage.load(stuck, rate=200)
    await stage.until(lambda: _has_read(stage, dying.agents[-1], CONCURRENCY), what="the agent reads nothing")
    killed = time.monotonic()
    with stage.fault("kill agent", dying):
        await asyncio.to_thread(kill, dying, "agent")
    dying.to_engine.heal()
    await stage.add_worker("w2")

    def reached() -> bool:
        return {one.task_id for one in stuck} <= {one["task"] for one in stage.seen("end")}

    try:
        await stage.until(reached, REACHED_SECONDS)
    except AssertionError:
        stage.violations.append("entries behind those of an agent that lives are never reached")
    for one in stage.seen("begin"):
        if one["task"] in {plan.task_id for plan in stuck}:
            stage.recovered(one["mono"] - killed)


HELD = 60
"""More than one XAUTOCLAIM looks through: ten for each slot."""
REACHED_SECONDS = 40.0
KEEP_SECONDS = 0.5


@asynccontextmanager
async def _kept(claims: TaskQueue) -> AsyncIterator[None]:
    """Keep the entries of an agent that lives, as long as the block runs.

    An entry that nobody renews is taken over after a lease. An agent may take longer than that to start.
    """

    async def keep() -> None:
        while True:
            await claims.unstarted()
            await asyncio.sleep(KEEP_SECONDS)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _has_read(stage: Stage, worker_id: str, count: int) -> bool:
    keys = stage.store.partitions.of(stage.endpoint_id)
    held = await Probe(stage.store.redis).pending(keys.queue, "agents")
    return list(held.values()).count(worker_id) == count
