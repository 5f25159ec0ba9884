"""The use cases for endpoints, credentials and API keys."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from queue_engine.crypto.api_keys import new_api_key
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.api_keys import ApiKey, Grant
from queue_engine.domain.credentials import Credential, RegistryAuth, RegistryType
from queue_engine.domain.endpoints import Endpoint, EndpointConfig, EndpointStatus
from queue_engine.domain.errors import InvalidRequest, NotFound, StateConflict
from queue_engine.domain.principals import Principal, Role
from queue_engine.engine.endpoints import References
from queue_engine.engine.engine import Engine
from queue_engine.rules.webhook_urls import parse_webhook
from queue_engine.store.api_keys import hash_of
from queue_engine.store.store import Store
from tests.store.bench import TENANT, config
from tests.store.use_cases import OWNER, STRANGER, engine_on

AUTH = RegistryAuth("robot", "a password")
INSIDE = "http://10.0.0.1/x"


@pytest.fixture
def engine(store: Store) -> Engine:
    return engine_on(store)


@pytest.fixture
async def engine_without_key(store_url: str, store: Store) -> AsyncIterator[Engine]:
    opened = Store(store_url, Sealer(None), partitions=store.partitions.count)
    yield engine_on(opened, ())
    await opened.close()


async def _credential(engine: Engine, principal: Principal = OWNER) -> Credential:
    return await engine.credentials.create(principal, "ours", RegistryType.GCR, AUTH)


async def test_an_endpoint_is_seen_by_its_tenant_only(engine: Engine) -> None:
    endpoint = (await engine.endpoints.create(OWNER, config())).endpoint
    assert (endpoint.tenant, endpoint.config) == (TENANT, config())
    assert await engine.endpoints.get(OWNER, endpoint.endpoint_id) == endpoint
    assert await engine.endpoints.all(OWNER, frozenset()) == [endpoint]
    assert await engine.endpoints.all(OWNER, {EndpointStatus.RUNNING}) == []
    assert await engine.endpoints.all(STRANGER, frozenset()) == []
    for call in (engine.endpoints.get, engine.endpoints.start, engine.endpoints.stop, engine.endpoints.delete):
        with pytest.raises(NotFound):
            await call(STRANGER, endpoint.endpoint_id)
    with pytest.raises(NotFound):
        await engine.endpoints.scale(STRANGER, endpoint.endpoint_id, 2)
    with pytest.raises(NotFound):
        await engine.endpoints.update(STRANGER, endpoint, lambda before: before, References())


async def test_an_endpoint_stops_starts_scales_and_is_deleted(engine: Engine) -> None:
    endpoint_id = (await engine.endpoints.create(OWNER, config())).endpoint.endpoint_id

    async def status() -> EndpointStatus:
        return (await engine.endpoints.get(OWNER, endpoint_id)).status

    await engine.endpoints.stop(OWNER, endpoint_id)
    assert await status() is EndpointStatus.STOPPED
    await engine.endpoints.start(OWNER, endpoint_id)
    assert await status() is EndpointStatus.INITIALIZING
    await engine.endpoints.scale(OWNER, endpoint_id, 3)
    assert (await engine.endpoints.get(OWNER, endpoint_id)).config.workers == 3
    await engine.endpoints.delete(OWNER, endpoint_id)
    with pytest.raises(NotFound):
        await engine.endpoints.get(OWNER, endpoint_id)


async def test_all_that_an_endpoint_names_is_checked_at_once(engine_without_key: Engine) -> None:
    asked = config(environment={"A": "b"}, webhook=INSIDE, credential_id=77)
    with pytest.raises(InvalidRequest) as caught:
        await engine_without_key.endpoints.create(OWNER, asked)
    message = str(caught.value)
    assert message.startswith("environmentVars: the server has no QUEUE_ENGINE_SECRET_KEY")
    assert "; webhook: " in message
    assert message.endswith("; containerRegistryAuthId: unknown credential")
    assert await engine_without_key.endpoints.all(OWNER, frozenset()) == []


@pytest.mark.parametrize(
    ("references", "field"),
    [
        (References(webhook=parse_webhook(INSIDE)), "webhook"),
        (References(credential_id=77), "containerRegistryAuthId"),
    ],
)
async def test_a_change_that_names_what_cannot_be_changes_nothing(
    engine: Engine, references: References, field: str
) -> None:
    before = (await engine.endpoints.create(OWNER, config())).endpoint
    with pytest.raises(InvalidRequest) as caught:
        await engine.endpoints.update(OWNER, before, lambda one: replace(one, name="other"), references)
    assert caught.value.field == field
    assert await engine.endpoints.get(OWNER, before.endpoint_id) == before


async def test_a_change_replaces_the_environment_only_when_there_is_a_new_one(engine: Engine, store: Store) -> None:
    endpoint = (await engine.endpoints.create(OWNER, config(environment={"A": "b"}))).endpoint

    async def changed(references: References) -> dict[str, str]:
        await engine.endpoints.update(OWNER, endpoint, lambda before: replace(before, workers=2), references)
        return await store.endpoints.environment(endpoint.endpoint_id)

    assert await changed(References()) == {"A": "b"}
    assert await changed(References({"C": "d"})) == {"C": "d"}
    assert await changed(References({})) == {}


async def test_a_credential_cannot_be_deleted_while_an_endpoint_uses_it(engine: Engine) -> None:
    first, second = await _credential(engine), await _credential(engine)
    endpoint = (await engine.endpoints.create(OWNER, config(credential_id=first.credential_id))).endpoint
    with pytest.raises(StateConflict):
        await engine.credentials.delete(OWNER, first.credential_id)

    def use_second(before: EndpointConfig) -> EndpointConfig:
        return replace(before, credential_id=second.credential_id)

    await engine.endpoints.update(OWNER, endpoint, use_second, References(credential_id=second.credential_id))
    await engine.credentials.delete(OWNER, first.credential_id)
    await engine.endpoints.delete(OWNER, endpoint.endpoint_id)
    await engine.credentials.delete(OWNER, second.credential_id)
    assert await engine.credentials.all(OWNER) == []


async def test_another_tenants_credential_is_unknown(engine: Engine) -> None:
    theirs = await _credential(engine, STRANGER)
    with pytest.raises(InvalidRequest, match="containerRegistryAuthId: unknown credential"):
        await engine.endpoints.create(OWNER, config(credential_id=theirs.credential_id))
    for call in (engine.credentials.get, engine.credentials.update, engine.credentials.delete):
        with pytest.raises(NotFound):
            await call(OWNER, theirs.credential_id)
    assert await engine.credentials.all(OWNER) == []


async def test_an_endpoint_that_could_not_be_stored_does_not_use_its_credential(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = await _credential(engine)

    async def fail(*_: object, **_limit: object) -> Endpoint:
        raise LookupError("not stored")

    monkeypatch.setattr(store.endpoints, "create", fail)
    with pytest.raises(LookupError):
        await engine.endpoints.create(OWNER, config(credential_id=credential.credential_id))
    await engine.credentials.delete(OWNER, credential.credential_id)


async def test_a_server_without_a_secret_key_keeps_no_credential(engine: Engine, engine_without_key: Engine) -> None:
    with pytest.raises(InvalidRequest, match="password: the server has no QUEUE_ENGINE_SECRET_KEY"):
        await _credential(engine_without_key)
    kept = await _credential(engine)
    update = engine_without_key.credentials.update
    with pytest.raises(InvalidRequest, match=r"^username: "):
        await update(OWNER, kept.credential_id, username="a", password="b")
    with pytest.raises(InvalidRequest, match=r"^password: "):
        await update(OWNER, kept.credential_id, password="b")
    assert (await update(OWNER, kept.credential_id, name="renamed")).name == "renamed"


async def test_a_key_has_a_holder_until_it_is_revoked(engine: Engine, store: Store) -> None:
    key = new_api_key()
    assert await engine.principals.of_key(key) is None
    await store.api_keys.put(key, tenant=TENANT, name="test")
    key_id = hash_of(key)[:16]
    holder = Principal(TENANT, Role.ADMIN, key_id, key_name="test", submitter=key_id)
    assert await engine.principals.of_key(key) == holder
    await store.api_keys.revoke(hash_of(key))
    assert await engine_on(store).principals.of_key(key) is None


@pytest.mark.parametrize("is_rotated", [False, True])
async def test_a_new_key_is_returned_although_it_cannot_be_read(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch, is_rotated: bool
) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionError("lost")

    grant = Grant("ci", Role.SUBMIT, expires_at_ms=2**45)
    await store.api_keys.put("qe_owner", tenant=TENANT, name="owner")
    owner = replace(OWNER, key_hash=hash_of("qe_owner"))
    before = await engine.keys.create(owner, grant)
    key = await store.api_keys.find_of(TENANT, before.stored.key_id)

    async def found(*_: object) -> ApiKey | None:
        return key

    with monkeypatch.context() as broken:
        broken.setattr(store.api_keys, "find", fail)
        broken.setattr(store.api_keys, "find_of", found)  # it ends with `find`
        if is_rotated:
            made = await engine.keys.rotate(owner, before.stored.key_id, overlap_seconds=60)
        else:
            made = await engine.keys.create(owner, grant)
    stored = await store.api_keys.find(hash_of(made.secret))
    assert stored is not None
    assert replace(made.stored, created_at_ms=stored.created_at_ms) == stored
    assert abs(made.stored.created_at_ms - stored.created_at_ms) < 600_000
