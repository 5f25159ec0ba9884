"""Cluster operation: slots that are migrated while their endpoints work, and nodes that do not respond."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from redis.exceptions import RedisError

from queue_engine.aio import retry_while_unavailable
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import Succeeded
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.keys import LEADER
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.redis.client import store_errors, unavailability
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreTaskSource, StoreWorkerRecord
from queue_engine.store.tasks import Submission
from tests.servers import valkey_binary
from tests.store.bench import DELIVERED, SECRET_KEY, TENANT, Bench, answer, config, spec
from tests.store.probe import Probe
from tests.topology import SLOW_DETECTION_MS, ClusterSetup
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

pytestmark = pytest.mark.topology

MAX_UNDELIVERED = 64
"""Maximum number of tasks under way, because unlimited submitters fill a queue that a machine under load does not empty
in time, and whose keys make each move of a slot longer."""


@pytest.fixture(autouse=True, scope="session")
def _quick_timers() -> None:
    """Do nothing, because the servers of this module are configured with quick timers."""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSetup]:
    with ClusterSetup(
        valkey_binary(),
        tmp_path_factory.mktemp("cluster"),
        replicas_each=0,
        node_timeout_ms=SLOW_DETECTION_MS,
        options=("--cluster-require-full-coverage", "no"),
    ) as made:
        yield made


@pytest.fixture
async def bench(setup: ClusterSetup) -> AsyncIterator[Bench]:
    setup.empty()
    store = Store(setup.url, Sealer(SECRET_KEY), partitions=4)
    endpoint = await store.endpoints.create(TENANT, config())
    made = Bench(store, endpoint.endpoint_id, Probe(store.redis), [endpoint.endpoint_id])
    yield made
    assert await made.check() == []
    await store.close()


@pytest.mark.parametrize("way", ["key by key", "whole"])
async def test_nothing_is_lost_or_done_twice_while_a_slot_moves(setup: ClusterSetup, bench: Bench, way: str) -> None:
    move: Callable[[int], object] = setup.migrate_slot if way == "key by key" else setup.migrate_slot_whole
    slot = setup.slot_of(bench.keys.queue)
    owners = {setup.owner(slot).port}
    work = _Work(bench, await bench.outbox())
    running = work.begin()
    try:
        for _ in range(3):
            before = work.delivered.total()
            await wait_until_async(lambda before=before: work.delivered.total() > before + 100)  # type: ignore[misc]
            await asyncio.to_thread(move, slot)
            owners.add(setup.owner(slot).port)
        work.submitting = False
        await wait_until_async(lambda: work.submitted and set(work.delivered) >= work.submitted, 60)
    finally:
        work.stopping = True
        await asyncio.gather(*running)
    assert len(owners) >= 2
    assert set(work.executed.values()) == {1}
    assert set(work.delivered.values()) == {1}
    counts = await bench.store.tasks.counts(bench.endpoint_id)
    assert (counts.delivered, counts.total) == (len(work.submitted), len(work.submitted))


async def test_what_a_moving_slot_cannot_serve_is_reported_as_passing(setup: ClusterSetup, bench: Bench) -> None:
    """During a migration new keys are on the new node and old keys on the old node, so a script with both must wait."""
    await bench.submit("t1")
    slot = setup.slot_of(bench.keys.queue)
    target = next(node for node in setup.masters if node is not setup.owner(slot))
    with setup.migrating(slot, target) as move_some:
        with pytest.raises(StoreUnavailable, match="TRYAGAIN"):
            async with store_errors():
                await bench.submit("t2")
        while move_some():
            continue
        # All keys are on the new node now, and the old node is still the owner, so it redirects with ASK.
        assert await bench.probe.ask("HGET", bench.keys.task("t1"), "state") == b"queued"
        with pytest.raises(StoreUnavailable, match="TRYAGAIN"):
            async with store_errors():
                await bench.submit("t2")
    assert await bench.submit("t2") is Submission.ACCEPTED


async def test_a_script_follows_its_key_to_a_node_that_does_not_know_it(setup: ClusterSetup, bench: Bench) -> None:
    leadership = bench.store.leadership
    assert await leadership.hold("c1", lease_ms=60_000)
    slot = setup.slot_of(LEADER)
    target = next(node for node in setup.masters if node is not setup.owner(slot))
    target.command("SCRIPT", "FLUSH")
    with setup.migrating(slot, target) as move_some:
        while move_some():
            continue
        assert await leadership.hold("c1", lease_ms=60_000)
        assert not await leadership.hold("c2", lease_ms=60_000)
    assert await leadership.hold("c1", lease_ms=60_000)


async def test_a_read_that_waits_follows_its_queue(setup: ClusterSetup, bench: Bench) -> None:
    agent = bench.agent()
    assert await agent.claim(1, block_ms=1) == []

    async def read() -> list[str]:
        return [entry.task_id for entry in await agent.claim(1, block_ms=2000)]

    waiting = asyncio.create_task(retry_while_unavailable(read, passing=unavailability))
    await asyncio.to_thread(setup.migrate_slot, setup.slot_of(bench.keys.queue))
    await retry_while_unavailable(lambda: bench.submit("t1"), passing=unavailability)
    found = await waiting or await read()
    assert found == ["t1"]


async def test_heartbeats_of_an_idle_agent_follow_its_slot_and_wake_it(setup: ClusterSetup, bench: Bench) -> None:
    queue, workers = bench.agent(), bench.store.workers
    record = StoreWorkerRecord(workers, endpoint_id=bench.endpoint_id, worker_id="a1", queue=queue)
    await record.register()

    async def report() -> object:
        return await record.report(WorkerStatus.RUNNING, running_tasks=0, address="x:1", reason="", error="")

    async def heard() -> int:
        worker = await workers.get(bench.endpoint_id, "a1")
        assert worker is not None
        return worker.last_heartbeat_at_ms or 0

    await report()
    before = await heard()
    claiming = asyncio.create_task(
        retry_while_unavailable(lambda: StoreTaskSource(queue, is_reported=True).claim(1), passing=unavailability)
    )
    await asyncio.to_thread(setup.migrate_slot, setup.slot_of(bench.keys.queue))
    await retry_while_unavailable(report, passing=unavailability)
    assert await heard() > before
    await retry_while_unavailable(lambda: bench.submit("t1"), passing=unavailability)

    async def is_claimed() -> bool:
        await retry_while_unavailable(report, passing=unavailability)
        return claiming.done()

    await wait_until_async(is_claimed)
    found = claiming.result() or await queue.claim(1, block_ms=2000)
    assert len(found) == 1
    await record.remove()


async def test_ends_of_watched_tasks_are_noted_after_their_slot_has_moved(setup: ClusterSetup, bench: Bench) -> None:
    """The endpoints are on all nodes, and the slots of two partitions move in turn."""
    ids = [(await bench.store.endpoints.create(TENANT, config(name=f"e{n}"))).endpoint_id for n in range(16)]
    bench.endpoint_ids += ids
    benches = [Bench(bench.store, one, bench.probe) for one in ids]
    for round_ in range(2):
        for one in benches:
            await one.submit(f"t{round_}")
        with ExitStack() as stack:
            watched = [
                stack.enter_context(bench.store.task_watch.watching(one.endpoint_id, [f"t{round_}"])) for one in benches
            ]
            await wait_until_async(lambda: _are_subscribed(setup, bench))
            await asyncio.to_thread(setup.migrate_slot, setup.slot_of(benches[round_].keys.queue))
            for one in benches:
                await retry_while_unavailable(
                    partial(bench.store.tasks.cancel, one.endpoint_id, f"t{round_}"), passing=unavailability
                )
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(GIVE_UP_SECONDS):
                assert [await one.next(ended) for one in watched] == [{f"t{round_}"}] * len(watched)


async def _are_subscribed(setup: ClusterSetup, bench: Bench) -> bool:
    """Return True if the channels of all partitions are subscribed at the owners of their slots."""
    channels = [partition.told("*") for partition in bench.store.partitions.all()]
    return all(setup.owner_of(one).command("PUBSUB", "SHARDCHANNELS", one) == "*2" for one in channels)


async def test_a_frozen_node_does_not_block_other_nodes(setup: ClusterSetup, bench: Bench) -> None:
    ids = [(await bench.store.endpoints.create(TENANT, config(name=f"e{n}"))).endpoint_id for n in range(16)]
    bench.endpoint_ids += ids
    benches = [Bench(bench.store, one, bench.probe) for one in ids]
    await asyncio.gather(*(one.submit("t1") for one in benches))
    frozen = setup.owner_of(bench.keys.queue)
    others = [one for one in benches if setup.owner_of(one.keys.queue) is not frozen]
    assert others
    frozen.pause()
    try:
        waiting = asyncio.create_task(bench.submit("t2"))
        assert set(await asyncio.gather(*(one.submit("t2") for one in others))) == {Submission.ACCEPTED}
        assert not waiting.done()
        with pytest.raises(RedisError) as refused:
            await waiting
        assert unavailability(refused.value) == "it cannot be reached"
        with pytest.raises(StoreUnavailable):
            await bench.store.check_writable()
        assert set(await asyncio.gather(*(one.submit("t3") for one in others))) == {Submission.ACCEPTED}
    finally:
        frozen.resume()
    await retry_while_unavailable(bench.store.check_writable, passing=unavailability)
    assert await bench.submit("t2") in (Submission.ACCEPTED, Submission.DUPLICATE)


async def test_deliveries_are_adopted_from_the_nodes_that_respond(setup: ClusterSetup, bench: Bench) -> None:
    ids = [(await bench.store.endpoints.create(TENANT, config(name=f"e{n}"))).endpoint_id for n in range(16)]
    bench.endpoint_ids += ids
    benches = [Bench(bench.store, one, bench.probe) for one in ids]
    dead, heir = await bench.outbox("dead"), await bench.outbox("heir")
    for one in benches:
        await one.finish("t1", webhook=True)

    async def all_read() -> bool:
        read.extend(await dead.read(10, block_ms=10))
        return len(read) == len(benches)

    read: list[OutboxEntry] = []
    await wait_until_async(all_read)
    for partition in bench.store.partitions.all():
        await bench.probe.ask("ZADD", partition.senders, 1, "dead")
        await bench.probe.ask("DEL", partition.ticks)  # the grace is over
        await bench.probe.ask("HSET", partition.ticks, "adopt", await bench.probe.now_ms())
    frozen = setup.owner_of(bench.keys.queue)
    others = {one.endpoint_id for one in benches if setup.owner_of(one.keys.queue) is not frozen}
    frozen.pause()
    try:
        adopted = await heir.adopt(tick_ms=60_000, lease_ms=60_000)
        assert {entry.delivery_id.split(":")[1] for entry in adopted} == others
        with pytest.raises(RedisError):
            await heir.adopt(tick_ms=60_000, lease_ms=60_000)
    finally:
        frozen.resume()
    await retry_while_unavailable(bench.store.check_writable, passing=unavailability)
    await wait_until_async(lambda: _settled(heir, adopted, len(benches)))


async def _settled(outbox: Outbox, entries: list[OutboxEntry], count: int) -> bool:
    """Adopt the remaining deliveries, and settle all deliveries when they are complete.

    The frozen node later executes commands that it has read from its socket, so some entries are claimed in a reply
    that no client receives.
    """
    entries += await retry_while_unavailable(lambda: outbox.adopt(tick_ms=60_000, lease_ms=500), passing=unavailability)
    if len(entries) < count:
        return False
    for entry in entries:
        assert await outbox.open(entry) is not None
        assert (await outbox.settle(entry, answer(), DELIVERED, at_ms=1)).accepted
    return True


class _Work:
    """Tasks that are continuously submitted, executed and delivered, as by the processes."""

    def __init__(self, bench: Bench, outbox: Outbox) -> None:
        self.bench = bench
        self.outbox = outbox
        self.submitted: set[str] = set()
        self.executed: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.submitting = True
        self.stopping = False

    def begin(self) -> list[asyncio.Task[None]]:
        loops = [*(self._submit(number) for number in range(4)), self._execute("a1"), self._execute("a2"), self._send()]
        return [asyncio.create_task(loop) for loop in loops]

    async def _submit(self, number: int) -> None:
        count = 0
        while self.submitting and not self.stopping:
            await wait_until_async(self._may_go_on)
            task = self.bench.new_task(f"t{number}-{count}", spec=spec(webhook=True))
            await retry_while_unavailable(partial(self.bench.store.tasks.enqueue, task), passing=unavailability)
            self.submitted.add(task.task_id)
            count += 1

    def _may_go_on(self) -> bool:
        return self.stopping or len(self.submitted) - len(self.delivered) < MAX_UNDELIVERED

    async def _execute(self, worker_id: str) -> None:
        agent = self.bench.agent(worker_id)
        while not self.stopping:
            entries = await retry_while_unavailable(lambda: agent.claim(8, block_ms=20), passing=unavailability)
            entries += await retry_while_unavailable(
                lambda: agent.claim_abandoned(8, idle_ms=2000), passing=unavailability
            )
            for entry in entries:
                start = partial(agent.start, entry, address="x:1")
                started = await retry_while_unavailable(start, passing=unavailability)
                if started is None:
                    continue
                self.executed[entry.task_id] += 1
                settle = partial(self.bench.settle, agent, started, Succeeded(b"1"))
                settled = await retry_while_unavailable(settle, passing=unavailability)
                assert settled.word in ("OK", "ALREADY")

    async def _send(self) -> None:
        while not self.stopping:
            entries = await retry_while_unavailable(lambda: self.outbox.read(64, block_ms=20), passing=unavailability)
            entries += await retry_while_unavailable(
                lambda: self.outbox.adopt(tick_ms=500, lease_ms=2000), passing=unavailability
            )
            await asyncio.gather(*(self._deliver(entry) for entry in entries))

    async def _deliver(self, entry: OutboxEntry) -> None:
        delivery = await retry_while_unavailable(lambda: self.outbox.open(entry), passing=unavailability)
        if delivery is None:
            return
        self.delivered[entry.delivery_id.rpartition(":")[2]] += 1
        await retry_while_unavailable(
            lambda: self.outbox.settle(entry, answer(), DELIVERED, at_ms=1), passing=unavailability
        )
