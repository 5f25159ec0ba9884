"""The latest requests to cancel running tasks, in one stream for each partition, for agents that wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from queue_engine.store.keys import Partition, parse_member


@dataclass(frozen=True)
class CancelRequest:
    """A request to cancel a task that a worker runs. Its place is the id of its entry in the stream."""

    place: str
    endpoint_id: str
    task_id: str
    worker_id: str


class CancelRequests:
    """Reads the requests. The client of `blocking` may wait on the server."""

    def __init__(self, blocking: Redis) -> None:
        self._blocking = blocking

    async def read(self, partition: Partition, after: str, *, block_ms: int) -> Sequence[CancelRequest]:
        """Return the requests of a partition after a place; wait up to `block_ms` for the first one."""
        reply = await self._blocking.xread({partition.cancel_requests: after}, block=block_ms)
        return [_request(entry_id.decode(), fields) for _, entries in reply for entry_id, fields in entries]


class WorkerCancellations:
    """The cancellations of tasks of one worker, for its agent."""

    def __init__(self, requests: CancelRequests, partition: Partition, *, endpoint_id: str, worker_id: str) -> None:
        self._requests = requests
        self._partition = partition
        self._endpoint_id = endpoint_id
        self._worker_id = worker_id
        self._place = place_of(0)
        """The place of the latest request that was read: of any worker, because workers share the stream."""

    async def next(self, *, block_ms: int) -> list[str]:
        """Return the tasks of the worker that were cancelled since the last call, the first time all that are known.

        Wait up to `block_ms` for a request of any worker.
        """
        found = await self._requests.read(self._partition, self._place, block_ms=block_ms)
        if found:
            self._place = found[-1].place
        own = (self._endpoint_id, self._worker_id)
        return [one.task_id for one in found if (one.endpoint_id, one.worker_id) == own]


def place_of(time_ms: int) -> str:
    """Return the place before all entries that are added from this time on (store's clock)."""
    return f"{time_ms}-0"


def _request(place: str, fields: dict[bytes, Any]) -> CancelRequest:
    endpoint_id, task_id = parse_member(fields[b"t"].decode())
    return CancelRequest(place, endpoint_id, task_id, fields[b"w"].decode())
