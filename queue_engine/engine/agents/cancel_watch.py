"""Tell agents that call this process of cancelled tasks at once: one read of the store for each partition."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.store.cancel_requests import CancelRequest, CancelRequests, place_of
from queue_engine.store.constants import CANCEL_REQUESTS_MS, MAX_CANCEL_REQUESTS
from queue_engine.store.keys import Partition
from queue_engine.store.redis.client import unavailability
from queue_engine.store.task_source import READ_BLOCK_MS

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Watcher:
    endpoint_id: str
    worker_id: str
    after: tuple[int, int]
    noticed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, _: object = None) -> None:
        if not self.noticed.done():
            self.noticed.set_result(None)


class PartitionCancelWatch:
    """The cancellations of one partition, read while an agent waits for them."""

    def __init__(self, store: CancelRequests, partition: Partition, start_ms: int) -> None:
        self._store = store
        self._partition = partition
        # All that the store still has, because an agent may have waited at another process before.
        self._place = place_of(start_ms - CANCEL_REQUESTS_MS)
        """The place of the latest cancellation that was read."""
        self._recent: deque[CancelRequest] = deque(maxlen=MAX_CANCEL_REQUESTS)
        self._watchers: dict[tuple[str, str], _Watcher] = {}
        self._reader: asyncio.Task[None] | None = None

    @property
    def is_reading(self) -> bool:
        """True while an agent waits for a request."""
        return self._reader is not None

    async def watch(
        self, endpoint_id: str, worker_id: str, after: str, ended: asyncio.Future[None]
    ) -> tuple[str, Sequence[str]]:
        """Return the tasks of the worker that were cancelled after a place, and the place up to which they are known.

        Wait for the first one until `ended` is done. A worker has one watch at a time: an earlier one returns. Raises
        StoreUnavailable.
        """
        watcher = _Watcher(endpoint_id, worker_id, _order(after))
        self._take_place(watcher)
        ended.add_done_callback(watcher.end)
        try:
            if not (found := self._found(watcher)) and not ended.done():
                self._keep_reading()
                await watcher.noticed
                found = self._found(watcher)
            return max(after, self._place, key=_order), found
        finally:
            ended.remove_done_callback(watcher.end)
            if self._watchers.get((endpoint_id, worker_id)) is watcher:
                del self._watchers[endpoint_id, worker_id]

    def drain(self) -> None:
        """End all waits."""
        for watcher in list(self._watchers.values()):
            watcher.end()

    async def aclose(self) -> None:
        """End all waits and the read. The store keeps the cancellations that were not read."""
        self.drain()
        if self._reader is not None:
            await asyncio.wait({self._reader})

    def _take_place(self, watcher: _Watcher) -> None:
        earlier = self._watchers.pop((watcher.endpoint_id, watcher.worker_id), None)
        if earlier is not None:
            earlier.end()
        self._watchers[watcher.endpoint_id, watcher.worker_id] = watcher

    def _found(self, watcher: _Watcher) -> list[str]:
        return [one.task_id for one in self._recent if _concerns(one, watcher)]

    def _keep_reading(self) -> None:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="cancellations")

    async def _read(self) -> None:
        """Read while an agent waits. An error is the result of all watchers."""
        try:
            while any(not watcher.noticed.done() for watcher in self._watchers.values()):
                for one in await self._store.read(self._partition, self._place, block_ms=READ_BLOCK_MS):
                    self._note(one)
        except Exception as error:
            reason = unavailability(error)
            if reason is None:
                log.exception("cancellations cannot be read", extra={"partition": self._partition.index})
            self._fail_all(error if reason is None else StoreUnavailable(reason))
        finally:
            self._reader = None
            if any(not watcher.noticed.done() for watcher in self._watchers.values()):
                self._keep_reading()

    def _note(self, request: CancelRequest) -> None:
        self._place = request.place
        self._recent.append(request)
        watcher = self._watchers.get((request.endpoint_id, request.worker_id))
        if watcher is not None and _concerns(request, watcher):
            watcher.end()

    def _fail_all(self, error: Exception) -> None:
        for watcher in self._watchers.values():
            if not watcher.noticed.done():
                watcher.noticed.set_exception(error)


def _concerns(request: CancelRequest, watcher: _Watcher) -> bool:
    is_of_worker = request.worker_id == watcher.worker_id and request.endpoint_id == watcher.endpoint_id
    return is_of_worker and _order(request.place) > watcher.after


def _order(place: str) -> tuple[int, int]:
    """Return the number by which places are ordered."""
    time_ms, _, offset = place.partition("-")
    return int(time_ms), int(offset)
