"""Everything at once, by chance."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from tests.faults.engine import LEASE_SECONDS, ROLES
from tests.faults.links import WAYS
from tests.faults.producer import TaskPlan
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage, kill

SECONDS = 60.0
TTL_SHARE = 0.2
"""Of the tasks, how many may not wait for ever."""
TTL_SECONDS = (1, 6)
ORDERS: Sequence[Sequence[str]] = (
    ("cancel",),
    ("retry",),
    ("delete",),
    ("cancel", "retry"),
    ("retry", "cancel"),
    ("cancel", "delete"),
    ("retry", "delete"),
)
"""What a client wants of one task, one after the other."""


@scenario("random mix", container_links=True, endpoint={"maxAttempts": 20})
async def random_mix(stage: Stage) -> None:
    """For a minute one random fault after the other, of all kinds, on all parts, under load.

    Meanwhile some tasks may wait only for a while, and clients cancel others, run them again and delete them.
    """
    until = time.monotonic() + SECONDS
    async with stage.steady_load(rate=10, ms=1500, change=lambda plan: _with_ttl(stage, plan)):
        ordering = asyncio.create_task(_give_orders(stage, until))
        try:
            while time.monotonic() < until:
                hurt = stage.rng.choice(ACTIONS)
                await hurt(stage)
                await stage.hold(0.2, 2)
            await ordering
        finally:
            ordering.cancel()
            await asyncio.gather(ordering, return_exceptions=True)
    given = ", ".join(f"{order} {answer} {count}" for (order, answer), count in sorted(stage.client.answers.items()))
    stage.notes.append(f"answers to orders: {given}")


def _with_ttl(stage: Stage, plan: TaskPlan) -> TaskPlan:
    limited = stage.rng.random() < TTL_SHARE
    return replace(plan, ttl=stage.rng.randint(*TTL_SECONDS)) if limited else plan


async def _give_orders(stage: Stage, until: float) -> None:
    """Until that time: a few tasks a second, new and old ones, one order after the other for each."""
    chosen: set[str] = set()
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < until:
            await stage.hold(0.1, 0.6)
            known = [task_id for task_id in stage.producer.known if task_id not in chosen]
            if not known:
                continue
            task_id = known[-1] if stage.rng.random() < 0.3 else stage.rng.choice(known)
            chosen.add(task_id)
            group.create_task(_order(stage, task_id, stage.rng.choice(ORDERS)))


async def _order(stage: Stage, task_id: str, orders: Sequence[str]) -> None:
    for order in orders:
        answer = await stage.client.give(order, task_id)
        if answer == "DELETED":
            return
        await stage.hold(0, 3)


async def _kill_worker(stage: Stage) -> None:
    worker = stage.rng.choice(stage.workers)
    parts = stage.rng.choice((("agent",), ("container",), ("agent", "container")))
    with stage.fault(f"kill {' and '.join(parts)}", worker):
        await asyncio.to_thread(kill, worker, *parts)
        await stage.hold(0, 1)
        await asyncio.to_thread(worker.heal)


async def _drain_agent(stage: Stage) -> None:
    worker = stage.rng.choice(stage.workers)
    with stage.fault("drain agent", worker):
        await asyncio.to_thread(worker.agent.stop)
        await asyncio.to_thread(worker.heal)


async def _pause_agent(stage: Stage) -> None:
    worker = stage.rng.choice(stage.workers)
    with stage.fault("pause agent", worker):
        worker.agent.signal(signal.SIGSTOP)
        await stage.hold(0.5, 1.5 * LEASE_SECONDS)
        worker.agent.signal(signal.SIGCONT)


async def _kill_role(stage: Stage) -> None:
    name = stage.rng.choice(ROLES)
    with stage.fault(f"kill {name}"):
        await asyncio.to_thread(stage.engine.program(name).kill)
        await stage.hold(0, 1)
        await asyncio.to_thread(stage.engine.start_role, name)


async def _cut_worker(stage: Stage) -> None:
    worker = stage.rng.choice(stage.workers)
    way, hurt = stage.rng.choice(WAYS)
    link = stage.rng.choice((worker.to_engine, worker.to_container))
    with stage.fault(f"{way}: {worker.name}", worker):
        hurt(link)
        await stage.hold(0.2, 1.5 * LEASE_SECONDS)
        link.heal()


async def _cut_engine(stage: Stage) -> None:
    way, hurt = stage.rng.choice(WAYS)
    link = stage.rng.choice((stage.to_receiver, stage.engine.link(stage.rng.choice(ROLES))))
    with stage.fault(f"{way}: {link.name}"):
        hurt(link)
        await stage.hold(0.2, LEASE_SECONDS)
        link.heal()


async def _hurt_store(stage: Stage) -> None:
    server = stage.engine.store_server
    with stage.fault("kill or pause store"):
        if stage.rng.random() < 0.5:
            server.pause()
            await stage.hold(0.2, LEASE_SECONDS)
            server.resume()
        else:
            await asyncio.to_thread(server.kill)
            await stage.hold(0, LEASE_SECONDS)
            await asyncio.to_thread(server.start)


ACTIONS: Sequence[Callable[[Stage], Awaitable[None]]] = (
    _kill_worker,
    _drain_agent,
    _pause_agent,
    _kill_role,
    _cut_worker,
    _cut_engine,
    _hurt_store,
)
