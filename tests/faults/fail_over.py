"""Stores of several servers lose their master, or move a slot, under load."""

from __future__ import annotations

import asyncio
import time

from tests.faults.groups import ClusterGroup, SentinelGroup
from tests.faults.scenarios import STORE_GOAL_SECONDS, scenario
from tests.faults.stage import Stage


@scenario("sentinel fail-over", flavour="sentinel", goal_seconds=STORE_GOAL_SECONDS)
async def sentinel_fail_over(stage: Stage) -> None:
    """kill -9 of the master that sentinels watch: a replica takes over, and nothing is lost."""
    group = stage.engine.store
    assert isinstance(group, SentinelGroup)
    async with stage.steady_load(rate=12):
        await stage.until_busy(*stage.workers)
        with stage.fault("kill master"):
            await asyncio.to_thread(group.setup.kill_master)
        await stage.until_all_work(time.monotonic())


@scenario("cluster fail-over", flavour="cluster", goal_seconds=STORE_GOAL_SECONDS)
async def cluster_fail_over(stage: Stage) -> None:
    """kill -9 of the master that has the endpoint's slot: its replica takes over, and nothing is lost."""
    group = stage.engine.store
    assert isinstance(group, ClusterGroup)
    tag = stage.store.partitions.of(stage.endpoint_id).partition.tag
    async with stage.steady_load(rate=12):
        await stage.until_busy(*stage.workers)
        with stage.fault("kill master"):
            owner = await asyncio.to_thread(group.setup.owner_of, tag)
            await asyncio.to_thread(group.setup.fail_over, owner, owner.kill)
            await asyncio.to_thread(owner.start)  # as the new one's replica: with one alone no write is durable
        await stage.until_all_work(time.monotonic())


@scenario("slot migration", flavour="cluster", goal_seconds=STORE_GOAL_SECONDS)
async def slot_migration(stage: Stage) -> None:
    """The endpoint's slot moves to another master, key by key, while its tasks run: nothing is lost or done twice."""
    group = stage.engine.store
    assert isinstance(group, ClusterGroup)
    tag = stage.store.partitions.of(stage.endpoint_id).partition.tag
    async with stage.steady_load(rate=12):
        await stage.until_busy(*stage.workers)
        with stage.fault("slot migration"):
            slot = await asyncio.to_thread(group.setup.slot_of, tag)
            await asyncio.to_thread(group.setup.migrate_slot, slot)
        await stage.until_all_work(time.monotonic())
