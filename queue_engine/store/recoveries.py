"""Recoveries: the deliveries that an endpoint has given up in a period are sent again, in the background.

A recovery is a hash of its endpoint. It takes deliveries from the front of the index of given-up deliveries, and at
most RECOVERED_AT_ONCE of them are due at a time. The delivery process that settles one of them makes the next one due,
so that a recovery is as fast as its receiver, and no process polls. If that process dies, or defers the deliveries, the
job of the controllers goes on.

Every delivery leaves the index in the script that makes it due. If it is given up again, it returns to the index with a
time after the period. So each is sent once by a recovery, whichever processes die.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum

from redis.asyncio import Redis

from queue_engine.domain.deliveries import Recovery, RecoveryState
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partition, Partitions
from queue_engine.store.redis.client import optional_int

RECOVERED_AT_ONCE = 4
"""Maximum number of deliveries of a recovery that are due or being sent. It is less than the slots of a destination
without history (`LaneLimits.unproven_slots_each`), so that a fresh result finds a free slot beside them."""
SCANNED_AT_ONCE = 100


class Start(StrEnum):
    """Result of starting a recovery."""

    STARTED = "OK"
    SAME = "ALREADY"
    """A recovery of the same period runs."""
    OTHER = "BUSY"
    """A recovery of another period runs."""
    NOT_FOUND = "GONE"


class RecoveryStore:
    """The recoveries of all endpoints, at most one of each. Every method may be repeated after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def start(self, endpoint_id: str, recovery_id: str, *, since_ms: int, until_ms: int | None) -> Start:
        """Begin to send what was given up from `since_ms` to `until_ms`, by default until now.

        `recovery_id` identifies the request: a repeated call with the same id has no effect.
        """
        keys = self._partitions.of(endpoint_id)
        reply = await self._scripts.start_recovery(keys, recovery_id=recovery_id, since_ms=since_ms, until_ms=until_ms)
        return Start(reply.word)

    async def get(self, endpoint_id: str) -> Recovery | None:
        """Return the endpoint's latest recovery; None when there was none in the last seven days."""
        keys = self._partitions.of(endpoint_id)
        fields = await self._redis.hgetall(keys.recovery)  # type: ignore[misc]
        if not fields:
            return None
        found = {name.decode(): value.decode() for name, value in fields.items()}
        return Recovery(
            state=RecoveryState(found["state"]),
            since_ms=int(found["since"]),
            until_ms=int(found["upto"]),
            total=int(found["total"]),
            sent=int(found.get("sent", 0)),
            remaining=await self._redis.zcount(keys.given_up, found["since"], found["upto"]),
            created_at_ms=int(found["created"]),
            updated_at_ms=int(found["updated"]),
            ended_at_ms=optional_int(found.get("ended")),
        )

    async def cancel(self, endpoint_id: str) -> bool:
        """Cancel the recovery. Return False when none runs. Deliveries that it has made due are still sent."""
        return (await self._scripts.cancel_recovery(self._partitions.of(endpoint_id))).word == "OK"

    async def advance(self, endpoint_id: str) -> int:
        """Make the next deliveries due, if a recovery runs and not too many of its deliveries are due. Return how many.

        A recovery without further deliveries ends.
        """
        keys = self._partitions.of(endpoint_id)
        found = await self._scripts.take_recoverable(keys, limit=RECOVERED_AT_ONCE)
        if found.word != "OK":
            return 0
        await asyncio.gather(*(self._scripts.leave_recovered(keys.of_task(task_id)) for task_id in found.due))
        replies = await asyncio.gather(
            *(
                self._scripts.recover_delivery(
                    keys.of_task(task_id), recovery_id=found.recovery_id, limit=RECOVERED_AT_ONCE
                )
                for task_id in found.task_ids
            )
        )
        return sum(reply.word == "OK" for reply in replies)

    async def running(self, partition: Partition) -> AsyncIterator[str]:
        """Yield the endpoints of a partition with a recovery that runs. An endpoint may come twice."""
        cursor = 0
        while True:
            cursor, members = await self._redis.sscan(partition.recoveries, cursor, count=SCANNED_AT_ONCE)
            for endpoint_id in members:
                yield endpoint_id.decode()
            if cursor == 0:
                return
