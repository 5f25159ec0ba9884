"""Signing secrets of webhooks: which of them sign a delivery, and who may read them."""

import json

import pytest

from queue_engine.crypto.signing import new_secret
from queue_engine.domain.audit import Action
from queue_engine.domain.deliveries import Delivery
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import NotFound, StateConflict
from queue_engine.domain.tasks import Succeeded
from queue_engine.engine.endpoints import SECRET_OVERLAP_SECONDS
from queue_engine.store.endpoints import MAX_REPLACED_SECRETS, TooManySecrets, new_signing_secret, open_signing_secret
from queue_engine.store.store import Store
from tests.store.bench import TENANT, WEBHOOK, Bench, config, spec
from tests.store.use_cases import OWNER, STRANGER, engine_on

DAY_SECONDS = 86_400
OWN = new_secret(b"o" * 32)


async def current(bench: Bench) -> str:
    secret = await bench.store.endpoints.signing_secret(bench.endpoint_id)
    assert secret is not None
    return secret


async def rotate(bench: Bench, *, overlap_seconds: int = DAY_SECONDS) -> str:
    """Rotate the secret, and return the new one."""
    secret = new_signing_secret()
    until_ms = await bench.store.endpoints.rotate_signing_secret(
        bench.endpoint_id, TENANT, secret, overlap_seconds=overlap_seconds
    )
    assert until_ms is not None
    assert abs(until_ms - await bench.store.now_ms() - overlap_seconds * 1000) < 60_000
    return secret


async def delivery_of(bench: Bench, auth_key: str | None = None) -> Delivery:
    """End a task with a webhook, and return its open delivery."""
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent, spec=spec(webhook=True, auth_key=auth_key))
    await bench.settle(agent, started, Succeeded(b"1"))
    outbox = await bench.outbox()
    [entry] = await outbox.read(10, block_ms=1)
    delivery = await outbox.open(entry)
    assert delivery is not None
    return delivery


async def test_a_result_is_signed_with_the_new_and_the_replaced_secret(bench: Bench) -> None:
    first = await current(bench)
    second = await rotate(bench)
    assert await current(bench) == second
    assert (await delivery_of(bench)).signing_secrets == (second, first)


async def test_a_worker_event_is_signed_with_the_new_and_the_replaced_secret(bench: Bench) -> None:
    endpoint = await bench.store.endpoints.create(TENANT, config(webhook=WEBHOOK))
    bench.endpoint_ids.append(endpoint.endpoint_id)
    told = Bench(bench.store, endpoint.endpoint_id, bench.probe, bench.endpoint_ids)
    first = await current(told)
    second = await rotate(told)
    await told.store.workers.put(told.endpoint_id, "w1", managed=True)
    outbox = await told.outbox()
    [entry] = await outbox.read(10, block_ms=1)
    delivery = await outbox.open(entry)
    assert delivery is not None
    assert delivery.signing_secrets == (second, first)


async def test_a_replaced_secret_signs_no_longer_than_its_overlap(bench: Bench) -> None:
    first = await current(bench)
    second = await rotate(bench)
    third = await rotate(bench, overlap_seconds=0)
    assert (await delivery_of(bench)).signing_secrets == (third, first)
    await rotate(bench)
    assert second not in {open_signing_secret(bench.store.sealer, bench.endpoint_id, one) for one in await _kept(bench)}


async def test_a_rotation_whose_reply_was_lost_is_repeated_without_another_secret(bench: Bench) -> None:
    first = await current(bench)
    sealed = bench.store.sealer.seal(new_signing_secret().encode(), f"endpoint:{bench.endpoint_id}:signing")
    replies = [
        await bench.store.scripts.rotate_signing_secret(
            bench.keys, tenant=TENANT, secret=sealed, overlap_ms=1000 * DAY_SECONDS, max_replaced=MAX_REPLACED_SECRETS
        )
        for _ in range(2)
    ]
    assert replies[0] == replies[1]
    assert (await delivery_of(bench)).signing_secrets == (await current(bench), first)


async def test_too_many_rotations_are_refused_and_change_nothing(bench: Bench) -> None:
    secrets = [await current(bench)]
    first_ends_at_ms = 0
    for _ in range(MAX_REPLACED_SECRETS):
        secrets.insert(0, await rotate(bench))
        first_ends_at_ms = first_ends_at_ms or int(
            (await bench.probe.hash(bench.keys.endpoint))["signing_replaced_until"]
        )
    with pytest.raises(TooManySecrets) as refused:
        await rotate(bench)
    assert refused.value.free_at_ms == first_ends_at_ms
    assert (await delivery_of(bench)).signing_secrets == tuple(secrets)


async def test_a_process_of_the_version_before_signs_with_the_new_secret(bench: Bench) -> None:
    """It reads one field, and opens it with the context that it knows."""
    second = await rotate(bench)
    stored = (await bench.probe.hash(bench.keys.endpoint))["signing"]
    assert bench.store.sealer.open(stored, f"endpoint:{bench.endpoint_id}:signing").decode() == second


async def test_secrets_are_stored_sealed(bench: Bench) -> None:
    secrets = [await current(bench), await rotate(bench)]
    dumped = str(await bench.probe.dump())
    assert not any(secret in dumped for secret in secrets)
    assert len(await _kept(bench)) == 1


async def test_no_other_tenant_rotates_a_secret(bench: Bench) -> None:
    first, new = await current(bench), new_signing_secret()
    calls = {"endpoint_id": bench.endpoint_id, "tenant": "other"}, {"endpoint_id": "999", "tenant": TENANT}
    for one in calls:
        assert await bench.store.endpoints.rotate_signing_secret(**one, secret=new, overlap_seconds=1) is None
    assert await current(bench) == first
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await bench.store.endpoints.rotate_signing_secret(bench.endpoint_id, TENANT, new, overlap_seconds=1) is None


@pytest.mark.parametrize("rotations", [0, 1])
async def test_an_auth_key_that_signs_is_the_only_secret_and_is_not_sent(bench: Bench, rotations: int) -> None:
    for _ in range(rotations):
        await rotate(bench)
    delivery = await delivery_of(bench, OWN)
    assert (delivery.auth_key, delivery.signing_secrets, delivery.unreadable) == (None, (OWN,), None)
    task = await bench.task("t1")
    assert task.spec.webhook_auth_key == OWN


async def test_an_auth_key_that_signs_is_not_sent_by_a_process_of_the_version_before(bench: Bench) -> None:
    await bench.submit("t1", spec=spec(webhook=True, auth_key=OWN))
    length = int((await bench.probe.hash(bench.keys.task("t1")))["spec"])
    record = json.loads(await bench.probe.ask("GETRANGE", bench.keys.body("t1"), 0, length - 1))
    sealed = json.loads(bench.store.sealer.open(record["sealed"], f"task:{bench.endpoint_id}:t1"))
    assert sealed == {"signing_key": OWN}


async def test_an_auth_key_of_an_earlier_version_that_cannot_sign_is_sent_as_before(bench: Bench) -> None:
    key = "whsec_accepted before"
    delivery = await delivery_of(bench, key)
    secrets = (await current(bench),)
    assert (delivery.auth_key, delivery.signing_secrets, delivery.unreadable) == (key, secrets, None)


async def test_the_secret_is_shown_until_the_first_rotation(store: Store) -> None:
    engine = engine_on(store)
    created = await engine.endpoints.create(OWNER, config())
    endpoint = created.endpoint
    assert await engine.endpoints.webhook_secret(OWNER, endpoint) == created.signing_secret
    before_ms = await store.now_ms()
    rotated = await engine.endpoints.rotate_webhook_secret(OWNER, endpoint.endpoint_id)
    assert rotated.replaced_until_ms >= before_ms + SECRET_OVERLAP_SECONDS * 1000
    assert await store.endpoints.signing_secret(endpoint.endpoint_id) == rotated.secret != created.signing_secret
    with pytest.raises(StateConflict, match="webhook-secret: has been rotated"):
        await engine.endpoints.webhook_secret(OWNER, endpoint)
    page = await engine.audit.page(OWNER, before=None, size=1)
    assert (page.records[0].change.action, page.records[0].change.target) == (
        Action.ROTATE_WEBHOOK_SECRET,
        f"endpoint {endpoint.endpoint_id}",
    )


async def test_a_refused_rotation_is_an_error_without_a_record(store: Store) -> None:
    engine = engine_on(store)
    endpoint_id = (await engine.endpoints.create(OWNER, config())).endpoint.endpoint_id
    with pytest.raises(NotFound):
        await engine.endpoints.rotate_webhook_secret(STRANGER, endpoint_id)
    for _ in range(MAX_REPLACED_SECRETS):
        await engine.endpoints.rotate_webhook_secret(OWNER, endpoint_id)
    with pytest.raises(StateConflict, match="webhook-secret: 4 replaced secrets still sign webhooks"):
        await engine.endpoints.rotate_webhook_secret(OWNER, endpoint_id)
    page = await engine.audit.page(OWNER, before=None, size=10)
    rotations = [one for one in page.records if one.change.action is Action.ROTATE_WEBHOOK_SECRET]
    assert len(rotations) == MAX_REPLACED_SECRETS


async def _kept(bench: Bench) -> list[str]:
    """Return the sealed texts of the replaced secrets."""
    return (await bench.probe.hash(bench.keys.endpoint))["signing_replaced"].split()[::2]
