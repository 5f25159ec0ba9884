"""Rotation of the secret key while all processes run loses no secret."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing, fingerprint_of
from queue_engine.domain.credentials import RegistryAuth, RegistryType
from queue_engine.domain.tasks import Succeeded
from queue_engine.store.endpoints import new_signing_secret
from queue_engine.store.keys import META, credential
from queue_engine.store.rotation import CHUNK, MAX_ROUNDS, Progress
from queue_engine.store.store import Store, UnfitStore
from tests.servers import StoreServer
from tests.store.bench import SECRET_KEY, TENANT, Bench, config, spec
from tests.store.probe import Probe

NEW_KEY = bytes(reversed(range(32)))
SECRETS = spec(webhook=True, headers={"Authorization": "Bearer x"}, auth_key="auth key")
AUTH = RegistryAuth("robot", "password")


@pytest.fixture
async def rotated(store: Store) -> AsyncIterator[Store]:
    """The same store, for a process that has the new key and knows the old one."""
    opened = Store(store.url, Sealer(NEW_KEY, (SECRET_KEY,)), partitions=store.partitions.count)
    yield opened
    await opened.close()


@pytest.fixture
async def later(store: Store) -> AsyncIterator[Store]:
    """The same store, for a process that has the new key only."""
    opened = Store(store.url, Sealer(NEW_KEY), partitions=store.partitions.count)
    yield opened
    await opened.close()


async def _secret_bench(store: Store, probe: Probe) -> Bench:
    endpoint = await store.endpoints.create(TENANT, config(environment={"TOKEN": "value"}))
    return Bench(store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])


async def test_all_secrets_are_resealed_without_a_change(
    store: Store, rotated: Store, later: Store, probe: Probe
) -> None:
    await store.prepare()
    bench = await _secret_bench(store, probe)
    signing = await store.endpoints.signing_secret(bench.endpoint_id)
    kept = await store.credentials.create(TENANT, "ours", RegistryType.GCR, AUTH)
    running = await bench.submit_and_start("running", spec=SECRETS)
    await bench.submit("waiting", spec=SECRETS)
    await bench.submit("plain")
    before = (await probe.snapshot()).contents

    seen: list[int] = []
    result = await rotated.rotation.run(lambda progress: seen.append(progress.round))

    assert result.complete
    assert result.progress.checked == {"credentials": 1, "endpoints": 1, "tasks": 3}
    assert result.progress.resealed == {"credentials": 1, "endpoints": 1, "tasks": 2}
    assert (result.progress.unreadable, sorted(set(seen))) == (0, [1, 2])
    assert await later.endpoints.environment(bench.endpoint_id) == {"TOKEN": "value"}
    assert await later.endpoints.signing_secret(bench.endpoint_id) == signing
    assert await later.credentials.open(TENANT, kept.credential_id) == AUTH
    task = await later.tasks.get(bench.endpoint_id, "waiting")
    assert task is not None
    assert (task.spec, task.input) == (SECRETS, b'{"n": 1}')
    old, after = fingerprint_of(SECRET_KEY).encode(), (await probe.snapshot()).contents
    assert [name for name, content in (await probe.dump()).items() if old in content] == []
    assert {name for name in before if before[name] != after[name]} == {
        META, bench.keys.endpoint, credential(kept.credential_id), bench.keys.body("running"),
        bench.keys.body("waiting"),
    }  # fmt: skip
    # The attempt that was running can still end.
    assert bench.agent().open(running).spec == replace(SECRETS, webhook_auth_key=None)
    assert (await bench.settle(bench.agent(), running, Succeeded(b"1"))).word == "OK"


async def test_secrets_of_cancelled_and_rerun_tasks_are_resealed(
    store: Store, rotated: Store, later: Store, probe: Probe
) -> None:
    await store.prepare()
    bench = await _secret_bench(store, probe)
    agent = bench.agent()
    await bench.submit("cancelled", spec=SECRETS)
    await store.tasks.cancel(bench.endpoint_id, "cancelled")
    started = await bench.submit_and_start("again", agent, spec=SECRETS)
    await bench.settle(agent, started, Succeeded(b"1"))
    await store.tasks.rerun(bench.endpoint_id, "again", "call")

    assert (await rotated.rotation.run()).progress.resealed["tasks"] == 2

    for task_id in ("cancelled", "again"):
        task = await later.tasks.get(bench.endpoint_id, task_id)
        assert task is not None
        assert task.spec == SECRETS
    assert await probe.ask("PTTL", bench.keys.body("again")) == -1
    assert await probe.ask("PTTL", bench.keys.body("cancelled")) > 0


async def test_the_store_knows_its_new_key_afterwards(store: Store, rotated: Store, later: Store, probe: Probe) -> None:
    await store.prepare()
    await rotated.prepare()
    with pytest.raises(UnfitStore, match="QUEUE_ENGINE_SECRET_KEY_PREVIOUS"):
        await later.prepare()
    assert (await rotated.rotation.run()).complete
    assert (await probe.hash(META))["secret_key"] == fingerprint_of(NEW_KEY)
    await later.prepare()
    await rotated.prepare()
    with pytest.raises(UnfitStore):
        await store.prepare()


async def test_a_second_rotation_changes_nothing(store: Store, rotated: Store, probe: Probe) -> None:
    bench = await _secret_bench(store, probe)
    await bench.submit("t1", spec=SECRETS)
    await rotated.rotation.run()
    before = (await probe.snapshot()).contents
    again = await rotated.rotation.run()
    assert (again.complete, again.progress.total_resealed, again.progress.round) == (True, 0, 1)
    assert (await probe.snapshot()).contents == before


async def test_more_tasks_than_one_chunk_are_resealed_and_keep_their_retention(
    store: Store, rotated: Store, later: Store, probe: Probe
) -> None:
    bench = await _secret_bench(store, probe)
    count = CHUNK * 2 + 3
    await asyncio.gather(*(bench.submit(f"t{number}", spec=SECRETS, input=b"%d" % number) for number in range(count)))
    agent = bench.agent()
    started = await bench.start(agent)
    await bench.settle(agent, started, Succeeded(b"1"))
    ended = started.lease.task_id
    expiry = await probe.ask("PEXPIRETIME", bench.keys.body(ended))
    result = await rotated.rotation.run()
    assert result.progress.resealed["tasks"] == count
    assert await probe.ask("PEXPIRETIME", bench.keys.body(ended)) == expiry > 0
    for number in (0, 1, CHUNK, count - 1):
        task = await later.tasks.get(bench.endpoint_id, f"t{number}")
        assert task is not None
        assert (task.spec, task.input) == (SECRETS, b"%d" % number)


async def test_a_secret_that_no_key_opens_is_named_and_kept(store: Store, rotated: Store, probe: Probe) -> None:
    stranger = Store(store.url, Sealer(bytes(32)), partitions=store.partitions.count)
    lost = await _secret_bench(stranger, probe)
    await lost.submit("t1", spec=SECRETS)
    kept = await stranger.credentials.create(TENANT, "ours", RegistryType.GCR, AUTH)
    bench = await _secret_bench(store, probe)
    before = await probe.ask("GET", lost.keys.body("t1"))
    try:
        result = await rotated.rotation.run()
        assert result.complete
        assert (result.progress.unreadable, sorted(result.progress.unreadable_names)) == (
            3, [f"credential {kept.credential_id}", "endpoint 1", "task t1 of endpoint 1"]
        )  # fmt: skip
        assert result.progress.resealed["endpoints"] == 1
        assert await probe.ask("GET", lost.keys.body("t1")) == before
        assert await stranger.endpoints.environment(lost.endpoint_id) == {"TOKEN": "value"}
        assert await rotated.endpoints.environment(bench.endpoint_id) == {"TOKEN": "value"}
    finally:
        await stranger.close()


@pytest.mark.parametrize(("times", "complete"), [(1, True), (MAX_ROUNDS + 1, False)], ids=["once", "again and again"])
async def test_a_secret_sealed_with_the_old_key_during_a_round_is_found_by_the_next(
    store: Store, rotated: Store, probe: Probe, store_server: StoreServer, times: int, complete: bool
) -> None:
    """A process with the old key changes a credential after a round has checked the credentials."""
    await store.prepare()
    await _secret_bench(store, probe)
    kept = await store.credentials.create(TENANT, "ours", RegistryType.GCR, AUTH)
    key = credential(kept.credential_id)
    sealed = (await probe.hash(key))["password"]
    changed: list[int] = []

    def meanwhile(progress: Progress) -> None:
        if progress.checked["endpoints"] == 1 and len(changed) < times:
            changed.append(progress.round)
            store_server.command("HSET", key, "password", sealed)

    result = await rotated.rotation.run(meanwhile)
    assert (result.complete, result.progress.round) == (complete, 3 if complete else MAX_ROUNDS)
    noted = (await probe.hash(META))["secret_key"]
    assert noted == fingerprint_of(NEW_KEY if complete else SECRET_KEY)
    assert await rotated.credentials.open(TENANT, kept.credential_id) == AUTH


async def test_no_change_is_lost_that_is_made_during_a_rotation(
    store: Store, rotated: Store, later: Store, probe: Probe
) -> None:
    """Processes with the old key and processes with the new key change all data while two rotations run."""
    older = Store(store.url, Sealer(SECRET_KEY, (NEW_KEY,)), partitions=store.partitions.count)
    bench = await _secret_bench(store, probe)
    kept = await store.credentials.create(TENANT, "ours", RegistryType.GCR, AUTH)

    async def change(number: int) -> None:
        process = older if number % 2 else rotated
        await process.credentials.update(TENANT, kept.credential_id, password=f"p{number}")
        await process.endpoints.update(
            bench.endpoint_id, TENANT, lambda before: replace(before, workers=number), {"TOKEN": f"v{number}"}
        )
        await process.endpoints.update(bench.endpoint_id, TENANT, lambda before: replace(before, concurrency=number))
        await process.tasks.enqueue(bench.new_task(f"t{number}", spec=SECRETS))

    async def changes() -> None:
        for number in range(1, 40):
            await change(number)

    try:
        await asyncio.gather(changes(), rotated.rotation.run(), rotated.rotation.run())
    finally:
        await older.close()
    assert (await rotated.rotation.run()).complete
    assert await later.credentials.open(TENANT, kept.credential_id) == RegistryAuth("robot", "p39")
    assert await later.endpoints.environment(bench.endpoint_id) == {"TOKEN": "v39"}
    endpoint = await later.endpoints.get(bench.endpoint_id, TENANT)
    assert endpoint is not None
    assert (endpoint.config.workers, endpoint.config.concurrency) == (39, 39)
    for number in range(1, 40):
        task = await later.tasks.get(bench.endpoint_id, f"t{number}")
        assert task is not None
        assert task.spec == SECRETS


async def test_a_signing_secret_from_before_there_was_a_key_is_sealed(rotated: Store, later: Store) -> None:
    keyless = Store(rotated.url, Sealer(None), partitions=rotated.partitions.count)
    try:
        endpoint = await keyless.endpoints.create(TENANT, config())
        signing = await keyless.endpoints.signing_secret(endpoint.endpoint_id)
        assert (await rotated.rotation.run()).progress.resealed["endpoints"] == 1
        assert await later.endpoints.signing_secret(endpoint.endpoint_id) == signing
        with pytest.raises(SecretKeyMissing):
            await keyless.endpoints.signing_secret(endpoint.endpoint_id)
        with pytest.raises(SecretKeyMissing):
            await keyless.rotation.run()
    finally:
        await keyless.close()


async def test_replaced_signing_secrets_are_resealed(store: Store, rotated: Store, later: Store, probe: Probe) -> None:
    await store.prepare()
    bench = await _secret_bench(store, probe)
    secrets = [str(await store.endpoints.signing_secret(bench.endpoint_id))]
    for _ in range(2):
        secrets.insert(0, new_signing_secret())
        await store.endpoints.rotate_signing_secret(bench.endpoint_id, TENANT, secrets[0], overlap_seconds=3600)
    await bench.finish("t1", webhook=True)
    assert (await rotated.rotation.run()).progress.resealed["endpoints"] == 1
    old = fingerprint_of(SECRET_KEY).encode()
    assert [name for name, content in (await probe.dump()).items() if old in content] == []
    outbox = later.outbox("later")
    await outbox.make_groups()
    [entry] = await outbox.read(10, block_ms=1)
    delivery = await outbox.open(entry)
    assert delivery is not None
    assert delivery.signing_secrets == tuple(secrets)


async def test_an_agent_with_only_the_old_key_gets_the_reason(store: Store, rotated: Store, probe: Probe) -> None:
    bench = await _secret_bench(store, probe)
    await bench.submit("t1", spec=SECRETS)
    await rotated.rotation.run()
    agent = bench.agent()
    with pytest.raises(SealBroken, match="QUEUE_ENGINE_SECRET_KEY_PREVIOUS"):
        agent.open(await bench.start(agent))


async def test_removed_tasks_are_skipped(store: Store, rotated: Store, probe: Probe) -> None:
    bench = await _secret_bench(store, probe)
    await bench.submit("t1", spec=SECRETS)
    await bench.submit("t2", spec=SECRETS)
    await probe.ask("DEL", bench.keys.task("t1"), bench.keys.body("t1"))
    result = await rotated.rotation.run()
    assert result.complete
    assert (result.progress.checked["tasks"], result.progress.resealed["tasks"]) == (2, 1)
