"""The store's clock jumps; a million tasks are due at once."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from redis.asyncio import Redis

from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import TaskStatus
from queue_engine.store.scripts import load_library, make_script
from tests.faults.engine import CONTROLLERS, LEASE_SECONDS
from tests.faults.producer import TaskPlan
from tests.faults.recovery import quantile
from tests.faults.rest import patient_client
from tests.faults.scenarios import AGENT_GOAL_SECONDS, scenario
from tests.faults.stage import Stage, kill
from tests.faults.waits_and_retries import check_that_none_began_before_its_time

HOUR_SECONDS = 3600
STEP_BACK_SECONDS = 10
DELAYED = 60
PROMOTED_SECONDS = 20.0
"""Time within which tasks run whose delay is over; their queueing takes a second and a round of the sweep."""


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


@scenario("delays and clock steps", flavour="clock")
async def delays_and_clock_steps(stage: Stage) -> None:
    """The store's clock jumps while tasks wait for their time: none begins before it, by that clock, and a task whose
    time is over by a jump ahead begins at once."""
    early = _delayed(stage, HOUR_SECONDS / 4, HOUR_SECONDS / 2)
    await stage.load(early, rate=80)
    with stage.fault("clock"):
        stage.engine.move_store_clock(HOUR_SECONDS)
        await stage.until(lambda: _have_begun(stage, early), PROMOTED_SECONDS, "a jump ahead does not end delays")
    late = _delayed(stage, 2, 6)
    await stage.load(late, rate=80)
    with stage.fault("clock"):
        stage.engine.move_store_clock(HOUR_SECONDS - STEP_BACK_SECONDS)
    with stage.fault("kill controllers"):
        for name in CONTROLLERS:
            await asyncio.to_thread(stage.engine.program(name).kill)
    for name in CONTROLLERS:
        await asyncio.to_thread(stage.engine.start_role, name)
    await stage.until(stage.all_ended, what="tasks with a delay do not end after a jump back")
    await check_that_none_began_before_its_time(stage, [*early, *late])


def _delayed(stage: Stage, least: float, most: float) -> list[TaskPlan]:
    plans = stage.mix.quick(DELAYED, ms=(1, 20))
    return [replace(plan, delay=stage.rng.uniform(least, most), webhook=False) for plan in plans]


def _have_begun(stage: Stage, plans: Sequence[TaskPlan]) -> bool:
    return {plan.task_id for plan in plans} <= {one["task"] for one in stage.seen("begin")}


MILLION = 1_000_000
CHUNK = 5000
CROWD_SECONDS = 30.0
STANDSTILL_SECONDS = 20.0
"""In which some of a crowd must have ended."""
MOST_NAMED = 5
SLOWEST_SUBMIT_SECONDS = 5.0
_SEED = """\
-- Submit tasks, of which every second one waits for its first attempt and the others for another one.
--
-- keys: counts, created, live, partition_counts, due, deadlines
-- arguments:
--   first integer, count integer, member_prefix text, task_prefix text, numbers_per_step integer,
--   partition_index integer, body_prefix text
-- replies:
--   OK
local now = text(now_ms())
for number = first, first + count - 1 do
  local task_id = 'c' .. number
  local seq = index_add('all', created, 1, 't', task_id)
  local place = redis.call('HINCRBY', partition_counts, 'seq', 1) * numbers_per_step + partition_index
  redis.call('SET', body_prefix .. task_id, '{"port":8000,"uri":"/run"}{"do":"ok"}')
  redis.call('HSET', task_prefix .. task_id, 'state', 'scheduled', 'attempts', number % 2, 'lost', 0,
    'created', now, 'updated', now, 'number', text(place), 'seq', seq, 'print', 'x', 'spec', 26,
    'timeout', 60, 'max', 5, 'deadline', text(now + 3600000))
  if number % 2 == 1 then
    redis.call('HSET', task_prefix .. task_id, 'started', now, 'ttl', 3600)
  else
    redis.call('HSET', task_prefix .. task_id, 'run_at', now)
  end
  redis.call('ZADD', live, seq, task_id)
  redis.call('ZADD', due, now, member_prefix .. task_id)
  redis.call('ZADD', deadlines, text(now + 3600000), member_prefix .. task_id)
end
redis.call('HINCRBY', counts, 'scheduled', count)
redis.call('HINCRBY', partition_counts, 'scheduled', count)
return { 'OK' }
"""
"""As `enqueue` leaves tasks with a delay behind, and `retry` those that have run; all their waits are over now. Tasks
with a delay have a deadline already, which a queue TTL would set when they are queued."""
_PASS_DEADLINES = """\
-- Let the deadlines of tasks be over.
--
-- keys: deadlines
-- arguments: first integer, count integer, member_prefix text
-- replies:
--   OK
local now = text(now_ms())
for number = first, first + count - 1 do redis.call('ZADD', deadlines, 'XX', now, member_prefix .. 'c' .. number) end
return { 'OK' }
"""
_STATES = """
local first, count, found = tonumber(ARGV[1]), tonumber(ARGV[2]), { queued = 0, scheduled = 0, expired = 0 }
for number = first, first + count - 1 do
  local state = redis.call('HGET', ARGV[3] .. 'c' .. number, 'state')
  if state then found[state] = (found[state] or 0) + 1 end
end
return { found.queued, found.scheduled, found.expired }
"""


@scenario("a million due at once", flavour="volatile", rest_seconds=60.0, play_seconds=3600.0)
async def million_due(stage: Stage) -> None:
    """A million tasks of another endpoint are due at once, and later past their TTL at once; submits go on.

    The sweep takes them in bounded rounds. The controllers are killed in the midst of both; in between each of the
    million is in just one place, and in the end each has expired, once.
    """
    crowd = await _new_endpoint_elsewhere(stage)
    with stage.fault("a million due"):
        await _seed(stage, crowd)
        began = time.monotonic()
        load = stage.load(stage.mix.quick_and_steady(400, 200, ms=300), rate=20)
        await _kill_controllers(stage, lambda: _due(stage, crowd))
        await _until_none(stage, lambda: _due(stage, crowd), began + CROWD_SECONDS)
        await load
    seconds = time.monotonic() - began
    due = await _check_the_million(stage, crowd)
    if due == MILLION:
        stage.violations.append("the sweep took none of the million")
    expiring = await _expire_the_million(stage, crowd)
    slowest = quantile(sorted(stage.submit_seconds()), 1.0) or 0.0
    late = quantile(sorted(stage.submit_seconds()), 0.99) or 0.0
    stage.notes.append(
        f"{MILLION - due} of a million taken in {seconds:.0f} s, all expired in {expiring:.0f} s; "
        f"submits took {late:.2f} s (p99), {slowest:.2f} s at most"
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
    names = [keys.counts, keys.created, keys.live, partition.counts, partition.due, partition.deadlines]
    async with _patient_client(stage, endpoint_id) as redis:
        script = redis.register_script(_text(_SEED))
        for first in range(1, MILLION, CHUNK):
            arguments: list[str | int] = [
                first, CHUNK, f"{endpoint_id}:", partition.task(endpoint_id, ""), 16, partition.index,
                partition.body(endpoint_id, ""),
            ]  # fmt: skip
            await script(keys=names, args=arguments)


def _patient_client(stage: Stage, endpoint_id: str) -> AbstractAsyncContextManager[Redis]:
    """Return a client that waits, because the seed would add its tasks twice if its calls were repeated."""
    return patient_client(stage.engine.url_of(stage.store.partitions.of(endpoint_id).partition.tag))


def _text(source: str) -> str:
    return make_script("example", source, load_library()).text


async def _kill_controllers(stage: Stage, left: Callable[[], Awaitable[int]]) -> None:
    """One after the other, while something is left to do."""
    for name in CONTROLLERS:
        await _until_none(stage, left, time.monotonic() + stage.rng.uniform(2, 5))
        with stage.fault(f"kill {name}"):
            await asyncio.to_thread(stage.engine.program(name).kill)
            await stage.hold(0, 1)
            await asyncio.to_thread(stage.engine.start_role, name)


async def _expire_the_million(stage: Stage, endpoint_id: str) -> float:
    """Let the TTL of each be over, and wait until all have ended; returns how many seconds that took."""
    keys = stage.store.partitions.of(endpoint_id)

    async def left() -> int:
        return int(await stage.store.redis.zcard(keys.live))

    began = time.monotonic()
    with stage.fault("a million expire"):
        load = stage.load(stage.mix.quick_and_steady(400, 200, ms=300), rate=20)
        async with _patient_client(stage, endpoint_id) as redis:
            pass_deadlines = redis.register_script(_text(_PASS_DEADLINES))
            for first in range(1, MILLION, CHUNK):
                await pass_deadlines(keys=[keys.partition.deadlines], args=[first, CHUNK, f"{endpoint_id}:"])
        await _kill_controllers(stage, left)
        before = MILLION + 1
        while (now := await _until_none(stage, left, time.monotonic() + STANDSTILL_SECONDS)) and now < before:
            before = now
            _show_progress(MILLION - now)
        await load
    seconds = time.monotonic() - began
    places = await _places(stage, endpoint_id)
    if places != (0, 0, 0, 0):
        stage.violations.append(f"after the TTL of the million, the store's places hold {places}")
    states = await _states(stage, endpoint_id)
    if states != (0, 0, MILLION):
        stage.violations.append(f"of the million, so many are queued, scheduled and expired after their TTL: {states}")
    ended = Counter([task_id async for task_id in _in_queues(stage.store.redis, [keys.finished(TaskStatus.FAILED)])])
    if len(ended) != MILLION or ended.total() != MILLION:
        stage.violations.append(f"of the million, {len(ended)} have ended, in {ended.total()} entries")
    counts = await stage.store.tasks.counts(endpoint_id)
    if counts != TaskCounts(failed=MILLION):
        stage.violations.append(f"after the TTL of the million, the counts are {counts}")
    return seconds


def _show_progress(ended: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"    {ended:,} of a million have ended\n")
        sys.stderr.flush()


async def _check_the_million(stage: Stage, endpoint_id: str) -> int:
    """Each of them is either queued once or due once, nobody else is, and states and counts agree with that.

    Returns how many are due. The controllers stand still meanwhile.
    """
    controllers = [stage.engine.program(name) for name in CONTROLLERS]
    for program in controllers:
        program.signal(signal.SIGSTOP)
    try:
        await _until_still(stage, endpoint_id)
        queued, due, astray = await _find_each(stage, endpoint_id)
        said = {"states": (await _states(stage, endpoint_id))[:2], **await _counts(stage, endpoint_id)}
        places = await _places(stage, endpoint_id)
    finally:
        for program in controllers:
            program.signal(signal.SIGCONT)
    if astray:
        named = ", ".join(astray[:MOST_NAMED])
        stage.violations.append(f"of the million, {len(astray)} are in no place, or in several: {named}")
    if places != (queued, due, 0, MILLION) or queued + due != MILLION:
        stage.violations.append(f"of the million {queued} are queued and {due} due; the store's places hold {places}")
    for what, numbers in said.items():
        if numbers != (queued, due):
            stage.violations.append(f"of the million {queued} are queued and {due} due; the {what} say {numbers}")
    return due


async def _until_still(stage: Stage, endpoint_id: str) -> None:
    """Return when what the controllers had sent before they were stopped has been done."""
    before = None
    while (now := await _places(stage, endpoint_id)) != before:
        before = now
        await stage.hold(0.5)


async def _find_each(stage: Stage, endpoint_id: str) -> tuple[int, int, list[str]]:
    """How many names of the crowd the queues and the due have, and who is not there just once, or a stranger."""
    keys = stage.store.partitions.of(endpoint_id)
    places: Counter[str] = Counter()
    queued = due = 0
    async with _patient_client(stage, endpoint_id) as redis:
        async for task_id in _in_queues(redis, (keys.queue, keys.retry_queue)):
            places[task_id] += 1
            queued += 1
        async for name in _in_set(redis, keys.partition.due):
            places[name.removeprefix(f"{endpoint_id}:")] += 1
            due += 1
    everybody = {f"c{number}" for number in range(1, MILLION + 1)}
    astray = [name for name, count in places.items() if count != 1 or name not in everybody]
    return queued, due, sorted({*astray, *(everybody - places.keys())})


async def _in_queues(redis: Redis, streams: Sequence[str]) -> AsyncIterator[str]:
    """The task of each entry."""
    for stream in streams:
        after = "-"
        while entries := await redis.xrange(stream, min=after, count=CHUNK):
            for _, fields in entries:
                yield fields[b"t"].decode()
            after = f"({entries[-1][0].decode()}"


async def _in_set(redis: Redis, name: str) -> AsyncIterator[str]:
    """The members of a sorted set."""
    first = 0
    while members := await redis.zrange(name, first, first + CHUNK - 1):
        for member in members:
            yield member.decode()
        first += CHUNK


async def _states(stage: Stage, endpoint_id: str) -> tuple[int, int, int]:
    """How many say of themselves that they are queued, scheduled and expired."""
    tasks = stage.store.partitions.of(endpoint_id).task("")
    queued = scheduled = expired = 0
    async with _patient_client(stage, endpoint_id) as redis:
        script = redis.register_script(_STATES)
        for first in range(1, MILLION, CHUNK):
            found = await script(keys=[tasks], args=[first, CHUNK, tasks])
            queued, scheduled, expired = queued + found[0], scheduled + found[1], expired + found[2]
    return queued, scheduled, expired


async def _places(stage: Stage, endpoint_id: str) -> tuple[int, int, int, int]:
    """How many the queues, the due, the leased and the live ones are, all at one moment."""
    keys = stage.store.partitions.of(endpoint_id)
    transaction = stage.store.redis.pipeline(transaction=True)
    transaction.xlen(keys.queue)
    transaction.xlen(keys.retry_queue)
    transaction.zcard(keys.partition.due)
    transaction.zcard(keys.partition.leases)
    transaction.zcard(keys.live)
    queue, retry_queue, due, leases, live = await transaction.execute()
    return queue + retry_queue, due, leases, live


async def _counts(stage: Stage, endpoint_id: str) -> dict[str, tuple[int, int]]:
    """How many are queued and scheduled by the counts that the engine keeps."""
    keys = stage.store.partitions.of(endpoint_id)
    names = {"endpoint's counts": keys.counts, "partition's counts": keys.partition.counts}
    found = {what: await stage.store.redis.hmget(name, ["queued", "scheduled"]) for what, name in names.items()}  # type: ignore[misc]
    return {what: (int(queued or 0), int(scheduled or 0)) for what, (queued, scheduled) in found.items()}


async def _due(stage: Stage, endpoint_id: str) -> int:
    return int(await stage.store.redis.zcard(stage.store.partitions.of(endpoint_id).partition.due))


async def _until_none(stage: Stage, left: Callable[[], Awaitable[int]], until: float) -> int:
    """Wait until none is left, or until that time; returns how many are."""
    while (now := await left()) and time.monotonic() < until:
        await stage.hold(0.5)
    return now
