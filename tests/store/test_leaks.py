"""After all tasks were removed, only keys of the endpoint and its partition are left."""

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.domain.tasks import Failed, Priority, Succeeded, TryAgain
from queue_engine.store.api_keys import hash_of
from queue_engine.store.keys import console_link, console_links_of, endpoint_names_of, endpoints_of
from queue_engine.store.queue import TaskQueue
from tests.store.bench import GIVEN_UP, TENANT, Bench, again, spec


async def test_only_the_keys_of_the_endpoint_are_left_without_tasks(bench: Bench) -> None:
    await _live_through_everything(bench)
    assert await bench.purge() == 12

    keys, partition = bench.keys, bench.partition
    assert {name for name in await bench.probe.keys() if name.startswith(partition.tag)} == {
        partition.endpoints,
        partition.due_purges,
        partition.due_checks,
        partition.waiting_endpoints,
        partition.counts,
        partition.ticks,
        partition.outbox,
        partition.senders,
        keys.endpoint,
        keys.queue,
        keys.retry_queue,
        keys.turn,
        keys.lanes,
        keys.bell,
        keys.counts,
        keys.created,
        keys.finished("SUCCESS"),
        keys.finished("DELIVERED"),
        keys.finished("FAILED"),
    }
    for stream in (keys.queue, keys.retry_queue, keys.turn, keys.created, partition.outbox):
        assert await bench.probe.stream(stream) == {}
    assert set(await bench.probe.hash(keys.lanes)) == {"n", "turn"}
    others = {name for name in await bench.probe.keys() if not name.startswith(partition.tag)}
    per_partition = {
        key for other in bench.store.partitions.all() for key in (other.outbox, other.senders, other.ticks)
    }
    assert others - per_partition == {"{qe}:endpoint-ids", endpoints_of(TENANT), endpoint_names_of(TENANT)}


async def test_the_counts_are_zero_without_tasks(bench: Bench) -> None:
    await _live_through_everything(bench)
    await bench.purge()
    counts = await bench.probe.hash(bench.keys.counts)
    assert {name: number for name, number in counts.items() if number != "0" and name.count(":") < 2} == {
        "seq:all": "13", "seq:success": "8", "seq:delivered": "2", "seq:failed": "7", "counted_from": "1",
        "sampled": "0 0 0 0 0",
    }  # fmt: skip
    totals = await bench.probe.hash(bench.partition.counts)
    assert {name: number for name, number in totals.items() if number != "0"} == {"seq": "13"}


async def _live_through_everything(bench: Bench) -> None:
    """Tasks that end in every way, after every detour."""
    agent, outbox = bench.agent(), await bench.outbox()
    await _live_through_lanes(bench, agent)
    await bench.finish("plain")
    await bench.finish("failed", outcome=Failed("no"))

    started = await bench.submit_and_start("detours", agent, spec=spec(webhook=True))
    await agent.release(started.lease)
    started = await bench.start(agent)
    await bench.settle(agent, started, TryAgain("busy", 60))
    await bench.make_due("detours")
    await bench.sweep()
    started = await bench.start(agent)
    await bench.lose("detours")
    await agent.renew([started.lease])
    await bench.lose("detours")
    started = await bench.start(agent)
    await bench.settle(agent, started, Succeeded(b"1"))
    await bench.deliver(outbox, again())
    await outbox.promote()
    (entry,) = await outbox.read(1, block_ms=1)
    await outbox.defer(entry, delay_ms=0)
    await outbox.promote()
    await bench.deliver(outbox)

    await bench.finish("given_up", spec=spec(webhook=True, tags=["a", "b:c"]))
    await bench.deliver(outbox, GIVEN_UP)
    await bench.finish("told_of_failure", outcome=Failed("no"), webhook=True)
    await bench.deliver(outbox)

    await bench.submit_and_start("dead", agent, spec=spec(webhook=True))
    await bench.lose("dead", max_lost=0)
    await bench.deliver(outbox)

    await bench.submit("cancelled", spec=spec(webhook=True), queue_ttl_seconds=30)
    await bench.store.tasks.cancel(bench.endpoint_id, "cancelled")
    await bench.deliver(outbox)
    await bench.submit("expired", spec=spec(webhook=True), queue_ttl_seconds=30)
    await bench.pass_deadline("expired")
    await bench.sweep()
    await bench.deliver(outbox)
    for task_id in ("again", "deleted"):
        await bench.finish(task_id, spec=spec(webhook=True, tags=["a"]))
        await bench.deliver(outbox, again())
        await bench.store.tasks.rerun(bench.endpoint_id, task_id, "call")
        started = await bench.start(agent)
        await bench.settle(agent, started, Succeeded(b"2"))
        if task_id == "again":
            await bench.deliver(outbox)
    await bench.store.tasks.delete(bench.endpoint_id, "deleted")


async def _live_through_lanes(bench: Bench, agent: TaskQueue) -> None:
    """Tasks in lanes that end, or lose their place, in every way. Leave no entry of a task that is taken."""
    await bench.set_key_limit(1)
    for task_id, priority in (("high", Priority.HIGH), ("normal", None), ("low", Priority.LOW)):
        await bench.submit(task_id, priority=priority, fairness_key="k")
    started = await bench.start(agent)
    assert await agent.claim(10, block_ms=1) == []
    await agent.release(started.lease)
    (entry,) = await agent.claim(1, block_ms=1)
    await agent.put_back(entry)
    (entry,) = await agent.claim(1, block_ms=1)
    await bench.store.tasks.cancel(bench.endpoint_id, "high")
    assert await agent.start(entry, address="x:1") is None
    started = await bench.start(agent)
    await bench.lose("normal")
    (entry,) = await agent.claim(1, block_ms=1)
    await agent.renew([started.lease])
    assert await agent.start(entry, address="x:1") is None
    await bench.settle(agent, started, TryAgain("busy", 60))
    await bench.make_due("normal")
    await bench.sweep()
    started = await bench.start(agent)
    await bench.settle(agent, started, Succeeded(b"1"))
    await bench.store.tasks.cancel(bench.endpoint_id, "low")
    assert await agent.claim(1, block_ms=1) == []


async def test_sessions_of_the_console_leave_no_key_once_they_have_ended(bench: Bench) -> None:
    """Links and sessions that are not ended by hand expire, so all of their keys must have an end."""
    sessions, key = bench.store.sessions, new_api_key()
    await bench.store.api_keys.put(key, tenant=TENANT, name="test")
    before = set(await bench.probe.keys())
    for secret in ("one", "two"):
        assert await sessions.create(secret, hash_of(key)) is not None
        assert await sessions.create_link(secret, hash_of(key)) is not None
    added = set(await bench.probe.keys()) - before
    assert len(added) == 6
    for name in added:
        assert await bench.store.redis.pttl(name) > 0, name
    await sessions.take_link("one")
    await sessions.end("one", hash_of(key))
    assert (await sessions.find(hash_of("one")), len(set(await bench.probe.keys()) - before)) == (None, 4)
    await sessions.end_all(hash_of(key))
    left = set(await bench.probe.keys()) - before
    assert left == {console_link(hash_of("two")), console_links_of(hash_of(key))}
