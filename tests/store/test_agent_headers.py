"""An agent on the store opens the headers of its endpoint's tasks with a key of the endpoint, and nothing else."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from queue_engine.crypto.sealing import SealBroken, Sealer, SealKeyUnknown, SecretKeyMissing, endpoint_key
from queue_engine.domain.attempts import Unreadable
from queue_engine.domain.tasks import Succeeded
from queue_engine.store.codec import SealedForEngine
from queue_engine.store.constants import MAX_UNSEALED
from queue_engine.store.keys import UNSEALED
from queue_engine.store.queue import TaskQueue
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreTaskSource
from tests.store.bench import SECRET_KEY, TENANT, Bench, config, spec

NEW_KEY = bytes(reversed(range(32)))
HEADERS = {"Authorization": "Bearer x"}
SECRETS = spec(webhook=True, headers=HEADERS, auth_key="auth key")
FOR_AGENTS = spec(webhook=True, headers=HEADERS)

AgentOf = Callable[..., TaskQueue]


@pytest.fixture
async def agent_of(store: Store, bench: Bench) -> AsyncIterator[AgentOf]:
    """A function that returns the queue of an agent with these keys, by default that of its endpoint."""
    async with AsyncExitStack() as stack:

        def make(*keys: bytes, sealer: Sealer | None = None) -> TaskQueue:
            ring = None if sealer else Sealer.of(keys or (endpoint_key(SECRET_KEY, bench.endpoint_id),))
            partitions = store.partitions.count
            opened = Store(store.url, sealer or Sealer(None), partitions=partitions, is_agent=True, endpoint_keys=ring)
            stack.push_async_callback(opened.close)
            return opened.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)

        yield make


async def record_of(bench: Bench, task_id: str) -> tuple[dict[str, str], bytes]:
    """Return the stored spec of a task, and its input."""
    length = int((await bench.probe.hash(bench.keys.task(task_id)))["spec"])
    body = await bench.probe.ask("GET", bench.keys.body(task_id))
    return json.loads(body[:length]), body[length:]


async def as_accepted_by_version_0_2(bench: Bench, task_id: str) -> None:
    """Remove what a process of version 0.2 does not write."""
    keys = bench.keys
    record, given = await record_of(bench, task_id)
    del record["sealed_headers"]
    text = json.dumps(record).encode()
    await bench.probe.ask("SET", keys.body(task_id), text + given)
    await bench.probe.ask("HSET", keys.task(task_id), "spec", len(text))
    await bench.recount_bytes()


async def test_the_key_of_the_endpoint_opens_the_headers(bench: Bench, agent_of: AgentOf) -> None:
    agent = agent_of()
    started = await bench.submit_and_start("t1", agent, spec=SECRETS)
    assert agent.open(started).spec == FOR_AGENTS
    assert (await bench.task("t1")).spec == SECRETS
    await bench.settle(agent, started, Succeeded(b"1"))


async def test_the_key_opens_no_other_secret(store: Store, bench: Bench, agent_of: AgentOf) -> None:
    agent = agent_of()
    other = await store.endpoints.create(TENANT, config(name="other", environment={"TOKEN": "x"}))
    await bench.submit("t1", spec=SECRETS)
    bench.endpoint_ids.append(other.endpoint_id)
    foreign = Bench(store, other.endpoint_id, bench.probe)
    await foreign.submit("t1", spec=SECRETS)
    ring = Sealer(endpoint_key(SECRET_KEY, bench.endpoint_id))

    (own, _), (others, _) = await record_of(bench, "t1"), await record_of(foreign, "t1")
    endpoint = await bench.probe.hash(foreign.keys.endpoint)
    environment = json.loads(endpoint["config"])["environment"]
    sealed = [own["sealed"], others["sealed"], others["sealed_headers"], endpoint["signing"], environment]
    for text in sealed:
        for context in (f"task:{bench.endpoint_id}:t1", f"task:{other.endpoint_id}:t1"):
            with pytest.raises(SealKeyUnknown):
                ring.open(text, context)
    assert json.loads(ring.open(own["sealed_headers"], f"task:{bench.endpoint_id}:t1")) == {"headers": HEADERS}
    agent.open(await bench.start(agent))


@pytest.mark.parametrize("auth_key", ["k", None])
async def test_a_task_without_headers_needs_no_key(bench: Bench, agent_of: AgentOf, auth_key: str | None) -> None:
    agent = agent_of(sealer=Sealer(None))
    started = await bench.submit_and_start("t1", agent, spec=spec(webhook=True, auth_key=auth_key))
    assert agent.open(started).spec == spec(webhook=True)


async def test_an_agent_without_a_key_or_with_that_of_another_endpoint_leaves_the_task_to_others(
    store: Store, bench: Bench, agent_of: AgentOf
) -> None:
    await store.prepare()
    for agent, error in (
        (agent_of(sealer=Sealer(None)), SecretKeyMissing),
        (agent_of(endpoint_key(SECRET_KEY, "4711")), SealKeyUnknown),
    ):
        started = await bench.submit_and_start(f"t-{error.__name__}", agent, spec=SECRETS)
        with pytest.raises(error):
            agent.open(started)
        assert await bench.release(agent, started) == "OK"
        (claim,) = await StoreTaskSource(agent).claim(1)
        attempt = await claim.start(address="127.0.0.1:9000")
        assert attempt is not None
        assert isinstance(attempt.task, Unreadable)
        assert attempt.task.is_key_missing
        await bench.settle(agent, started, Succeeded(b"1"))
        await agent.settle(attempt.lease, Succeeded(b"1"))


async def test_headers_whose_secret_key_no_process_uses_any_longer_fail_their_task(
    store: Store, bench: Bench, agent_of: AgentOf
) -> None:
    await store.prepare()
    lost = Store(store.url, Sealer(NEW_KEY), partitions=store.partitions.count)
    await lost.tasks.enqueue(bench.new_task("t1", spec=SECRETS))
    await lost.close()
    (claim,) = await StoreTaskSource(agent_of()).claim(1)
    attempt = await claim.start(address="127.0.0.1:9000")
    assert attempt is not None
    assert isinstance(attempt.task, Unreadable)
    assert not attempt.task.is_key_missing


# Upgrade


async def test_an_agent_with_the_secret_key_reads_tasks_of_this_version_and_of_the_one_before(
    bench: Bench, agent_of: AgentOf
) -> None:
    agent = agent_of(sealer=Sealer(SECRET_KEY))
    await bench.submit("new", spec=SECRETS)
    await bench.submit("old", spec=SECRETS)
    await as_accepted_by_version_0_2(bench, "old")
    for _ in range(2):
        assert agent.open(await bench.start(agent)).spec == FOR_AGENTS


async def test_an_agent_of_version_0_2_finds_the_headers_where_it_reads_them(bench: Bench) -> None:
    await bench.submit("t1", spec=SECRETS)
    record, _ = await record_of(bench, "t1")
    opened = json.loads(Sealer(SECRET_KEY).open(record["sealed"], f"task:{bench.endpoint_id}:t1"))
    assert opened == {"headers": HEADERS, "auth_key": "auth key"}


async def test_headers_that_version_0_2_has_sealed_are_sealed_for_the_agent_that_asks(
    store: Store, bench: Bench, agent_of: AgentOf
) -> None:
    agent = agent_of()
    await bench.submit("t1", spec=SECRETS)
    await as_accepted_by_version_0_2(bench, "t1")
    (claim,) = await StoreTaskSource(agent).claim(1)
    attempt = await claim.start(address="127.0.0.1:9000")
    assert attempt is not None
    assert isinstance(attempt.task, Unreadable)
    assert attempt.task.is_being_sealed
    assert await agent.release(attempt.lease, called=False) == "OK"

    assert await store.header_sealing.step() == 1
    assert await store.header_sealing.step() == 0
    again = await bench.start(agent)
    assert (again.attempt, agent.open(again).spec) == (1, FOR_AGENTS)
    assert (await bench.task("t1")).spec == SECRETS


async def test_requests_for_headers_are_bounded_and_need_not_be_of_a_task(
    store: Store, bench: Bench, agent_of: AgentOf
) -> None:
    await bench.probe.ask("SADD", UNSEALED, "", "none", "1", ":::", f"{bench.endpoint_id}:none", b"\xff")
    assert await store.header_sealing.step() == 6
    await bench.probe.ask("SADD", UNSEALED, *(f"1:{number}" for number in range(MAX_UNSEALED)))
    agent = agent_of()
    await bench.submit("t1", spec=SECRETS)
    await as_accepted_by_version_0_2(bench, "t1")
    started = await bench.start(agent)
    with pytest.raises(SealedForEngine):
        agent.open(started)
    await agent.ask_for_headers(started)
    assert await bench.probe.ask("SCARD", UNSEALED) == MAX_UNSEALED
    await bench.probe.ask("DEL", UNSEALED)


async def test_a_process_without_a_key_seals_nothing_and_goes_on(bench: Bench) -> None:
    keyless = Store(bench.store.url, Sealer(None), partitions=bench.store.partitions.count)
    await bench.submit("t1", spec=SECRETS)
    await bench.probe.ask("SADD", UNSEALED, f"{bench.endpoint_id}:t1")
    assert await keyless.header_sealing.step() == 1
    await keyless.close()


# Change of the secret key


async def test_agents_with_both_keys_read_tasks_before_and_after_a_rotation(
    store: Store, bench: Bench, agent_of: AgentOf
) -> None:
    await store.prepare()
    rotated = Store(store.url, Sealer(NEW_KEY, (SECRET_KEY,)), partitions=store.partitions.count)
    both = agent_of(endpoint_key(NEW_KEY, bench.endpoint_id), endpoint_key(SECRET_KEY, bench.endpoint_id))
    later = agent_of(endpoint_key(NEW_KEY, bench.endpoint_id))
    await rotated.prepare()
    for name in ("read", "rotated", "from-0-2"):
        await bench.submit(name, spec=SECRETS)
    await as_accepted_by_version_0_2(bench, "from-0-2")
    assert both.open(await bench.start(both)).spec == FOR_AGENTS
    assert (await rotated.rotation.run()).complete
    for agent in (later, both):
        assert agent.open(await bench.start(agent)).spec == FOR_AGENTS
    assert (await rotated.rotation.run()).progress.total_resealed == 0
    await rotated.close()


async def test_damaged_headers_are_not_opened(bench: Bench, agent_of: AgentOf) -> None:
    agent = agent_of()
    for name in ("t1", "t2"):
        await bench.submit(name, spec=SECRETS)
    length = int((await bench.probe.hash(bench.keys.task("t1")))["spec"])
    stolen = await bench.probe.ask("GET", bench.keys.body("t1"))
    await bench.probe.ask("SET", bench.keys.body("t2"), stolen)
    await bench.probe.ask("HSET", bench.keys.task("t2"), "spec", length)
    await bench.recount_bytes()
    agent.open(await bench.start(agent))
    with pytest.raises(SealBroken):
        agent.open(await bench.start(agent))
