"""Workers that controllers start as containers of a real engine: they outlive the controllers, and their engine's
service.

Containers journal over TCP, because they share no file with the suite.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from queue_engine.backends.docker.names import MANAGED_BY, MANAGER
from queue_engine.net.listening import bind
from queue_engine.store.keys import LEADER
from tests.clusters.python_image import AGENT_IMAGE
from tests.faults.container_hosting import CONTAINERS, ContainerHosting, Pair
from tests.faults.engine import CONTROLLERS
from tests.faults.journal import JournalServer
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage

WORKERS = 2
IN_CONTAINERS: dict[str, Any] = {
    "flavour": CONTAINERS,
    "workers": 0,
    "endpoint": {"image": AGENT_IMAGE, "expose": {"port": 8000, "protocol": "HTTP"}},
    "play_seconds": 480.0,
}
END_SECONDS = 240.0
"""A host under load takes long to remove containers."""


@scenario("kill controller with containers", **IN_CONTAINERS)
async def kill_controllers(stage: Stage) -> None:
    """kill -9 of the leading controller while containers work, start and end: none is started again, and none stays.

    No fault here may interrupt a task.
    """
    async with _in_containers(stage, WORKERS) as pairs:
        async with stage.steady_load(rate=6, ms=1500):
            for _ in range(2):
                await stage.until_busy(*pairs)
                await _replace_leader(stage)
            await stage.until_busy(*pairs)
            before = len(_hosting(stage).left())
            await _scale(stage, WORKERS + 1)
            await stage.until(lambda: len(_hosting(stage).left()) > before, what="no further worker is started")
            await _replace_leader(stage)
            after = await _until_running(stage, WORKERS + 1)
            await stage.until_busy(*after)
        await stage.until(stage.all_ended, 120, what="tasks do not end")
        _same(stage, pairs, after)
        await _scale(stage, 0)
        before = len(_hosting(stage).left())
        await stage.until(lambda: _is_ending(stage, before), what="no worker ends")
        await _replace_leader(stage)


@scenario("engine restarts", **IN_CONTAINERS)
async def restart_engine(stage: Stage) -> None:
    """kill -9 of the container engine's service: containers go on. Then of all containers with it: new ones start."""
    engine = _hosting(stage).engine
    if engine.given:
        stage.weaker = "the engine of DOCKER_HOST is not restarted; only its containers are killed"
    async with _in_containers(stage, WORKERS) as pairs, stage.steady_load(rate=6, ms=1500):
        for _ in range(2):
            await stage.until_busy(*pairs)
            with stage.fault("kill the engine's service"):
                await asyncio.to_thread(engine.stop)
                await stage.hold(1, 3)
                await asyncio.to_thread(engine.start)
            await _until_running(stage, WORKERS)
        _same(stage, pairs, await _until_running(stage, WORKERS))
        await stage.until_busy(*pairs)
        ids = [one for pair in pairs for one in pair.ids]
        with stage.fault("kill the engine and its containers", *pairs):
            await asyncio.to_thread(engine.crash, ids)
        new = await _until_running(stage, WORKERS, other_than=ids)
        await stage.until_busy(*new)


@asynccontextmanager
async def _in_containers(stage: Stage, count: int) -> AsyncIterator[list[Pair]]:
    """Let the controllers start workers, and end them after the block. No container may be left."""
    hosting = _hosting(stage)
    before = await asyncio.to_thread(hosting.engine.objects)
    with (
        bind(hosting.gateway, 0, may_appear=True) as listener,
        JournalServer(listener, stage.directory / "containers.jsonl"),
    ):
        command = hosting.command(listener.getsockname()[1])
        await asyncio.to_thread(
            lambda: stage.engine.change_endpoint(stage.endpoint_id, workers=count, initializationCommand=command)
        )
        yield await _until_running(stage, count)
        await stage.until(stage.all_ended, 120, what="tasks do not end")
        await _scale(stage, 0)
        await stage.until(_in_thread(lambda: not hosting.left()), END_SECONDS, what="containers are left")
    after = await asyncio.to_thread(hosting.engine.objects)
    stage.violations += [
        f"{kind} were left: {after[kind] - before[kind]}" for kind in after if after[kind] > before[kind]
    ]


def _hosting(stage: Stage) -> ContainerHosting:
    assert stage.engine.hosting is not None
    return stage.engine.hosting


def _same(stage: Stage, before: Sequence[Pair], after: Sequence[Pair]) -> None:
    """Note each worker of before that is no longer the same containers with the same starts."""
    stage.violations += [f"{pair} was started again" for pair in before if pair not in after]


async def _until_running(stage: Stage, count: int, *, other_than: Sequence[str] = ()) -> list[Pair]:
    """Wait until that many workers run, and return them. The containers in `other_than` do not count."""
    hosting = _hosting(stage)

    def running() -> list[Pair]:
        found = stage.engine.get(f"/{stage.endpoint_id}/workers")
        if [one["status"] for one in found] != ["RUNNING"] * count:
            return []
        try:
            pairs = [hosting.pair(one["workerId"]) for one in found]
        except ValueError:
            return []
        return [] if any(one in other_than for pair in pairs for one in pair.ids) else pairs

    found: list[Pair] = []

    async def are_running() -> bool:
        found[:] = await asyncio.to_thread(running)
        return bool(found)

    await stage.until(are_running, 180, what="workers do not run")
    return found


async def _replace_leader(stage: Stage) -> None:
    """Kill the leading controller, wait until the other one leads, and start it again. This interrupts no task."""
    leader = await _leader(stage)
    with stage.fault(f"kill {leader}"):
        await asyncio.to_thread(stage.engine.program(leader).kill)
    while await _leader(stage) == leader:
        await stage.hold(0.1)
    await asyncio.to_thread(stage.engine.start_role, leader)
    await asyncio.to_thread(stage.engine.wait_until_ready)


async def _leader(stage: Stage) -> str:
    """Wait until a controller leads, and return its name. Controllers log their ids when they begin to lead."""
    found = ""

    async def is_found() -> bool:
        nonlocal found
        controller_id = await stage.store.redis.get(LEADER)
        if controller_id:
            programs = ((name, stage.engine.program(name)) for name in CONTROLLERS)
            found = next((name for name, program in programs if controller_id.decode() in program.output()), "")
        return bool(found)

    await stage.until(is_found, what="no controller leads")
    return found


async def _scale(stage: Stage, count: int) -> None:
    await asyncio.to_thread(stage.engine.scale, stage.endpoint_id, count)


def _is_ending(stage: Stage, before: int) -> bool:
    """Return True if a container has ended or is removed."""
    found = _hosting(stage).engine.containers(f"{MANAGED_BY}={MANAGER}")
    return len(found) < before or any(one["State"] != "running" for one in found)


def _in_thread(condition: Callable[[], bool]) -> Callable[[], Any]:
    return lambda: asyncio.to_thread(condition)
