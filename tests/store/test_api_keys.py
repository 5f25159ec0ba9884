"""API keys give access to the API until they are revoked. Only their hashes are stored."""

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.store.api_keys import hash_of
from queue_engine.store.keys import FORMAT, META
from queue_engine.store.store import Store
from tests.store.bench import TENANT, tenant_of
from tests.store.probe import Probe


async def test_a_valid_key_has_a_tenant(store: Store) -> None:
    key = new_api_key()
    recorded = await store.api_keys.put(key, tenant=TENANT, name="laptop")
    assert recorded is not None
    assert (recorded.tenant, recorded.name, recorded.key_hash) == (TENANT, "laptop", hash_of(key))
    assert await tenant_of(store, hash_of(key)) == TENANT


async def test_an_unknown_key_has_no_tenant(store: Store) -> None:
    assert await tenant_of(store, hash_of("qe_unknown")) is None
    assert await tenant_of(store, "") is None


async def test_a_revoked_key_has_no_tenant_and_other_keys_stay_valid(store: Store, probe: Probe) -> None:
    keys = [new_api_key() for _ in range(3)]
    for number, key in enumerate(keys):
        await store.api_keys.put(key, tenant=f"tenant{number}", name="")
    revoked = await store.api_keys.revoke(hash_of(keys[1])[:12])
    assert [one.tenant for one in revoked] == ["tenant1"]
    assert [await tenant_of(store, hash_of(key)) for key in keys] == ["tenant0", None, "tenant2"]
    assert len(await store.api_keys.all()) == 2
    assert not [name for name in await probe.keys() if hash_of(keys[1]) in name]


async def test_revoking_an_unknown_key_revokes_no_key(store: Store) -> None:
    await store.api_keys.put("qe_key", tenant=TENANT, name="")
    assert await store.api_keys.revoke("zz") == []
    assert await tenant_of(store, hash_of("qe_key")) == TENANT


async def test_a_known_key_is_never_changed(store: Store, probe: Probe) -> None:
    first = await store.api_keys.put("qe_key", tenant=TENANT, name="old")
    before = await probe.hash(f"{{qe}}:key:{hash_of('qe_key')}")
    second = await store.api_keys.put("qe_key", tenant="thief", name="new")
    assert first == second
    assert await probe.hash(f"{{qe}}:key:{hash_of('qe_key')}") == before
    assert await tenant_of(store, hash_of("qe_key")) == TENANT
    assert len(await store.api_keys.all()) == 1


async def test_a_revoked_key_stays_revoked(store: Store) -> None:
    key = await store.api_keys.put("qe_key", tenant=TENANT, name="")
    assert key is not None
    assert await store.api_keys.revoke(key.key_hash[:8]) == [key]
    for tenant in (TENANT, "other"):
        assert await store.api_keys.put("qe_key", tenant=tenant, name="again") is None
    assert await tenant_of(store, key.key_hash) is None
    assert await store.api_keys.all() == []


async def test_the_first_key_is_refused_with_a_reason_when_revoked_or_of_another_tenant(store: Store) -> None:
    assert await store.api_keys.put_first("qe_first") is None
    assert await store.api_keys.put_first("qe_first") is None
    await store.api_keys.revoke(hash_of("qe_first"))
    assert "was revoked and stays revoked" in (await store.api_keys.put_first("qe_first") or "")
    await store.api_keys.put("qe_anothers", tenant="acme", name="")
    assert "is a key of tenant 'acme' already" in (await store.api_keys.put_first("qe_anothers") or "")
    assert await tenant_of(store, hash_of("qe_anothers")) == "acme"
    assert await tenant_of(store, hash_of("qe_first")) is None


async def test_making_or_revoking_a_key_is_one_call_of_a_script(store: Store) -> None:
    """A script is atomic, so a crash cannot leave a valid key that cannot be revoked."""
    for key in ("qe_warm", "qe_key"):
        before = await _calls(store)
        await store.api_keys.put(key, tenant=TENANT, name="")
        await store.api_keys.revoke(hash_of(key))
    after = await _calls(store)
    assert after["evalsha"] - before["evalsha"] == 2
    # Commands that the two scripts execute are counted too.
    assert {name: after[name] - before[name] for name in after if name != "evalsha"} == {
        "hset": 1, "hsetnx": 0, "sadd": 4, "srem": 1, "del": 1,
    }  # fmt: skip


async def _calls(store: Store) -> dict[str, int]:
    stats = await store.redis.info("commandstats")
    names = ("evalsha", "hset", "hsetnx", "sadd", "srem", "del")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names}


async def test_a_key_that_is_in_no_list_can_be_revoked_by_its_whole_hash(store: Store, probe: Probe) -> None:
    """Older versions left such keys when they crashed between two steps."""
    key_hash = hash_of("qe_stranded")
    await probe.ask("HSET", f"{{qe}}:key:{key_hash}", "tenant", TENANT, "name", "", "created", 1)
    assert await tenant_of(store, key_hash) == TENANT
    assert await store.api_keys.revoke(key_hash[:12]) == []
    assert [key.key_hash for key in await store.api_keys.revoke(key_hash)] == [key_hash]
    assert await tenant_of(store, key_hash) is None
    assert await store.api_keys.revoke(hash_of("qe_never_seen")) == []


async def test_a_second_tenant_is_noticed_and_stays_one_without_a_key(store: Store, probe: Probe) -> None:
    assert await store.api_keys.has_one_tenant()
    for key in ("qe_a", "qe_b"):
        await store.api_keys.put(key, tenant=TENANT, name="")
        assert await store.api_keys.has_one_tenant()
    await store.api_keys.put("qe_c", tenant="second", name="")
    assert not await store.api_keys.has_one_tenant()
    await store.api_keys.revoke(hash_of("qe_c"))
    assert not await store.api_keys.has_one_tenant()
    await probe.ask("DEL", "{qe}:tenants")  # as an older version leaves the store
    await store.api_keys.put("qe_d", tenant="third", name="")
    await store.api_keys.index_keys()
    assert not await store.api_keys.has_one_tenant()


async def test_all_keys_are_read_for_the_indexes_until_older_versions_can_no_longer_store_any(
    store: Store, probe: Probe
) -> None:
    async def indexed(key: str) -> bool:
        """Store a key as an older version does, and return whether it is then indexed."""
        key_hash = hash_of(key)
        await probe.ask("HSET", f"{{qe}}:key:{key_hash}", "tenant", TENANT, "name", "", "created", 1)
        await probe.ask("SADD", "{qe}:keys", key_hash)
        await store.api_keys.index_keys()
        return key_hash in await probe.scores(f"{{qe}}:keys-of:{TENANT}")

    await probe.ask("HSET", META, FORMAT, 1)
    assert [await indexed("qe_a"), await indexed("qe_b")] == [True, True]
    await probe.ask("HSET", META, FORMAT, 2)
    assert [await indexed("qe_c"), await indexed("qe_d")] == [True, False]


async def test_keys_are_listed_oldest_first(store: Store, probe: Probe) -> None:
    for number, key in enumerate(("qe_a", "qe_b", "qe_c")):
        recorded = await store.api_keys.put(key, tenant=TENANT, name=key)
        assert recorded is not None
        await probe.ask("HSET", f"{{qe}}:key:{recorded.key_hash}", "created", 100 - number)
    assert [key.name for key in await store.api_keys.all()] == ["qe_c", "qe_b", "qe_a"]


async def test_new_keys_are_long_and_never_the_same(store: Store) -> None:
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("qe_") and len(key) == 46 for key in keys)
