"""When the store refuses writes, new work is refused completely, and running work can still end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.attempts import Renewal
from queue_engine.domain.deliveries import Verdict
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import Failed, Outcome, Succeeded, TaskState, TaskStatus, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.redis.client import store_errors
from queue_engine.store.store import Store
from queue_engine.store.tasks import Submission
from tests.servers import StoreServer
from tests.store.bench import DELIVERED, GIVEN_UP, LONG_LEASE_MS, TENANT, TICK_MS, Bench, again, config, spec
from tests.store.probe import Probe
from tests.store.proxy import LossyProxy
from tests.waiting import wait_until_async


@asynccontextmanager
async def full_memory(probe: Probe) -> AsyncIterator[None]:
    """A store at its maxmemory."""
    await probe.ask("CONFIG", "SET", "maxmemory", 1)
    try:
        yield
    finally:
        await probe.ask("CONFIG", "SET", "maxmemory", 0)


async def test_at_maxmemory_new_work_is_refused_whole(bench: Bench) -> None:
    before = await bench.probe.dump()
    async with full_memory(bench.probe):
        with pytest.raises(StoreUnavailable, match="it has reached maxmemory"):
            async with store_errors():
                await bench.submit("t1")
        with pytest.raises(StoreUnavailable, match="it has reached maxmemory"):
            async with store_errors():
                await bench.store.endpoints.create(TENANT, config())
        with pytest.raises(StoreUnavailable):
            await bench.store.check_writable()
        assert await bench.probe.dump() == before
    assert await bench.submit("t1") is Submission.ACCEPTED
    await bench.store.check_writable()


async def test_at_maxmemory_a_batch_of_submits_is_refused_and_reads_work(bench: Bench) -> None:
    await bench.submit("t0")
    async with full_memory(bench.probe):
        with pytest.raises(StoreUnavailable):
            async with store_errors():
                await bench.submit("t1")
        assert (await bench.task("t0")).state is TaskState.QUEUED
        page = await bench.store.tasks.page(bench.endpoint_id, None, page=1, size=10)
        assert [task.task_id for task in page.items] == ["t0"]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Succeeded(b'"%s"' % (b"x" * 10_000)), "succeeded"), (Failed("no"), "failed"), (TryAgain("busy", 1), "scheduled")],
    ids=["success", "failure", "retry"],
)
async def test_at_maxmemory_running_work_ends(bench: Bench, outcome: Outcome, state: str) -> None:
    agent = bench.agent()
    await bench.submit("t1", spec=spec(webhook=True))
    async with full_memory(bench.probe):
        started = await bench.start(agent)
        assert await agent.renew([started.lease]) == [Renewal.OK]
        assert (await bench.settle(agent, started, outcome)).word == "OK"
    assert (await bench.task("t1")).state == state


async def test_at_maxmemory_work_is_handed_back_and_reclaimed(bench: Bench) -> None:
    agent = bench.agent()
    await bench.submit("t1")
    async with full_memory(bench.probe):
        (entry,) = await agent.claim(1, block_ms=1)
        await agent.put_back(entry)
        started = await bench.start(agent)
        assert await agent.release(started.lease) == "OK"
        await bench.start(agent)
    await bench.run_out("t1")
    await bench.steady()
    async with full_memory(bench.probe):
        assert (await bench.sweep_as_it_is()).requeued == 1


@pytest.mark.parametrize("verdict", [DELIVERED, again(), GIVEN_UP], ids=["delivered", "again", "given up"])
async def test_at_maxmemory_deliveries_go_on(bench: Bench, verdict: Verdict) -> None:
    outbox = await bench.outbox()
    await bench.finish("t1", webhook=True)
    async with full_memory(bench.probe):
        (entry,) = await outbox.read(10, block_ms=1)
        await outbox.defer(entry, delay_ms=0)
        assert await outbox.promote() == 1
        await outbox.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS)
        await bench.deliver(outbox, verdict)


async def test_at_maxmemory_ended_tasks_can_be_removed(bench: Bench) -> None:
    await bench.finish("t1")
    async with full_memory(bench.probe):
        assert await bench.purge() == 1


async def test_at_maxmemory_workers_still_report(bench: Bench) -> None:
    async with full_memory(bench.probe):
        await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
        assert await bench.store.workers.report(
            bench.endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="x:1"
        )
        assert await bench.store.leadership.hold("c1", lease_ms=1000)


async def test_a_read_only_replica_is_unavailable_for_writes_and_serves_reads(bench: Bench) -> None:
    await bench.finish("t1")
    await bench.probe.ask("REPLICAOF", "127.0.0.1", 1)
    try:
        for call in (bench.submit("t2"), bench.store.check_writable(), bench.store.endpoints.create(TENANT, config())):
            with pytest.raises(StoreUnavailable, match="it is a read-only replica"):
                async with store_errors():
                    await call
        assert (await bench.task("t1")).status is TaskStatus.SUCCESS
    finally:
        await bench.probe.ask("REPLICAOF", "NO", "ONE")
    assert await bench.submit("t2") is Submission.ACCEPTED


async def test_a_replica_that_is_prepared_is_unavailable(store: Store, probe: Probe) -> None:
    await probe.ask("REPLICAOF", "127.0.0.1", 1)
    try:
        with pytest.raises(StoreUnavailable):
            await store.prepare()
    finally:
        await probe.ask("REPLICAOF", "NO", "ONE")


async def test_a_store_that_wants_replicas_refuses_and_recovers(bench: Bench) -> None:
    await bench.probe.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
            async with store_errors():
                await bench.submit("t1")
    finally:
        await bench.probe.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    assert await bench.submit("t1") is Submission.ACCEPTED


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_pipeline_that_is_refused_is_an_outage(bench: Bench, transaction: bool) -> None:
    """redis-py adds the command before the store's error reply."""
    await bench.probe.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        for call in (bench.store.processes.note("api:here:1:a"), _set_in_pipeline(bench.store, transaction)):
            with pytest.raises(StoreUnavailable, match=r"it refuses writes \(NOREPLICAS\)"):
                async with store_errors():
                    await call
    finally:
        await bench.probe.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    await bench.store.processes.note("api:here:1:a")
    await bench.store.processes.remove("api:here:1:a")


async def _set_in_pipeline(store: Store, transaction: bool) -> None:
    pipeline = store.redis.pipeline(transaction=transaction)
    pipeline.set("{qe}:probe", "in (this) of pipeline caused error: OK")
    await pipeline.execute()


async def test_a_store_that_restarts_serves_again_with_its_data(
    store_server: StoreServer, tmp_path: Path, sealer: Sealer
) -> None:
    """The client reconnects without an explicit call, and groups and scripts are created again."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with StoreServer(store_server.binary, tmp_path, options=options) as server:
        store = Store(server.url, sealer, partitions=1)
        try:
            endpoint = await store.endpoints.create(TENANT, config())
            bench = Bench(store, endpoint.endpoint_id, Probe(store.redis), [endpoint.endpoint_id])
            agent = bench.agent()
            await bench.submit("t1")
            started = await bench.start(agent)
            server.kill()
            with pytest.raises(StoreUnavailable, match="it cannot be reached"):
                async with store_errors():
                    await bench.submit("t2")
            server.start()
            await wait_until_async(lambda: _is_ready(store))
            assert await agent.renew([started.lease]) == [Renewal.OK]
            assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
            assert (await bench.finish("t2")).state is TaskState.SUCCEEDED
            assert await bench.check() == []
        finally:
            await store.close()


async def test_a_name_that_leads_to_another_master_is_followed_although_the_old_one_lives(
    store_server: StoreServer, tmp_path: Path, sealer: Sealer
) -> None:
    """After a change in DNS or a load balancer, open connections lead to the old master, which is a replica now."""
    with StoreServer(store_server.binary, tmp_path) as other:
        async with LossyProxy(store_server.url) as proxy:
            store = Store(proxy.url, sealer, partitions=1)
            try:
                endpoint = await store.endpoints.create(TENANT, config())
                bench = Bench(store, endpoint.endpoint_id, Probe(store.redis), [endpoint.endpoint_id])
                agent = bench.agent()
                started = await bench.submit_and_start("t1", agent)
                assert await agent.renew([started.lease]) == [Renewal.OK]
                other.command("REPLICAOF", "127.0.0.1", str(store_server.port))
                await wait_until_async(lambda: "master_link_status:up" in other.command("INFO", "replication"))
                await wait_until_async(lambda: other.command("EXISTS", bench.keys.task("t1")) == ":1")
                other.command("REPLICAOF", "NO", "ONE")
                store_server.command("REPLICAOF", "127.0.0.1", str(other.port))
                proxy.lead_to(other.url)
                for call in (bench.submit("t2"), agent.claim(1, block_ms=1), agent.renew([started.lease])):
                    with pytest.raises(StoreUnavailable, match="it is a read-only replica"):
                        async with store_errors():
                            await call
                assert await agent.renew([started.lease]) == [Renewal.OK]
                assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
                assert (await bench.finish("t2")).state is TaskState.SUCCEEDED
            finally:
                store_server.command("REPLICAOF", "NO", "ONE")
                await store.close()


async def _is_ready(store: Store) -> bool:
    try:
        await store.check_writable()
    except StoreUnavailable:
        return False
    return True
