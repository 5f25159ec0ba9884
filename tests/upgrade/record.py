"""Record a dump of this version's data format: `python -m tests.upgrade.record tests/upgrade/format1`.

It writes NAME.jsonl, the data of the store, and NAME.views.jsonl, the API's responses to it. format1 was recorded by
the code of commit a17922d, before any change of the format. It is not recorded again, because a later version would
write its own form of the data. When the data format changes, a dump of the new format is recorded with the then current
code.

Endpoints are created and tasks submitted over HTTP by a real API, and a real controller has led for a while. Attempts
and deliveries are made by the classes that agents and delivery processes use, one call after the other, because a
process does not stop in each state. No process uses the store when the dump is written. The agents and delivery
processes are dead, most of their leases have expired, and one agent has a long lease.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from queue_engine.crypto.sealing import Sealer, parse_secret_key
from queue_engine.domain.deliveries import DeliverAgain, Delivered, GivenUp, Verdict
from queue_engine.domain.tasks import AttemptOutcome, Cost, Failed, Outcome, Succeeded, TaskState, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.queue import Entry, Started, TaskQueue
from queue_engine.store.store import Store
from tests.integration.parts import Programs, programs_on, wait_for_port
from tests.ports import free_port
from tests.servers import StoreServer, valkey_binary
from tests.store.bench import Bench, answer, config
from tests.store.probe import Probe
from tests.upgrade import dumps
from tests.waiting import wait_until_async

SECRET_KEY = "dGhlIHNlY3JldCBrZXkgb2YgdGhlIGR1bXBzLCAzMiE="
API_KEY = "qe_dumped"
OTHER_KEY = "qe_dumped_other"
REVOKED_KEY = "qe_dumped_revoked"
RECEIVER = "127.0.0.1:65001"
"""A port without a server. A test replaces it by the port of a receiver."""
LOST_ADDRESS = "127.0.0.1:65002"
"""Address of the workers, whose agents are dead."""
LONG_LEASE_MS = 600_000
AUTH_KEY = "only you know this"
PLAIN_WEBHOOK: dict[str, Any] = {"webhook": f"http://{RECEIVER}/hook"}
WEBHOOK: dict[str, Any] = PLAIN_WEBHOOK | {"webhookAuthKey": AUTH_KEY}

RESOURCES = [{"region": "here", "gpuType": "CPU", "gpuCount": 1}]
LARGE = "x" * 2000
CUT_AMID = "x" + "é" * 300
"""The history keeps 512 bytes of an attempt's error. This error is cut in the middle of a character."""


def endpoint(name: str, **changes: Any) -> dict[str, Any]:
    """A request for an endpoint whose agents are started by hand."""
    body = {
        "name": name, "image": "registry.example/worker:1", "serviceMode": "QUEUE", "workers": 0,
        "containerVolumeInGb": 20, "resources": RESOURCES,
    }  # fmt: skip
    return body | changes


class Recorder:
    """Makes the data, task by task. The name of a task describes its state."""

    def __init__(self, store: Store, client: httpx.AsyncClient) -> None:
        self.store = store
        self.client = client
        self.probe = Probe(store.redis)
        self.ids: dict[str, str] = {}
        self.bench = Bench(store, "", self.probe)

    async def record(self) -> None:
        """Make all data. Tasks that stay unread in a queue are made last, because a read would claim them too."""
        await self.make_endpoints()
        await self.make_ended_tasks()
        await self.make_reruns_and_gaps()
        await self.make_deliveries()
        await self.make_impatient_tasks()
        await self.make_requeued_tasks()
        await self.make_running_tasks()
        await self.make_scheduled_tasks()
        await self.end("delivery_queued", Succeeded(b'{"sum": 3}'), **WEBHOOK)
        await self.make_queued_tasks()
        await self.make_other_endpoints()
        await self.make_workers()

    # Endpoints

    async def make_endpoints(self) -> None:
        auth = {"name": "registry", "type": "PRIVATE", "username": "robot", "password": "a password"}
        credential = await self.call("POST", "/v2/container-registry-auths", auth)
        await self.call("POST", "/v2/container-registry-auths", auth | {"name": "unused"})
        await self.new_endpoint(
            "main", webhook=f"http://{RECEIVER}/events", containerRegistryAuthId=credential["id"], maxAttempts=4,
            environmentVars=[{"key": "TOKEN", "value": "secret value"}, {"key": "MODE", "value": "x", "secret": False}],
            cancelUri="/cancel", retryOn=["503", "429", "no_connection", "connection_lost", "500"],
            retryDelaysSeconds=[0.5, 1],
        )  # fmt: skip
        self.bench = Bench(self.store, self.ids["main"], self.probe, [self.ids["main"]])
        removed = await self.new_endpoint("removed")
        await self.call("DELETE", f"/v2/serverless/{removed}")
        assert await self.store.endpoints.remove(removed)

    async def new_endpoint(self, name: str, **changes: Any) -> str:
        made = await self.call("POST", "/v2/serverless", endpoint(name, **changes))
        self.ids[name] = str(made["id"])
        return self.ids[name]

    # Ended tasks

    async def make_ended_tasks(self) -> None:
        await self.end("ok_small", Succeeded(b'{"sum": 3}'))
        await self.end("ok_large", Succeeded(json.dumps(LARGE).encode()))
        await self.end("ok_large_input", Succeeded(b"1"), input={"text": LARGE})
        await self.end("ok_unicode", Succeeded('"é𝄞"'.encode()), input="é𝄞 \x00")
        await self.end("ok_headers", Succeeded(b"2"), headers={"X-Mode": "fast", "Authorization": "Bearer secret"})
        await self.end("failed_error", Failed("the container responded with status 400: no"))
        await self.end("failed_timeout", Failed("no response within 3600 s", TaskState.TIMED_OUT))
        await self.make_task_after_attempts()
        await self.submit("cancelled_waiting")
        await self.order("cancelled_waiting", "cancel")
        started = await self.start("cancelled_running")
        await self.order("cancelled_running", "cancel")
        await self.settle(started, Failed("the task was cancelled while it was running", TaskState.CANCELLED))
        started = await self.start("cancelled_released")
        await self.order("cancelled_released", "cancel")
        assert await self.bench.release(self.bench.agent(), started) == "CANCELLED"
        await self.submit("expired", queueTtlSeconds=0.001)
        await self.swept("expired", "expired")
        await self.submit("dead")
        for left in (1, 0):
            await self.lose("dead", submitted=True)
            await self.swept("dead", "queued" if left else "dead", max_lost=1)

    async def make_task_after_attempts(self) -> None:
        """Make a task with an earlier attempt of each kind."""
        started = await self.start("ok_after_attempts")
        again = [
            TryAgain("status 500: broken", 0, AttemptOutcome.ERROR),
            TryAgain(CUT_AMID, 0, AttemptOutcome.CONNECTION_LOST),
            TryAgain("status 429", 0, cost=Cost.BUSY, last_error="busy for too long"),
            TryAgain("connection refused", 0, AttemptOutcome.NO_CONNECTION, Cost.BUSY, "not up for too long"),
            TryAgain("status 503", 0, cost=Cost.NOTHING),
        ]
        for outcome in again:
            await self.settle(started, outcome)
            await self.swept("ok_after_attempts", "queued")
            started = await self.restart("ok_after_attempts")
        await self.bench.release(self.bench.agent(), started)
        started = await self.restart("ok_after_attempts")
        await self.settle(started, Succeeded(b"true"))

    # Deliveries

    async def make_deliveries(self) -> None:
        sealed = {"webhookAuthKey": AUTH_KEY, "headers": {"X-Mode": "fast"}}
        outbox = await self.outbox("d1")
        await self.end("delivered_first", Succeeded(b"1"), **PLAIN_WEBHOOK, **sealed)
        await self.deliver(outbox, Delivered())
        await self.end("delivered_third", Succeeded(json.dumps(LARGE).encode()), **PLAIN_WEBHOOK)
        for verdict in (DeliverAgain(0, "status 500"), DeliverAgain(0, "timeout"), Delivered()):
            await outbox.promote()
            await self.deliver(outbox, verdict)
        await self.end("delivered_failed", Failed("status 400"), **PLAIN_WEBHOOK)
        await self.deliver(outbox, Delivered())
        await self.end("given_up", Succeeded(b"1"), **PLAIN_WEBHOOK)
        await self.deliver(outbox, GivenUp("gone (status 410); the receiver wants no more"))
        for name, seconds in (("delivery_retried", 0.5), ("delivery_waits_long", 3600)):
            await self.end(name, Succeeded(b'{"sum": 3}'), **PLAIN_WEBHOOK, **sealed)
            await self.deliver(outbox, DeliverAgain(seconds, "status 500"))
        for name, parked in (("delivery_deferred", False), ("delivery_parked", True)):
            await self.end(name, Succeeded(b"1"), **PLAIN_WEBHOOK)
            await outbox.defer(await self.opened(outbox), delay_ms=500, parked=parked)
        await self.end("delivery_opened", Succeeded(json.dumps(LARGE).encode()), **PLAIN_WEBHOOK, **sealed)
        await self.opened(outbox)
        await self.end("delivery_read", Failed("status 400"), **PLAIN_WEBHOOK)
        (entry,) = await outbox.read(10, block_ms=1000)
        assert entry.delivery_id.endswith("delivery_read")

    async def outbox(self, process_id: str) -> Outbox:
        """Return the outbox of a delivery process whose lease expires soon."""
        outbox = self.store.outbox(process_id)
        await outbox.make_groups()
        await outbox.adopt(tick_ms=1000, lease_ms=1000, limit=0)
        return outbox

    async def opened(self, outbox: Outbox) -> OutboxEntry:
        (entry,) = await outbox.read(10, block_ms=1000)
        assert await outbox.open(entry) is not None
        return entry

    async def deliver(self, outbox: Outbox, verdict: Verdict) -> None:
        """Make one delivery attempt."""
        entry = await self.opened(outbox)
        got = answer(204) if isinstance(verdict, Delivered) else answer(500, "http_5xx", excerpt="no")
        settled = await outbox.settle(entry, got, verdict, at_ms=await self.probe.now_ms())
        assert settled.accepted

    # Tasks that were run again, and gaps in the indexes

    async def make_reruns_and_gaps(self) -> None:
        await self.end("rerun_ended", Failed("status 400"), **PLAIN_WEBHOOK)
        await self.order("rerun_ended", "retry")
        outbox = await self.outbox("d1")
        await self.settle(await self.restart("rerun_ended"), Succeeded(b"2"))
        await self.deliver(outbox, Delivered())
        for name in ("gone_1", "ok_between", "gone_2", "gone_3"):
            await self.end(name, Succeeded(b"1"))
        for name in ("gone_1", "gone_3"):
            await self.call("DELETE", self.path(name))
        await self.call("DELETE", self.path("gone_2"))

    async def make_impatient_tasks(self) -> None:
        """Make a task whose last attempt was used up by a busy streak."""
        main, self.bench = (
            self.bench,
            Bench(self.store, await self.new_endpoint("impatient", maxBusySeconds=0, maxAttempts=1), self.probe),
        )
        await self.end("failed_busy", TryAgain("status 429", 0, cost=Cost.BUSY, last_error="status 429 for too long"))
        self.bench = main

    # Tasks that run

    async def make_running_tasks(self) -> None:
        await self.lose("running_lost_twice", **PLAIN_WEBHOOK)
        await self.swept("running_lost_twice", "queued")
        await self.lose("running_lost_twice", submitted=True)
        await self.start("running_held", lease_ms=LONG_LEASE_MS, headers={"X-Mode": "fast"}, **WEBHOOK)
        await self.lose("running_lost")
        await self.lose("running_lost_webhook", **WEBHOOK)
        await self.lose("running_lost_headers", headers={"X-Mode": "fast"})
        await self.lose("running_cancelled", **WEBHOOK)
        await self.order("running_cancelled", "cancel")
        await self.start("running_cancel_held", lease_ms=LONG_LEASE_MS)
        await self.order("running_cancel_held", "cancel")
        started = await self.start("running_retried")
        await self.settle(started, TryAgain("status 503", 0, cost=Cost.NOTHING))
        await self.lose("running_retried", submitted=True)
        await self.end("running_rerun", Succeeded(b"1"))
        await self.order("running_rerun", "retry")
        await self.lose("running_rerun", submitted=True)

    # Tasks that wait for another attempt

    async def make_scheduled_tasks(self) -> None:
        error = TryAgain("status 500: broken", 0.5, AttemptOutcome.ERROR)
        await self.settle(await self.start("scheduled_error", **WEBHOOK), error)
        await self.settle(await self.start("scheduled_deadline", queueTtlSeconds=3600), error)
        await self.settle(await self.start("scheduled_expires", queueTtlSeconds=2), TryAgain("status 500", 3600))
        busy = TryAgain("status 429", 0.5, cost=Cost.BUSY, last_error="busy for too long")
        await self.settle(await self.start("scheduled_busy", headers={"X-Mode": "fast"}), busy)
        await self.settle(await self.start("scheduled_long"), TryAgain("status 503", 3600, cost=Cost.BUSY))

    # Tasks that are queued

    async def make_requeued_tasks(self) -> None:
        """Make requeued tasks, before other tasks lose their leases, because a sweep reclaims all of them."""
        await self.lose("queued_lost_lease", **WEBHOOK)
        await self.swept("queued_lost_lease", "queued")
        started = await self.start("queued_released")
        await self.bench.release(self.bench.agent(), started)

    async def make_queued_tasks(self) -> None:
        await self.submit("queued_read")
        await self.read("queued_read", self.bench.agent("a3"))
        await self.submit("queued_plain")
        await self.submit("queued_large", input={"text": LARGE})
        await self.submit("queued_webhook", **WEBHOOK)
        await self.submit("queued_headers", headers={"X-Mode": "fast", "Authorization": "Bearer secret"}, **WEBHOOK)
        await self.submit("queued_trace", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        await self.submit("queued_deadline", queueTtlSeconds=3600, executionTimeoutSeconds=60)
        await self.submit("queued_expires", queueTtlSeconds=2, **WEBHOOK)

    # Other data

    async def make_other_endpoints(self) -> None:
        main = self.bench
        for name in ("stopped", "failed", "deleting"):
            self.bench = Bench(
                self.store, await self.new_endpoint(name, workers=1, initializationCommand="exit 1"), self.probe
            )
            await self.end(f"{name}_ended", Succeeded(b"1"), **WEBHOOK)
            await self.submit(f"{name}_queued", **WEBHOOK)
        self.bench = main
        await self.call("POST", f"/v2/serverless/{self.ids['stopped']}/stop")
        await self.store.endpoints.set_failed(self.ids["failed"], failed=True)
        command = "exec python3 deploy/examples/echo_server.py"
        exposed = {"expose": {"port": 8000, "protocol": "http"}}
        await self.new_endpoint("managed", workers=1, initializationCommand=command, **exposed, readyPath="/")
        await self.new_endpoint("balanced", serviceMode="ALB", **exposed)
        await self.new_endpoint("custom", serviceMode="CUSTOM")

    async def make_workers(self) -> None:
        """Make workers of each kind. The workers of `main` have status events that wait for delivery."""
        await self.worker("main", "a1", managed=False)
        await self.worker("managed", "m1")
        await self.worker("balanced", "b1", managed=False)
        await self.worker("failed", "f1", WorkerStatus.FAILED)
        await self.worker("deleting", "d1")
        await self.call("DELETE", f"/v2/serverless/{self.ids['deleting']}")
        lines = [f"line {number}" for number in range(20)]
        await self.store.logs.append(self.ids["main"], "a1", "1", lines, retention_ms=86_400_000)
        await self.store.workers.put(self.ids["main"], "gone", managed=True)
        await self.store.logs.append(self.ids["main"], "gone", "1", lines[:3], retention_ms=86_400_000)
        await self.store.workers.remove(self.ids["main"], "gone")

    async def worker(
        self, name: str, worker_id: str, status: WorkerStatus = WorkerStatus.RUNNING, *, managed: bool = True
    ) -> None:
        workers, endpoint_id = self.store.workers, self.ids[name]
        await workers.put(endpoint_id, worker_id, managed=managed)
        run = 0
        if managed:
            run = await workers.begin_start(endpoint_id, worker_id) or 0
        if status is WorkerStatus.FAILED:
            await workers.mark(endpoint_id, worker_id, status, reason="ended", error="exit status 1", restarted=True)
        else:
            await workers.report(endpoint_id, worker_id, status, running_tasks=1, address=LOST_ADDRESS, run=run)

    # Steps

    def path(self, task_id: str) -> str:
        return f"/v2/serverless/{self.bench.endpoint_id}/tasks/{task_id}"

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        reply = await self.client.request(method, path, json=body, headers=headers)
        assert reply.status_code == 200, (method, path, reply.text)
        return reply.json()["data"]

    async def submit(self, task_id: str, *, traceparent: str | None = None, **changes: Any) -> None:
        body = {"taskId": task_id, "workerPort": 8000, "processUri": "/run", "input": {"n": 1}} | changes
        headers = {} if traceparent is None else {"traceparent": traceparent}
        await self.call("POST", f"/v2/serverless/{self.bench.endpoint_id}/tasks", body, **headers)

    async def order(self, task_id: str, what: str) -> None:
        await self.call("POST", f"{self.path(task_id)}/{what}")

    async def start(self, task_id: str, *, lease_ms: int = LONG_LEASE_MS, **changes: Any) -> Started:
        """Submit a task and begin its attempt."""
        await self.submit(task_id, **changes)
        return await self.restart(task_id, lease_ms=lease_ms)

    async def restart(self, task_id: str, *, lease_ms: int = LONG_LEASE_MS) -> Started:
        """Begin an attempt of a task that is queued."""
        agent = self.bench.agent("a1", lease_ms=lease_ms)
        started = await agent.start(await self.read(task_id, agent), address="127.0.0.1:8000")
        assert started is not None
        return started

    async def read(self, task_id: str, agent: TaskQueue) -> Entry:
        """Read the queues and put all others back."""
        entries = {entry.task_id: entry for entry in await agent.claim(100, block_ms=1000)}
        found = entries.pop(task_id)
        for other in entries.values():
            await agent.put_back(other)
        return found

    async def lose(self, task_id: str, *, submitted: bool = False, **changes: Any) -> None:
        """Begin an attempt whose lease expires at once."""
        if not submitted:
            await self.submit(task_id, **changes)
        await self.restart(task_id, lease_ms=1)

    async def settle(self, started: Started, outcome: Outcome) -> None:
        settled = await self.bench.settle(self.bench.agent(), started, outcome)
        assert settled.word in ("OK", "FAILED"), settled

    async def end(self, task_id: str, outcome: Outcome, **changes: Any) -> None:
        """Submit a task and run it to its end."""
        await self.settle(await self.start(task_id, **changes), outcome)

    async def swept(self, task_id: str, state: str, *, max_lost: int = 3) -> None:
        """Sweep until the task is in this state."""

        async def is_there() -> bool:
            await self.bench.sweep(max_lost=max_lost)
            return (await self.bench.task(task_id)).state == state

        await wait_until_async(is_there, message=f"{task_id} is not {state}")


async def views(client: httpx.AsyncClient) -> AsyncIterator[dict[str, Any]]:
    """Yield the API's responses about all data."""

    async def view(path: str) -> dict[str, Any]:
        reply = await client.get(path)
        data = reply.json()["data"]
        return {"path": path, "status": reply.status_code, "data": _without_dates(data)}

    endpoints = await view("/v2/serverless")
    for path in ("/v2/serverless", "/v2/container-registry-auths"):
        yield await view(path)
    for one in endpoints["data"]:
        base = f"/v2/serverless/{one['id']}"
        for path in ("", "/webhook-secret", "/workers"):
            yield await view(base + path)
        for worker in (await view(f"{base}/workers"))["data"]:
            yield await view(f"{base}/workers/{worker['workerId']}/logs")
        if one["serviceMode"] != "QUEUE":
            continue
        for path in ("/count", *("?status=" + status for status in ("PROCESSING", "SUCCESS", "DELIVERED", "FAILED"))):
            yield await view(f"{base}/tasks{path}")
        tasks = await view(f"{base}/tasks?pageSize=100")
        yield tasks
        for task in tasks["data"]["items"]:
            for path in ("", "/attempts", "/deliveries"):
                yield await view(f"{base}/tasks/{task['taskId']}{path}")


def _without_dates(data: Any) -> Any:
    """Remove times of logs and credentials that are not numbers, because they cannot be moved to the present."""
    if isinstance(data, list):
        return [_without_dates(part) for part in data]
    if not isinstance(data, dict):
        return data
    dates = {name for name in ("timestamp", "createdAt") if isinstance(data.get(name), str)}
    return {name: _without_dates(part) for name, part in data.items() if name not in dates}


@asynccontextmanager
async def served(programs: Programs, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Start an API and yield a client of it; afterwards it has ended."""
    port = free_port()
    arguments = ("queue_engine", "api", "--port", str(port))
    program = programs.start("api", *arguments, QUEUE_ENGINE_API_KEY=API_KEY, QUEUE_ENGINE_SECRET_KEY=SECRET_KEY)
    wait_for_port(port)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, headers={"X-Api-Key": key}, timeout=30) as client:
        yield client
    program.stop()


async def lead_for_a_while(programs: Programs, store: Store) -> None:
    """Let a controller lead, run its periodic jobs and die."""
    program = programs.controller(QUEUE_ENGINE_SECRET_KEY=SECRET_KEY)
    probe = Probe(store.redis)

    async def has_led() -> bool:
        ticks = [await probe.hash(partition.ticks) for partition in store.partitions.all()]
        return bool(await probe.ask("EXISTS", "{qe}:leader")) and all("sweep" in each for each in ticks)

    await wait_until_async(has_led, timeout=60)
    program.kill()


async def record(server_url: str, programs: Programs, target: Path) -> None:
    store = Store(server_url, Sealer(parse_secret_key(SECRET_KEY)))
    keyless = Store(server_url, Sealer(None))
    try:
        await keyless.prepare()
        await keyless.endpoints.create("default", config(name="keyless"))
        await store.prepare()
        await lead_for_a_while(programs, store)
        for key, tenant in ((OTHER_KEY, "other"), (REVOKED_KEY, "default")):
            await store.api_keys.put(key, tenant=tenant, name=f"key of {tenant}")
        (revoked,) = [key for key in await store.api_keys.all() if key.tenant == "default"]
        await store.api_keys.revoke(revoked.key_hash)
        async with served(programs, OTHER_KEY) as client:
            other = (await client.post("/v2/serverless", json=endpoint("theirs"))).json()["data"]["id"]
            body = {"taskId": "theirs_queued", "workerPort": 8000, "processUri": "/run", "input": 1}
            (await client.post(f"/v2/serverless/{other}/tasks", json=body)).raise_for_status()
        async with served(programs, API_KEY) as client:
            await Recorder(store, client).record()
            seen = [view async for view in views(client)]
        assert await store.leadership.hold("controller-that-has-died", lease_ms=10_000)
        await write(store, target, seen)
    finally:
        await keyless.close()
        await store.close()


async def write(store: Store, target: Path, seen: list[dict[str, Any]]) -> None:
    commit = _git_commit()
    meta = await Probe(store.redis).hash("{qe}:meta")
    await dumps.write(
        store.redis, target.with_suffix(".jsonl"), format=int(meta["format"]), recorded_on=commit,
        partitions=store.partitions.count,
    )  # fmt: skip
    text = "".join(f"{json.dumps(view, ensure_ascii=False)}\n" for view in seen)
    target.with_suffix(".views.jsonl").write_text(text)


def _git_commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(target: Path) -> None:
    """Record into TARGET.jsonl and TARGET.views.jsonl, with an embedded Valkey of its own."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with StoreServer(valkey_binary(), directory / "store") as server, programs_on(server.url, directory) as started:
            asyncio.run(record(server.url, started, target))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
