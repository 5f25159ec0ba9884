"""The endpoints whose workers the leading controller has to look at, by the time of the next look.

Scripts that change an endpoint's configuration or desired state, or a worker's status, make the endpoint due. A round
of the controller takes the endpoints that are due, looks at their workers, and then sets the time of each one's next
look. If the controller dies in between, the endpoints are due again after HOLD_MS. If an endpoint changes in between,
it is due at once, and the round does not set its next look, because it has not seen the change.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partition, Partitions

HOLD_MS = 5_000
"""Time after which an endpoint that was taken and not planned is due again."""
TAKEN_PER_PARTITION = 64
"""Maximum number of endpoints that are taken of a partition at once."""
HASTENED_AT_ONCE = 1000
SCANNED_AT_ONCE = 500


@dataclass(frozen=True)
class Taken:
    """An endpoint that is looked at."""

    endpoint_id: str
    held_until_ms: int


@dataclass(frozen=True)
class TakenChecks:
    """The endpoints that were taken, and the errors of partitions whose server is not available."""

    taken: Sequence[Taken]
    errors: Sequence[BaseException] = ()


class CheckStore:
    """The next looks at all endpoints. Every method may be repeated after a lost reply. All raise RedisError.

    In a cluster, a partition may be unavailable while others are not. The work is done in the others before the error
    is raised.
    """

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def take(self) -> TakenChecks:
        """Take the endpoints that are due, of each partition at most TAKEN_PER_PARTITION, the longest due first."""
        taken = await asyncio.gather(
            *(
                self._scripts.take_checks(partition, hold_ms=HOLD_MS, limit=TAKEN_PER_PARTITION)
                for partition in self._partitions.all()
            ),
            return_exceptions=True,
        )
        replies = [reply for reply in taken if not isinstance(reply, BaseException)]
        return TakenChecks(
            [Taken(endpoint_id, reply.held_until_ms) for reply in replies for endpoint_id in reply.endpoint_ids],
            [error for error in taken if isinstance(error, BaseException)],
        )

    async def plan(self, taken: Taken, wait_seconds: float | None) -> None:
        """Set the time of the next look at an endpoint that was taken. None: when something changes.

        Does nothing when the endpoint has become due since it was taken.
        """
        wait_ms = None if wait_seconds is None else math.ceil(wait_seconds * 1000)
        keys = self._partitions.of(taken.endpoint_id)
        await self._scripts.plan_check(keys, held_until_ms=taken.held_until_ms, wait_ms=wait_ms)

    async def hasten(self, endpoint_ids: Collection[str]) -> None:
        """Make these endpoints due."""
        check = self._scripts.check_endpoint
        await _all(check(self._partitions.of(one)) for one in endpoint_ids)

    async def hasten_all(self, done: set[Partition]) -> None:
        """Make all endpoints due that have workers, or a look planned, in all partitions but those in `done`.

        Adds each partition to `done`, so that a repetition after an error makes none of its endpoints due again.
        """
        await _all(self._hasten_all_in(one, done) for one in self._partitions.all() if one not in done)

    async def _hasten_all_in(self, partition: Partition, done: set[Partition]) -> None:
        while (await self._scripts.hasten_checks(partition, limit=HASTENED_AT_ONCE)).hastened == HASTENED_AT_ONCE:
            continue
        done.add(partition)

    async def pages_with_workers(self, partition: Partition) -> AsyncIterator[list[str]]:
        """Yield the ids of a partition's endpoints that have workers, or a look planned, in pages.

        An id may come twice. The pages end once the partition has no workers, because any number of endpoints without
        workers may have a look planned.
        """
        fields, cursor = [f"workers:{status}" for status in WorkerStatus], 0
        while any(int(count or 0) > 0 for count in await self._redis.hmget(partition.counts, fields)):  # type: ignore[misc]
            cursor, entries = await self._redis.zscan(partition.due_checks, cursor, count=SCANNED_AT_ONCE)
            yield [endpoint_id.decode() for endpoint_id, _ in entries]
            if cursor == 0:
                break


async def _all(calls: Iterable[Awaitable[object]]) -> None:
    """Wait for all calls. Raises the first error when all have ended."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
