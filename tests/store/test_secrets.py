"""No secret is in the store in clear text: neither in keys nor in values nor on disk."""

import base64
from dataclasses import replace

import pytest

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.tasks import Failed, Succeeded
from queue_engine.store.api_keys import hash_of
from queue_engine.store.store import Store
from tests.store.bench import SECRET_KEY, TENANT, Bench, config, spec, tenant_of
from tests.store.probe import Probe

CANARY = "canary-8f3a91"


async def test_no_secret_is_in_the_store_in_clear(store: Store, probe: Probe) -> None:
    await store.prepare()
    await store.api_keys.put(f"qe_{CANARY}", tenant=TENANT, name="laptop")
    endpoint = await store.endpoints.create(TENANT, config(environment={"TOKEN": CANARY}))
    bench = Bench(store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])
    secrets = spec(webhook=True, headers={"Authorization": f"Bearer {CANARY}"}, auth_key=CANARY)
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, spec=secrets)
    assert bench.agent().open(started).spec == replace(secrets, webhook_auth_key=None)
    await _assert_hidden(probe)
    await bench.settle(agent, started, Succeeded(b"1"))
    outbox = await bench.outbox()
    (entry,) = await outbox.read(10, block_ms=1)
    delivery = await outbox.open(entry)
    assert delivery is not None
    assert delivery.auth_key == CANARY
    await _assert_hidden(probe)
    signing_secret = await store.endpoints.signing_secret(endpoint.endpoint_id)
    assert signing_secret is not None
    for secret in (signing_secret, SECRET_KEY, base64.b64encode(SECRET_KEY), base64.urlsafe_b64encode(SECRET_KEY)):
        await _assert_hidden(probe, secret if isinstance(secret, bytes) else secret.encode())
    assert await tenant_of(store, hash_of(f"qe_{CANARY}")) == TENANT


async def test_the_names_of_headers_are_sealed_with_their_values(bench: Bench) -> None:
    await bench.submit("t1", spec=spec(headers={"X-Canary-Name": "x"}))
    await _assert_hidden(bench.probe, b"X-Canary-Name")


async def test_secrets_do_not_show_when_values_are_printed(bench: Bench) -> None:
    secrets = spec(webhook=True, headers={"Authorization": CANARY}, auth_key=CANARY)
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, spec=secrets)
    shown = [repr(value) for value in (secrets, started, agent.open(started), bench.new_task("t2", spec=secrets))]
    await bench.settle(agent, started, Succeeded(b"1"))
    outbox = await bench.outbox()
    (entry,) = await outbox.read(10, block_ms=1)
    shown += [repr(entry), repr(await outbox.open(entry)), repr(config(environment={"A": CANARY}))]
    assert [text for text in shown if CANARY in text or "whsec_" in text] == []


async def test_without_a_key_a_task_with_a_secret_is_refused_and_nothing_stored(bench: Bench) -> None:
    keyless = Store(bench.store.url, Sealer(None), partitions=bench.store.partitions.count)
    before = await bench.probe.keys()
    try:
        for refused in (spec(headers={"A": "b"}), spec(webhook=True, auth_key="k")):
            with pytest.raises(SecretKeyMissing):
                await keyless.tasks.enqueue(bench.new_task("t1", spec=refused))
        assert await bench.probe.keys() == before
        assert (await keyless.tasks.enqueue(bench.new_task("t1", spec=spec(webhook=True)))).result.name == "ACCEPTED"
    finally:
        await keyless.close()


@pytest.mark.parametrize(
    ("key", "error"), [(None, SecretKeyMissing), (bytes(32), SealBroken)], ids=["no key", "another key"]
)
async def test_an_agent_without_the_key_runs_only_tasks_without_secrets(
    bench: Bench, key: bytes | None, error: type[Exception]
) -> None:
    stranger = Store(bench.store.url, Sealer(key), partitions=bench.store.partitions.count)
    try:
        agent = stranger.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)
        secret = await bench.submit_and_start("secret", agent, spec=spec(webhook=True, headers={"A": "b"}))
        plain = await bench.submit_and_start("plain", agent)
        with pytest.raises(error):
            agent.open(secret)
        assert (await agent.settle(secret.lease, Failed("no key"))).word == "OK"
        assert agent.open(plain).spec == spec()
        seen = await stranger.tasks.get(bench.endpoint_id, "secret")
        assert seen is not None
        assert seen.spec == spec(webhook=True)
    finally:
        await stranger.close()


async def test_a_sealed_spec_cannot_be_moved_to_another_task(bench: Bench) -> None:
    await bench.submit("t1", spec=spec(headers={"Authorization": CANARY}))
    await bench.submit("t2", spec=spec(headers={"Authorization": "other"}))
    fields = await bench.probe.hash(bench.keys.task("t1"))
    stolen = await bench.probe.ask("GET", bench.keys.body("t1"))
    await bench.probe.ask("SET", bench.keys.body("t2"), stolen)
    await bench.recount_bytes()
    await bench.probe.ask("HSET", bench.keys.task("t2"), "spec", fields["spec"])
    assert (await bench.task("t2")).spec.headers == {}
    agent = bench.agent()
    await bench.start(agent)
    with pytest.raises(SealBroken):
        agent.open(await bench.start(agent))


async def _assert_hidden(probe: Probe, secret: bytes = CANARY.encode()) -> None:
    for name, content in (await probe.dump()).items():
        assert secret not in name.encode(), name
        assert secret not in content, name
        assert base64.b64encode(secret).rstrip(b"=")[:-1] not in content, name
