"""Agents that use the APIs with a token: the faults of agents on the store, and those that only such agents have.

The agents use plain HTTP to loopback, so that links can lose calls by what is in them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace

from queue_engine.domain.agent_protocol import STATUS_REFUSED
from tests.faults import (
    clocks_and_crowds,
    kills,
    lanes,
    links,
    misbehaving,
    mixture,
    pauses,
    stores,
    waiters,
    waits_and_retries,
)
from tests.faults.engine import CONCURRENCY, LEASE_SECONDS
from tests.faults.scenarios import AGENT_GOAL_SECONDS, ENTERED, Scenario, scenario
from tests.faults.stage import Stage, kill
from tests.store.probe import Probe

_OF_AGENTS = (
    kills,
    links,
    misbehaving,
    stores,
    waits_and_retries,
    waiters,
    pauses,
    lanes,
    mixture,
    clocks_and_crowds,
)
_STORE_ONLY = frozenset({"killed before start", "empty store"})
"""Faults that look into the store for the entries of an agent, or that agents with a token cannot outlast: their tokens
are lost with everything else."""
ALWAYS = (
    "kill agent",
    "kill api",
    "drain agent",
    "pause agent",
    "agent cut for half a lease",
    "agent cut for two leases",
    "killed while recording",
    "kill store",
)
"""Faults that are played with such agents too, whatever is asked for."""


def can_be_over_https(one: Scenario) -> bool:
    """Return True for a fault of agents that are started by hand, and do not need the store."""
    modules = {module.__name__ for module in _OF_AGENTS}
    has_agents = one.workers > 0 or one.name == "kill agent between take and start"
    return one.play.__module__ in modules and has_agents and one.name not in _STORE_ONLY


def over_https(scenarios: Iterable[Scenario]) -> list[Scenario]:
    """Return these scenarios, as far as possible, with agents that use the APIs."""
    return [one if one.over_api else _variant(one) for one in scenarios if one.over_api or can_be_over_https(one)]


def _variant(one: Scenario) -> Scenario:
    return replace(one, name=f"{one.name} over https", over_api=True)


ENTERED.extend([_variant(one) for one in ENTERED if one.name in ALWAYS])


@scenario("token revoked", over_api=True)
async def revoke_token(stage: Stage) -> None:
    """The token of all agents but one is revoked under load: they end, and each of their tasks runs again elsewhere."""
    async with stage.steady_load(rate=8, ms=1500):
        await stage.until_busy(*stage.workers)
        refused, old = list(stage.workers), stage.token_id
        await stage.renew_token()
        other = await stage.add_worker("other")
        await asyncio.to_thread(other.wait_until_up)
        with stage.fault("revoke token", *refused):
            await asyncio.to_thread(stage.engine.revoke_token, stage.endpoint_id, old)
            statuses = [await asyncio.to_thread(worker.agent.wait) for worker in refused]
        if set(statuses) != {STATUS_REFUSED}:
            stage.violations.append(f"agents with a revoked token ended with {statuses}")
        for worker in refused:
            await asyncio.to_thread(worker.start_agent)


@scenario("agents move between apis", over_api=True, goal_seconds=AGENT_GOAL_SECONDS)
async def move_between_apis(stage: Stage) -> None:
    """Agents call the other API from one call to the next, again and again: what one API began, the other one ends."""
    async with stage.steady_load(rate=12, ms=1500):
        for _ in range(10):
            await stage.until_busy(stage.rng.choice(stage.workers))
            with stage.fault("swap apis"):
                await asyncio.to_thread(stage.engine.swap_apis)
            await stage.hold(0.1, LEASE_SECONDS / 4)


@scenario("killed with claims over https", workers=0, over_api=True, goal_seconds=AGENT_GOAL_SECONDS)
async def killed_with_claims(stage: Stage) -> None:
    """An agent dies with tasks that an API has claimed for it and that it has not started: another one runs them."""
    dying = await stage.add_worker("w1")
    await asyncio.to_thread(dying.wait_until_up)
    dying.to_engine.lose_requests_with(b"/agent/v1/start")
    stuck = stage.mix.steady(CONCURRENCY, ms=100)
    await stage.load(stuck, rate=200)
    await stage.until(lambda: _claimed(stage, CONCURRENCY), what="no API claims")
    killed = time.monotonic()
    with stage.fault("kill agent", dying):
        await asyncio.to_thread(kill, dying, "agent")
    dying.to_engine.heal()
    await stage.add_worker("w2")
    names = {one.task_id for one in stuck}
    await stage.until(lambda: names <= {one["task"] for one in stage.seen("end")}, what="claimed tasks are never run")
    for one in stage.seen("begin"):
        if one["task"] in names:
            stage.recovered(one["mono"] - killed)


async def _claimed(stage: Stage, count: int) -> bool:
    """Return True if that many tasks are claimed and not started."""
    keys = stage.store.partitions.of(stage.endpoint_id)
    return len(await Probe(stage.store.redis).pending(keys.queue, "agents")) >= count


@scenario("api restarts over https", over_api=True)
async def restart_apis(stage: Stage) -> None:
    """SIGTERM of each API in turn under load, and a new one: agents go on with the other one, at no cost to any task.

    The long polls of the API that ends return at once, and their agents wait at the other one.
    """
    async with stage.steady_load(rate=12, ms=1200):
        for name in ("api-1", "api-2"):
            await stage.until_busy(*stage.workers)
            with stage.fault(f"restart {name}"):
                status = await asyncio.to_thread(stage.engine.program(name).stop)
                if status != 0:
                    stage.violations.append(f"{name} ended with status {status}")
                await stage.until_busy(*stage.workers)
                await asyncio.to_thread(stage.engine.start_role, name)
                await asyncio.to_thread(stage.engine.wait_until_ready)
    await stage.until(stage.all_ended, what="tasks do not end")
