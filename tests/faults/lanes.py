"""Tasks of levels and fairness keys, one of which floods the endpoint, while agents are killed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from queue_engine.store.keys import EndpointKeys, parse_member
from queue_engine.store.queue import Entry, TaskQueue
from queue_engine.store.scripts import load_scripts
from tests.faults.engine import CONCURRENCY, Worker
from tests.faults.producer import TaskPlan
from tests.faults.scenarios import AGENT_GOAL_SECONDS, scenario
from tests.faults.stage import Stage, kill
from tests.store.probe import Probe

KEY_LIMIT = 3
LOOK_SECONDS = 0.1
FLOOD = 90
OTHERS = 6
HELD = 4
LEVELS = (None, "high", "low")


@scenario("flood of one key", endpoint={"maxConcurrencyPerKey": KEY_LIMIT}, goal_seconds=AGENT_GOAL_SECONDS)
async def flood_of_one_key(stage: Stage) -> None:
    """A key floods the queue while agents are killed: it never runs more tasks than it may, and delays no other key."""
    flood = [
        replace(plan, key="flood", priority=LEVELS[number % len(LEVELS)], webhook=False)
        for number, plan in enumerate(stage.mix.steady(FLOOD, ms=1200))
    ]
    stage.journal.write("limit", key="flood", limit=KEY_LIMIT)
    await stage.load(flood, rate=200)
    async with _limit_is_kept(stage, {plan.task_id: "flood" for plan in flood}):
        for _ in range(3):
            # The limit of the key may leave workers without a task.
            await stage.until(lambda: _busy(stage), what="no worker runs a task of the key that floods")
            worker = stage.rng.choice(_busy(stage) or stage.workers)
            with stage.fault("kill agent", worker) as began:
                await asyncio.to_thread(kill, worker, "agent")
            await stage.note_held(worker, began)
            await asyncio.to_thread(worker.start_agent)
            others = [
                replace(plan, key=f"k{number}", webhook=False)
                for number, plan in enumerate(stage.mix.steady(OTHERS, ms=50))
            ]
            await stage.load(others, rate=50)
            await stage.until(lambda: _have_ended(stage, others), what="other keys wait for the one that floods")  # noqa: B023
        left = {plan.task_id for plan in flood} - _ended(stage)
        if len(left) < FLOOD // 10:
            stage.notes.append(f"the flood had almost ended: {len(left)} tasks were left")
        await stage.until(stage.all_ended, 240, what="tasks of the key that floods do not end")


@scenario(
    "kill agent between take and start",
    workers=0,
    endpoint={"maxConcurrencyPerKey": CONCURRENCY},
    goal_seconds=AGENT_GOAL_SECONDS,
)
async def kill_between_take_and_start(stage: Stage) -> None:
    """An agent dies with tasks that it has taken out of lanes and not started: others start them, and the key goes on.

    An entry of a task that waits again since then starts nothing.
    """
    slow = stage.store.queue(endpoint_id=stage.endpoint_id, worker_id="slow", lease_ms=1000)
    held = [replace(plan, key="held", webhook=False) for plan in stage.mix.steady(HELD, ms=50)]
    await stage.load(held, rate=100)
    await _start_entries_of_before(stage, slow)
    dying = await stage.add_worker("w1")
    await stage.until(lambda: _have_ended(stage, held), what="tasks that wait again do not end")
    start = b"/agent/v1/start" if stage.over_api else load_scripts()["start"].sha.encode()
    dying.to_engine.lose_requests_with(start)
    stuck = [replace(plan, key="stuck", webhook=False) for plan in stage.mix.steady(3 * CONCURRENCY, ms=50)]
    await stage.load(stuck, rate=100)
    await stage.until(lambda: _has_taken(stage, dying), what="the agent takes nothing")
    killed = time.monotonic()
    with stage.fault("kill agent", dying):
        await asyncio.to_thread(kill, dying, "agent")
    dying.to_engine.heal()
    await stage.add_worker("w2")
    await stage.until(lambda: _have_ended(stage, stuck), what="tasks of the key of a dead agent never end")
    names = {plan.task_id for plan in stuck}
    stage.recovered(min(one["mono"] for one in stage.seen("begin") if one["task"] in names) - killed)
    await stage.until(stage.all_ended, what="tasks do not end")


async def _start_entries_of_before(stage: Stage, slow: TaskQueue) -> None:
    """Take tasks, let them wait again, and try to start them by the entries of before.

    The scripts remove such entries. Then entries are made as a script would leave them that does not.
    """
    entries = await slow.claim(HELD, block_ms=1000)
    keys: EndpointKeys = stage.store.partitions.of(stage.endpoint_id)
    probe = Probe(stage.store.redis)
    places = {entry_id: fields["e"] for entry_id, fields in (await probe.stream(keys.turn)).items()}
    for entry in entries:
        await stage.client.cancel(entry.task_id)
        await stage.client.rerun(entry.task_id)
    for entry in tuple(entries):
        entry_id = await probe.ask("XADD", keys.turn, "*", "t", entry.task_id, "e", places[entry.entry_id])
        await probe.ask("HINCRBY", keys.lanes, "r:held", 1)
        entries.append(Entry(keys.turn, entry_id.decode(), entry.task_id))
    for entry in entries:
        if await slow.start(entry, address="127.0.0.1:1") is not None:
            stage.violations.append(f"{entry.task_id} was started by an entry of an earlier wait")
    if not entries:
        stage.violations.append("no task was taken")


def _busy(stage: Stage) -> list[Worker]:
    return [one for one in stage.workers if stage.interruptible(one)]


def _ended(stage: Stage) -> set[str]:
    return {one["task"] for one in stage.seen("end")}


def _have_ended(stage: Stage, plans: Iterable[TaskPlan]) -> bool:
    return {plan.task_id for plan in plans} <= _ended(stage)


async def _has_taken(stage: Stage, worker: Worker) -> bool:
    """Return True if the agent has got tasks out of lanes, and its link has lost the start of one.

    An API claims in its own name. The agent is the only one, so what an API has taken is for it.
    """
    keys: EndpointKeys = stage.store.partitions.of(stage.endpoint_id)
    takers = set((await Probe(stage.store.redis).pending(keys.turn, "agents")).values())
    is_taken = any(one.startswith("api-") for one in takers) if stage.over_api else worker.agents[-1] in takers
    return is_taken and worker.to_engine.has_lost


@asynccontextmanager
async def _limit_is_kept(stage: Stage, keys_of_tasks: dict[str, str]) -> AsyncIterator[None]:
    """Look at the leases for as long as the block runs: no key has more than its limit."""
    most: Counter[str] = Counter()
    looking = asyncio.create_task(_look(stage, keys_of_tasks, most))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    for key, number in most.items():
        stage.notes.append(f"at most {number} tasks of {key} ran at once")
        if number > KEY_LIMIT:
            stage.violations.append(f"{number} tasks of the key {key} ran at once, and {KEY_LIMIT} may")
    if not most:
        stage.violations.append("no task of a key was seen to run")


async def _look(stage: Stage, keys_of_tasks: dict[str, str], most: Counter[str]) -> None:
    leases = stage.store.partitions.of(stage.endpoint_id).partition.leases
    while True:
        members: Sequence[str] = list(await stage.read(lambda: Probe(stage.store.redis).scores(leases)))
        found = Counter(keys_of_tasks.get(parse_member(name)[1], "") for name in members)
        for key, number in found.items():
            if key:
                most[key] = max(most[key], number)
        await asyncio.sleep(LOOK_SECONDS)
