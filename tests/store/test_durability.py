"""Durability: acknowledged writes are on the configured number of replicas, or on disk."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import NoScriptError, RedisError

from queue_engine.config.durability import Durability, parse_durability
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import Succeeded
from queue_engine.store.redis.client import NotDurable, store_errors, unavailability
from queue_engine.store.scripts import load_scripts
from queue_engine.store.store import Store, UnfitStore
from queue_engine.store.tasks import Submission
from tests.servers import StoreServer, redis_binary, valkey_binary
from tests.store.bench import SECRET_KEY, TENANT, Bench, config
from tests.store.probe import Probe
from tests.topology import SentinelSetup, client_of

pytestmark = pytest.mark.topology

SHORT = 0.2
Open = Callable[..., Store]


@pytest.fixture(autouse=True, scope="session")
def _quick_timers() -> None:
    """Do nothing, because the servers of this module are configured with quick timers."""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSetup]:
    """A master with an append-only file and two replicas, without fail-over."""
    with SentinelSetup(
        valkey_binary(), tmp_path_factory.mktemp("durability"), sentinels=0, options=("--appendonly", "yes")
    ) as made:
        yield made


@pytest.fixture
async def opened(setup: SentinelSetup) -> AsyncIterator[Open]:
    for server in setup.servers:
        server.resume()
    setup.servers[0].empty()
    stores: list[Store] = []

    def make(level: str, timeout: float = SHORT) -> Store:
        durability = parse_durability(level, timeout)
        stores.append(Store(setup.servers[0].url, Sealer(SECRET_KEY), partitions=2, durability=durability))
        return stores[-1]

    yield make
    for server in setup.servers:
        server.resume()
    for store in stores:
        await store.close()


async def bench_of(store: Store) -> Bench:
    endpoint = await store.endpoints.create(TENANT, config())
    return Bench(store, endpoint.endpoint_id, Probe(store.redis), [endpoint.endpoint_id])


async def test_the_default_durability_waits_for_no_replica(opened: Open, setup: SentinelSetup) -> None:
    bench = await bench_of(opened("store"))
    for replica in setup.servers[1:]:
        replica.pause()
    assert await bench.submit("t1") is Submission.ACCEPTED


@pytest.mark.parametrize("level", ["replica", "replicas:2", "disk", "disk+replica"])
async def test_a_task_goes_its_whole_way(opened: Open, level: str) -> None:
    store = opened(level, 2.0)
    await store.prepare()
    bench = await bench_of(store)
    await bench.finish("t1", webhook=True)
    await bench.deliver(await bench.outbox())
    submitted = await asyncio.gather(*(bench.submit(f"t{number}") for number in range(2, 300)))
    assert set(submitted) == {Submission.ACCEPTED}
    await store.check_writable()
    assert await bench.check() == []


async def test_a_write_that_no_replica_has_is_not_acknowledged_until_one_has(
    opened: Open, setup: SentinelSetup
) -> None:
    """A repeated call is not acknowledged either, although it finds the task and uses another connection."""
    store, other = opened("replica"), opened("replica")
    bench = await bench_of(store)
    for replica in setup.servers[1:]:
        replica.pause()
    with pytest.raises(StoreUnavailable, match=r"0 of 1 replicas acknowledged a write within 0\.2 s"):
        async with store_errors():
            await bench.submit("t1")
    with pytest.raises(NotDurable):
        await Bench(other, bench.endpoint_id, Probe(other.redis)).submit("t1")
    with pytest.raises(StoreUnavailable, match="replicas"):
        await store.check_writable()

    setup.servers[1].resume()

    assert await Bench(other, bench.endpoint_id, Probe(other.redis)).submit("t1") is Submission.DUPLICATE
    await store.check_writable()
    with client_of(setup.servers[1].port) as replica:
        assert replica.hget(bench.keys.task("t1"), "state") == "queued"


async def test_one_replica_of_two_is_too_few_when_two_are_asked_for(opened: Open, setup: SentinelSetup) -> None:
    bench = await bench_of(opened("replicas:2"))
    setup.servers[2].pause()
    with pytest.raises(NotDurable, match="1 of 2 replicas"):
        await bench.submit("t1")
    setup.servers[2].resume()
    assert await bench.submit("t1") is Submission.DUPLICATE


async def test_a_result_is_kept_and_offered_again_until_a_replica_has_it(opened: Open, setup: SentinelSetup) -> None:
    bench = await bench_of(opened("replica"))
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    for replica in setup.servers[1:]:
        replica.pause()
    for _ in range(2):
        with pytest.raises(RedisError) as refused:
            await bench.settle(agent, started, Succeeded(b"1"))
        assert "replicas" in (unavailability(refused.value) or "")
    setup.servers[1].resume()
    assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "ALREADY"


async def test_scripts_that_are_not_durable_do_not_wait(opened: Open, setup: SentinelSetup) -> None:
    """Claims, heartbeats and reads continue while no replica responds, also beside durable writes that wait."""
    bench = await bench_of(opened("replica", 2.0))
    agent = bench.agent()
    await asyncio.gather(bench.submit("t1"), bench.submit("t2"))
    for replica in setup.servers[1:]:
        replica.pause()
    waiting = asyncio.create_task(bench.submit("t3"))
    started = await bench.start(agent)
    await agent.renew([started.lease])
    assert await bench.store.tasks.get(bench.endpoint_id, "t1") is not None
    assert await bench.sweep() is not None
    assert not waiting.done()
    with pytest.raises(NotDurable):
        await waiting


async def test_api_keys_wait_too(opened: Open, setup: SentinelSetup) -> None:
    store = opened("replica")
    for replica in setup.servers[1:]:
        replica.pause()
    with pytest.raises(NotDurable):
        await store.api_keys.put("qe_key", tenant=TENANT, name="")


async def test_waiting_takes_no_round_trip_of_its_own(opened: Open, setup: SentinelSetup) -> None:
    bench = await bench_of(opened("replica", 2.0))
    await bench.submit("t0")
    before = await _socket_reads(bench)
    for number in range(1, 21):
        await bench.submit(f"t{number}")
    # The server reads its sockets once for each pipeline. It also reads the replicas' acknowledgements.
    commands = await bench.probe.redis.info("commandstats")
    assert commands["cmdstat_wait"]["calls"] >= 21
    assert await _socket_reads(bench) - before <= 20 * 4


async def test_scripts_and_mark_that_were_forgotten_are_loaded_again(opened: Open, setup: SentinelSetup) -> None:
    bench = await bench_of(opened("replica", 2.0))
    setup.servers[0].command("SCRIPT", "FLUSH")
    assert await bench.submit("t1") is Submission.ACCEPTED
    mark = load_scripts()["mark"]
    setup.servers[0].command("SCRIPT", "FLUSH")
    with pytest.raises(NoScriptError):
        await bench.probe.ask("EVALSHA", mark.sha, 1, "{p00}:mark")
    assert await bench.submit("t2") is Submission.ACCEPTED


async def test_work_that_runs_ends_at_maxmemory_and_waits_for_replicas(opened: Open) -> None:
    bench = await bench_of(opened("replica", 2.0))
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.probe.ask("CONFIG", "SET", "maxmemory", 1)
    try:
        assert (await bench.settle(agent, started, Succeeded(b"1"))).word == "OK"
    finally:
        await bench.probe.ask("CONFIG", "SET", "maxmemory", 0)


# Disks


async def test_a_store_without_an_append_only_file_is_refused(tmp_path: Path) -> None:
    with StoreServer(valkey_binary(), tmp_path) as server:
        store = Store(server.url, Sealer(SECRET_KEY), durability=Durability(disk=True))
        try:
            with pytest.raises(UnfitStore, match=r"has no append-only file.*QUEUE_ENGINE_DURABILITY.*appendonly yes"):
                await store.prepare()
            server.command("CONFIG", "SET", "appendonly", "yes")
            await store.prepare()
            bench = await bench_of(store)
            assert await bench.submit("t1") is Submission.ACCEPTED
            server.command("CONFIG", "SET", "appendonly", "no")
            with pytest.raises(StoreUnavailable, match=r"cannot confirm writes.*appendonly is disabled"):
                async with store_errors():
                    await bench.submit("t2")
        finally:
            await store.close()


@pytest.mark.redis7
async def test_a_server_that_knows_nothing_of_its_disk_is_refused(tmp_path: Path) -> None:
    binary = redis_binary()
    if binary is None:
        pytest.skip("no redis-server of version 7.0 or newer: apt-get install redis-server")
    with StoreServer(binary, tmp_path, options=("--appendonly", "yes")) as server:
        if "redis_version:7.0." not in server.command("INFO", "server"):
            pytest.skip("this redis-server is new enough")
        store = Store(server.url, Sealer(SECRET_KEY), durability=Durability(disk=True))
        try:
            with pytest.raises(UnfitStore, match=r"redis 7\.0.* cannot confirm writes on disk.*7\.2 or newer"):
                await store.prepare()
        finally:
            await store.close()


async def test_what_was_acknowledged_from_disk_outlives_a_kill(tmp_path: Path) -> None:
    with StoreServer(valkey_binary(), tmp_path, options=("--appendonly", "yes", "--appendfsync", "everysec")) as server:
        store = Store(server.url, Sealer(SECRET_KEY), durability=Durability(disk=True, timeout_seconds=2.0))
        try:
            bench = await bench_of(store)
            assert await bench.submit("t1") is Submission.ACCEPTED
            await store.redis.connection_pool.disconnect()
            server.kill()
            server.start()
            assert (await bench.task("t1")).input == b'{"n": 1}'
        finally:
            await store.close()


async def _socket_reads(bench: Bench) -> int:
    return int((await bench.probe.redis.info("stats"))["total_reads_processed"])
