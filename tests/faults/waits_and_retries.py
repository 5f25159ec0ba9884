"""Tasks whose time to wait runs out, that begin later, and that are run again by hand, while parts are killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from tests.faults.producer import TaskPlan
from tests.faults.scenarios import STORE_GOAL_SECONDS, scenario
from tests.faults.stage import Stage, kill

TTL_SECONDS = 3.0
DELAY_SECONDS = (1.0, 5.0)
ORDER_SECONDS = 0.15
"""Between two orders: all of them take longer than some of the faults."""


@scenario("queue TTL", goal_seconds=STORE_GOAL_SECONDS)
async def queue_ttl(stage: Stage) -> None:
    """Agents, a controller and the store are killed while tasks' time to wait runs out: just those expire, in time.

    A task that had begun does not: it waits because its agent was killed.
    """
    server = stage.engine.store_server
    begun = _limited(stage.mix.steady(len(stage.workers), ms=2500))
    await stage.load(begun, rate=20)
    await stage.until_busy(*stage.workers)
    with stage.fault("agents and controller-1 killed", *stage.workers):
        await asyncio.gather(*(asyncio.to_thread(kill, worker, "agent") for worker in stage.workers))
        await asyncio.to_thread(stage.engine.program("controller-1").kill)
    waiting = _limited(stage.mix.quick_and_steady(15, 15, ms=300))
    patient = stage.mix.steady(15, ms=300)
    await stage.load([*waiting, *patient], rate=100)
    with stage.fault("kill store"):
        await asyncio.to_thread(server.kill)
        await stage.hold(0.5 * TTL_SECONDS, 1.5 * TTL_SECONDS)
        await asyncio.to_thread(server.start)
    await stage.until(lambda: _all_are(stage, waiting, "expired"), what="tasks wait beyond their time")
    await asyncio.to_thread(stage.engine.start_role, "controller-1")
    for worker in stage.workers:
        await asyncio.to_thread(worker.start_agent)
    await stage.until(stage.all_ended, what="tasks without agents do not end when there are some again")
    async with stage.steady_load(rate=15, change=lambda plan: replace(plan, ttl=TTL_SECONDS)):
        for _ in range(2):
            await stage.until_busy(*stage.workers)
            with stage.fault("kill store"):
                await asyncio.to_thread(server.kill)
                await stage.hold(0, TTL_SECONDS)
                await asyncio.to_thread(server.start)
            await stage.until_all_work(time.monotonic())
    await stage.until(stage.all_ended, what="tasks do not end")
    await _check_that_what_had_begun_did_not_expire(stage)


@scenario("delays", goal_seconds=STORE_GOAL_SECONDS)
async def delays(stage: Stage) -> None:
    """The store and all controllers are killed while tasks wait for their time: each runs, and none before it."""
    server, rng = stage.engine.store_server, stage.rng
    plans = [replace(plan, delay=rng.uniform(*DELAY_SECONDS)) for plan in stage.mix.quick_and_steady(60, 20, ms=100)]
    await stage.load(plans, rate=80)
    with stage.fault("kill store"):
        await asyncio.to_thread(server.kill)
        await stage.hold(0.5, 1.5)
        await asyncio.to_thread(server.start)
    controllers = [name for name in ("controller-1", "controller-2") if stage.engine.program(name).running]
    for name in controllers:
        await asyncio.to_thread(stage.engine.program(name).kill)
    await stage.hold(*DELAY_SECONDS)  # some tasks are due while no controller runs
    for name in controllers:
        await asyncio.to_thread(stage.engine.start_role, name)
    await stage.until(stage.all_ended, what="tasks with a delay do not end")
    await check_that_none_began_before_its_time(stage, plans)


async def check_that_none_began_before_its_time(stage: Stage, plans: Iterable[TaskPlan]) -> None:
    """Note a violation for each of these tasks with a delay that began before its time, by the store's clock."""
    due = await _fields(stage, plans, "run_at")
    for task_id, at in due.items():
        attempts = await stage.read(partial(stage.store.tasks.attempts, stage.endpoint_id, task_id))
        if at is None:
            stage.violations.append(f"{task_id} had no time before which it must not begin")
        elif not attempts:
            stage.violations.append(f"{task_id} never began")
        elif attempts[0].started_at_ms < int(at):
            stage.violations.append(f"{task_id} began {int(at) - attempts[0].started_at_ms} ms before its time")


@scenario("retry by hand")
async def retry_by_hand(stage: Stage) -> None:
    """Ended tasks are run again while APIs and the store are killed, each order repeated until it is answered.

    No agent is there meanwhile, so that a repeat cannot come after the next end: each task runs just once more.
    """
    plans = stage.mix.quick_and_steady(30, 10, ms=300)
    await stage.load(plans, rate=40)
    await stage.until(stage.all_ended, what="tasks do not end")
    for worker in stage.workers:
        await asyncio.to_thread(worker.agent.stop)
    asking = asyncio.create_task(_run_all_again(stage, plans))
    try:
        while not asking.done():
            await _kill_one(stage)
            await stage.hold(0.5, 1.5)
        await asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    runs = await _fields(stage, plans, "runs")
    stage.violations += [
        f"{task_id} was queued {int(again or 0)} times by one retry by hand"
        for task_id, again in runs.items()
        if again != b"1"
    ]
    for worker in stage.workers:
        await asyncio.to_thread(worker.start_agent)
    repeats = len(stage.seen("asked", "harness.jsonl")) - len(plans)
    stage.notes.append(f"{len(plans)} retries by hand, {repeats} repeats of them")


async def _run_all_again(stage: Stage, plans: Iterable[TaskPlan]) -> None:
    async with asyncio.TaskGroup() as group:
        for plan in plans:
            group.create_task(stage.client.rerun(plan.task_id))
            await stage.hold(ORDER_SECONDS)


async def _kill_one(stage: Stage) -> None:
    """The store or an API, and its return."""
    name = stage.rng.choice(("store", "api-1", "api-2"))
    with stage.fault(f"kill {name}"):
        if name == "store":
            await asyncio.to_thread(stage.engine.store_server.kill)
            await stage.hold(0, 1.5)
            await asyncio.to_thread(stage.engine.store_server.start)
        else:
            await asyncio.to_thread(stage.engine.program(name).kill)
            await stage.hold(0, 0.5)
            await asyncio.to_thread(stage.engine.start_role, name)


def _limited(plans: Iterable[TaskPlan]) -> list[TaskPlan]:
    return [replace(plan, ttl=TTL_SECONDS) for plan in plans]


async def _all_are(stage: Stage, plans: Iterable[TaskPlan], state: str) -> bool:
    states = await _fields(stage, plans, "state")
    return set(states.values()) == {state.encode()}


async def _check_that_what_had_begun_did_not_expire(stage: Stage) -> None:
    """Of tasks that a container never asks to try again: they wait a second time only because an agent was killed."""
    begun = {one["task"] for one in stage.seen("begin") if one["do"] == "ok"}
    plans = [TaskPlan(task_id, {}) for task_id in sorted(begun)]
    states = await _fields(stage, plans, "state")
    stage.violations += [
        f"{task_id} expired because its worker was lost" for task_id, state in states.items() if state == b"expired"
    ]


async def _fields(stage: Stage, plans: Iterable[TaskPlan], field: str) -> dict[str, bytes | None]:
    """This field of each task's record in the store."""
    keys = stage.store.partitions.of(stage.endpoint_id)
    redis = stage.store.redis

    async def read(task_id: str) -> bytes | None:
        found: bytes | None = await redis.hget(keys.task(task_id), field)  # type: ignore[misc]
        return found

    return {plan.task_id: await stage.read(partial(read, plan.task_id)) for plan in plans}
