"""The endpoints that are being deleted, by the time of the next attempt to remove each.

A deletion takes several attempts: the endpoint's workers must end, its tasks are removed a limited number at a time,
and deliveries may take hours. An attempt that cannot go on sets the time of the next one, so that a round costs as much
as there is to do. The end of the endpoint's last worker makes it due at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partition, Partitions

TAKEN_AT_ONCE = 1000
"""Maximum number of endpoints of a partition that are taken at once. The tenants among them are served in turns, so a
tenant with more deletions delays others by a round for each such number."""


@dataclass(frozen=True)
class Deletion:
    """An endpoint whose deletion is due."""

    endpoint_id: str
    tenant: str
    has_workers: bool
    age_ms: int
    """Time since the deletion was ordered."""


@dataclass(frozen=True)
class TakenDeletions:
    """Deletions that are due, the longest due first."""

    due: Sequence[Deletion]
    now_ms: int
    held_until_ms: int


class DeletionStore:
    """The deletions in progress. Every method may be repeated after a lost reply. All raise RedisError."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def take(self, partition: Partition, *, limit: int = TAKEN_AT_ONCE) -> TakenDeletions:
        """Take the endpoints of a partition whose deletion is due. Without a plan they are due again soon."""
        taken = await self._scripts.take_deletions(partition, limit=limit)
        if not taken.endpoint_ids:
            return TakenDeletions((), taken.now_ms, taken.held_until_ms)
        pipeline = self._redis.pipeline(transaction=False)
        for endpoint_id in taken.endpoint_ids:
            keys = self._partitions.of(endpoint_id)
            pipeline.hmget(keys.endpoint, ["tenant", "updated", "wanted"])
            pipeline.hlen(keys.workers)
        replies = iter(await pipeline.execute())
        due = [
            Deletion(
                endpoint_id,
                (tenant or b"").decode(),
                has_workers=workers > 0,
                age_ms=max(0, taken.now_ms - int(updated or 0)),
            )
            for endpoint_id, (tenant, updated, desired), workers in zip(
                taken.endpoint_ids, replies, replies, strict=True
            )
            # Agents write to this index, so an entry alone must not end the tasks of an endpoint.
            if desired in (b"deleted", None)
        ]
        return TakenDeletions(due, taken.now_ms, taken.held_until_ms)

    async def plan(self, partition: Partition, taken: TakenDeletions, waits_ms: Mapping[str, int]) -> None:
        """Set the times of the next attempts, each as a wait since `take`.

        An endpoint that was removed, or has become due since it was taken, stays as it is.
        """
        if waits_ms:
            times = {endpoint_id: str(taken.now_ms + wait_ms) for endpoint_id, wait_ms in waits_ms.items()}
            await self._scripts.plan_deletions(partition, held_until_ms=taken.held_until_ms, times_ms=times)
