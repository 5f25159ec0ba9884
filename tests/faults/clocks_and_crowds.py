"""The store's clock jumps; a million tasks are due at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from queue_engine.store.scripts import load_scripts
from tests.faults.engine import LEASE_SECONDS
from tests.faults.recovery import quantile
from tests.faults.scenarios import AGENT_GOAL_SECONDS, scenario
from tests.faults.stage import Stage, kill

HOUR_SECONDS = 3600


@scenario("store clock an hour ahead", flavour="clock", goal_seconds=AGENT_GOAL_SECONDS + LEASE_SECONDS)
async def clock_ahead(stage: Stage) -> None:
    """The store's clock jumps an hour ahead: no healthy task is reclaimed, and dead agents are still noticed."""
    await _jump(stage, HOUR_SECONDS)


@scenario("store clock an hour back", flavour="clock", goal_seconds=AGENT_GOAL_SECONDS + LEASE_SECONDS)
async def clock_back(stage: Stage) -> None:
    """The store's clock jumps an hour back: no healthy task is reclaimed, and dead agents are still noticed."""
    await _jump(stage, -HOUR_SECONDS)


async def _jump(stage: Stage, seconds: int) -> None:
    """The grace after a jump is one lease, so a death right after it is noticed a lease later.

    Nothing waits for a retry at the jump, a webhook neither: a wait lasts longer by a step back, as the guarantees say.
    """
    plans = [replace(plan, webhook=False) for plan in stage.mix.steady(30, ms=2500)]
    await stage.load(plans, rate=15)
    await stage.until_busy(*stage.workers)
    with stage.fault("clock"):
        stage.engine.move_store_clock(seconds)
        await stage.hold(1.5 * LEASE_SECONDS)
    load = stage.load(stage.mix.steady(30, ms=1500), rate=15)
    worker = stage.rng.choice(stage.workers)
    await stage.until_busy(worker)
    with stage.fault("kill agent", worker):
        await asyncio.to_thread(kill, worker, "agent")
    await asyncio.to_thread(worker.start_agent)
    await load


MILLION = 1_000_000
CHUNK = 5000
CROWD_SECONDS = 30.0
SLOWEST_SUBMIT_SECONDS = 5.0
_SEED = """
local first, count, now = tonumber(ARGV[1]), tonumber(ARGV[2]), text(now_ms())
for number = first, first + count - 1 do
  local task_id = 'c' .. number
  local seq = index_add(KEYS[1], 'all', KEYS[2], 1, 't', task_id)
  local place = redis.call('HINCRBY', KEYS[4], 'seq', 1) * tonumber(ARGV[5]) + tonumber(ARGV[6])
  redis.call('SET', ARGV[4] .. 'i:' .. ARGV[3] .. task_id, '{"port":8000,"uri":"/run"}{"do":"ok"}')
  redis.call('HSET', ARGV[4] .. 't:' .. ARGV[3] .. task_id, 'state', 'scheduled', 'attempts', 1, 'lost', 0,
    'created', now, 'updated', now, 'started', now, 'number', text(place), 'seq', seq, 'print', 'x', 'spec', 26,
    'timeout', 60, 'max', 5)
  redis.call('ZADD', KEYS[3], seq, task_id)
  redis.call('ZADD', KEYS[5], now, ARGV[3] .. task_id)
end
redis.call('HINCRBY', KEYS[1], 'scheduled', count)
redis.call('HINCRBY', KEYS[4], 'scheduled', count)
return count
"""
"""As `enqueue`, `start` and `retry` leave tasks behind, whose waits are all over now."""


@scenario("a million due at once", flavour="volatile", rest_seconds=60.0)
async def million_due(stage: Stage) -> None:
    """A million tasks of another endpoint are due at once: the sweep takes them in bounded rounds, submits go on."""
    crowd = await _new_endpoint_elsewhere(stage)
    with stage.fault("a million due"):
        await _seed(stage, crowd)
        began = time.monotonic()
        load = stage.load(stage.mix.quick_and_steady(400, 200, ms=300), rate=20)
        waiting = await _until_calm(stage, crowd, began + CROWD_SECONDS)
        await load
    queued, due, counted = await _places(stage, crowd)
    if counted != (queued, due) or queued + due != MILLION:
        stage.violations.append(f"of a million {queued} are queued and {due} due; the counts say {counted}")
    if waiting == MILLION:
        stage.violations.append("the sweep took none of the million")
    slowest = quantile(sorted(stage.submit_seconds()), 1.0) or 0.0
    late = quantile(sorted(stage.submit_seconds()), 0.99) or 0.0
    seconds = time.monotonic() - began
    stage.notes.append(
        f"{MILLION - due} of a million in {seconds:.0f} s; submits took {late:.2f} s (p99), {slowest:.2f} s at most"
    )
    if slowest > SLOWEST_SUBMIT_SECONDS:
        stage.violations.append(f"a submit took {slowest:.1f} s while a million were due")


async def _new_endpoint_elsewhere(stage: Stage) -> str:
    """An endpoint in another partition than the one that is checked."""
    own = stage.store.partitions.of(stage.endpoint_id).partition
    while True:
        endpoint_id = await asyncio.to_thread(
            lambda: stage.engine.new_endpoint(name="crowd", maxQueuedTasks=2 * MILLION)
        )
        if stage.store.partitions.of(endpoint_id).partition != own:
            return endpoint_id


async def _seed(stage: Stage, endpoint_id: str) -> None:
    keys = stage.store.partitions.of(endpoint_id)
    partition = keys.partition
    library = load_scripts()["promote"].text.split("-- Queue a scheduled task")[0].partition("\n")[2]
    script = stage.store.redis.register_script(library + _SEED)
    names = [keys.counts, keys.created, keys.live, partition.counts, partition.due]
    for first in range(1, MILLION, CHUNK):
        arguments: list[str | int] = [first, CHUNK, f"{endpoint_id}:", f"{partition.tag}:", 16, partition.index]
        await script(keys=names, args=arguments)


async def _places(stage: Stage, endpoint_id: str) -> tuple[int, int, tuple[int, int]]:
    """How many of the crowd are queued and how many due, and what the counts say, all at one moment."""
    keys = stage.store.partitions.of(endpoint_id)
    transaction = stage.store.redis.pipeline(transaction=True)
    transaction.xlen(keys.retry_queue)
    transaction.zcard(keys.partition.due)
    transaction.hmget(keys.counts, ["queued", "scheduled"])
    queued, due, counts = await transaction.execute()
    return queued, due, (int(counts[0] or 0), int(counts[1] or 0))


async def _until_calm(stage: Stage, endpoint_id: str, until: float) -> int:
    """Wait until none of the crowd is due, or until that time; returns how many still are."""
    due = stage.store.partitions.of(endpoint_id).partition.due
    while (waiting := int(await stage.store.redis.zcard(due))) and time.monotonic() < until:
        await stage.hold(0.5)
    return waiting
