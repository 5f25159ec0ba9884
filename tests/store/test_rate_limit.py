"""The rate limit of an endpoint: attempts begin as a token bucket allows, whichever agents begin them."""

import asyncio
import random
import time
from dataclasses import replace

import pytest

from queue_engine.domain.endpoints import RateLimit
from queue_engine.domain.tasks import Cost, TryAgain
from queue_engine.store.endpoints import Updated
from queue_engine.store.queue import TaskQueue
from tests.store.bench import TENANT, Bench

SLOW = RateLimit(0.001, 4)
"""A limit by which no token is added during a test."""


async def limit(bench: Bench, rate_limit: RateLimit | None) -> Updated:
    updated = await bench.store.endpoints.update(
        bench.endpoint_id, TENANT, lambda config: replace(config, rate_limit=rate_limit)
    )
    assert updated is not None
    return updated


async def claimed(agent: TaskQueue, number: int = 10) -> int:
    return len(await agent.claim(number, block_ms=1))


async def age(bench: Bench, seconds: float) -> None:
    """Let the bucket get the tokens of this time."""
    tokens, at = (await bench.probe.hash(bench.keys.counts))["starts"].split()
    await bench.probe.ask("HSET", bench.keys.counts, "starts", f"{tokens} {int(at) - int(seconds * 1_000_000)}")


async def test_the_limit_is_kept_and_null_clears_it(bench: Bench) -> None:
    assert (await limit(bench, RateLimit(0.25, 3))).endpoint.config.rate_limit == RateLimit(0.25, 3)
    assert (await limit(bench, None)).endpoint.config.rate_limit is None


async def test_a_full_bucket_lets_the_burst_begin_and_no_more(bench: Bench) -> None:
    await limit(bench, SLOW)
    for number in range(6):
        await bench.submit(f"t{number}")
    assert [await claimed(bench.agent(f"a{number}"), 3) for number in range(3)] == [3, 1, 0]
    await limit(bench, None)
    assert await claimed(bench.agent("a9")) == 2


@pytest.mark.parametrize("seed", range(8))
async def test_attempts_begin_as_a_model_bucket_allows(bench: Bench, seed: int) -> None:
    """Random agents claim random numbers of tasks at random times. The bucket's time is changed in place of waiting."""
    chance = random.Random(seed)
    rate = RateLimit(0.01, chance.randint(1, 6))
    await limit(bench, rate)
    for number in range(60):
        await bench.submit(f"t{number}")
    tokens, begun = float(rate.burst), 0
    for step in range(25):
        agent = bench.agent(f"{chance.randint(1, 3)}-{step}")
        wanted = chance.randint(1, 4)
        await bench.probe.ask("RPUSH", bench.keys.bell, "1")  # none rings when the bucket has a token again
        entries = await agent.claim(wanted, block_ms=1)
        # Half a token is between the numbers that make a difference, so that the time of the test itself makes none.
        expected = min(wanted, int(tokens + 0.25))
        assert len(entries) == expected
        back = [entry for entry in entries if chance.random() < 0.2]
        for entry in entries:
            if entry in back:
                await agent.put_back(entry)
            else:
                assert await agent.start(entry, address="x:1") is not None
                begun += 1
        pause = chance.choice((0, 100, 200, 400))
        tokens = min(rate.burst, min(rate.burst, tokens - expected + len(back)) + pause * rate.per_second)
        await age(bench, pause)
    assert begun > rate.burst


async def test_a_retry_takes_a_token_too(bench: Bench) -> None:
    await limit(bench, RateLimit(0.001, 2))
    agent = bench.agent()
    for _ in range(2):
        started = await (bench.start(agent) if _ else bench.submit_and_start("t1", agent))
        await agent.settle(started.lease, TryAgain("loading", 0, cost=Cost.NOTHING))
    assert await claimed(agent) == 0


async def test_an_entry_that_is_put_back_gives_its_token_back(bench: Bench) -> None:
    await limit(bench, RateLimit(0.001, 1))
    await bench.submit("t1")
    agent = bench.agent()
    (entry,) = await agent.claim(1, block_ms=1)
    await agent.put_back(entry)
    await agent.put_back(entry)
    assert [await claimed(bench.agent("a2")), await claimed(bench.agent("a3"))] == [1, 0]


async def test_an_entry_that_is_taken_over_takes_a_token_again(bench: Bench) -> None:
    await limit(bench, RateLimit(0.001, 3))
    for number in range(2):
        await bench.submit(f"t{number}")
    assert await claimed(bench.agent("dead")) == 2
    heir = bench.agent("heir")
    assert len(await heir.claim_abandoned(10, idle_ms=0)) == 1
    assert await heir.claim_abandoned(10, idle_ms=0) == []


async def test_one_of_the_agents_that_find_the_bucket_empty_looks_again_when_it_has_a_token(bench: Bench) -> None:
    await limit(bench, RateLimit(20, 1))
    for number in range(8):
        await bench.submit(f"t{number}")
    agents = [
        bench.store.queue(endpoint_id=bench.endpoint_id, worker_id=f"a{number}", lease_ms=60_000, is_served=True)
        for number in range(4)
    ]
    found: list[str] = []
    began = time.monotonic()

    async def work(agent: TaskQueue) -> None:
        while len(found) < 8:
            found.extend(entry.task_id for entry in await agent.claim(1, block_ms=100))

    await bench.probe.ask("CONFIG", "RESETSTAT")
    await asyncio.gather(*map(work, agents))
    passed = time.monotonic() - began
    assert sorted(found) == [f"t{number}" for number in range(8)]
    assert passed >= 7 / 20
    calls = (await bench.probe.redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    assert calls <= 12 * 8 + passed * 10 * 4


async def test_a_higher_limit_wakes_waiting_agents(bench: Bench) -> None:
    await limit(bench, RateLimit(0.01, 1))
    for number in range(3):
        await bench.submit(f"t{number}")
    agent = bench.agent()
    assert [await claimed(agent), await claimed(agent)] == [1, 0]
    await limit(bench, RateLimit(100, 5))
    assert await bench.probe.ask("LLEN", bench.keys.bell) == 1
