"""Quotas and rates of tenants, as submissions meet them."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest

from queue_engine.domain.errors import QuotaReached, RateLimitReached
from queue_engine.domain.rates import RateScope, RateState
from queue_engine.domain.tenants import DEFAULT_LIMITS, Limit
from queue_engine.engine.endpoints import References
from queue_engine.engine.engine import Engine
from queue_engine.engine.submissions import Submitted
from queue_engine.rules.webhook_urls import AddressPolicy, DestinationRules
from queue_engine.store.store import Store
from tests.store.bench import SECRET_KEY, TENANT, Bench, config
from tests.store.probe import Probe
from tests.store.use_cases import OWNER, Lookup, request
from tests.waiting import wait_until_async


@dataclass
class Office:
    """An engine with a fixed clock, and an endpoint of the tenant."""

    engine: Engine
    bench: Bench
    clock: list[float] = field(default_factory=lambda: [0.0])

    async def submit(self, task_id: str, *, webhook: bool = False, size: int = 1) -> Submitted:
        body = b'"' + b"x" * size + b'"'
        asked = request(task_id, body, webhook="https://hooks.example/a" if webhook else None)
        return await self.engine.submissions.submit(OWNER, self.bench.endpoint_id, asked)

    async def limit(self, limits: Mapping[Limit, int | None]) -> None:
        """Set limits as another process does."""
        assert await self.bench.store.tenants.set_limits(TENANT, limits)

    async def is_refused(self, **task: bool) -> bool:
        """Let a second pass, and return True if a submission is refused by a quota."""
        self.clock[0] += 1.0
        try:
            await self.submit("refused?", **task)
        except QuotaReached:
            return True
        await self.bench.store.tasks.cancel(self.bench.endpoint_id, "refused?")
        await self.bench.store.tasks.delete(self.bench.endpoint_id, "refused?")
        return False

    async def is_accepted(self) -> bool:
        return not await self.is_refused()


@pytest.fixture
async def office(store: Store, bench: Bench) -> Office:
    clock = [0.0]
    rules = DestinationRules(AddressPolicy())
    engine = Engine(store, Lookup(), rules, (SECRET_KEY,), limits=DEFAULT_LIMITS, monotonic=lambda: clock[0])
    await store.tenants.create(TENANT)
    return Office(engine, bench, clock)


@pytest.fixture
async def small_memory(probe: Probe) -> AsyncIterator[None]:
    """A memory limit that refuses nothing itself, because it is above what the server uses."""
    used = int((await probe.redis.info("memory"))["used_memory"])
    await probe.ask("CONFIG", "SET", "maxmemory", used + 50_000_000)
    yield
    await probe.ask("CONFIG", "SET", "maxmemory", 0)


async def test_a_tenant_at_its_limit_of_waiting_tasks_is_refused_until_one_starts(office: Office) -> None:
    await office.limit({Limit.WAITING_TASKS: 2})
    await office.submit("t1")
    await office.submit("t2")
    await wait_until_async(office.is_refused, message="a full tenant may submit")
    with pytest.raises(QuotaReached, match=r"^waitingTasks: the tenant has at most 2$") as refused:
        await office.submit("t3")
    assert refused.value.retry_after_seconds == 5
    await office.bench.start(office.bench.agent())
    office.clock[0] += 1.0
    await office.submit("t3")  # at once: what was read before must not refuse it


async def test_a_tenant_at_its_limit_of_deliveries_may_submit_without_a_webhook(office: Office) -> None:
    await office.limit({Limit.WAITING_DELIVERIES: 1})
    await office.bench.finish("t1", webhook=True)
    await wait_until_async(lambda: office.is_refused(webhook=True), message="a full tenant may submit")
    with pytest.raises(QuotaReached, match=r"^waitingDeliveries: the tenant has at most 1$"):
        await office.submit("t2", webhook=True)
    await office.submit("t2")


async def test_a_tenant_at_its_limit_of_bytes_is_refused_until_results_are_removed(office: Office) -> None:
    await office.limit({Limit.STORED_BYTES: 20_000})
    await office.submit("t1", size=30_000)
    await wait_until_async(office.is_refused, message="a full tenant may submit")
    with pytest.raises(QuotaReached, match=r"^storedBytes: the tenant has at most 20000$") as refused:
        await office.engine.endpoints.create(OWNER, config())
    assert refused.value.retry_after_seconds == 60
    await office.bench.store.tasks.cancel(office.bench.endpoint_id, "t1")
    await office.bench.store.tasks.delete(office.bench.endpoint_id, "t1")
    office.clock[0] += 1.0
    await office.submit("t2")


async def test_a_tenant_at_its_limit_of_waiting_tasks_may_create_an_endpoint(office: Office) -> None:
    await office.limit({Limit.WAITING_TASKS: 1})
    await office.submit("t1")
    await wait_until_async(office.is_refused, message="a full tenant may submit")
    created = await office.engine.endpoints.create(OWNER, config())
    office.bench.endpoint_ids.append(created.endpoint.endpoint_id)


async def test_a_tenant_at_its_limit_of_bytes_may_not_change_an_environment_but_may_remove_it(office: Office) -> None:
    await office.limit({Limit.STORED_BYTES: 20_000})
    await office.submit("t1", size=30_000)
    await wait_until_async(office.is_refused, message="a full tenant may submit")
    endpoints = office.engine.endpoints
    before = await endpoints.get(OWNER, office.bench.endpoint_id)

    async def update(environment: dict[str, str] | None) -> None:
        await endpoints.update(OWNER, before, lambda one: one, References(environment))

    with pytest.raises(QuotaReached, match=r"^storedBytes: the tenant has at most 20000$"):
        await update({"NAME": "value"})
    await update({})
    await update(None)


async def test_a_single_tenant_has_no_limit_of_bytes_and_each_of_several_half_of_the_memory(
    office: Office, small_memory: None, probe: Probe, store: Store
) -> None:
    half = await store.max_memory() // 2
    # The counter stands for tasks, so that the test stores few bytes. An endpoint without tasks would count none.
    await office.submit("kept")
    await probe.ask("HINCRBY", office.bench.keys.counts, "bytes", half)
    assert not await office.is_refused()
    await store.tenants.create("second")
    await wait_until_async(office.is_refused, message="half of the memory is no limit")
    await office.limit({Limit.STORED_BYTES: 0})
    await wait_until_async(office.is_accepted, message="a limit of 0 refuses")
    await probe.ask("HINCRBY", office.bench.keys.counts, "bytes", -half)


async def test_a_limit_of_the_tenant_is_shared_by_all_processes(office: Office, store: Store) -> None:
    await office.limit({Limit.SUBMITS_PER_SECOND: 3})
    rules = DestinationRules(AddressPolicy())
    other = Engine(store, Lookup(), rules, (SECRET_KEY,))
    began = await office.bench.probe.now_ms()
    accepted, refused = 0, list[RateLimitReached]()
    for number in range(20):
        submit = (office.engine, other)[number % 2].submissions.submit
        try:
            submitted = await submit(OWNER, office.bench.endpoint_id, request(f"t{number}"))
        except RateLimitReached as error:
            refused.append(error)
        else:
            accepted += 1
            assert [(rate.scope, rate.per_second) for rate in submitted.rates] == [(RateScope.TENANT, 3)]
    assert {str(error) for error in refused} == {"submitsPerSecond: the tenant may submit at most 3 tasks per second"}
    assert refused[0].rates == (RateState(RateScope.TENANT, 3, 0),)
    seconds = (await office.bench.probe.now_ms() - began) / 1000
    assert 3 <= accepted <= 4 + 3 * seconds


async def test_a_total_is_exceeded_by_the_submissions_of_two_seconds_at_most(office: Office, store: Store) -> None:
    """Two processes submit ten tasks a second each, and see those of the other one when they read the total again."""
    rules = DestinationRules(AddressPolicy())
    other = Engine(store, Lookup(), rules, (SECRET_KEY,), limits=DEFAULT_LIMITS, monotonic=lambda: office.clock[0])
    limit, a_second, accepted, refused = 50, 20, 0, 0
    await office.limit({Limit.WAITING_TASKS: limit})
    while refused < a_second:
        office.clock[0] += 0.1
        for name, engine in (("a", office.engine), ("b", other)):
            try:
                asked = request(f"{name}{accepted}", b"1")
                await engine.submissions.submit(OWNER, office.bench.endpoint_id, asked)
            except QuotaReached:
                refused += 1
            else:
                accepted += 1
                refused = 0
            assert accepted <= limit + 2 * a_second
    assert accepted >= limit


async def test_submissions_without_limits_cost_one_call_of_the_store_each(office: Office, probe: Probe) -> None:
    await office.submit("first")
    await probe.ask("CONFIG", "RESETSTAT")
    for number in range(20):
        await office.submit(f"t{number}")
    calls = {name: facts["calls"] for name, facts in (await probe.redis.info("commandstats")).items()}
    assert calls["cmdstat_evalsha"] == 20
    assert "cmdstat_hgetall" not in calls
    assert "cmdstat_scard" not in calls


async def test_a_rotated_key_keeps_its_bucket(store: Store) -> None:
    take = store.tenants.take_submit
    taken = await take(TENANT, "origin", key_limit=1000, tenant_limit=0)
    assert [(state.scope, state.left) for state in taken.states] == [(RateScope.KEY, 999)]
    taken = await take(TENANT, "origin", key_limit=1000, tenant_limit=10)
    assert [state.scope for state in taken.states] == [RateScope.KEY, RateScope.TENANT]


async def test_buckets_expire_when_they_are_full_again(store: Store, probe: Probe) -> None:
    await store.tenants.take_submit(TENANT, "key", key_limit=5, tenant_limit=5)
    assert 1000 <= await probe.ask("PTTL", store.partitions.rates_of(TENANT)) <= 2000


async def test_an_empty_bucket_of_one_limit_takes_no_token_of_the_other(store: Store, probe: Probe) -> None:
    empty = f"-1000 {await probe.now_ms() * 1000}"
    await probe.ask("HSET", store.partitions.rates_of(TENANT), "tenant", empty)
    taken = await store.tenants.take_submit(TENANT, "key", key_limit=5, tenant_limit=1)
    assert taken.refused_by is not None
    assert taken.refused_by.scope is RateScope.TENANT
    assert "key:key" not in await probe.hash(store.partitions.rates_of(TENANT))
