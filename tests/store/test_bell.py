"""The bell of an endpoint: a waiting agent claims a task in one round trip, and no task waits without a bell."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from queue_engine.config.store_users import AGENT, rules_of
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.endpoints import RateLimit
from queue_engine.domain.tasks import Cost, Priority, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.constants import MAX_BELLS
from queue_engine.store.queue import TaskQueue
from queue_engine.store.store import Store
from queue_engine.store.task_source import IDLE_BLOCK_MS, StoreTaskSource, StoreWorkerRecord
from tests.servers import StoreServer
from tests.store.bench import SECRET_KEY, TENANT, Bench
from tests.waiting import wait_until_async

LONG_BLOCK_MS = 3_000


async def bells(bench: Bench) -> int:
    """Return the number of bells that no agent has heard."""
    return int(await bench.probe.ask("LLEN", bench.keys.bell))


async def blocked(bench: Bench, count: int = 1) -> None:
    """Return when this number of clients waits on the server."""

    async def wait() -> bool:
        return int((await bench.probe.redis.info("clients"))["blocked_clients"]) == count

    await wait_until_async(wait)


async def _submitted(bench: Bench) -> None:
    await bench.submit("t1")


async def _released(bench: Bench) -> None:
    started = await bench.submit_and_start("t1", agent := bench.agent("other"))
    await agent.release(started.lease)


async def _retried_at_no_cost(bench: Bench) -> None:
    started = await bench.submit_and_start("t1", agent := bench.agent("other"))
    await agent.settle(started.lease, TryAgain("loading", 0, cost=Cost.NOTHING))


async def _promoted(bench: Bench) -> None:
    started = await bench.submit_and_start("t1", agent := bench.agent("other"))
    await agent.settle(started.lease, TryAgain("down", 60))
    await bench.make_due("t1")
    await bench.sweep()


async def _reclaimed(bench: Bench) -> None:
    await bench.submit_and_start("t1", bench.agent("other"))
    await bench.lose("t1")


async def _put_back(bench: Bench) -> None:
    await bench.submit("t1")
    agent = bench.agent("other")
    (entry,) = await agent.claim(1, block_ms=1)
    await agent.put_back(entry)


async def _rerun(bench: Bench) -> None:
    await bench.finish("t1")
    await bench.store.tasks.rerun(bench.endpoint_id, "t1", "call")


WAYS = [_submitted, _released, _retried_at_no_cost, _promoted, _reclaimed, _put_back, _rerun]


@pytest.mark.parametrize("way", WAYS)
async def test_the_bell_rings_for_every_task_that_may_be_claimed(
    bench: Bench, way: Callable[[Bench], Awaitable[None]]
) -> None:
    waiting = bench.agent()
    await way(bench)
    assert await bells(bench) >= 1
    assert await bench.check() == []
    assert [entry.task_id for entry in await waiting.claim(10, block_ms=LONG_BLOCK_MS)] == ["t1"]
    assert await bells(bench) == 0


async def test_a_waiting_agent_gets_a_task_with_one_write_to_the_store(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t0")
    assert len(await agent.claim(1, block_ms=1)) == 1
    claiming = asyncio.create_task(agent.claim(1, block_ms=LONG_BLOCK_MS))
    await blocked(bench)
    await bench.probe.ask("CONFIG", "RESETSTAT")
    await bench.submit("t1")
    assert [entry.task_id for entry in await claiming] == ["t1"]
    stats = await bench.probe.redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 2  # the submission, and the claim that was sent before it
    assert await bells(bench) == 1  # a full claim rings for the next agent


async def test_each_of_many_waiting_agents_gets_a_task_of_a_burst(bench: Bench) -> None:
    count = 2 * MAX_BELLS
    agents = [
        bench.store.queue(endpoint_id=bench.endpoint_id, worker_id=f"a{number}", lease_ms=60_000, is_served=True)
        for number in range(count)
    ]
    claiming = asyncio.gather(*(agent.claim(1, block_ms=LONG_BLOCK_MS) for agent in agents))
    await blocked(bench, count)
    await asyncio.gather(*(bench.submit(f"t{number}") for number in range(count)))
    claims = await asyncio.wait_for(claiming, LONG_BLOCK_MS / 1000 / 2)
    assert sorted(entry.task_id for one in claims for entry in one) == sorted(f"t{number}" for number in range(count))


async def test_bells_are_limited_and_a_claim_that_leaves_no_task_takes_them(bench: Bench) -> None:
    for number in range(MAX_BELLS + 5):
        await bench.submit(f"t{number}")
    assert await bells(bench) == MAX_BELLS
    agent = bench.agent()
    assert len(await agent.claim(MAX_BELLS, block_ms=1)) == MAX_BELLS
    assert await bells(bench) == MAX_BELLS
    assert len(await agent.claim(MAX_BELLS, block_ms=1)) == 5
    assert await bells(bench) == 0


async def test_a_task_whose_bell_was_lost_is_claimed_when_the_wait_of_a_busy_agent_ends(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t0")
    assert len(await agent.claim(2, block_ms=1)) == 1
    await bench.submit("t1")
    await bench.probe.ask("DEL", bench.keys.bell)
    assert [entry.task_id for entry in await agent.claim(1, block_ms=1)] == ["t1"]


async def test_a_report_rings_again_for_a_task_whose_bell_was_lost(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.probe.ask("DEL", bench.keys.bell)
    agent = bench.agent()
    assert await agent.claim(1, block_ms=1) == []
    await bench.store.workers.put(bench.endpoint_id, "a1", managed=False)
    await bench.store.workers.report(bench.endpoint_id, "a1", WorkerStatus.RUNNING, running_tasks=0, address="x:1")
    assert [entry.task_id for entry in await agent.claim(1, block_ms=1)] == ["t1"]
    await bench.store.workers.remove(bench.endpoint_id, "a1")


@asynccontextmanager
async def _reporting(bench: Bench, queue: TaskQueue) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Register the worker of an agent, and return a function that sends a report of it."""
    record = StoreWorkerRecord(bench.store.workers, endpoint_id=bench.endpoint_id, worker_id="a1", queue=queue)
    await record.register()
    yield partial(record.report, WorkerStatus.RUNNING, running_tasks=0, address="x:1", reason="", error="")
    await record.remove()


async def test_an_idle_agent_claims_without_a_bell_when_its_report_finds_a_task(bench: Bench) -> None:
    """Two clients that have waited for longer hear the bell of the submission and that of the report, and die."""
    queue = bench.agent()
    async with _reporting(bench, queue) as report:
        dead = [asyncio.create_task(bench.probe.ask("BLPOP", bench.keys.bell, 60)) for _ in range(2)]
        await blocked(bench, 2)
        source = StoreTaskSource(queue, is_reported=True)
        claiming = asyncio.create_task(source.claim(1))
        await blocked(bench, 3)
        await bench.submit("t1")
        await blocked(bench, 2)
        await report()
        assert len(await asyncio.wait_for(claiming, IDLE_BLOCK_MS / 1000 / 2)) == 1
        await asyncio.gather(*dead)


@pytest.mark.parametrize("change", ["none", "queued", "paused", "limited"])
async def test_a_report_tells_whether_tasks_are_queued_and_may_be_claimed(bench: Bench, change: str) -> None:
    found: list[tuple[bool, bool]] = []

    def seen(has_queued: bool, is_open: bool) -> None:
        found.append((has_queued, is_open))

    if change != "none":
        await bench.submit("t1")
    if change == "paused":
        await bench.store.endpoints.set_paused(bench.endpoint_id, TENANT, paused=True)
    if change == "limited":
        limit = RateLimit(1.0, 1)
        await bench.store.endpoints.update(bench.endpoint_id, TENANT, lambda config: replace(config, rate_limit=limit))
    workers = bench.store.workers
    await workers.put(bench.endpoint_id, "a1", managed=False)
    await workers.report(bench.endpoint_id, "a1", WorkerStatus.RUNNING, running_tasks=0, address="x:1", seen=seen)
    await workers.remove(bench.endpoint_id, "a1")
    assert found == [(change != "none", change == "queued")]


async def test_an_idle_agent_looks_for_abandoned_entries_only_after_a_report_has_found_tasks(bench: Bench) -> None:
    async def scripts() -> int:
        return int((await bench.probe.redis.info("commandstats"))["cmdstat_evalsha"]["calls"])

    heir = bench.agent()
    async with _reporting(bench, heir) as report:
        assert await heir.claim_abandoned(1, idle_ms=0) == []  # looks for itself once a minute
        await report()
        before = await scripts()
        assert await heir.claim_abandoned(1, idle_ms=3_600_000) == []
        assert await scripts() == before
        await bench.submit("t1")
        await bench.agent("dead").claim(1, block_ms=1)
        await report()
        assert [entry.task_id for entry in await heir.claim_abandoned(1, idle_ms=0)] == ["t1"]


async def test_a_claim_does_not_return_what_the_agent_has_taken_over(bench: Bench) -> None:
    await bench.submit("t1")
    assert len(await bench.agent("dead").claim(1, block_ms=1)) == 1
    heir = bench.agent("heir")
    assert [entry.task_id for entry in await heir.claim_abandoned(1, idle_ms=0)] == ["t1"]
    await bench.submit("t2")
    assert [entry.task_id for entry in await heir.claim(10, block_ms=1)] == ["t2"]


async def test_an_idle_agent_calls_no_script_until_the_bell_rings(bench: Bench) -> None:
    agent = bench.agent()
    await bench.probe.ask("CONFIG", "RESETSTAT")
    for _ in range(3):
        assert await agent.claim(1, block_ms=1) == []
    assert "cmdstat_evalsha" not in await bench.probe.redis.info("commandstats")
    claiming = asyncio.create_task(agent.claim(1, block_ms=LONG_BLOCK_MS))
    await blocked(bench)
    await bench.submit("t1")
    assert [entry.task_id for entry in await asyncio.wait_for(claiming, LONG_BLOCK_MS / 1000 / 2)] == ["t1"]


async def test_after_a_missing_script_the_agent_claims_without_a_bell(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    await bench.probe.ask("SCRIPT", "FLUSH")
    assert [entry.task_id for entry in await agent.claim(1, block_ms=LONG_BLOCK_MS)] == ["t1"]


async def test_an_agent_whose_user_has_the_rules_of_an_earlier_version_works_without_bells(
    store_server: StoreServer, store: Store, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await store.prepare()
    group = "(+blpop +llen +rpush +del ~{p??}:q:*:bell) "
    before_bells = rules_of(AGENT).replace(group, "").replace(" ~{p??}:q:*:bell", "")
    earlier = re.sub(r"\([^()]* ~\{p\?\?\}:q:\*:(turn|lane|lanes|ring:\*|parked)\) ", "", before_bells)
    assert "lane" in before_bells.replace(earlier, "")
    assert group in rules_of(AGENT)
    assert "bell" not in earlier
    words = earlier.split()
    assert store_server.command("ACL", "SETUSER", "earlier", "reset", "on", ">secret", *words) == "+OK"
    url = store_server.url.replace("redis://", "redis://earlier:secret@")
    of_agent = Store(url, Sealer(SECRET_KEY), partitions=store.partitions.count, is_agent=True)
    try:
        agent = of_agent.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)
        assert await agent.claim(1, block_ms=1) == []
        await bench.submit("t1")
        (entry,) = await agent.claim(2, block_ms=1)
        assert [one.message for one in caplog.records if "right" in one.message]
        await agent.put_back(entry)
        (entry,) = await agent.claim(2, block_ms=1)
        started = await agent.start(entry, address="x:1")
        assert started is not None
        assert await agent.release(started.lease) == "OK"
        await bench.submit("urgent", priority=Priority.HIGH)
        assert [one.task_id for one in await agent.claim(2, block_ms=1)] == ["t1"]
    finally:
        await of_agent.close()
        store_server.command("ACL", "DELUSER", "earlier")


async def test_only_the_entry_of_a_task_that_is_run_again_has_a_place(bench: Bench) -> None:
    for number in range(3):
        await bench.submit(f"t{number}")
    await bench.agent("other").claim(10, block_ms=1)
    await bench.finish("t3")
    await bench.store.tasks.rerun(bench.endpoint_id, "t3", "call")
    entries = list((await bench.probe.stream(bench.keys.queue)).values())
    assert entries[-1] == {"t": "t3", "n": "4"}  # the latest place, because a place of its own would be before others
    assert all("n" not in fields for fields in entries[:-1])
