"""Keys with a role, endpoints and an end; rotation; and what processes of the version before do with such keys."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.domain.api_keys import MAX_KEYS_PER_TENANT, ApiKey, Grant
from queue_engine.domain.principals import Principal, Role
from queue_engine.store import api_keys
from queue_engine.store.api_keys import OPERATORS, Creation, Rotation, hash_of
from queue_engine.store.constants import MAX_ENDED_KEYS
from queue_engine.store.store import Store
from tests.store.bench import TENANT, tenant_of
from tests.store.probe import Probe
from tests.waiting import wait_until_async

# As version 0.2.0 stores a key, with the keys that its loader passes.
PUT_OF_THE_VERSION_BEFORE = """\
if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then return { 'REVOKED' } end
if redis.call('HEXISTS', KEYS[1], 'tenant') == 0 then
  redis.call('HSET', KEYS[1], 'tenant', ARGV[2], 'name', ARGV[3], 'created', '1')
end
redis.call('SADD', KEYS[2], ARGV[1])
return { 'OK' }
"""

LIMITED = (
    Grant("reader", Role.READ),
    Grant("ci", Role.SUBMIT),
    Grant("shift", Role.OPERATE),
    Grant("one endpoint", endpoints=frozenset({"7"})),
    Grant("for a day", expires_at_ms=2**45),
    Grant("operator", Role.OPERATOR),
)


async def create(store: Store, grant: Grant, tenant: str = TENANT) -> ApiKey:
    key = new_api_key()
    assert await store.api_keys.create(key, tenant, grant) is Creation.OK
    created = await store.api_keys.find(hash_of(key))
    assert created is not None
    return created


def record(key: ApiKey) -> str:
    return f"{{qe}}:key:{key.key_hash}"


async def accepted_by_the_version_before(probe: Probe, key: ApiKey) -> bool:
    """Return the result of the lookup of version 0.2.0, which knows no roles: it would treat the key as an admin's."""
    return bool(await probe.ask("HGET", record(key), "tenant"))


@pytest.mark.parametrize("grant", [Grant("all"), *LIMITED], ids=lambda grant: grant.name)
async def test_a_key_has_the_role_the_endpoints_and_the_end_that_it_was_created_with(
    store: Store, grant: Grant
) -> None:
    key = await create(store, grant)
    assert (key.name, key.role, key.endpoints, key.expires_at_ms) == (
        grant.name, grant.role, grant.endpoints, grant.expires_at_ms,
    )  # fmt: skip
    assert key.tenant == TENANT
    assert await store.api_keys.all() == [key]


@pytest.mark.parametrize("grant", LIMITED, ids=lambda grant: grant.name)
async def test_the_version_before_refuses_a_limited_key_and_cannot_make_it_unlimited(
    store: Store, probe: Probe, grant: Grant
) -> None:
    key = await create(store, grant)
    assert not await accepted_by_the_version_before(probe, key)
    put = (PUT_OF_THE_VERSION_BEFORE, 3, record(key), "{qe}:keys", "{qe}:keys:revoked", key.key_hash, TENANT, "x")
    assert await probe.ask("EVAL", *put) == [b"REVOKED"]
    assert not await accepted_by_the_version_before(probe, key)
    assert await store.api_keys.find(key.key_hash) == key


async def test_both_versions_accept_a_key_with_all_rights(store: Store, probe: Probe) -> None:
    assert await accepted_by_the_version_before(probe, await create(store, Grant("all")))
    key_hash = hash_of("qe_of_before")
    put = (
        PUT_OF_THE_VERSION_BEFORE,
        3,
        f"{{qe}}:key:{key_hash}",
        "{qe}:keys",
        "{qe}:keys:revoked",
        key_hash,
        TENANT,
        "x",
    )
    assert await probe.ask("EVAL", *put) == [b"OK"]
    assert await store.api_keys.find(key_hash) == ApiKey(key_hash, TENANT, "x", 1, role=Role.ADMIN)


async def test_the_operators_first_key_does_not_lift_the_limits_of_a_key(store: Store) -> None:
    await store.api_keys.create("qe_first", TENANT, Grant("reader", Role.READ))
    assert "is a key with the role read" in (await store.api_keys.put_first("qe_first") or "")
    found = await store.api_keys.find(hash_of("qe_first"))
    assert found is not None
    assert found.role is Role.READ


async def test_an_expired_key_is_unknown_not_listed_and_never_valid_again(store: Store, probe: Probe) -> None:
    kept = await create(store, Grant("kept"))
    end = await probe.now_ms() + 50
    key = "qe_short"
    assert await store.api_keys.create(key, TENANT, Grant("short", expires_at_ms=end)) is Creation.OK

    async def has_ended() -> bool:
        return await store.api_keys.find(hash_of(key)) is None

    await wait_until_async(has_ended, message="the key does not expire")
    assert await probe.now_ms() >= end
    assert await store.api_keys.put(key, tenant=TENANT, name="again") is None
    page = await store.api_keys.page_of(TENANT, page=1, size=10)
    assert (page.keys, page.total) == ([kept], 1)
    assert await store.api_keys.all() == [kept]
    assert await probe.ask("SMEMBERS", "{qe}:keys") == {kept.key_hash.encode()}


async def test_a_key_that_would_have_expired_is_not_stored(store: Store, probe: Probe) -> None:
    end = await probe.now_ms()
    assert await store.api_keys.create("qe_late", TENANT, Grant("late", expires_at_ms=end)) is Creation.PAST
    assert await store.api_keys.all() == []
    assert await probe.keys() == set()


async def test_a_repeated_creation_changes_nothing(store: Store) -> None:
    assert await store.api_keys.create("qe_twice", TENANT, Grant("one", Role.READ)) is Creation.OK
    assert await store.api_keys.create("qe_twice", TENANT, Grant("two", Role.ADMIN)) is Creation.OK
    assert [(key.name, key.role) for key in await store.api_keys.all()] == [("one", Role.READ)]


async def test_pages_have_the_tenants_keys_newest_first(store: Store, probe: Probe) -> None:
    keys = [await create(store, Grant(f"key {number}")) for number in range(5)]
    await create(store, Grant("another's"), tenant="other")
    await create(store, Grant("operator", Role.OPERATOR), tenant=OPERATORS)
    for number, key in enumerate(keys):
        await probe.ask("ZADD", f"{{qe}}:keys-of:{TENANT}", "XX", number, key.key_hash)
    names = [
        [key.name for key in (await store.api_keys.page_of(TENANT, page=number, size=2)).keys]
        for number in (1, 2, 3, 4)
    ]
    assert names == [["key 4", "key 3"], ["key 2", "key 1"], ["key 0"], []]
    assert (await store.api_keys.page_of(TENANT, page=1, size=2)).total == 5


async def test_keys_of_the_version_before_are_added_to_the_index(store: Store, probe: Probe) -> None:
    for number in range(3):
        key_hash = hash_of(f"qe_{number}")
        await probe.ask("HSET", f"{{qe}}:key:{key_hash}", "tenant", "old", "name", "", "created", number)
        await probe.ask("SADD", "{qe}:keys", key_hash)
    assert (await store.api_keys.page_of("old", page=1, size=10)).total == 0
    for _ in range(2):
        await store.api_keys.index_keys()
    page = await store.api_keys.page_of("old", page=1, size=10)
    assert [key.created_at_ms for key in page.keys] == [2, 1, 0]


async def test_a_tenant_has_a_limited_number_of_keys_and_expired_ones_do_not_count(
    store: Store, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_KEYS_PER_TENANT == 1000
    monkeypatch.setattr(api_keys, "MAX_KEYS_PER_TENANT", 2)
    first, _ = await create(store, Grant("one")), await create(store, Grant("two", expires_at_ms=2**45))
    assert await store.api_keys.create("qe_3", TENANT, Grant("three")) is Creation.FULL
    assert await store.api_keys.rotate(first, "qe_4", overlap_ms=1000) is Rotation.FULL
    assert await store.api_keys.create("qe_5", "other", Grant("another tenant's")) is Creation.OK
    await probe.ask("PEXPIRE", record((await store.api_keys.page_of(TENANT, page=1, size=1)).keys[0]), 0)
    assert await store.api_keys.create("qe_3", TENANT, Grant("three")) is Creation.OK
    assert await store.api_keys.create("qe_6", TENANT, Grant("four")) is Creation.FULL


@pytest.mark.parametrize("grant", [Grant("all"), *LIMITED], ids=lambda grant: grant.name)
async def test_a_rotated_key_has_the_same_rights_and_the_old_key_ends_after_the_overlap(
    store: Store, probe: Probe, grant: Grant
) -> None:
    old = await create(store, grant)
    await store.api_keys.note_use(old.key_hash)
    for _ in range(2):  # a repeated call changes nothing
        assert await store.api_keys.rotate(old, "qe_new", overlap_ms=60_000) is Rotation.OK
    new = await store.api_keys.find(hash_of("qe_new"))
    assert new is not None
    assert (new.name, new.role, new.endpoints, new.expires_at_ms) == (
        grant.name, grant.role, grant.endpoints, grant.expires_at_ms,
    )  # fmt: skip
    assert (new.origin, new.last_used_at_ms, new.is_replaced) == (old.key_id, None, False)
    replaced = await store.api_keys.find(old.key_hash)
    assert replaced is not None
    assert replaced.is_replaced
    assert replaced.expires_at_ms is not None
    now = await probe.now_ms()
    assert now + 50_000 < replaced.expires_at_ms <= now + 60_000
    assert 0 < await probe.ask("PTTL", record(old)) <= 60_000
    assert await store.api_keys.rotate(old, "qe_another", overlap_ms=1) is Rotation.ROTATED
    # The version before accepts the new key if it has all rights, and the old key no longer, because it has an end.
    assert await accepted_by_the_version_before(probe, new) is not grant.is_limited
    assert not await accepted_by_the_version_before(probe, old)


async def test_rotation_does_not_lengthen_the_life_of_a_key(store: Store, probe: Probe) -> None:
    end = await probe.now_ms() + 30_000
    old = await create(store, Grant("short", expires_at_ms=end))
    assert await store.api_keys.rotate(old, "qe_new", overlap_ms=60_000) is Rotation.OK
    for key_hash in (old.key_hash, hash_of("qe_new")):
        found = await store.api_keys.find(key_hash)
        assert found is not None
        assert found.expires_at_ms == end
        assert 0 < await probe.ask("PTTL", f"{{qe}}:key:{key_hash}") <= 30_000


async def test_without_an_overlap_the_old_key_ends_at_once_and_stays_ended(store: Store) -> None:
    old = "qe_old"
    await store.api_keys.put(old, tenant=TENANT, name="first key")
    stored = await store.api_keys.find(hash_of(old))
    assert stored is not None
    assert await store.api_keys.rotate(stored, "qe_new", overlap_ms=0) is Rotation.OK
    assert await tenant_of(store, hash_of(old)) is None
    assert "was revoked and stays revoked" in (await store.api_keys.put_first(old) or "")
    assert await store.api_keys.rotate(stored, "qe_newer", overlap_ms=0) is Rotation.NOT_FOUND


async def test_the_submitter_stays_the_same_through_all_rotations(store: Store) -> None:
    first = await create(store, Grant("ci", Role.SUBMIT))
    key = first
    for number in range(3):
        assert await store.api_keys.rotate(key, f"qe_{number}", overlap_ms=1000) is Rotation.OK
        found = await store.api_keys.find(hash_of(f"qe_{number}"))
        assert found is not None
        key = found
        assert key.principal().submitter == first.key_id


async def test_the_use_of_a_key_is_written_at_most_once_a_minute(store: Store, probe: Probe) -> None:
    key = await create(store, Grant("all"))
    assert key.last_used_at_ms is None
    await store.api_keys.note_use(key.key_hash)
    used = (await probe.hash(record(key)))["used"]
    assert abs(int(used) - await probe.now_ms()) < 10_000
    await probe.ask("HSET", record(key), "used", int(used) - 30_000)
    await store.api_keys.note_use(key.key_hash)
    assert (await probe.hash(record(key)))["used"] == str(int(used) - 30_000)
    await probe.ask("HSET", record(key), "used", int(used) - 60_000)
    await store.api_keys.note_use(key.key_hash)
    assert int((await probe.hash(record(key)))["used"]) >= int(used)


async def test_a_note_of_use_does_not_bring_a_revoked_key_back(store: Store, probe: Probe) -> None:
    key = await create(store, Grant("all"))
    await store.api_keys.revoke_key(key)
    await store.api_keys.note_use(key.key_hash)
    assert not await probe.ask("EXISTS", record(key))


async def test_a_limited_key_is_found_by_its_id_and_revoked(store: Store) -> None:
    key = await create(store, Grant("ci", Role.SUBMIT))
    assert await store.api_keys.find_of(TENANT, key.key_id) == key
    assert await store.api_keys.find_of("other", key.key_id) is None
    assert await store.api_keys.revoke(key.key_id) == [key]
    assert await store.api_keys.find_of(TENANT, key.key_id) is None
    assert await store.api_keys.put("qe_x", tenant=TENANT, name="") is not None


REVOKED = "{qe}:keys:revoked"
ENDED = f"{{qe}}:keys-ended:{TENANT}"


async def fill_with_ended_keys(probe: Probe) -> None:
    """Fill the memory of the tenant's ended keys, as creating and revoking keys does."""
    hashes = [f"{number:064d}" for number in range(MAX_ENDED_KEYS)]
    now = await probe.now_ms()
    await probe.ask("SADD", REVOKED, *hashes)
    await probe.ask("ZADD", ENDED, *(item for one in hashes for item in (now, one)))


async def remembered(probe: Probe) -> tuple[int, int]:
    return await probe.ask("SCARD", REVOKED), await probe.ask("ZCARD", ENDED)


async def test_creating_and_revoking_keys_does_not_fill_the_store(store: Store, probe: Probe) -> None:
    await fill_with_ended_keys(probe)
    for grant in LIMITED[:3]:
        key = await create(store, grant)
        assert await remembered(probe) == (MAX_ENDED_KEYS + 1, MAX_ENDED_KEYS)
        await store.api_keys.revoke_key(key)
        assert await remembered(probe) == (MAX_ENDED_KEYS, MAX_ENDED_KEYS)
        assert await probe.ask("SISMEMBER", REVOKED, key.key_hash)


async def test_keys_that_expire_do_not_fill_the_store(store: Store, probe: Probe) -> None:
    await fill_with_ended_keys(probe)
    for _ in range(2):
        key = await create(store, Grant("short", expires_at_ms=await probe.now_ms() + 60_000))
        await probe.ask("PEXPIRE", record(key), 0)
        for _ in range(2):
            assert (await store.api_keys.page_of(TENANT, page=1, size=10)).total == 0
        assert await remembered(probe) == (MAX_ENDED_KEYS, MAX_ENDED_KEYS)
        assert await probe.ask("SISMEMBER", REVOKED, key.key_hash)


async def test_a_record_that_is_missing_does_not_revoke_an_unlimited_key(store: Store, probe: Probe) -> None:
    key = await create(store, Grant("all"))
    await probe.ask("DEL", record(key))
    assert (await store.api_keys.page_of(TENANT, page=1, size=10)).total == 0
    assert await remembered(probe) == (0, 0)


async def _revoke(store: Store, key: ApiKey) -> None:
    await store.api_keys.revoke_key(key)


async def _rotate(store: Store, key: ApiKey) -> None:
    assert await store.api_keys.rotate(key, "qe_new", overlap_ms=0) is Rotation.OK
    await store.api_keys.page_of(key.tenant, page=1, size=10)


@pytest.mark.parametrize("end", [_revoke, _rotate])
async def test_the_end_of_a_first_key_is_remembered_forever(
    store: Store, probe: Probe, end: Callable[[Store, ApiKey], Awaitable[None]]
) -> None:
    await store.api_keys.put("qe_first", tenant=TENANT, name="first key")
    first = await store.api_keys.find(hash_of("qe_first"))
    assert first is not None
    await end(store, first)
    await probe.ask("ZADD", ENDED, "XX", 1, first.key_hash)  # a long time ago
    await fill_with_ended_keys(probe)
    for grant in LIMITED[:2]:
        await store.api_keys.revoke_key(await create(store, grant))
    assert await probe.ask("ZSCORE", ENDED, first.key_hash) is None
    assert "was revoked and stays revoked" in (await store.api_keys.put_first("qe_first") or "")


async def maker_of(store: Store, grant: Grant) -> Principal:
    return (await create(store, grant)).principal()


async def made_by(store: Store, maker: Principal, key: ApiKey) -> tuple[Creation, Rotation]:
    """Return the results of creating a key, and of rotating `key`, with the maker's key."""
    created = await store.api_keys.create(new_api_key(), TENANT, Grant("made", Role.READ), maker)
    return created, await store.api_keys.rotate(key, new_api_key(), overlap_ms=1000, maker=maker)


@pytest.mark.parametrize(
    "grant",
    [Grant("all"), Grant("one endpoint", endpoints=frozenset({"7", "12"})), Grant("a day", expires_at_ms=2**45)],
    ids=lambda grant: grant.name,
)
async def test_a_valid_key_makes_keys(store: Store, grant: Grant) -> None:
    key = await create(store, Grant("rotated", Role.READ))
    assert await made_by(store, await maker_of(store, grant), key) == (Creation.OK, Rotation.OK)


async def test_a_key_makes_no_key_after_its_end(store: Store, probe: Probe) -> None:
    key = await create(store, Grant("rotated", Role.READ))
    admin = await maker_of(store, Grant("all"))
    ended = await maker_of(store, Grant("ended", expires_at_ms=await probe.now_ms() + 60_000))
    await probe.ask("HSET", f"{{qe}}:key:{ended.key_hash}", "expires", await probe.now_ms())
    revoked = await create(store, Grant("revoked"))
    await store.api_keys.revoke_key(revoked)
    listed = await store.api_keys.all()
    for maker in (
        ended,
        revoked.principal(),
        replace(admin, role=Role.OPERATE),
        replace(admin, endpoints=frozenset({"7"})),
        replace(admin, key_hash=hash_of("qe_unknown")),
        replace(admin, key_hash=""),
        (await create(store, Grant("another tenant's"), tenant="other")).principal(),
    ):
        assert await made_by(store, maker, key) == (Creation.REFUSED, Rotation.REFUSED)
    assert len(await store.api_keys.all()) == len(listed) + 1  # the other tenant's


async def test_a_role_of_a_later_version_gives_no_rights_and_is_kept(store: Store, probe: Probe) -> None:
    key = await create(store, Grant("later", Role.READ))
    await probe.ask("HSET", record(key), "role", "auditor")
    (found,) = await store.api_keys.all()
    assert found.role == "auditor"
    assert not found.principal().rights
    assert await store.api_keys.rotate(found, "qe_new", overlap_ms=60_000) is Rotation.OK
    assert {one.role for one in await store.api_keys.all()} == {"auditor"}
