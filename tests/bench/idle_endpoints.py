"""Measure the cost of idle endpoints, and whether they delay the endpoints of other tenants.

A store is filled with idle endpoints by the scripts that create them. A real controller and a real API run on it. With
some of the endpoints, the processor time of controller and store is measured. With all of them, requests of another
tenant, which has ten endpoints, are measured.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.store.checks import TAKEN_PER_PARTITION
from queue_engine.store.given_up import DONE
from queue_engine.store.keys import ENDPOINT_IDS, GIVEN_UP_BUILD, META, endpoints_of
from queue_engine.store.store import Store
from tests.integration.parts import Programs, programs_on, wait_for_port
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until_async

IDLE, OTHERS = 10_000, 100_000
OWN = 10
LISTS = 1000
WARM_UP = 20
CREATED = 5
SECONDS = 30.0
SETTLE_SECONDS = 900.0
FILL_CHUNK = 500
API_KEY = "qe_idle_endpoints"


@dataclass(frozen=True)
class Goal:
    """A figure with its goal."""

    name: str
    value: float
    limit: float
    unit: str

    @property
    def line(self) -> str:
        word = "ok" if self.value <= self.limit else "MISSED"
        return f"{self.name:<64}{self.value:>10.2f} {self.unit:<3} goal ≤ {self.limit:g}  {word}"


async def run(binary: Path, *, idle: int = IDLE, others: int = OTHERS, seconds: float = SECONDS) -> list[Goal]:
    """Measure and print all figures."""
    with tempfile.TemporaryDirectory(prefix="queue-engine-endpoints-") as folder:
        directory = Path(folder)
        with StoreServer(binary, directory / "store") as server, programs_on(server.url, directory) as programs:
            store = Store(server.url, Sealer(None))
            try:
                await store.prepare()
                goals = await _measured(store, programs, idle, others, seconds)
            finally:
                await store.close()
    sys.stdout.writelines(f"{goal.line}\n" for goal in goals)
    return goals


async def _measured(store: Store, programs: Programs, idle: int, others: int, seconds: float) -> list[Goal]:
    await fill(store, idle)
    controller = programs.controller(lease=30)
    await _settled(store)
    used = await _processor_shares(store, controller.pid, seconds)
    await fill(store, others - idle)
    await _settled(store)
    port = free_port()
    programs.start("api", "queue_engine", "api", "--port", str(port), QUEUE_ENGINE_API_KEY=API_KEY)
    await asyncio.to_thread(wait_for_port, port)
    url, headers = f"http://127.0.0.1:{port}/v2/serverless", {"X-Api-Key": API_KEY}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as api:
        for number in range(OWN):
            await _create(api, f"own{number}", workers=0)
        gc.collect()
        gc.freeze()  # a collection of all that this process has would count as time of a list
        for _ in range(WARM_UP):
            await _seconds(lambda: api.get(""))
        listed = [await _seconds(lambda: api.get("")) for _ in range(LISTS)]
        started = [await _seconds_to_start(store, api, number) for number in range(CREATED)]
        deleted = [await _seconds_to_delete(store, api, endpoint_id) for endpoint_id, _ in started]
    began = time.monotonic()
    await asyncio.to_thread(controller.stop)
    ended = time.monotonic() - began
    return [
        Goal(f"controller, {idle:,} idle endpoints", 100 * used[0], 3, "%"),
        Goal(f"store, {idle:,} idle endpoints", 100 * used[1], 1, "%"),
        Goal(f"list of {OWN} own beside {others:,}, p99", 1000 * statistics.quantiles(listed, n=100)[98], 20, "ms"),
        Goal(f"start of a new worker beside {others:,}, slowest", max(seconds for _, seconds in started), 2, "s"),
        Goal(f"deletion of an endpoint beside {others:,}, slowest", max(deleted), 10, "s"),
        Goal(f"end of the controller beside {others:,}", ended, 10, "s"),
    ]


async def fill(store: Store, count: int, tenant: str = "idle") -> None:
    """Create idle endpoints of a tenant."""
    config = EndpointConfig("idle", "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 0, 20)
    first_of_all = store.partitions.of((await store.endpoints.create(tenant, config)).endpoint_id).endpoint
    record = await store.redis.hgetall(first_of_all)  # type: ignore[misc]
    made_by_script = (b"created", b"updated", b"version", b"revision")
    fields = {name.decode(): value.decode() for name, value in record.items() if name not in made_by_script}
    last = int(await store.redis.incrby(ENDPOINT_IDS, count))
    ids = [str(number) for number in range(last - count + 1, last + 1)]
    for first in range(0, count, FILL_CHUNK):
        chunk = ids[first : first + FILL_CHUNK]
        await store.redis.zadd(endpoints_of(tenant), {endpoint_id: int(endpoint_id) for endpoint_id in chunk})
        create = store.scripts.create_endpoint
        await asyncio.gather(*(create(store.partitions.of(one), endpoint_id=one, fields=fields) for one in chunk))


async def _settled(store: Store) -> None:
    """Wait until the controller has looked at every new endpoint, and has built the index of given-up deliveries.

    It builds the index of a new store once, which reads all endpoints.
    """

    async def is_settled() -> bool:
        if await store.redis.hget(META, GIVEN_UP_BUILD) != DONE.encode():  # type: ignore[misc]
            return False
        counts: list[int] = [await store.redis.zcard(partition.due_checks) for partition in store.partitions.all()]
        # The resync makes a few due at any time. More than a round takes of a partition would make others wait.
        return max(counts) <= TAKEN_PER_PARTITION

    await wait_until_async(is_settled, SETTLE_SECONDS, "the controller does not look at all endpoints")


async def _processor_shares(store: Store, controller_pid: int, seconds: float) -> tuple[float, float]:
    """Return the shares of a core that the controller and the store use."""
    processes = [psutil.Process(controller_pid), psutil.Process((await store.redis.info("server"))["process_id"])]

    def used() -> list[float]:
        times = [process.cpu_times() for process in processes]
        return [one.user + one.system for one in times]

    before, began = used(), time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - began
    controller, server = [(later - earlier) / passed for earlier, later in zip(before, used(), strict=True)]
    return controller, server


async def _seconds(call: Callable[[], Awaitable[httpx.Response]]) -> float:
    began = time.perf_counter()
    (await call()).raise_for_status()
    return time.perf_counter() - began


async def _create(api: httpx.AsyncClient, name: str, **changes: Any) -> str:
    body = {
        "name": name, "image": "none", "serviceMode": "QUEUE", "workers": 1, "containerVolumeInGb": 20,
        "initializationCommand": "sleep 1000", "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
    }  # fmt: skip
    response = await api.post("", json=body | changes)
    response.raise_for_status()
    return str(response.json()["data"]["id"])


async def _seconds_to_start(store: Store, api: httpx.AsyncClient, number: int) -> tuple[str, float]:
    """Create an endpoint with a worker; return its id and the time until the worker's start."""
    began = time.monotonic()
    endpoint_id = await _create(api, f"new{number}")

    async def is_started() -> bool:
        return any(one.started_at_ms for one in await store.workers.of_endpoint(endpoint_id))

    await wait_until_async(is_started, message="the worker does not start")
    return endpoint_id, time.monotonic() - began


async def _seconds_to_delete(store: Store, api: httpx.AsyncClient, endpoint_id: str) -> float:
    began = time.monotonic()
    (await api.delete(f"/{endpoint_id}")).raise_for_status()

    async def is_gone() -> bool:
        return not await store.endpoints.read([endpoint_id])

    await wait_until_async(is_gone, message="the endpoint is not removed")
    return time.monotonic() - began
