"""Registry credentials in the store: sealed, each bound to its place, and kept while they are used."""

import asyncio

import pytest

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.credentials import RegistryAuth, RegistryType
from queue_engine.store import keys
from queue_engine.store.constants import USE_GRACE_MS
from queue_engine.store.credentials import Deletion
from queue_engine.store.store import Store
from tests.store.bench import TENANT, config
from tests.store.probe import Probe

AUTH = RegistryAuth("robot-canary", "password-canary")


async def _create(store: Store, auth: RegistryAuth = AUTH, tenant: str = TENANT) -> int:
    return (await store.credentials.create(tenant, "ours", RegistryType.ACR, auth)).credential_id


async def test_what_was_kept_is_opened_by_its_tenant_only(store: Store) -> None:
    credential_id = await _create(store)
    assert await store.credentials.open(TENANT, credential_id) == AUTH
    assert await store.credentials.open("other", credential_id) is None
    assert await store.credentials.open(TENANT, credential_id + 1) is None


async def test_user_name_and_password_are_sealed(store: Store, probe: Probe) -> None:
    credential_id = await _create(store)
    await store.credentials.update(TENANT, credential_id, password="new-canary")
    assert [name for name, content in (await probe.dump()).items() if b"canary" in content] == []
    assert "canary" not in repr(AUTH)
    assert "canary" not in repr(await store.credentials.get(TENANT, credential_id))


@pytest.mark.parametrize("secret", ["username", "password"])
async def test_a_sealed_secret_cannot_take_anothers_place(store: Store, probe: Probe, secret: str) -> None:
    first, second = await _create(store), await _create(store, RegistryAuth("u", "p"))
    other = "password" if secret == "username" else "username"
    stolen = await probe.hash(keys.credential(first))
    for key, field, text in (
        (keys.credential(second), secret, stolen[secret]),
        (keys.credential(first), other, stolen[secret]),
    ):
        before = (await probe.hash(key))[field]
        await probe.ask("HSET", key, field, text)
        with pytest.raises(SealBroken):
            await store.credentials.open(TENANT, first if key == keys.credential(first) else second)
        await probe.ask("HSET", key, field, before)
    theirs = await _create(store, tenant="other")
    await probe.ask("HSET", keys.credential(theirs), "tenant", TENANT)
    with pytest.raises(SealBroken):
        await store.credentials.open(TENANT, theirs)


async def test_ids_count_up_and_are_not_given_twice(store: Store) -> None:
    ids = await asyncio.gather(*(_create(store) for _ in range(20)))
    assert sorted(ids) == list(range(1, 21))
    assert await store.credentials.delete(TENANT, 20) is Deletion.OK
    assert await _create(store) == 21
    assert [one.credential_id for one in await store.credentials.of_tenant(TENANT)] == [21, *range(19, 0, -1)]


async def test_nothing_is_left_of_a_deleted_credential(store: Store, probe: Probe) -> None:
    credential_id = await _create(store)
    await store.credentials.use(TENANT, credential_id, "1")
    await store.credentials.release(credential_id, "1")
    assert await store.credentials.delete(TENANT, credential_id) is Deletion.OK
    assert await store.credentials.delete(TENANT, credential_id) is Deletion.NOT_FOUND
    assert await store.credentials.update(TENANT, credential_id, name="x") is None
    assert not await store.credentials.use(TENANT, credential_id, "1")
    assert await probe.keys() == {keys.CREDENTIAL_IDS}


async def test_of_using_and_deleting_at_once_one_wins(store: Store) -> None:
    for _ in range(30):
        credential_id = await _create(store)
        used, deleted = await asyncio.gather(
            store.credentials.use(TENANT, credential_id, "1"), store.credentials.delete(TENANT, credential_id)
        )
        assert deleted is (Deletion.IN_USE if used else Deletion.OK)


async def test_a_note_counts_for_its_grace_and_then_the_endpoint_does(store: Store, probe: Probe) -> None:
    credential_id = await _create(store)
    users = keys.credential_users(credential_id)
    endpoint = await store.endpoints.create(TENANT, config(credential_id=credential_id))
    assert await store.credentials.delete(TENANT, credential_id) is Deletion.IN_USE  # no note at all
    await store.credentials.use(TENANT, credential_id, endpoint.endpoint_id)
    await probe.ask("ZADD", users, await probe.now_ms() - USE_GRACE_MS - 1, endpoint.endpoint_id)
    assert await store.credentials.delete(TENANT, credential_id) is Deletion.IN_USE
    other = await _create(store)
    await store.credentials.use(TENANT, other, endpoint.endpoint_id)
    assert await store.credentials.delete(TENANT, other) is Deletion.IN_USE
    await probe.ask("ZADD", keys.credential_users(other), await probe.now_ms() - USE_GRACE_MS - 1, "1")
    assert await store.credentials.delete(TENANT, other) is Deletion.OK
    assert await store.credentials.delete("other", credential_id) is Deletion.NOT_FOUND


async def test_notes_of_use_stay_for_their_grace_only(store: Store, probe: Probe) -> None:
    credential_id = await _create(store)
    users = keys.credential_users(credential_id)
    await probe.ask("ZADD", users, await probe.now_ms() - USE_GRACE_MS - 1, "left behind")
    await store.credentials.use(TENANT, credential_id, "1")
    assert set(await probe.scores(users)) == {"1"}
    assert 0 < await probe.ask("PTTL", users) <= USE_GRACE_MS


@pytest.mark.parametrize("number", [0, -1, 2**53, 10**400])
async def test_a_number_that_no_credential_has_is_not_found(store: Store, probe: Probe, number: int) -> None:
    assert await store.credentials.get(TENANT, number) is None
    assert await store.credentials.open(TENANT, 77) is None
    assert await store.credentials.update(TENANT, number, name="x") is None
    assert not await store.credentials.use(TENANT, number, "1")
    assert await store.credentials.delete(TENANT, number) is Deletion.NOT_FOUND
    assert await probe.keys() == set()


async def test_without_a_key_nothing_is_kept(store: Store, probe: Probe) -> None:
    credential_id = await _create(store)
    before = (await probe.snapshot()).contents
    keyless = Store(store.url, Sealer(None), partitions=store.partitions.count)
    try:
        with pytest.raises(SecretKeyMissing):
            await _create(keyless)
        with pytest.raises(SecretKeyMissing):
            await keyless.credentials.update(TENANT, credential_id, password="p")
        with pytest.raises(SecretKeyMissing):
            await keyless.credentials.open(TENANT, credential_id)
        assert (await probe.snapshot()).contents == before
        assert len(await keyless.credentials.of_tenant(TENANT)) == 1
    finally:
        await keyless.close()
