"""Measure the memory of deliveries that wait for a retry, and the time of the scripts that make them due.

A store is filled with tasks that have ended and whose webhook has failed once. Their ids have the length of those that
the engine makes. Then what belongs to their deliveries is removed, one kind after the other: the difference of the
server's memory is its cost. The fields of tasks that only a waiting delivery has belong to it. The ledgers are printed
apart, because a task keeps its ledger after the delivery. Then some more are made, their waits end, and all of them
are moved into the outbox; the server's slow log has the time of the script that finds them.
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
"""Goals: memory of a million pending retries on top of the tasks, and duration of the script that finds due ones."""
LOOKS = 21
MAX_PROMOTED = 1000
"""Limit of the deliveries that a script finds: that of `Outbox.promote`."""
WEBHOOK = "https://hooks.example/done"
PAYLOAD = b'{"prompt": "' + b"x" * 50 + b'"}'
FAILURE = WebhookResponse(503, "http_5xx", "out of order", duration_seconds=0.04, phases=Phases(3, None, 0, 36))
WAIT_SECONDS = 86_400.0
FIELDS = ("kept_delivery", "next_delivery")
"""Fields that a task has only while its delivery waits."""


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
    await _remove_fields(store, partition)
    waits = await _freed(store, partition, ("w", "out"), full - ledger)
    await fill(store, endpoint_id, outbox, range(retries, retries + retries // 5))
    script_ms = await _promoted(store, partition, outbox, retries // 5)
    million = MILLION / retries / 1e6
    sys.stdout.write(f"a million attempts in the ledgers of their tasks: {ledger * million:.0f} MB\n")
    return [
        Goal("memory of a million pending retries", waits * million, MEGABYTES, "MB"),
        Goal(f"script that finds {MAX_PROMOTED:,} due retries, median", script_ms, SCRIPT_MS, "ms"),
    ]


async def fill(store: Store, endpoint_id: str, outbox: Outbox, numbers: range) -> None:
    """Make tasks that have ended and whose webhook has failed once."""
    agent = store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=3_600_000)
    for first in range(0, len(numbers), CHUNK):
        names = [f"{number:032x}" for number in numbers[first : first + CHUNK]]
        new = (
            NewTask(name, endpoint_id, "default", _spec(place), PAYLOAD, "f" * 32) for place, name in enumerate(names)
        )
        await asyncio.gather(*map(store.tasks.enqueue, new))
        entries = await agent.claim(CHUNK, block_ms=1)
        started = await asyncio.gather(
            *(agent.start(entry, address=_address(place)) for place, entry in enumerate(entries))
        )
        await asyncio.gather(*(agent.settle(one.lease, Succeeded(OUTPUT)) for one in started if one is not None))
        await _fail(outbox)
    counts = await outbox.pending()
    if counts["retry"] != len(numbers):
        raise RuntimeError(f"the store was not filled as it should be: {counts}")


def _spec(place: int) -> TaskSpec:
    """Return the spec of a task. The lengths of its destination and of `_address` give records of 64 different lengths.

    The allocator rounds up to 64 bytes, so records of one length would hide what a field costs.
    """
    return TaskSpec(8000, "/run", {}, WEBHOOK, f"https://{'h' * (1 + place % 32)}.example:443", None)


def _address(place: int) -> str:
    return f"{'h' * (1 + place // 32 % 2 * 32)}.example:9000"


async def _fail(outbox: Outbox) -> None:
    """Make a failed attempt for everything that is due."""
    entries = await outbox.read(CHUNK, block_ms=1)
    await asyncio.gather(*map(outbox.open, entries))
    again = DeliverAgain(WAIT_SECONDS, "http_5xx (status 503): out of order")
    await asyncio.gather(*(outbox.settle(entry, FAILURE, again, at_ms=1_764_000_000_000) for entry in entries))


async def _promoted(store: Store, partition: Partition, outbox: Outbox, retries: int) -> float:
    """Let all waits end, and make all deliveries due. Return the milliseconds of the script that finds them.

    It is the slowest one, because the others make one delivery due. The figure is the median of LOOKS calls, because
    other programs on the machine can delay a call.
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


async def _remove_fields(store: Store, partition: Partition) -> None:
    """Remove the fields that tasks have only while their delivery waits."""
    names = [name async for name in store.redis.scan_iter(f"{partition.tag}:t:*", count=10_000)]
    for first in range(0, len(names), CHUNK):
        pipeline = store.redis.pipeline(transaction=False)
        for name in names[first : first + CHUNK]:
            pipeline.hdel(name, *FIELDS)
        await pipeline.execute()


async def _freed(store: Store, partition: Partition, kinds: Sequence[str], before: int) -> int:
    """Remove all keys of these kinds. Return the bytes that the server has freed."""
    for kind in kinds:
        names = [name async for name in store.redis.scan_iter(f"{partition.tag}:{kind}:*", count=10_000)]
        for first in range(0, len(names), 1000):
            await store.redis.unlink(*names[first : first + 1000])
    return before - await settled_memory(store.redis)
