"""Measure the memory of deliveries that wait for a retry, and the time of the scripts that make them due.

A store is filled with tasks that have ended and whose webhook has failed once. Then what belongs to their deliveries is
removed, one kind after the other: the difference of the server's memory is its cost. The ledgers are printed apart,
because a task keeps its ledger after the delivery. Then some more are made, their waits end, and all of them are moved
into the outbox; the server's slow log has the time of the script that finds them.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.deliveries import DeliverAgain, Phases, WebhookResponse
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import NewTask, Succeeded, TaskSpec
from queue_engine.local.embedded import server_environment
from queue_engine.store.keys import Partition
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.store import Store
from tests.bench.growth import OUTPUT, settled_memory
from tests.bench.idle_endpoints import Goal
from tests.servers import StoreServer

RETRIES = 100_000
CHUNK = 500
MILLION = 1_000_000
MEGABYTES, SCRIPT_MS = 200.0, 10.0
"""Goals: memory of a million pending retries on top of the tasks, and duration of a script."""
LOOKS = 21
MAX_PROMOTED = 1000
"""Limit of the deliveries that a script finds: that of `Outbox.promote`."""
DESTINATION = "https://hooks.example:443"
WEBHOOK = "https://hooks.example/done"
PAYLOAD = b'{"prompt": "' + b"x" * 50 + b'"}'
FAILURE = WebhookResponse(503, "http_5xx", "out of order", duration_seconds=0.04, phases=Phases(3, None, 0, 36))
WAIT_SECONDS = 86_400.0


async def run(binary: Path, *, retries: int = RETRIES) -> list[Goal]:
    """Measure and print the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="queue-engine-retries-") as folder,
        StoreServer(binary, Path(folder), variables=server_environment()) as server,
    ):
        store = Store(server.url, Sealer(None))
        try:
            await store.prepare()
            goals = await _measured(store, retries)
        finally:
            await store.close()
    sys.stdout.writelines(f"{goal.line}\n" for goal in goals)
    return goals


async def _measured(store: Store, retries: int) -> list[Goal]:
    config = EndpointConfig(
        "retries", "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 0, 20, max_queued_tasks=2 * retries
    )
    endpoint_id = (await store.endpoints.create("default", config)).endpoint_id
    partition, outbox = store.partitions.of(endpoint_id).partition, store.outbox("bench")
    await outbox.make_groups()
    await fill(store, endpoint_id, outbox, range(retries))
    full = await settled_memory(store.redis)
    ledger = await _freed(store, partition, ("wl",), full)
    waits = await _freed(store, partition, ("w", "out"), full - ledger)
    await fill(store, endpoint_id, outbox, range(retries, retries + retries // 5))
    slowest_ms = await _promoted(store, partition, outbox, retries // 5)
    million = MILLION / retries / 1e6
    sys.stdout.write(f"a million attempts in the ledgers of their tasks: {ledger * million:.0f} MB\n")
    return [
        Goal("memory of a million pending retries", waits * million, MEGABYTES, "MB"),
        Goal("slowest script that makes retries due", slowest_ms, SCRIPT_MS, "ms"),
    ]


async def fill(store: Store, endpoint_id: str, outbox: Outbox, numbers: range) -> None:
    """Make tasks that have ended and whose webhook has failed once."""
    agent = store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=3_600_000)
    spec = TaskSpec(8000, "/run", {}, WEBHOOK, DESTINATION, None)
    for first in range(0, len(numbers), CHUNK):
        names = [f"task-{number:09}" for number in numbers[first : first + CHUNK]]
        new = (NewTask(name, endpoint_id, "default", spec, PAYLOAD, "f" * 32) for name in names)
        await asyncio.gather(*map(store.tasks.enqueue, new))
        entries = await agent.claim(CHUNK, block_ms=1)
        started = await asyncio.gather(*(agent.start(entry, address="127.0.0.1:9000") for entry in entries))
        await asyncio.gather(*(agent.settle(one.lease, Succeeded(OUTPUT)) for one in started if one is not None))
        await _fail(outbox)
    counts = await outbox.pending()
    if counts["retry"] != len(numbers):
        raise RuntimeError(f"the store was not filled as it should be: {counts}")


async def _fail(outbox: Outbox) -> None:
    """Make a failed attempt for everything that is due."""
    entries = await outbox.read(CHUNK, block_ms=1)
    await asyncio.gather(*map(outbox.open, entries))
    again = DeliverAgain(WAIT_SECONDS, "http_5xx (status 503): out of order")
    await asyncio.gather(*(outbox.settle(entry, FAILURE, again, at_ms=1_764_000_000_000) for entry in entries))


async def _promoted(store: Store, partition: Partition, outbox: Outbox, retries: int) -> float:
    """Let all waits end, and make all deliveries due. Return the milliseconds of the slowest script.

    It is the one that finds the due deliveries. The figure is the median of LOOKS calls, because other programs on the
    machine can delay a call.
    """
    redis, waiting = store.redis, partition.outbox_due
    await redis.zunionstore(waiting, {waiting: 0})
    await redis.config_set("slowlog-log-slower-than", 0)
    await redis.slowlog_reset()
    for _ in range(LOOKS):
        await store.scripts.due_deliveries(waiting=waiting, limit=MAX_PROMOTED)
    slow: Sequence[dict[str, Any]] = await redis.slowlog_get(2 * LOOKS)
    times: list[float] = [one["duration"] / 1000 for one in slow if one["command"].upper().startswith(b"EVAL")]
    promoted = 0
    while promoted < retries:
        count = await outbox.promote(MAX_PROMOTED)
        if not count:
            raise RuntimeError(f"{retries - promoted} deliveries do not become due")
        promoted += count
    return statistics.median(times)


async def _freed(store: Store, partition: Partition, kinds: Sequence[str], before: int) -> int:
    """Remove all keys of these kinds. Return the bytes that the server has freed."""
    for kind in kinds:
        names = [name async for name in store.redis.scan_iter(f"{partition.tag}:{kind}:*", count=10_000)]
        for first in range(0, len(names), 1000):
            await store.redis.unlink(*names[first : first + 1000])
    return before - await settled_memory(store.redis)
