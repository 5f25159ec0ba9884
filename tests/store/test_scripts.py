"""Concurrent script calls share a round trip, and each call gets its own reply or error."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.attempts import Renewal
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import Succeeded, TaskState, TryAgain
from queue_engine.observability import metrics
from queue_engine.store.endpoints import StateChange
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.queue import TaskQueue
from queue_engine.store.redis.client import store_errors
from queue_engine.store.script_runner import MAX_BATCH
from queue_engine.store.scripts import load_scripts
from queue_engine.store.store import Store
from queue_engine.store.tasks import Cancellation, Deletion, Rerun, Submission
from tests.store.bench import DELIVERED, LONG_LEASE_MS, TENANT, TICK_MS, Bench, answer, spec
from tests.store.proxy import LossyProxy
from tests.waiting import wait_until_async

EVERYTHING = 1_000_000


NEW_WORK = {
    *("enqueue", "rerun", "create_endpoint", "note_endpoint", "update_endpoint", "append_logs"),
    *("create_credential", "update_credential", "use_credential", "take_submit"),
    *("retry_delivery", "start_recovery", "recover_delivery", "rotate_signing_secret"),
    *("create_operation", "rerun_in_operation", "redeliver_in_operation"),
    *("write_sample", "write_tenant_sample"),
}
"""Scripts that add new data, or figures. All others let existing work end."""


DURABLE = {
    *("enqueue", "finish", "retry", "cancel", "rerun", "delete_task", "settle_delivery", "settle_event", "mark"),
    *("create_endpoint", "note_endpoint", "update_endpoint", "set_desired_state", "set_paused", "stop_worker"),
    *("create_credential", "update_credential", "delete_credential"),
    *("put_api_key", "create_api_key", "rotate_api_key", "revoke_api_key"),
    *("create_agent_token", "revoke_agent_token"),
    *("append_audit", "create_tenant", "set_tenant_limits"),
    *("retry_delivery", "start_recovery", "cancel_recovery", "rotate_signing_secret"),
    *("create_operation", "end_operation"),
}
"""Scripts whose replies promise that their writes are kept. Lost writes of all others are detected and repeated."""


def test_only_what_brings_new_data_is_refused_at_maxmemory() -> None:
    scripts = load_scripts().items()
    refused = {name for name, script in scripts if "allow-oom" not in script.text.partition("\n")[0]}
    assert refused == NEW_WORK


def test_only_what_makes_a_promise_waits_for_durability() -> None:
    assert {name for name, script in load_scripts().items() if script.is_durable} == DURABLE


async def test_the_server_can_run_every_script(store: Store) -> None:
    for script in load_scripts().values():
        assert await store.redis.script_load(script.text) == script.sha


async def test_calls_of_a_renamed_script_are_counted_under_its_released_label(bench: Bench) -> None:
    def counted(op: str) -> float:
        [family] = metrics.redis_command_duration.collect()
        return float(sum(one.value for one in family.samples if one.name.endswith("_count") and one.labels["op"] == op))

    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    before = counted("beat")
    await agent.renew([started.lease])
    assert counted("beat") == before + 1
    assert counted("renew") == 0


async def test_calls_that_come_at_once_get_their_own_replies(bench: Bench) -> None:
    count = 3 * MAX_BATCH + 7
    submitted = await asyncio.gather(*(bench.submit(f"t{number}", input=b"%d" % number) for number in range(count)))
    assert set(submitted) == {Submission.ACCEPTED}
    tasks = await asyncio.gather(*(bench.task(f"t{number}") for number in range(count)))
    assert [task.input for task in tasks] == [b"%d" % number for number in range(count)]


async def test_calls_that_come_at_once_share_round_trips(bench: Bench) -> None:
    await bench.submit("t0")
    before = await _socket_reads(bench)
    await asyncio.gather(*(bench.submit(f"t{number}") for number in range(MAX_BATCH)))
    assert await _socket_reads(bench) - before < MAX_BATCH / 4


async def test_calls_are_carried_out_in_the_order_they_came(bench: Bench) -> None:
    await asyncio.gather(*(bench.submit(f"t{number}") for number in range(300)))
    queue = await bench.probe.stream(bench.keys.queue)
    assert [fields["t"] for fields in queue.values()] == [f"t{number}" for number in range(300)]


async def test_an_error_in_one_call_disturbs_no_other(bench: Bench) -> None:
    await bench.probe.ask("LPUSH", bench.keys.body("broken"), "no string")
    await bench.probe.ask("HSET", bench.keys.task("broken"), "state", "queued", "spec", 1)
    await bench.submit("fine")
    calls = [bench.store.tasks.get(bench.endpoint_id, name) for name in ("fine", "broken", "nobody", "fine")]
    first, broken, nobody, last = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(broken, ResponseError)
    assert "WRONGTYPE" in str(broken)
    assert nobody is None
    assert first == last == await bench.task("fine")
    await bench.probe.ask("DEL", bench.keys.body("broken"), bench.keys.task("broken"))


async def test_a_call_alone_raises_its_own_error(bench: Bench) -> None:
    await bench.probe.ask("SET", bench.keys.task("broken"), "no hash")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await bench.store.tasks.get(bench.endpoint_id, "broken")
    await bench.probe.ask("DEL", bench.keys.task("broken"))


async def test_a_caller_that_gives_up_disturbs_no_other(bench: Bench) -> None:
    calls = [asyncio.create_task(bench.submit(f"t{number}")) for number in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results.pop(3), asyncio.CancelledError)
    assert set(results) == {Submission.ACCEPTED}


async def test_scripts_that_the_store_has_forgotten_are_loaded_again(bench: Bench) -> None:
    for task_id in ("t1", "t2", "t3"):
        await bench.probe.ask("SCRIPT", "FLUSH")
        assert (await bench.finish(task_id)).state is TaskState.SUCCEEDED


async def test_an_agent_waits_for_its_scripts_and_the_engine_loads_them_with_its_own(
    store: Store, bench: Bench
) -> None:
    of_agent = Store(store.url, Sealer(None), partitions=store.partitions.count, is_agent=True)
    agent = of_agent.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)
    await bench.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    await bench.submit("t2")
    await bench.probe.ask("SCRIPT", "FLUSH")
    with pytest.raises(StoreUnavailable, match="does not know the scripts of this version"):
        async with store_errors():
            await agent.claim(1, block_ms=1)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="does not know the scripts of this version"):
            async with store_errors():
                await agent.start(entry, address="127.0.0.1:9000")
    await bench.sweep()  # calls scripts that no agent calls
    started = await agent.start(entry, address="127.0.0.1:9000")
    assert started is not None
    assert [one.task_id for one in await agent.claim(1, block_ms=1)] == ["t2"]
    await bench.probe.ask("SCRIPT", "FLUSH")
    await store.prepare()
    assert (await agent.settle(started.lease, Succeeded(b"1"))).word == "OK"
    await of_agent.close()


def test_scripts_of_two_versions_have_different_hashes() -> None:
    """Otherwise a server that has got a script from another version would not get the agents' scripts of this one."""
    (digest,) = {script.text.splitlines()[-1] for script in load_scripts().values()}
    assert re.fullmatch("-- [0-9a-f]{40}", digest)


async def test_scripts_forgotten_in_the_middle_of_a_batch_are_loaded_again(bench: Bench) -> None:
    await bench.finish("t0")
    await bench.probe.ask("SCRIPT", "FLUSH")
    await bench.store.tasks.get(bench.endpoint_id, "t0")  # one of them is known again

    submits = [bench.submit(f"t{number}") for number in range(20)]
    reads = [bench.store.tasks.get(bench.endpoint_id, "t0") for _ in range(20)]
    results = await asyncio.gather(*submits, *reads)

    assert results[:20] == [Submission.DUPLICATE, *[Submission.ACCEPTED] * 19]
    assert results[20:] == [await bench.task("t0")] * 20


# Lost replies


@pytest.fixture
async def proxy(store: Store) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(store.url) as opened:
        yield opened


@pytest.fixture
async def far(proxy: LossyProxy, sealer: Sealer, bench: Bench) -> AsyncIterator[Bench]:
    """The same endpoint, over a connection that loses replies on demand."""
    store = Store(proxy.url, sealer, partitions=bench.store.partitions.count)
    yield Bench(store, bench.endpoint_id, bench.probe, bench.endpoint_ids)
    proxy.replies_to_lose = 0
    await store.close()


@pytest.fixture
async def far_agent(proxy: LossyProxy, sealer: Sealer, bench: Bench) -> AsyncIterator[TaskQueue]:
    """An agent of the same endpoint, over a connection that loses replies on demand."""
    store = Store(proxy.url, sealer, partitions=bench.store.partitions.count, is_agent=True)
    yield store.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=LONG_LEASE_MS)
    proxy.replies_to_lose = 0
    await store.close()


async def test_a_claim_whose_reply_was_lost_returns_the_entries_that_it_claimed(
    bench: Bench, far_agent: TaskQueue, proxy: LossyProxy
) -> None:
    for number in range(9):
        await bench.submit(f"t{number}")
    assert len(await far_agent.claim(1, block_ms=1)) == 1  # by a blocking read
    assert len(await far_agent.claim(2, block_ms=1)) == 2  # by the script, which is known now
    proxy.replies_to_lose = 1
    claimed = await far_agent.claim(3, block_ms=1)
    assert proxy.lost == 1
    assert [entry.task_id for entry in claimed] == ["t3", "t4", "t5"]
    assert len(await far_agent.unstarted()) == 6


async def test_a_blocking_read_whose_reply_was_lost_returns_the_entries_that_it_claimed(
    bench: Bench, far_agent: TaskQueue, proxy: LossyProxy
) -> None:
    assert await far_agent.claim(1, block_ms=1) == []
    for number in range(9):
        await bench.submit(f"t{number}")
    proxy.replies_to_lose = 1
    claimed = await far_agent.claim(3, block_ms=1)
    assert proxy.lost == 1
    assert [entry.task_id for entry in claimed] == ["t0", "t1", "t2"]
    assert len(await far_agent.unstarted()) == 3


async def test_a_claim_while_every_reply_is_lost_costs_no_entry(
    bench: Bench, far_agent: TaskQueue, proxy: LossyProxy
) -> None:
    for number in range(9):
        await bench.submit(f"t{number}")
    assert len(await far_agent.claim(1, block_ms=1)) == 1
    proxy.replies_to_lose = EVERYTHING
    with pytest.raises(RedisConnectionError):
        await far_agent.claim(3, block_ms=1)
    proxy.replies_to_lose = 0
    assert [entry.task_id for entry in await far_agent.claim(3, block_ms=1)] == ["t1", "t2", "t3"]


@pytest.mark.parametrize("losses", [1, 2])
async def test_a_task_goes_its_whole_way_although_replies_are_lost(far: Bench, proxy: LossyProxy, losses: int) -> None:
    agent, outbox = far.agent(), await far.outbox()
    assert await far.store.tasks.counts(far.endpoint_id) is not None  # connected

    proxy.replies_to_lose = losses
    assert await far.submit("t1", spec=spec(webhook=True)) in (Submission.ACCEPTED, Submission.DUPLICATE)
    (entry,) = await agent.claim(1, block_ms=1)

    proxy.replies_to_lose = losses
    started = await agent.start(entry, address="x:1")
    assert started is not None
    assert started.attempt == 1

    proxy.replies_to_lose = losses
    assert (await far.settle(agent, started, TryAgain("busy", 60.0))).word in ("OK", "ALREADY")
    await far.make_due("t1")
    await far.steady()
    proxy.replies_to_lose = losses
    await far.sweep_as_it_is()
    started = await far.start(agent)
    assert started.attempt == 2

    proxy.replies_to_lose = losses
    assert await agent.release(started.lease) in ("OK", "ALREADY")
    started = await far.start(agent)
    assert started.attempt == 2

    proxy.replies_to_lose = losses
    assert (await far.settle(agent, started, Succeeded(b"1"))).word in ("OK", "ALREADY")

    (delivery,) = await outbox.read(10, block_ms=1)
    proxy.replies_to_lose = losses
    assert await outbox.open(delivery) is not None
    proxy.replies_to_lose = losses
    await outbox.settle(delivery, answer(), DELIVERED, at_ms=1)
    task = await far.task("t1")
    assert (task.status, task.delivery_attempts) == ("DELIVERED", 1)

    proxy.replies_to_lose = 1
    await far.purge()
    assert proxy.lost == 8 * losses + 1
    assert (await far.store.tasks.counts(far.endpoint_id)).total == 0


async def test_orders_for_a_task_are_carried_out_once_although_replies_are_lost(far: Bench, proxy: LossyProxy) -> None:
    agent, tasks = far.agent(), far.store.tasks
    for script in load_scripts().values():  # so that the lost reply is the script's
        await far.probe.ask("SCRIPT", "LOAD", script.text)
    started = await far.submit_and_start("t1", agent, spec=spec(webhook=True), queue_ttl_seconds=30)

    proxy.replies_to_lose = 1
    assert await tasks.cancel(far.endpoint_id, "t1") is Cancellation.REQUESTED
    proxy.replies_to_lose = 1
    assert await agent.renew([started.lease]) == [Renewal.CANCEL]
    proxy.replies_to_lose = 1
    assert (await far.settle(agent, started, TryAgain("busy", 60))).word == "ALREADY"
    assert (await far.task("t1")).state is TaskState.CANCELLED

    proxy.replies_to_lose = 1
    assert await tasks.rerun(far.endpoint_id, "t1", "call") is Rerun.DUPLICATE
    task = await far.task("t1")
    assert (task.state, task.runs) == (TaskState.QUEUED, 2)
    proxy.replies_to_lose = 1
    assert await tasks.cancel(far.endpoint_id, "t1") is Cancellation.CANCELLED
    assert (await far.task("t1")).state is TaskState.CANCELLED

    await far.submit("t2", queue_ttl_seconds=30)
    await far.pass_deadline("t2")
    await far.steady()
    proxy.replies_to_lose = 1
    await far.sweep_as_it_is()
    assert (await far.task("t2")).state is TaskState.EXPIRED

    proxy.replies_to_lose = 1
    assert await tasks.delete(far.endpoint_id, "t1") is Deletion.NOT_FOUND
    assert proxy.lost == 7
    counts = await tasks.counts(far.endpoint_id)
    assert (counts.failed, counts.total) == (1, 1)


async def test_an_order_for_an_endpoint_is_a_change_although_its_reply_is_lost(far: Bench, proxy: LossyProxy) -> None:
    """An audit record is written for a change only, so the repeated call must not find that nothing has changed."""
    for script in load_scripts().values():  # so that the lost reply is the script's
        await far.probe.ask("SCRIPT", "LOAD", script.text)
    for desired in (DesiredState.STOPPED, DesiredState.RUNNING, DesiredState.DELETED):
        proxy.replies_to_lose = 1
        found = await far.store.endpoints.set_desired_state(far.endpoint_id, TENANT, desired)
        assert found is StateChange.OK
    assert proxy.lost == 3


async def test_a_batch_whose_replies_are_lost_is_carried_out_once(far: Bench, proxy: LossyProxy) -> None:
    await far.submit("t0")
    proxy.replies_to_lose = 1
    submissions = await asyncio.gather(*(far.submit(f"t{number}") for number in range(50)))
    assert set(submissions) <= {Submission.ACCEPTED, Submission.DUPLICATE}
    assert (await far.store.tasks.counts(far.endpoint_id)).queued == 50


async def test_when_every_reply_is_lost_the_store_is_unavailable_and_the_call_may_be_repeated(
    far: Bench, proxy: LossyProxy
) -> None:
    agent = far.agent()
    await far.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    proxy.replies_to_lose = EVERYTHING
    with pytest.raises(RedisConnectionError):
        await agent.start(entry, address="x:1")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        async with store_errors():
            await far.submit("t2")

    proxy.replies_to_lose = 0

    started = await agent.start(entry, address="x:1")
    assert started is not None
    assert (started.attempt, started.lease.task_id) == (1, "t1")
    assert await far.submit("t2") in (Submission.ACCEPTED, Submission.DUPLICATE)


async def test_entries_whose_reply_was_lost_come_back_to_the_agent(far: Bench, proxy: LossyProxy) -> None:
    agent = far.agent()
    assert await agent.claim(1, block_ms=1) == []
    await far.submit("t1")
    proxy.replies_to_lose = 1
    (entry,) = await agent.claim(1, block_ms=1)
    assert proxy.replies_to_lose == 0
    assert [one.task_id for one in await agent.unstarted()] == [entry.task_id] == ["t1"]
    assert await agent.start(entry, address="x:1") is not None


async def test_deliveries_whose_reply_was_lost_come_back_to_the_living_process(far: Bench, proxy: LossyProxy) -> None:
    outbox = await far.outbox()
    assert await outbox.read(10, block_ms=1) == []
    for task_id in ("t1", "t2"):
        await far.finish(task_id, webhook=True)
    proxy.replies_to_lose = 1
    assert await outbox.read(1, block_ms=1) != await outbox.read(1, block_ms=1)  # a reply with one of the two was lost

    async def is_back() -> list[OutboxEntry]:
        return await outbox.adopt(tick_ms=TICK_MS, lease_ms=50)

    (entry,) = await wait_until_async(is_back)
    assert await outbox.adopt(tick_ms=TICK_MS, lease_ms=0) == []
    assert await outbox.open(entry) is not None
    assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted


async def test_deliveries_that_were_adopted_in_a_lost_reply_are_adopted_again(far: Bench, proxy: LossyProxy) -> None:
    dead, heir = await far.outbox("dead"), await far.outbox("heir")
    await far.finish("t1", webhook=True)
    assert len(await dead.read(10, block_ms=1)) == 1
    await far.probe.ask("ZADD", far.partition.senders, 1, "dead")
    await far.steady()
    proxy.replies_to_lose = 1
    assert await heir.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS) == []

    async def is_back() -> list[OutboxEntry]:
        return await heir.adopt(tick_ms=TICK_MS, lease_ms=50)

    assert len(await wait_until_async(is_back)) == 1


async def _socket_reads(bench: Bench) -> int:
    return int((await bench.probe.redis.info("stats"))["total_reads_processed"])
