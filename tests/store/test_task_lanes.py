"""Tasks with a priority or a fairness key: the order in which they begin, and the limit of a key."""

from collections import Counter

import pytest

from queue_engine.domain.tasks import Cost, Priority, Succeeded, TryAgain
from queue_engine.store.queue import Entry, Started, TaskQueue
from tests.store.bench import Bench

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
LOADING = TryAgain("loading", 0, cost=Cost.NOTHING)


async def set_key_limit(bench: Bench, limit: int) -> None:
    await bench.probe.ask("HSET", bench.keys.endpoint, "key_limit", limit)


async def submit_many(
    bench: Bench, number: int, priority: Priority | None = None, key: str | None = None, name: str = "t"
) -> None:
    tasks = [bench.new_task(f"{name}{index}", priority=priority, fairness_key=key) for index in range(number)]
    results: list[object] = []
    for first in range(0, number, 500):
        await bench.store.tasks.enqueue_all(tasks[first : first + 500], results)  # type: ignore[arg-type]
    assert len(results) == number


async def claimed(agent: TaskQueue, number: int) -> list[str]:
    return [entry.task_id for entry in await agent.claim(number, block_ms=1)]


async def take_all(bench: Bench, at_once: int = 1, limit: int = 1_000_000) -> list[str]:
    """Return the ids of claimed tasks in their order. Each is left as it is claimed."""
    agent, found = bench.agent(), list[str]()
    while len(found) < limit and (ids := await claimed(agent, at_once)):
        found += ids
    return found


async def start_all(agent: TaskQueue, entries: list[Entry]) -> list[Started]:
    begun = [await agent.start(entry, address="x:1") for entry in entries]
    return [one for one in begun if one is not None]


@pytest.mark.parametrize(("at_once", "number"), [(1, 640), (7, 640), (64, 6400)])
async def test_saturated_levels_have_seven_eighths_seven_sixty_fourths_and_one_sixty_fourth(
    bench: Bench, at_once: int, number: int
) -> None:
    for name, waiting, priority in (("h", number, HIGH), ("n", number // 6, None), ("l", number // 6, LOW)):
        await submit_many(bench, waiting, priority, name=name)
    found = await take_all(bench, at_once, number)
    unit = number // 64
    assert Counter(name[0] for name in found[:number]) == {"h": 56 * unit, "n": 7 * unit, "l": unit}
    await bench.probe.ask("FLUSHALL")  # the check of the bench compares each task with all


async def test_ten_keys_of_which_one_floods_have_the_same_share(bench: Bench) -> None:
    await submit_many(bench, 1000, key="flood", name="flood")
    for number in range(9):
        await submit_many(bench, 40, key=f"k{number}", name=f"k{number}_")
    found = await take_all(bench, 1, 200)
    assert set(Counter(name.split("_")[0] if name[0] == "k" else "flood" for name in found).values()) == {20}
    await bench.probe.ask("FLUSHALL")


async def test_a_flooded_key_delays_another_key_by_one_turn(bench: Bench) -> None:
    await submit_many(bench, 20_000, key="flood", name="flood")
    agent = bench.agent()
    await claimed(agent, 1)
    await bench.submit("other", fairness_key="other")
    assert "other" in [(await claimed(agent, 1))[0] for _ in range(2)]
    await bench.submit("plain")
    await bench.submit("urgent", priority=HIGH, fairness_key="flood")
    assert await claimed(agent, 1) == ["urgent"]
    assert await claimed(agent, 1) == ["plain"]
    await bench.probe.ask("FLUSHALL")


async def test_what_came_back_goes_first_in_its_own_lane_only(bench: Bench) -> None:
    for name in ("a1", "a2", "b1", "b2"):
        await bench.submit(name, fairness_key=name[0])
    agent = bench.agent()
    first = await agent.claim(1, block_ms=1)
    (started,) = await start_all(agent, first)
    assert await agent.release(started.lease) == "OK"
    assert await take_all(bench) == ["b1", "a1", "b2", "a2"]


async def test_the_default_priority_of_the_endpoint_applies_to_tasks_without_one(bench: Bench) -> None:
    await bench.probe.ask("HSET", bench.keys.endpoint, "default_priority", "low")
    results: list[object] = []
    tasks = [bench.new_task("first"), bench.new_task("keyed", fairness_key="k"), bench.new_task("n", priority=NORMAL)]
    await bench.store.tasks.enqueue_all(tasks, results)  # type: ignore[arg-type]
    assert [(await bench.task(one.task_id)).priority for one in tasks] == [LOW, LOW, NORMAL]
    assert (await bench.task("keyed")).fairness_key == "k"
    counts = await bench.store.tasks.counts(bench.endpoint_id)
    assert (counts.queued, counts.queued_high, counts.queued_normal, counts.queued_low) == (3, 0, 1, 2)
    assert await claimed(bench.agent(), 1) == ["n"]


async def test_at_most_the_limit_of_a_key_runs_over_all_levels_and_agents(bench: Bench) -> None:
    await set_key_limit(bench, 2)
    for priority in Priority:
        await submit_many(bench, 2, priority, "k", name=f"{priority}")
    await submit_many(bench, 1, key="other", name="other")
    agents = [bench.agent(f"a{number}") for number in range(4)]
    entries = [one for agent in agents for one in await agent.claim(2, block_ms=1)]
    assert sorted(one.task_id for one in entries) == ["high0", "high1", "other0"]
    (first, *_) = await start_all(agents[0], entries)
    assert [await claimed(agent, 5) for agent in agents] == [[]] * 4
    await agents[0].settle(first.lease, Succeeded(b"1"))
    assert len(await claimed(agents[1], 5)) == 1
    assert await bench.check() == []


@pytest.mark.parametrize("limit", [3, 0])
async def test_another_limit_lets_waiting_tasks_of_the_key_begin_at_once(bench: Bench, limit: int) -> None:
    await bench.set_key_limit(1)
    await submit_many(bench, 6, key="k")
    agent = bench.agent()
    assert len(await claimed(agent, 5)) == 1
    assert await claimed(agent, 5) == []
    await bench.set_key_limit(limit)
    assert len(await claimed(agent, 10)) == (2 if limit else 5)


async def test_a_readopted_task_exceeds_the_limit_by_one_until_an_attempt_ends(bench: Bench) -> None:
    await bench.set_key_limit(1)
    await submit_many(bench, 3, key="k")
    agent, other = bench.agent(), bench.agent("other")
    lost = await bench.start(agent)
    await bench.lose(lost.lease.task_id)
    (entry,) = await other.claim(5, block_ms=1)
    assert entry.task_id == lost.lease.task_id
    assert await agent.renew([lost.lease]) == ["READOPTED"]
    assert await claimed(other, 5) == []
    assert await other.start(entry, address="x:1") is None
    assert await claimed(other, 5) == []
    await agent.settle(lost.lease, Succeeded(b"1"))
    assert await claimed(other, 5) == ["t1"]


@pytest.mark.parametrize("end", ["cancel", "expire", "delete endpoint"])
async def test_a_taken_task_that_ends_before_its_start_leaves_its_key_at_once(bench: Bench, end: str) -> None:
    """Also when its agent has died, and while no other task of the endpoint is queued."""
    await bench.set_key_limit(1)
    await bench.submit("taken", fairness_key="k", queue_ttl_seconds=60)
    dead, heir = bench.agent("dead"), bench.agent("heir")
    (entry,) = await dead.claim(1, block_ms=1)
    if end == "cancel":
        await bench.store.tasks.cancel(bench.endpoint_id, entry.task_id)
    elif end == "expire":
        await bench.pass_deadline(entry.task_id)
        await bench.sweep()
    else:
        assert await bench.store.sweeper.end_waiting(bench.endpoint_id, "deleted") == 1
    assert await bench.probe.pending(bench.keys.turn, "agents") == {}
    await bench.submit("next", fairness_key="k")
    assert await claimed(heir, 1) == ["next"]
    assert await dead.start(entry, address="x:1") is None
    await dead.put_back(entry)
    assert await bench.check() == []


async def test_an_entry_of_an_earlier_wait_starts_nothing(bench: Bench) -> None:
    """The task waits again, in the same lane, while an agent still has its entry of before."""
    await bench.submit("t0", fairness_key="k")
    slow, quick = bench.agent("slow"), bench.agent("quick")
    (entry,) = await slow.claim(1, block_ms=1)
    await bench.store.tasks.cancel(bench.endpoint_id, "t0")
    await bench.store.tasks.rerun(bench.endpoint_id, "t0", "call")
    assert await slow.start(entry, address="x:1") is None
    assert await claimed(quick, 1) == ["t0"]


async def test_an_entry_whose_place_is_not_that_of_the_task_starts_nothing(bench: Bench) -> None:
    """Such an entry is not made. The comparison protects a limit from a script that forgets to remove one."""
    await bench.submit("t0", fairness_key="k")
    await bench.probe.ask("XADD", bench.keys.turn, "*", "t", "t0", "e", "1k 11")
    await bench.probe.ask("HINCRBY", bench.keys.lanes, "r:k", 1)
    agent = bench.agent()
    stray, entry = sorted(await agent.claim(5, block_ms=1), key=lambda one: one.entry_id)
    assert await agent.start(stray, address="x:1") is None
    assert await agent.start(entry, address="x:1") is not None
    assert await bench.check() == []


async def test_a_lost_reply_is_repeated_with_the_tasks_out_of_lanes(bench: Bench) -> None:
    await submit_many(bench, 3, key="k")
    agent = bench.agent()
    reply = await bench.store.scripts.claim(
        bench.keys, worker_id="a1", limit=2, is_turn_of_new=False, retried_after=None, new_after=None, taken_after=None
    )
    assert len(reply.taken) == 2
    again = await bench.store.scripts.claim(
        bench.keys, worker_id="a1", limit=2, is_turn_of_new=False, retried_after="0", new_after="0", taken_after="0"
    )
    assert again.taken == reply.taken
    assert [entry.task_id for entry in await agent.unstarted()] == ["t0", "t1"]


async def test_lanes_whose_tasks_were_cancelled_delay_no_other_task_for_long(bench: Bench) -> None:
    for number in range(250):
        await bench.submit(f"gone{number}", fairness_key=f"k{number}")
        await bench.store.tasks.cancel(bench.endpoint_id, f"gone{number}")
    await bench.submit("last", fairness_key="last")
    agent = bench.agent()
    found = [await claimed(agent, 1) for _ in range(4)]
    assert ["last"] in found
    assert await bench.check() == []


async def test_a_missing_stream_is_made_before_anything_is_taken(bench: Bench) -> None:
    await bench.probe.ask("DEL", bench.keys.turn)
    await bench.submit("t0", fairness_key="k")
    assert await claimed(bench.agent(), 1) == ["t0"]


async def test_an_entry_goes_to_an_agent_that_does_not_use_the_store_and_back(bench: Bench) -> None:
    await bench.submit("t0", fairness_key="k")
    served = bench.store.queue(endpoint_id=bench.endpoint_id, worker_id="api", lease_ms=60_000, is_served=True)
    (entry,) = await served.claim(1, block_ms=1)
    back = served.entry_in(entry.in_words(), "token")
    assert back == entry
    assert entry.in_words().startswith("turn:")
    other = served.entry_in(entry.in_words().replace("t0", "t1"), "token")
    assert other is not None
    assert await served.start(other, address="x:1") is None
    assert await served.start(back, address="x:1") is not None
