"""A look into the store when nothing is to be done any more: everything agrees, and nothing of the work is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from queue_engine.store.keys import EndpointKeys, Partition, task_delivery_id
from tests.store.consistency import faults_of
from tests.store.probe import Probe

PATIENCE_SECONDS = 120.0
"""Timeout of a call that reads much, or of a machine under load."""


@asynccontextmanager
async def patient_client(url: str) -> AsyncIterator[Redis]:
    """Yield a client for calls that hold the store for as long as its disk or machine takes.

    The engine's own clients give a call up after some seconds. A call here is never repeated.
    """
    redis = Redis.from_url(url, socket_timeout=PATIENCE_SECONDS, retry=Retry(NoBackoff(), 0))
    try:
        yield redis
    finally:
        await redis.aclose()


@dataclass(frozen=True)
class Rest:
    """What was found of one endpoint's partition."""

    leftovers: list[str]
    lost: dict[str, int]
    """How often each task lost its worker."""
    runs: dict[str, int]
    """How often each task was queued by its submit or by a retry by hand."""


async def look(redis: Redis, keys: EndpointKeys) -> Rest:
    """Read every key of the endpoint's partition, from the server that has it."""
    probe = Probe(redis)
    endpoint_ids = list(await probe.scores(keys.partition.endpoints))
    prefix = keys.task("")
    tasks = {
        name.removeprefix(prefix): await probe.hash(name) for name in await probe.keys() if name.startswith(prefix)
    }
    leftovers = await faults_of(probe, keys.partition, endpoint_ids)
    return Rest(
        leftovers + await _waiting(probe, keys) + await _without_expiry(probe, keys),
        lost={task_id: int(fields.get("lost", 0)) for task_id, fields in tasks.items()},
        runs={task_id: 1 + int(fields.get("runs", 0)) for task_id, fields in tasks.items()},
    )


async def is_at_rest(redis: Redis, keys: EndpointKeys) -> bool:
    """Whether no task of the endpoint waits or runs and no delivery of its partition is due."""
    return not await _waiting(Probe(redis), keys)


async def _waiting(probe: Probe, keys: EndpointKeys) -> list[str]:
    partition = keys.partition
    sizes = {
        "tasks that have not ended": await probe.ask("ZCARD", keys.live),
        "waiting tasks": await probe.ask("XLEN", keys.queue) + await probe.ask("XLEN", keys.retry_queue),
        "tasks in lanes": await probe.ask("ZCARD", keys.lane_entries),
        "lanes parked": await probe.ask("SCARD", keys.parked),
        "tasks taken out of lanes": await probe.ask("XLEN", keys.turn),
        "leases": await probe.ask("ZCARD", partition.leases),
        "scheduled tasks": await probe.ask("ZCARD", partition.due),
        "deliveries due": await probe.ask("XLEN", partition.outbox),
        "deliveries waiting": await probe.ask("ZCARD", partition.outbox_due),
        "deliveries parked": await probe.ask("ZCARD", partition.outbox_parked),
    }
    return [f"{size} {what} left" for what, size in sizes.items() if size] + await _pending(probe, keys)


async def _pending(probe: Probe, keys: EndpointKeys) -> list[str]:
    groups = [(stream, "agents") for stream in (keys.queue, keys.retry_queue, keys.turn)]
    groups.append((keys.partition.outbox, "delivery"))
    return [f"pending in {stream}: {held}" for stream, group in groups if (held := await probe.pending(stream, group))]


async def _without_expiry(probe: Probe, keys: EndpointKeys) -> list[str]:
    """What belongs to an ended task goes away some day, even if the retention job never runs."""
    partition = keys.partition
    prefixes = _task_prefixes(partition, keys.endpoint_id)
    names = sorted(name for name in await probe.keys() if name.startswith(prefixes))
    return [f"{name} never expires" for name in names if await probe.ask("PTTL", name) < 0]


def _task_prefixes(partition: Partition, endpoint_id: str) -> tuple[str, ...]:
    kinds = (partition.task, partition.body, partition.result, partition.attempts_log, partition.history)
    delivery = partition.delivery(task_delivery_id(endpoint_id, ""))
    return (*(key_of(endpoint_id, "") for key_of in kinds), delivery)
