"""The store dies, freezes, fills up, or loses its data."""

from __future__ import annotations

import asyncio
import time

from tests.faults.checker import TERMINAL
from tests.faults.disks import MEBIBYTE, OPTIONS
from tests.faults.engine import API_KEY, LEASE_SECONDS
from tests.faults.scenarios import STORE_GOAL_SECONDS, scenario
from tests.faults.stage import Stage
from tests.integration.parts import TENANT
from tests.servers import StoreServer, valkey_binary

FULL_SECONDS = 60.0
NEW_KEY_SECONDS = 2.0
"""Time after which every API admits a key that was created, also one that was refused a moment before."""


@scenario("kill store", goal_seconds=STORE_GOAL_SECONDS)
async def kill_store(stage: Stage) -> None:
    """kill -9 of the store, and its return after 0–20 s: nothing is lost, and no worker loses its task."""
    async with stage.steady_load(rate=15):
        for least, most in ((0, 0), (5, 20)):
            await stage.until_busy(*stage.workers)
            await _kill_store(stage, stage.rng.uniform(least, most))


@scenario("kill redis", flavour="redis", goal_seconds=STORE_GOAL_SECONDS)
async def kill_redis(stage: Stage) -> None:
    """The same on Debian's redis-server, the oldest store that is supported."""
    async with stage.steady_load(rate=15):
        await stage.until_busy(*stage.workers)
        await _kill_store(stage, stage.rng.uniform(1, 8))


async def _kill_store(stage: Stage, seconds: float) -> None:
    server = stage.engine.store_server
    with stage.fault("kill store"):
        await asyncio.to_thread(server.kill)
        await stage.hold(seconds)
        await asyncio.to_thread(server.start)
    await stage.until_all_work(time.monotonic())


@scenario("store back before agents")
async def store_back_before_agents(stage: Stage) -> None:
    """The store dies and returns, and agents reach it again one after the other, within a lease: none loses a task."""
    server = stage.engine.store_server
    load = stage.load(stage.mix.steady(9, ms=7000), rate=20)
    await load
    await stage.until_busy(*stage.workers)
    late = stage.rng.sample(stage.workers, len(stage.workers))
    with stage.fault("kill store"):
        for worker in late:
            worker.to_engine.cut()
        await asyncio.to_thread(server.kill)
        await stage.hold(LEASE_SECONDS)
        await asyncio.to_thread(server.start)
        for worker in late:
            await stage.hold(LEASE_SECONDS / 8)
            worker.to_engine.heal()
    await stage.load(stage.mix.quick(20), rate=20)


@scenario("pause store", goal_seconds=STORE_GOAL_SECONDS)
async def pause_store(stage: Stage) -> None:
    """SIGSTOP of the store, for less than three ticks of the sweep and for two leases: no healthy task is reclaimed."""
    server = stage.engine.store_server
    async with stage.steady_load(rate=15):
        for seconds in (stage.rng.uniform(0.5 * LEASE_SECONDS, 0.75 * LEASE_SECONDS), 2 * LEASE_SECONDS):
            await stage.until_busy(*stage.workers)
            with stage.fault("pause store"):
                server.pause()
                await stage.hold(seconds)
                server.resume()
            await stage.until_all_work(time.monotonic())


@scenario("memory full")
async def memory_full(stage: Stage) -> None:
    """maxmemory reached under a storm of submits: 503 for new work, running work ends, and all goes on afterwards."""
    server = stage.engine.store_server
    storm = stage.load(stage.mix.of(300, do="ok", ms=1000, filling="x" * 100_000), rate=60)
    await stage.until_busy(*stage.workers)
    with stage.fault("memory full"):
        used = int(_info(server.command("INFO", "memory"), "used_memory"))
        server.command("CONFIG", "SET", "maxmemory", str(used + 2 * MEBIBYTE))
        await stage.until(lambda: stage.producer.answers.get(503, 0) > 20, what="no submit was answered 503")
        ended = await _ended(stage)
        await stage.until(lambda: _ended_beyond(stage, ended + 5), what="running work does not end at maxmemory")
    server.command("CONFIG", "SET", "maxmemory", "0")
    await storm


@scenario("disk full", flavour="limited")
async def disk_full(stage: Stage) -> None:
    """The store's file system is full for a minute: writes are refused with 503, and go on when there is space."""
    server = stage.engine.fillable_store
    stage.weaker = server.lacking
    async with stage.steady_load(rate=15):
        await stage.until_busy(*stage.workers)
        with stage.fault("disk full"):
            await asyncio.to_thread(server.fill)
            await stage.until(lambda: _append_status(server) == "err", what="the store can write to a full disk")
            await stage.until(lambda: _refuses(server), what="the store takes writes that it cannot keep")
            await stage.until(lambda: stage.producer.answers.get(503, 0) > 5, what="no submit was answered 503")
            acknowledged = stage.producer.acknowledged
            await stage.hold(FULL_SECONDS)
            await _check_that_all_say_full(stage, acknowledged)
            await asyncio.to_thread(server.free)
            await stage.until(lambda: server.command("SET", "{qe}:probe", "1") == "+OK", what="writes stay refused")
        await stage.until_all_work(time.monotonic())
    if _append_status(server) != "ok":
        stage.violations.append("the store could not write its append-only file although there was space again")
    await stage.until(stage.all_ended, what="tasks do not end")
    await asyncio.to_thread(_check_that_the_disk_has_all, stage)


async def _check_that_all_say_full(stage: Stage, acknowledged: int) -> None:
    """Nobody has acknowledged what could not be kept, and every API says that it is not ready."""
    if _append_status(stage.engine.fillable_store) != "err":
        stage.violations.append("the disk was not full for as long as it should have been")
    if stage.producer.acknowledged != acknowledged:
        number = stage.producer.acknowledged - acknowledged
        stage.violations.append(f"{number} tasks were acknowledged while the store could not write")
    readiness = await asyncio.to_thread(stage.engine.readiness)
    if set(readiness) != {503}:
        stage.violations.append(f"readyz was answered {readiness} while the store could not write")


def _check_that_the_disk_has_all(stage: Stage) -> None:
    """A store that begins with what the disk has knows every task that was acknowledged, and its end."""
    keys = stage.store.partitions.of(stage.endpoint_id)
    copy = StoreServer(valkey_binary(), stage.directory / "copy", options=OPTIONS)
    stage.engine.fillable_store.copy_data(copy.directory)
    with copy:
        states = {task_id: copy.command("HGET", keys.task(task_id), "state") for task_id in stage.producer.known}
    stage.violations += [
        f"{task_id} has ended, and is {state} on the disk" for task_id, state in states.items() if state not in TERMINAL
    ]


def _append_status(server: StoreServer) -> str:
    return _info(server.command("INFO", "persistence"), "aof_last_write_status")


def _refuses(server: StoreServer) -> bool:
    return server.command("SET", "{qe}:probe", "1").startswith("-MISCONF")


@scenario("empty store", flavour="volatile")
async def empty_store(stage: Stage) -> None:
    """The store comes back without its data: what was there is gone, and everything goes on with new tasks."""
    server = stage.engine.store_server
    await stage.load(stage.mix.quick_and_steady(30, 20, ms=1000), rate=20)
    with stage.fault("empty store", *stage.workers):
        await asyncio.to_thread(server.kill)
        await stage.hold(0.5, 3)
        await asyncio.to_thread(server.start)
    stage.note_wiped()
    for worker in stage.workers:  # their endpoint is gone
        status = await asyncio.to_thread(worker.agent.wait, 60)
        if status != 0:
            stage.violations.append(f"an agent without its endpoint ended with status {status}")
    await stage.store.api_keys.put(API_KEY, tenant=TENANT, name="again")
    await stage.hold(NEW_KEY_SECONDS)
    status = await asyncio.to_thread(stage.engine.status_of, f"/{stage.endpoint_id}")
    if status != 404:
        stage.violations.append(f"an endpoint that is gone is answered {status}")
    await stage.renew_endpoint()
    await stage.load(stage.mix.quick(50), rate=25)


async def _ended(stage: Stage) -> int:
    counts = await stage.store.tasks.counts(stage.endpoint_id)
    return counts.success + counts.delivered + counts.failed


async def _ended_beyond(stage: Stage, number: int) -> bool:
    return await _ended(stage) >= number


def _info(text: str, name: str) -> str:
    return next(line.partition(":")[2] for line in text.splitlines() if line.startswith(f"{name}:"))
