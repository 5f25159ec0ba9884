"""The store's guarantees hold behind sentinels and in a cluster too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
from redis.exceptions import RedisError

from queue_engine.aio import retry_while_unavailable
from queue_engine.config.durability import Durability
from queue_engine.controller.operations import Operations
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.attempts import Renewal
from queue_engine.domain.credentials import RegistryAuth, RegistryType
from queue_engine.domain.deliveries import Phases, WebhookResponse, WebhookTest
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.logs import LogQuery
from queue_engine.domain.task_operations import TaskAction
from queue_engine.domain.tasks import Lease, Succeeded, TaskState, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.credentials import Deletion
from queue_engine.store.keys import FORMAT, META
from queue_engine.store.operations import Start
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.queue import TaskQueue
from queue_engine.store.redis.client import unavailability
from queue_engine.store.redis.cluster import ClusterClient
from queue_engine.store.store import Store, UnfitStore
from queue_engine.store.tasks import Submission
from tests.servers import StoreServer, redis_binary, valkey_binary
from tests.store.bench import DELIVERED, SECRET_KEY, TENANT, TICK_MS, Bench, again, config, spec, tenant_of
from tests.store.probe import Probe
from tests.store.test_operations import QUEUED, operation
from tests.topology import ClusterSetup, SentinelSetup
from tests.upgrade.made_up import FIELD, STEP, TO
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

pytestmark = pytest.mark.topology

PARTITIONS = 16
KINDS = [
    pytest.param(
        (topology, server), id=f"{topology}-{server}", marks=[pytest.mark.redis7] if server == "redis7" else []
    )
    for topology in ("sentinel", "cluster")
    for server in ("valkey", "redis7")
]
Setup = SentinelSetup | ClusterSetup


@pytest.fixture(scope="module", params=KINDS)
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    topology, server = request.param
    binary = valkey_binary() if server == "valkey" else redis_binary()
    if binary is None:
        pytest.skip("no redis-server of version 7.0 or newer: apt-get install redis-server")
    kind = SentinelSetup if topology == "sentinel" else ClusterSetup
    with kind(binary, tmp_path_factory.mktemp("topology")) as made:
        yield made


@pytest.fixture(autouse=True, scope="session")
def _quick_timers() -> None:
    """Do nothing, because the servers of this module are configured with quick timers."""


@pytest.fixture(autouse=True)
def _empty(setup: Setup) -> None:
    setup.empty()


@pytest.fixture
async def store(setup: Setup) -> AsyncIterator[Store]:
    opened = Store(setup.url, Sealer(SECRET_KEY), partitions=PARTITIONS)
    yield opened
    await opened.close()


@pytest.fixture
async def bench(store: Store) -> AsyncIterator[Bench]:
    endpoint = await store.endpoints.create(TENANT, config())
    made = Bench(store, endpoint.endpoint_id, Probe(store.redis), [endpoint.endpoint_id])
    yield made
    assert await made.check() == []


def masters_of(setup: Setup) -> list[StoreServer]:
    return setup.masters if isinstance(setup, ClusterSetup) else [setup.master]


# The life of a task


async def test_a_task_goes_its_whole_way(bench: Bench) -> None:
    agent, outbox = bench.agent(), await bench.outbox()
    assert await bench.submit("t1", spec=spec(webhook=True)) is Submission.ACCEPTED
    assert await bench.submit("t1", spec=spec(webhook=True)) is Submission.DUPLICATE
    started = await bench.start(agent)
    assert await agent.renew([started.lease]) == [Renewal.OK]
    assert (await bench.settle(agent, started, Succeeded(b"[1]"))).word == "OK"
    assert (await bench.settle(agent, started, Succeeded(b"[1]"))).word == "ALREADY"
    await bench.deliver(outbox, again())
    assert await outbox.promote() == 1
    await bench.deliver(outbox, DELIVERED)
    task = await bench.task("t1")
    assert (task.status, task.output, task.delivery_attempts) == ("DELIVERED", b"[1]", 2)
    assert await bench.purge() == 1


async def test_tasks_come_back_from_every_detour(bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    assert await agent.release(started.lease) == "OK"
    started = await bench.start(agent)
    await bench.settle(agent, started, TryAgain("busy", 60))
    await bench.make_due("t1")
    assert (await bench.sweep()).promoted == 1
    started = await bench.start(agent)
    assert (await bench.lose("t1")).requeued == 1
    assert await agent.renew([started.lease]) == [Renewal.READOPTED]
    for entry in await agent.claim(10, block_ms=1):
        assert await agent.start(entry, address="x:1") is None
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"


async def test_endpoints_of_all_partitions_are_served_at_once(store: Store) -> None:
    endpoints = await asyncio.gather(*(store.endpoints.create(TENANT, config(name=f"e{n}")) for n in range(40)))
    ids = [endpoint.endpoint_id for endpoint in endpoints]
    assert len({store.partitions.of(one).partition for one in ids}) == PARTITIONS
    benches = [Bench(store, one, Probe(store.redis), ids) for one in ids]

    submitted = await asyncio.gather(*(one.submit(f"t{n}", input=b"%d" % n) for one in benches for n in range(20)))
    assert set(submitted) == {Submission.ACCEPTED}
    read = await asyncio.gather(*(one.task(f"t{n}") for one in benches for n in range(20)))
    assert [task.input for task in read] == [b"%d" % n for _ in benches for n in range(20)]

    assert len(await store.endpoints.of_tenant(TENANT)) == 40
    assert (await store.sweeper.waiting_and_running())["queued"] == 800
    assert await benches[0].check() == []


async def test_operations_of_all_partitions_are_advanced_and_listed_by_tenant(store: Store) -> None:
    ids = [(await store.endpoints.create(TENANT, config(name=f"bulk{number}"))).endpoint_id for number in range(6)]
    for endpoint_id in ids:
        bench = Bench(store, endpoint_id, Probe(store.redis))
        await bench.submit("a")
        new = operation(TaskAction.CANCEL, QUEUED)
        assert await store.operations.start(TENANT, endpoint_id, new) is Start.STARTED
    assert len({store.partitions.of(endpoint_id).partition.index for endpoint_id in ids}) > 2
    operations = Operations(store)
    while await operations.step():
        pass
    page = await store.operations.tenants_page(TENANT, page=1, size=10)
    assert sorted(one.endpoint_id for one in page.items) == sorted(ids)
    assert {(one.status.value, one.done) for one in page.items} == {("done", 1)}


async def test_deliveries_of_all_partitions_are_read_by_one_process(store: Store) -> None:
    outbox = store.outbox("d1")
    assert await outbox.read(10, block_ms=1) == []  # makes the groups
    waiting = asyncio.create_task(outbox.read(10, block_ms=2000))
    ids = [(await store.endpoints.create(TENANT, config(name=f"e{n}"))).endpoint_id for n in range(20)]
    for one in ids:
        await Bench(store, one, Probe(store.redis), ids).finish("t1", webhook=True)
    found = {entry.delivery_id for entry in await waiting}

    async def all_found() -> bool:
        found.update(entry.delivery_id for entry in await outbox.read(10, block_ms=50))
        return len(found) == len(ids)

    await wait_until_async(all_found)
    assert (await outbox.pending())["fresh"] == len(ids)


async def test_deliveries_whose_read_was_cut_off_come_back(bench: Bench) -> None:
    outbox = await bench.outbox()
    reading = asyncio.create_task(outbox.read(10, block_ms=2000))
    await bench.finish("t1", webhook=True)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    async def comes_back() -> list[OutboxEntry]:
        return await outbox.read(10, block_ms=1) or await outbox.adopt(tick_ms=TICK_MS, lease_ms=1)

    (entry,) = [*(reading.result() if not reading.cancelled() else await wait_until_async(comes_back))]
    assert entry.delivery_id == f"t:{bench.endpoint_id}:t1"


async def test_deliveries_of_a_read_that_ended_just_before_it_was_cut_off_come_back(setup: Setup, bench: Bench) -> None:
    if not isinstance(setup, ClusterSetup):
        pytest.skip("of clusters only, whose partitions are read separately")
    outbox = await bench.outbox()
    reading = asyncio.create_task(outbox.read(10, block_ms=2000))
    await wait_until_async(lambda: bench.partition in outbox._reads)
    outbox._reads[bench.partition].add_done_callback(lambda _: reading.cancel())
    await bench.finish("t1", webhook=True)
    await asyncio.gather(reading, return_exceptions=True)
    assert reading.cancelled()
    (entry,) = await wait_until_async(lambda: outbox.adopt(tick_ms=TICK_MS, lease_ms=1))
    assert entry.delivery_id == f"t:{bench.endpoint_id}:t1"


async def test_an_agent_waits_for_a_task_to_come(bench: Bench) -> None:
    waiting = asyncio.create_task(bench.agent().claim(1, block_ms=2000))
    await bench.submit("t1")
    assert [entry.task_id for entry in await waiting] == ["t1"]


# All other data


async def test_logs_workers_keys_credentials_and_leadership(store: Store, bench: Bench) -> None:
    endpoint_id = bench.endpoint_id
    await store.workers.put(endpoint_id, "w1", managed=True)
    await store.workers.report(endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="x:1")
    assert [worker.worker_id for worker in await store.workers.of_endpoint(endpoint_id)] == ["w1"]
    assert await store.logs.append(endpoint_id, "w1", "b1", ["one", "two"], retention_ms=60_000)
    page = await store.logs.page(endpoint_id, "w1", LogQuery(size=10))
    assert page is not None
    assert [line.text for line in page.lines] == ["one", "two"]
    assert await store.logs.page(endpoint_id, "nobody", LogQuery(size=10)) is None

    key = await store.api_keys.put("qe_something", tenant=TENANT, name="k")
    assert key is not None
    assert await tenant_of(store, key.key_hash) == TENANT
    assert len(await store.api_keys.revoke(key.key_hash[:8])) == 1

    made = await store.credentials.create(TENANT, "hub", RegistryType.DOCKER_HUB, RegistryAuth("u", "p"))
    assert await store.credentials.open(TENANT, made.credential_id) == RegistryAuth("u", "p")
    assert await store.credentials.delete(TENANT, made.credential_id) is Deletion.OK

    assert await store.leadership.hold("c1", lease_ms=10_000)
    assert not await store.leadership.hold("c2", lease_ms=10_000)
    await store.workers.remove(endpoint_id, "w1")
    await store.logs.delete_endpoint(endpoint_id)


async def test_the_secret_key_can_be_changed(setup: Setup, bench: Bench) -> None:
    await bench.submit("t1", spec=spec(headers={"Authorization": "x"}))
    renewed = Store(setup.url, Sealer(bytes(32), (SECRET_KEY,)), partitions=PARTITIONS)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(renewed.close)
        rotated = await renewed.rotation.run()
        assert rotated.complete
        assert rotated.progress.total_resealed == 2
        task = await renewed.tasks.get(bench.endpoint_id, "t1")
        assert task is not None
        assert task.spec.headers == {"Authorization": "x"}


async def test_a_migration_goes_over_the_tasks_of_all_partitions(setup: Setup, store: Store) -> None:
    await store.prepare()
    endpoints = [await store.endpoints.create(TENANT, config()) for _ in range(2 * PARTITIONS)]
    benches = [Bench(store, one.endpoint_id, Probe(store.redis), [one.endpoint_id]) for one in endpoints]
    for bench in benches:
        await bench.submit("t1")
    upgraded = Store(setup.url, Sealer(SECRET_KEY), partitions=PARTITIONS, steps=[STEP])
    async with AsyncExitStack() as stack:
        stack.push_async_callback(upgraded.close)
        async with upgraded.noted("controller"):
            await upgraded.prepare()
            migrator = upgraded.migrator()

            async def is_complete() -> bool:
                await migrator.step()
                return (await benches[0].probe.hash(META))[FORMAT] == str(TO)

            await wait_until_async(is_complete, message="the migration does not end")
    assert [(await bench.probe.hash(bench.keys.task("t1")))[FIELD] for bench in benches] == ["1"] * len(benches)


async def test_an_id_whose_counter_was_set_back_is_not_given_out_again(bench: Bench) -> None:
    await bench.probe.ask("SET", "{qe}:endpoint-ids", int(bench.endpoint_id) - 1)
    other = await bench.store.endpoints.create(TENANT, config(name="other"))
    bench.endpoint_ids.append(other.endpoint_id)
    assert other.endpoint_id != bench.endpoint_id
    assert other.config.name == "other"


# Checks of the store


async def test_every_master_is_checked(setup: Setup, store: Store) -> None:
    info = await store.prepare()
    assert info.eviction_policy == "noeviction"
    for master in masters_of(setup):
        master.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(UnfitStore, match="evicts keys"):
                await store.prepare()
            with pytest.raises(StoreUnavailable, match="evicts keys"):
                await store.check_ready()
        finally:
            master.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await store.prepare()
    await store.check_ready()


async def test_the_ports_of_the_masters_are_known(setup: Setup, store: Store) -> None:
    assert {master.port for master in masters_of(setup)} <= await store.ports()


async def test_another_kind_of_url_is_refused(setup: Setup) -> None:
    single = Store(masters_of(setup)[0].url, Sealer(SECRET_KEY))
    in_cluster = Store(f"redis+cluster://127.0.0.1:{masters_of(setup)[0].port}", Sealer(SECRET_KEY))
    try:
        if isinstance(setup, ClusterSetup):
            with pytest.raises(UnfitStore, match="belongs to a cluster: use redis\\+cluster://"):
                await single.prepare()
            await in_cluster.prepare()
            return
        with pytest.raises(UnfitStore, match="is not part of a cluster: use redis:// or redis\\+sentinel://"):
            await in_cluster.prepare()
        to_sentinel = Store(setup.sentinels[0].url, Sealer(SECRET_KEY))
        with pytest.raises(UnfitStore, match="is a sentinel: use redis\\+sentinel://"):
            await to_sentinel.prepare()
        await to_sentinel.close()
    finally:
        await single.close()
        await in_cluster.close()


@pytest.mark.parametrize("refusal", [("maxmemory", "1"), ("min-replicas-to-write", "9")], ids=["full", "no replicas"])
async def test_a_store_of_which_one_part_refuses_writes_is_not_ready(
    setup: Setup, store: Store, refusal: tuple[str, str]
) -> None:
    await store.check_writable()
    for master in masters_of(setup):
        master.command("CONFIG", "SET", *refusal)
        try:
            with pytest.raises(StoreUnavailable):
                await store.check_writable()
        finally:
            master.command("CONFIG", "SET", refusal[0], "0")
        await store.check_writable()


async def test_the_facts_of_the_system_name_each_master_with_its_replicas(setup: Setup, store: Store) -> None:
    await store.processes.note("controller:host:1:a")
    found = await store.system_facts()
    assert len(found.servers) == len(masters_of(setup))
    assert all(one.used_bytes > 0 and one.version for one in found.servers)
    assert all(bool(one.address) == isinstance(setup, ClusterSetup) for one in found.servers)
    if isinstance(setup, SentinelSetup):
        assert [each.state for one in found.servers for each in one.replicas]
    assert [one.role for one in found.processes] == ["controller"]


async def test_a_test_of_a_webhook_is_taken_and_its_result_comes_back(store: Store) -> None:
    test = WebhookTest("a1", "7", TENANT, "https://hooks.example.net/", "the key")
    assert [await store.webhook_tests.hold(test) for _ in range(2)] == [True, False]
    sending = asyncio.create_task(store.webhook_tests.send(test, taken_within_seconds=GIVE_UP_SECONDS))
    taken = None
    while taken is None:
        taken = await store.webhook_tests.take(1.0)
    assert taken.test == test
    response = WebhookResponse(404, "http_4xx", "no such hook", duration_seconds=0.5, phases=Phases(wait_ms=3))
    await store.webhook_tests.respond(taken.test, response)
    assert await sending == response
    assert await store.webhook_tests.hold(test)


async def test_a_service_that_no_sentinel_knows_is_named(setup: Setup) -> None:
    if not isinstance(setup, SentinelSetup):
        pytest.skip("of sentinels only")
    store = Store(setup.url.replace("/main/", "/other/"), Sealer(SECRET_KEY))
    try:
        with pytest.raises(StoreUnavailable, match="the sentinels name no master"):
            await store.prepare()
    finally:
        await store.close()


async def test_scripts_that_a_server_has_forgotten_are_loaded_again(setup: Setup, bench: Bench) -> None:
    for task_id in ("t1", "t2"):
        for master in masters_of(setup):
            master.command("SCRIPT", "FLUSH")
        assert (await bench.finish(task_id)).state is TaskState.SUCCEEDED


async def test_agents_wait_until_the_engine_has_loaded_the_scripts_on_the_new_master(
    setup: Setup, store: Store, bench: Bench
) -> None:
    """The engine calls other scripts than the agent. A server that becomes the master knows none of them."""
    of_agent = Store(setup.url, Sealer(None), partitions=PARTITIONS, is_agent=True)
    agent = of_agent.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)
    started = await bench.submit_and_start("t1", agent)
    await store.check_writable()
    await asyncio.to_thread(_kill_owner, setup, bench)
    refusals: set[str] = set()

    async def settled() -> bool:
        try:
            return (await bench.settle(agent, started, Succeeded(b"1"))).word in ("OK", "ALREADY")
        except RedisError as error:
            refusals.add(unavailability(error) or repr(error))
            return False

    await wait_until_async(lambda: _says_scripts_are_missing(settled, refusals))
    await wait_until_async(lambda: _swept(bench))
    assert await settled()
    await of_agent.close()
    await asyncio.to_thread(setup.restore)


async def _says_scripts_are_missing(settled: Callable[[], Awaitable[bool]], refusals: set[str]) -> bool:
    assert not await settled()
    return any("does not know the scripts" in one for one in refusals)


async def _swept(bench: Bench) -> bool:
    try:
        await bench.sweep()
    except (RedisError, OSError) as error:
        if unavailability(error) is None:
            raise
        return False
    return True


async def test_groups_are_made_again_after_the_store_came_back_empty(setup: Setup, store: Store, bench: Bench) -> None:
    agent, outbox = bench.agent(), await bench.outbox()
    assert await agent.claim(1, block_ms=1) == []
    for master in masters_of(setup):
        master.empty()
    endpoint = await store.endpoints.create(TENANT, config())
    bench.endpoint_id, bench.endpoint_ids = endpoint.endpoint_id, [endpoint.endpoint_id]
    agent = bench.agent()
    await bench.submit("t1", spec=spec(webhook=True))
    started = await bench.start(agent)
    await bench.settle(agent, started, Succeeded(b"1"))

    async def read() -> list[OutboxEntry]:
        return await outbox.read(10, block_ms=10)

    assert len(await wait_until_async(read)) == 1


async def test_a_clusters_pipeline_keeps_the_order_of_its_replies(setup: Setup, store: Store) -> None:
    keys = [f"{partition.tag}:x" for partition in store.partitions.all()]
    pipeline = store.redis.pipeline(transaction=False)
    for number, key in enumerate(keys):
        pipeline.set(key, number)
        pipeline.get(key)
    replies = await pipeline.execute()
    assert replies == [one for number in range(len(keys)) for one in (True, b"%d" % number)]
    if isinstance(store.redis, ClusterClient):
        assert len({store.redis.known_owner(key) for key in keys}) == len(masters_of(setup))


# Fail-over


async def test_watched_tasks_are_noted_after_their_frozen_master_was_replaced(setup: Setup, bench: Bench) -> None:
    """A frozen master keeps the connections open on which it sends no message."""
    names = [f"t{number}" for number in range(200)]
    await asyncio.gather(*map(bench.submit, names))
    await bench.store.check_writable()
    with bench.store.task_watch.watching(bench.endpoint_id, names) as watched:
        await wait_until_async(lambda: _is_subscribed(setup, bench))
        await asyncio.to_thread(_freeze_owner, setup, bench)
        other = Store(setup.url, Sealer(SECRET_KEY), partitions=PARTITIONS)
        for name in names:
            await retry_while_unavailable(
                partial(other.tasks.cancel, bench.endpoint_id, name), passing=unavailability, what="cancel"
            )
        found: set[str] = set()
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while len(found) < len(names):
                found |= await watched.next(asyncio.get_running_loop().create_future())
    await other.close()
    await asyncio.to_thread(setup.restore)


async def _is_subscribed(setup: Setup, bench: Bench) -> bool:
    names = bench.partition.told("*")
    return any(master.command("PUBSUB", "SHARDCHANNELS", names) == "*2" for master in masters_of(setup))


async def test_work_goes_on_after_the_master_has_died_and_nothing_acknowledged_is_lost(
    setup: Setup, store: Store, bench: Bench
) -> None:
    """Every write is acknowledged by a replica. The dead master comes back as a replica."""
    durable = Store(setup.url, Sealer(SECRET_KEY), partitions=PARTITIONS, durability=_replica(1))
    acknowledged: list[str] = []
    agent, outbox = bench.agent(), await bench.outbox()
    started = await bench.submit_and_start("t0", agent)
    stopping = asyncio.Event()
    reading = asyncio.create_task(_read_until(stopping, bench))
    submitters = [asyncio.create_task(_submit_until(stopping, durable, bench, n, acknowledged)) for n in range(4)]
    try:
        await wait_until_async(lambda: len(acknowledged) > 100)
        await asyncio.to_thread(_kill_owner, setup, bench)
        if isinstance(setup, ClusterSetup):  # the new master has no other replica
            await asyncio.to_thread(setup.restore)
        before = len(acknowledged)
        await wait_until_async(lambda: len(acknowledged) > before + 100)
    finally:
        stopping.set()
        results = await asyncio.gather(*submitters, reading, return_exceptions=True)
        await durable.close()
    assert [one for one in results if isinstance(one, BaseException)] == []

    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
    found = await asyncio.gather(*(store.tasks.get(bench.endpoint_id, task_id) for task_id in acknowledged))
    assert None not in found
    await bench.store.check_writable()
    assert await outbox.read(10, block_ms=1) == []
    await asyncio.to_thread(setup.restore)
    await wait_until_async(lambda: _is_ready(store))


async def test_a_master_that_is_frozen_is_replaced_and_work_goes_on(setup: Setup, store: Store, bench: Bench) -> None:
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    blocked = asyncio.create_task(bench.agent("a2").claim(1, block_ms=2000))
    await asyncio.to_thread(_freeze_owner, setup, bench)
    await wait_until_async(lambda: _renewed(agent, started.lease))
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
    await asyncio.gather(blocked, return_exceptions=True)
    assert await bench.agent("a2").claim(1, block_ms=1) == []


def _kill_owner(setup: Setup, bench: Bench) -> None:
    if isinstance(setup, SentinelSetup):
        setup.kill_master()
    else:
        owner = setup.owner_of(bench.keys.queue)
        setup.fail_over(owner, owner.kill)


def _freeze_owner(setup: Setup, bench: Bench) -> None:
    if isinstance(setup, SentinelSetup):
        old = setup.master
        setup.fail_over(old, old.pause)
    else:
        owner = setup.owner_of(bench.keys.queue)
        setup.fail_over(owner, owner.pause)


async def _submit_until(stopping: asyncio.Event, store: Store, bench: Bench, number: int, done: list[str]) -> None:
    count = 0
    while not stopping.is_set():
        task_id = f"t{number}-{count}"
        try:
            enqueued = await store.tasks.enqueue(bench.new_task(task_id))
            assert enqueued.result in (Submission.ACCEPTED, Submission.DUPLICATE)
        except Exception as error:
            if unavailability(error) is None:
                raise
            await asyncio.sleep(0.01)
            continue
        done.append(task_id)
        count += 1


async def _read_until(stopping: asyncio.Event, bench: Bench) -> None:
    """Read with blocking reads, as an agent does."""
    agent = bench.agent("reader")
    while not stopping.is_set():
        try:
            for entry in await agent.claim(1, block_ms=100):
                await agent.put_back(entry)
        except Exception as error:
            if unavailability(error) is None:
                raise


async def _renewed(agent: TaskQueue, lease: Lease) -> bool:
    try:
        return await agent.renew([lease]) == [Renewal.OK]
    except Exception as error:
        if unavailability(error) is None:
            raise
        return False


async def _is_ready(store: Store) -> bool:
    try:
        await store.check_writable()
    except StoreUnavailable:
        return False
    return True


def _replica(count: int) -> Durability:
    return Durability(replicas=count)
