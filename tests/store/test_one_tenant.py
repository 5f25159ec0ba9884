"""Only one tenant may have endpoints while a backend cannot keep the workers of several apart."""

import asyncio

from queue_engine.store.keys import FIRST_TENANT
from queue_engine.store.store import Store
from tests.store.bench import config
from tests.store.probe import Probe

REASON = "the controller is not root"


async def _tenants(store: Store, *names: str) -> None:
    for name in names:
        await store.tenants.create(name)


async def test_without_the_rule_every_tenant_may_have_endpoints(store: Store) -> None:
    await _tenants(store, "a", "b")
    await store.endpoints.create("a", config())
    assert await store.one_tenant.refusal("b") is None
    await store.one_tenant.note(REASON)
    assert await store.one_tenant.refusal("b") == REASON
    await store.one_tenant.note(None)
    assert await store.one_tenant.refusal("b") is None


async def test_the_tenant_of_the_oldest_endpoint_is_the_one_that_may(store: Store) -> None:
    await _tenants(store, "a", "b", "c")
    for tenant in ("b", "a", "b"):
        await store.endpoints.create(tenant, config())
    await store.one_tenant.note(REASON)
    assert await store.one_tenant.owners() == ["b", "a"]
    assert await store.one_tenant.refusal("b") is None
    assert await store.one_tenant.refusal("a") == REASON
    assert await store.one_tenant.refusal("c") == REASON


async def test_of_tenants_that_create_their_first_endpoint_at_the_same_time_one_may(store: Store, probe: Probe) -> None:
    names = [f"tenant{number}" for number in range(10)]
    await _tenants(store, *names)
    await store.one_tenant.note(REASON)
    refusals = await asyncio.gather(*(store.one_tenant.refusal(name) for name in names))
    [first] = [name for name, refusal in zip(names, refusals, strict=True) if refusal is None]
    assert await store.one_tenant.refusal(first) is None
    assert 0 < await probe.ask("PTTL", FIRST_TENANT) <= 10_000
