"""A paused queue: no agent claims its tasks, everything else goes on, and agents wake when it is resumed."""

import asyncio

import pytest

from queue_engine.domain.endpoints import DesiredState, Endpoint
from queue_engine.domain.tasks import Succeeded, TaskState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.endpoints import StateChange
from queue_engine.store.tasks import Submission
from tests.store.bench import TENANT, Bench, config
from tests.waiting import wait_until_async

LONG_BLOCK_MS = 3_000


async def pause(bench: Bench) -> StateChange:
    return await bench.store.endpoints.set_paused(bench.endpoint_id, TENANT, paused=True)


async def resume(bench: Bench) -> StateChange:
    return await bench.store.endpoints.set_paused(bench.endpoint_id, TENANT, paused=False)


async def test_a_paused_queue_accepts_tasks_and_no_agent_claims_them(bench: Bench) -> None:
    recent = bench.agent("recent")
    await bench.submit("t0")
    (entry,) = await recent.claim(1, block_ms=1)
    assert await pause(bench) is StateChange.OK

    assert await bench.submit("t1") is Submission.ACCEPTED
    for agent in (recent, recent, bench.agent("idle")):
        assert await agent.claim(5, block_ms=1) in ([], [entry])
    assert (await bench.store.tasks.counts(bench.endpoint_id)).queued == 2

    assert await resume(bench) is StateChange.OK
    assert [one.task_id for one in await bench.agent("idle").claim(5, block_ms=1)] == ["t1"]


async def test_what_was_claimed_before_the_pause_begins_and_ends(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    await pause(bench)
    started = await agent.start(entry, address="x:1")
    assert started is not None
    assert (await agent.settle(started.lease, Succeeded(b"1"))).word == "OK"


async def test_entries_of_a_dead_agent_are_not_taken_over_while_the_queue_is_paused(bench: Bench) -> None:
    await bench.submit("t1")
    await bench.agent("dead").claim(1, block_ms=1)
    await pause(bench)
    heir = bench.agent("heir")
    assert await heir.claim_abandoned(10, idle_ms=0) == []
    await resume(bench)
    assert [one.task_id for one in await heir.claim_abandoned(10, idle_ms=0)] == ["t1"]


async def test_the_limit_of_the_queue_delays_and_queue_ttls_hold_during_a_pause(bench: Bench) -> None:
    await bench.store.endpoints.update(bench.endpoint_id, TENANT, lambda _: config(max_queued_tasks=2))
    await pause(bench)
    assert await bench.submit("t1", queue_ttl_seconds=60) is Submission.ACCEPTED
    assert await bench.submit("t2", delay_seconds=60) is Submission.ACCEPTED
    assert await bench.submit("t3") is Submission.FULL
    await bench.pass_deadline("t1")
    await bench.make_due("t2")
    swept = await bench.sweep()
    assert (swept.expired, swept.promoted) == (1, 1)
    assert [(await bench.task(name)).state for name in ("t1", "t2")] == [TaskState.EXPIRED, TaskState.QUEUED]
    agent = bench.agent()
    assert await agent.claim(1, block_ms=1) == []
    await resume(bench)
    assert [one.task_id for one in await agent.claim(1, block_ms=1)] == ["t2"]


async def test_an_endpoint_that_is_stopped_or_has_failed_can_be_paused(bench: Bench) -> None:
    await bench.store.endpoints.set_failed(bench.endpoint_id, True)
    assert [await pause(bench), await resume(bench)] == [StateChange.OK] * 2
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert [await pause(bench), await resume(bench)] == [StateChange.OK] * 2


async def test_waiting_agents_claim_at_once_when_the_queue_is_resumed(bench: Bench) -> None:
    agent = bench.agent()
    await pause(bench)
    await bench.submit("t1")
    assert await agent.claim(1, block_ms=1) == []
    claiming = asyncio.create_task(agent.claim(1, block_ms=LONG_BLOCK_MS))

    async def is_blocked() -> bool:
        return int((await bench.probe.redis.info("clients"))["blocked_clients"]) == 1

    await wait_until_async(is_blocked)
    await resume(bench)
    assert [one.task_id for one in await asyncio.wait_for(claiming, LONG_BLOCK_MS / 1000 / 2)] == ["t1"]


async def test_a_report_does_not_ring_while_the_queue_is_paused(bench: Bench) -> None:
    await bench.submit("t1")
    await pause(bench)
    await bench.probe.ask("DEL", bench.keys.bell)
    await bench.store.workers.put(bench.endpoint_id, "a1", managed=False)
    await bench.store.workers.report(bench.endpoint_id, "a1", WorkerStatus.RUNNING, running_tasks=0, address="x:1")
    assert await bench.probe.ask("LLEN", bench.keys.bell) == 0
    await bench.store.workers.remove(bench.endpoint_id, "a1")
    await resume(bench)


async def test_pause_and_resume_may_be_repeated(bench: Bench) -> None:
    version = (await _endpoint(bench)).version
    assert [await pause(bench), await pause(bench)] == [StateChange.OK, StateChange.UNCHANGED]
    assert (await _endpoint(bench)).paused
    assert [await resume(bench), await resume(bench)] == [StateChange.OK, StateChange.UNCHANGED]
    assert not (await _endpoint(bench)).paused
    assert (await _endpoint(bench)).version == version + 2
    assert await bench.store.endpoints.set_paused(bench.endpoint_id, "other", paused=True) is StateChange.NOT_FOUND
    assert await bench.store.endpoints.set_paused("99", TENANT, paused=True) is StateChange.NOT_FOUND


@pytest.mark.parametrize("is_paused", [False, True])
async def test_the_age_of_a_paused_queue_is_not_measured(bench: Bench, is_paused: bool) -> None:
    await bench.submit("t1")
    if is_paused:
        await pause(bench)
    (found,) = [one async for one in bench.store.sweeper.waiting()]
    assert (found.depth, found.should_work, found.oldest_ms is None) == (1, not is_paused, is_paused)


async def test_a_worker_is_outdated_until_an_agent_of_this_version_reports(bench: Bench) -> None:
    workers = bench.store.workers
    await workers.put(bench.endpoint_id, "a1", managed=False)
    await workers.report(bench.endpoint_id, "a1", WorkerStatus.RUNNING, running_tasks=0, address="x:1")
    assert [one.is_outdated for one in await workers.of_endpoint(bench.endpoint_id)] == [False]
    await bench.probe.ask("HDEL", bench.keys.of_worker("a1").worker, "protocol")
    assert [one.is_outdated for one in await workers.of_endpoint(bench.endpoint_id)] == [True]
    await workers.remove(bench.endpoint_id, "a1")


async def _endpoint(bench: Bench) -> Endpoint:
    found = await bench.store.endpoints.get(bench.endpoint_id, TENANT)
    assert found is not None
    return found
