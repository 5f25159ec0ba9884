"""Operations that send results again, a few at a time, so that fresh results do not wait for them.

The results that operations and a recovery of an endpoint have made due are in one set, of at most RECOVERED_AT_ONCE.
The delivery process that settles one of them makes the next one due, so that an operation is as fast as its receivers.
If that process dies, or defers the deliveries, the step of the leading controller goes on. Both call the same script,
which removes the task from those to be changed. So each result is sent once by an operation, whichever processes die.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence

from redis.asyncio import Redis

from queue_engine.domain.task_filters import TaskFilters, UnknownFilter
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import EndpointKeys, Partitions
from queue_engine.store.recoveries import RECOVERED_AT_ONCE


def words_to_match(filters: TaskFilters | None) -> tuple[list[str], str]:
    """Return the states and the delivery statuses that a task may have when it is changed, as the scripts take them.

    A task may have got another one since it was found, without ending or being queued again. Given tasks may have any.
    """
    if filters is None:
        return [], ""
    return sorted(filters.states), " ".join(sorted(filters.delivery_statuses))


class Resends:
    """The results that operations send again. Every method raises RedisError, and may be repeated."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def advance(self, endpoint_id: str, operation_id: str) -> int:
        """Make the next results of an operation due that have been found, if it runs. Return their number.

        With a filter of a later version nothing is made due, and the next step of the controller ends the operation.
        """
        keys = self._partitions.of(endpoint_id)
        found = await self._redis.hmget(keys.operation(operation_id), ["state", "filters"])  # type: ignore[misc]
        state, filters = found
        if state != b"running":
            return 0
        try:
            must_match = TaskFilters.from_dict(json.loads(filters)) if filters else None
        except UnknownFilter:
            return 0
        names = await self._redis.zrange(keys.todo(operation_id), 0, RECOVERED_AT_ONCE - 1)
        results = await self.send(keys, operation_id, [name.decode() for name in names], must_match)
        return results["OK"]

    async def send(
        self,
        keys: EndpointKeys,
        operation_id: str,
        task_ids: Sequence[str],
        filters: TaskFilters | None,
        *,
        at_once: int = RECOVERED_AT_ONCE,
    ) -> Counter[str]:
        """Make results due until too many are. Return the number of tasks by result, as of a step.

        `at_once` is the number of tasks in one round trip.
        """
        await self._leave(keys)
        results = Counter[str]()
        states, delivery_statuses = words_to_match(filters)
        for first in range(0, len(task_ids), at_once):
            calls = (
                self._scripts.redeliver_in_operation(
                    keys.of_task(task_id),
                    operation=keys.operation(operation_id),
                    todo=keys.todo(operation_id),
                    operation_id=operation_id,
                    limit=RECOVERED_AT_ONCE,
                    states=states,
                    delivery_statuses=delivery_statuses,
                )
                for task_id in task_ids[first : first + at_once]
            )
            results.update(reply.result for reply in await asyncio.gather(*calls) if reply.word == "OK")
            if "FULL" in results:
                break
        return results

    async def _leave(self, keys: EndpointKeys) -> None:
        """Make room for results that are no longer due."""
        names = await self._redis.smembers(keys.recovered)  # type: ignore[misc]
        await asyncio.gather(*(self._scripts.leave_recovered(keys.of_task(name.decode())) for name in names))
