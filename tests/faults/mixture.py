"""Everything at once, by chance."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from tests.faults.engine import LEASE_SECONDS, ROLES
from tests.faults.links import WAYS
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage, kill

SECONDS = 60.0


@scenario("random mix", container_links=True, endpoint={"maxAttempts": 20})
async def random_mix(stage: Stage) -> None:
    """For a minute one random fault after the other, of all kinds, on all parts, under load."""
    until = time.monotonic() + SECONDS
    async with stage.steady_load(rate=10, ms=1500):
        while time.monotonic() < until:
            hurt = stage.rng.choice(ACTIONS)
            await hurt(stage)
            await stage.hold(0.2, 2)


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
    link = stage.rng.choice((worker.to_store, worker.to_container))
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
