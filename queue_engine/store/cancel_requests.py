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


def place_of(time_ms: int) -> str:
    """Return the place before all entries that are added from this time on (store's clock)."""
    return f"{time_ms}-0"


def _request(place: str, fields: dict[bytes, Any]) -> CancelRequest:
    endpoint_id, task_id = parse_member(fields[b"t"].decode())
    return CancelRequest(place, endpoint_id, task_id, fields[b"w"].decode())
