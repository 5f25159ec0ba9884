"""Test bench: an endpoint in a real store, with short methods for the steps of tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from queue_engine.domain.attempts import Settled
from queue_engine.domain.deliveries import DeliverAgain, Delivered, GivenUp, Verdict, WebhookResponse
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import NewTask, Outcome, Succeeded, Task, TaskSpec
from queue_engine.store.constants import TASK_BYTES
from queue_engine.store.keys import EndpointKeys, Partition, member
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.queue import Started, TaskQueue
from queue_engine.store.store import Store
from queue_engine.store.sweeper import Swept
from queue_engine.store.tasks import Submission
from tests.store.consistency import faults_in
from tests.store.probe import Probe

TENANT = "acme"
WEBHOOK = "https://hooks.example/done"
DESTINATION = "https://hooks.example:443"
LONG_LEASE_MS = 60_000
TICK_MS = 1_000
SECRET_KEY = bytes(range(32))


def config(**changes: object) -> EndpointConfig:
    """Return the configuration of a QUEUE endpoint."""
    fields: dict[str, object] = {
        "name": "sums",
        "image": "python:3.11",
        "service_mode": ServiceMode.QUEUE,
        "resources": (Resource("local", "CPU", 1),),
        "workers": 1,
        "container_volume_in_gb": 20,
    }
    return EndpointConfig(**(fields | changes))  # type: ignore[arg-type]


def spec(
    *,
    webhook: bool = False,
    headers: dict[str, str] | None = None,
    auth_key: str | None = None,
    tags: Sequence[str] = (),
) -> TaskSpec:
    """Return a task's spec."""
    return TaskSpec(
        worker_port=8000,
        process_uri="/run",
        headers=headers or {},
        webhook=WEBHOOK if webhook else None,
        webhook_destination=DESTINATION if webhook else None,
        webhook_auth_key=auth_key,
        tags=list(tags),
    )


def answer(status: int | None = 200, error_type: str | None = None, excerpt: str = "") -> WebhookResponse:
    """Return a webhook's response to a delivery attempt."""
    return WebhookResponse(status, error_type, excerpt=excerpt, duration_seconds=0.012)


async def tenant_of(store: Store, key_hash: str) -> str | None:
    """Return the tenant of the valid API key with this hash."""
    key = await store.api_keys.find(key_hash)
    return None if key is None else key.tenant


def again(delay_seconds: float = 0.0) -> DeliverAgain:
    return DeliverAgain(delay_seconds, "http_5xx (status 500): out of order")


TOO_LARGE_TO_JOIN = Succeeded(b'"' + b"x" * 2000 + b'"')
"""An output that has a key of its own; a small one is in the task's body."""
DELIVERED = Delivered()
GIVEN_UP = GivenUp("gone (status 410); the receiver wants no more")


@dataclass
class Bench:
    """A store with an endpoint. `check` returns its inconsistencies."""

    store: Store
    endpoint_id: str
    probe: Probe
    endpoint_ids: list[str] = field(default_factory=list)
    has_use: bool = True
    """False for data of an earlier version, which did not count bytes and deliveries."""

    @property
    def keys(self) -> EndpointKeys:
        return self.store.partitions.of(self.endpoint_id)

    @property
    def partition(self) -> Partition:
        return self.keys.partition

    def member(self, task_id: str) -> str:
        return member(self.endpoint_id, task_id)

    def agent(self, worker_id: str = "a1", *, lease_ms: int = LONG_LEASE_MS) -> TaskQueue:
        return self.store.queue(endpoint_id=self.endpoint_id, worker_id=worker_id, lease_ms=lease_ms)

    async def outbox(self, process_id: str = "d1") -> Outbox:
        """Return the outbox of a delivery process that has renewed its lease and adopted nothing."""
        outbox = self.store.outbox(process_id)
        await outbox.make_groups()
        await outbox.adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS, limit=0)
        return outbox

    async def submit(self, task_id: str, **changes: object) -> Submission:
        """Enqueue a task; `changes` are fields of the NewTask."""
        return (await self.store.tasks.enqueue(self.new_task(task_id, **changes))).result

    def new_task(self, task_id: str, **changes: object) -> NewTask:
        fields: dict[str, object] = {
            "task_id": task_id,
            "endpoint_id": self.endpoint_id,
            "tenant": TENANT,
            "spec": spec(),
            "input": b'{"n": 1}',
            "fingerprint": "0" * 32,
        }
        return NewTask(**(fields | changes))  # type: ignore[arg-type]

    async def set_key_limit(self, limit: int) -> None:
        """Change the limit of the running tasks of a fairness key; 0 for none."""
        version = (await self.probe.hash(self.keys.endpoint))["version"]
        reply = await self.store.scripts.update_endpoint(
            self.keys, tenant=TENANT, version=int(version), needs_new_workers=False, fields={"key_limit": limit or ""}
        )
        assert reply.word == "OK"

    async def start(self, agent: TaskQueue, *, address: str = "127.0.0.1:9000") -> Started:
        """Claim an entry and begin its attempt."""
        entries = await agent.claim(1, block_ms=1)
        started = await agent.start(entries[0], address=address)
        assert started is not None
        for entry in entries[1:]:  # a read covers two queues
            await agent.put_back(entry)
        return started

    async def submit_and_start(self, task_id: str, agent: TaskQueue | None = None, **changes: object) -> Started:
        await self.submit(task_id, **changes)
        return await self.start(agent or self.agent())

    async def settle(self, agent: TaskQueue, started: Started, outcome: Outcome) -> Settled:
        return await agent.settle(started.lease, outcome)

    async def release(self, agent: TaskQueue, started: Started) -> str:
        return await agent.release(started.lease)

    async def finish(
        self, task_id: str, *, outcome: Outcome | None = None, webhook: bool = False, **changes: object
    ) -> Task:
        """Submit a task and run it to its end; `changes` are fields of the NewTask."""
        agent = self.agent()
        started = await self.submit_and_start(task_id, agent, **({"spec": spec(webhook=webhook)} | changes))
        assert started.lease.task_id == task_id
        assert (await self.settle(agent, started, outcome or Succeeded(b"42"))).word == "OK"
        return await self.task(task_id)

    async def task(self, task_id: str) -> Task:
        task = await self.store.tasks.get(self.endpoint_id, task_id)
        assert task is not None
        return task

    async def recount_bytes(self) -> None:
        """Correct the endpoint's bytes after a test has replaced or removed bodies of tasks that have not ended."""
        live = await self.probe.scores(self.keys.live)
        sizes = [TASK_BYTES + await self.probe.ask("STRLEN", self.keys.body(task_id)) for task_id in live]
        await self.probe.ask("HSET", self.keys.counts, "bytes", sum(sizes))

    async def data_keys(self, task_id: str) -> list[str]:
        """Return the keys of an ended task's data. The result has a key unless it is in the body."""
        keys = [self.keys.task(task_id), self.keys.body(task_id)]
        joined = await self.probe.ask("HEXISTS", self.keys.task(task_id), "result_at")
        return keys if joined else [*keys, self.keys.result(task_id)]

    async def run_out(self, task_id: str) -> None:
        """Set the end of the task's lease into the past."""
        assert await self.probe.ask("ZADD", self.partition.leases, "XX", "CH", 1, self.member(task_id)) == 1

    async def steady(self) -> None:
        """Pretend that the periodic checks have run without a gap, so that they grant no grace."""
        now = await self.probe.now_ms()
        await self.probe.ask("DEL", self.partition.ticks)
        await self.probe.ask("HSET", self.partition.ticks, "sweep", now, "adopt", now)

    async def sweep(self, *, max_lost: int = 3, lease_ms: int = LONG_LEASE_MS, limit: int = 1000) -> Swept:
        """Sweep once, without grace."""
        await self.steady()
        return await self.sweep_as_it_is(max_lost=max_lost, lease_ms=lease_ms, limit=limit)

    async def sweep_as_it_is(self, *, max_lost: int = 3, lease_ms: int = LONG_LEASE_MS, limit: int = 1000) -> Swept:
        return await self.store.sweeper.sweep(
            self.partition, tick_ms=TICK_MS, lease_ms=lease_ms, max_lost=max_lost, limit=limit
        )

    async def lose(self, task_id: str, *, max_lost: int = 3) -> Swept:
        """Let the task's lease expire, and sweep."""
        await self.run_out(task_id)
        return await self.sweep(max_lost=max_lost)

    async def make_due(self, task_id: str) -> None:
        """End the wait of a scheduled task."""
        assert await self.probe.ask("ZADD", self.partition.due, "XX", "CH", 1, self.member(task_id)) == 1

    async def let_busy_streak_last(self, task_id: str) -> None:
        """Set the start of the task's busy streak far into the past."""
        assert await self.probe.ask("HSET", self.keys.task(task_id), "busy_since", 1) == 0

    async def pass_deadline(self, task_id: str) -> None:
        """Set the task's deadline into the past."""
        assert await self.probe.ask("ZADD", self.partition.deadlines, "XX", "CH", 1, self.member(task_id)) == 1
        await self.probe.ask("HSET", self.keys.task(task_id), "deadline", 1)

    async def deliver(self, outbox: Outbox, verdict: Verdict = DELIVERED) -> OutboxEntry:
        """Make a delivery attempt, from reading to settling."""
        (entry,) = await outbox.read(10, block_ms=1)
        assert await outbox.open(entry) is not None
        status = 200 if verdict is DELIVERED else 500
        settled = await outbox.settle(entry, answer(status), verdict, at_ms=1)
        assert settled.accepted
        return entry

    async def bring_delivery_to(self, place: str, outbox: Outbox) -> OutboxEntry | None:
        """Bring the only delivery to a place: ready, read, retry, parked or given up. Return its entry if read."""
        if place == "ready":
            return None
        (entry,) = await outbox.read(10, block_ms=1)
        assert await outbox.open(entry) is not None
        if place == "retry":
            await outbox.settle(entry, answer(500), again(60), at_ms=1)
        elif place == "parked":
            await outbox.defer(entry, delay_ms=60_000)
        elif place == "given up":
            await outbox.settle(entry, answer(410), GIVEN_UP, at_ms=1)
        return entry

    async def purge(self, endpoint_id: str | None = None) -> int:
        """Remove all ended tasks, also those within their retention."""
        before = await self.probe.now_ms() + 1000
        return await self.store.sweeper.purge(endpoint_id or self.endpoint_id, before_ms=before)

    async def check(self) -> list[str]:
        """Return the inconsistencies in the whole store."""
        faults = []
        snapshot = await self.probe.snapshot()
        for partition in self.store.partitions.all():
            ids = [one for one in self.endpoint_ids if self.store.partitions.of(one).partition == partition]
            faults += faults_in(snapshot, partition, ids, has_use=self.has_use)
        return faults
