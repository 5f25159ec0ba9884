"""A store is used only when it does not evict data and has the expected data."""

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.vulnerabilities import known_vulnerabilities
from queue_engine.store.keys import META
from queue_engine.store.store import ServerInfo, Store, UnfitStore, _check_version
from tests.ports import free_port
from tests.servers import StoreServer
from tests.store.bench import SECRET_KEY
from tests.store.probe import Probe


async def test_an_empty_store_is_prepared(store: Store, store_server: StoreServer, probe: Probe) -> None:
    info = await store.prepare()
    assert info.name == ("valkey" if "valkey" in str(store_server.binary).lower() else "redis")
    assert info.eviction_policy == "noeviction"
    assert int(info.version.split(".")[0]) >= 7
    assert set(await probe.hash(META)) >= {"format", "partitions", "secret_key"}


async def test_a_prepared_store_can_be_prepared_again(store: Store) -> None:
    assert await store.prepare() == await store.prepare()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lru"])
async def test_a_store_that_evicts_keys_is_refused(store: Store, probe: Probe, policy: str) -> None:
    await probe.ask("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        with pytest.raises(UnfitStore, match=f"maxmemory-policy {policy}.*set maxmemory-policy noeviction"):
            await store.prepare()
        assert await probe.keys() == set()
    finally:
        await probe.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_version_with_known_faults_is_named_at_start(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    info = await store.prepare()
    warning = known_vulnerabilities(info.name, info.version)
    warned = [record.getMessage() for record in caplog.records if "known faults" in record.getMessage()]
    assert warned == ([] if warning is None else [warning])


async def test_another_number_of_partitions_is_refused(store: Store, sealer: Sealer) -> None:
    await store.prepare()
    other = Store(store.url, sealer, partitions=5)
    try:
        with pytest.raises(UnfitStore, match="set up with 4 partitions, not 5"):
            await other.prepare()
    finally:
        await other.close()
    await store.prepare()


async def test_another_secret_key_is_refused_without_being_shown(store: Store) -> None:
    await store.prepare()
    other = Store(store.url, Sealer(bytes(32)), partitions=4)
    try:
        with pytest.raises(UnfitStore, match="QUEUE_ENGINE_SECRET_KEY") as refused:
            await other.prepare()
    finally:
        await other.close()
    assert SECRET_KEY.hex() not in str(refused.value)
    await store.prepare()


async def test_a_process_without_a_key_may_use_the_store_and_claims_no_key(store: Store, probe: Probe) -> None:
    keyless = Store(store.url, Sealer(None), partitions=4)
    try:
        await keyless.prepare()
        assert "secret_key" not in await probe.hash(META)
        await store.prepare()
        await keyless.prepare()
    finally:
        await keyless.close()


async def test_a_process_that_needs_a_key_and_has_none_is_refused_once_the_store_has_one(store: Store) -> None:
    keyless = Store(store.url, Sealer(None), partitions=4)
    try:
        await keyless.prepare()
        await keyless.check_has_key()
        await store.prepare()
        with pytest.raises(UnfitStore, match="QUEUE_ENGINE_SECRET_KEY"):
            await keyless.check_has_key()
        await store.check_has_key()
    finally:
        await keyless.close()


async def test_the_key_that_secrets_are_sealed_with_is_in_use_before_and_after_a_rotation(
    store: Store, probe: Probe
) -> None:
    await store.prepare()
    newer, stranger = Sealer(bytes(range(1, 33)), [SECRET_KEY]), Sealer(bytes(32))
    other = Store(store.url, newer, partitions=4)
    claims = store.queue(endpoint_id="1", worker_id="a1", lease_ms=1000)
    try:
        assert not await claims.is_key_in_use(newer.fingerprint)
        await other.prepare()
        keys = (store.sealer.fingerprint, newer.fingerprint, stranger.fingerprint)
        assert [await claims.is_key_in_use(key) for key in keys] == [True, True, False]
        assert (await other.rotation.run()).complete
        assert [await claims.is_key_in_use(key) for key in keys] == [False, True, False]
        assert "secret_key_next" not in await probe.hash(META)
    finally:
        await other.close()


async def test_data_of_another_format_is_refused(store: Store, probe: Probe) -> None:
    await probe.ask("HSET", META, "format", "0")
    with pytest.raises(UnfitStore, match="data of format 0"):
        await store.prepare()


@pytest.mark.parametrize(
    ("name", "version"),
    [("redis", "6.2.14"), ("redis", "5.0.0"), ("valkey", "7.0.15"), ("valkey", "7.1.9"), ("redis", "0")],
)
def test_a_server_that_is_too_old_is_refused(name: str, version: str) -> None:
    with pytest.raises(UnfitStore, match=f"{name} {version} is too old: {name} 7.[02] or newer is needed"):
        _check_version(ServerInfo(name, version, "noeviction"))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        *(("redis", version) for version in ("7.0.0", "7.0.15", "8.2.1", "10.0.0")),
        *(("valkey", version) for version in ("7.2.4", "9.0.0-rc1")),
    ],
)
def test_a_server_that_is_new_enough_is_taken(name: str, version: str) -> None:
    _check_version(ServerInfo(name, version, "noeviction"))


async def test_a_store_that_is_away_is_unavailable_not_unfit(sealer: Sealer) -> None:
    store = Store(f"redis://127.0.0.1:{free_port()}/0", sealer)
    try:
        with pytest.raises(StoreUnavailable, match="it cannot be reached") as refused:
            await store.prepare()
    finally:
        await store.close()
    assert refused.value.retry_after_seconds >= 1


async def test_the_instance_id_stays(store: Store, sealer: Sealer) -> None:
    other = Store(store.url, sealer, partitions=4)
    try:
        assert await store.instance_id() == await other.instance_id() == await store.instance_id()
    finally:
        await other.close()


async def test_a_store_can_be_closed_twice(store_url: str, sealer: Sealer) -> None:
    store = Store(store_url, sealer)
    await store.instance_id()
    await store.close()
    await store.close()
