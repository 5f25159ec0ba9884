"""API keys open the API until they are revoked, and are kept as hashes only."""

from queue_engine.store.api_keys import hash_of, new_api_key
from queue_engine.store.store import Store
from tests.store.bench import TENANT
from tests.store.probe import Probe


async def test_a_key_tells_its_tenant(store: Store) -> None:
    key = new_api_key()
    recorded = await store.api_keys.put(key, tenant=TENANT, name="laptop")
    assert (recorded.tenant, recorded.name, recorded.key_hash) == (TENANT, "laptop", hash_of(key))
    assert await store.api_keys.tenant_of(hash_of(key)) == TENANT


async def test_an_unknown_key_tells_nothing(store: Store) -> None:
    assert await store.api_keys.tenant_of(hash_of("qe_unknown")) is None
    assert await store.api_keys.tenant_of("") is None


async def test_a_revoked_key_tells_nothing_and_the_others_stay(store: Store, probe: Probe) -> None:
    keys = [new_api_key() for _ in range(3)]
    for number, key in enumerate(keys):
        await store.api_keys.put(key, tenant=f"tenant{number}", name="")
    revoked = await store.api_keys.revoke(hash_of(keys[1])[:12])
    assert [one.tenant for one in revoked] == ["tenant1"]
    assert [await store.api_keys.tenant_of(hash_of(key)) for key in keys] == ["tenant0", None, "tenant2"]
    assert len(await store.api_keys.all()) == 2
    assert not [name for name in await probe.keys() if hash_of(keys[1]) in name]


async def test_revoking_what_is_not_there_revokes_nothing(store: Store) -> None:
    await store.api_keys.put("qe_key", tenant=TENANT, name="")
    assert await store.api_keys.revoke("zz") == []
    assert await store.api_keys.tenant_of(hash_of("qe_key")) == TENANT


async def test_a_key_that_is_put_again_keeps_its_time(store: Store, probe: Probe) -> None:
    first = await store.api_keys.put("qe_key", tenant=TENANT, name="old")
    await probe.ask("HSET", f"{{qe}}:key:{first.key_hash}", "created", 5)
    second = await store.api_keys.put("qe_key", tenant=TENANT, name="new")
    assert (second.name, second.created_at_ms) == ("new", 5)
    assert len(await store.api_keys.all()) == 1


async def test_keys_are_listed_oldest_first(store: Store, probe: Probe) -> None:
    for number, key in enumerate(("qe_a", "qe_b", "qe_c")):
        recorded = await store.api_keys.put(key, tenant=TENANT, name=key)
        await probe.ask("HSET", f"{{qe}}:key:{recorded.key_hash}", "created", 100 - number)
    assert [key.name for key in await store.api_keys.all()] == ["qe_c", "qe_b", "qe_a"]


async def test_new_keys_are_long_and_never_the_same(store: Store) -> None:
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("qe_") and len(key) == 46 for key in keys)
