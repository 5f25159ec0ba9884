"""Claim tasks of an endpoint for all its agents that call this process.

Waiting agents cost no connection to the store: one reader claims for all of them, first come, first served.

    agents ── claim ──► waiters, in their order ◄── reader ── one wait for the bell ── store

The reader runs while an agent waits. Tasks that it gets when no agent waits any longer are put back, so that another
process can claim them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from queue_engine.domain.errors import StoreUnavailable, TooManyRequests
from queue_engine.engine.patience import from_store
from queue_engine.observability import metrics
from queue_engine.store.queue import Entry, TaskQueue
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import MAX_WAITING_ENDPOINTS
from queue_engine.store.task_source import READ_BLOCK_MS

log = logging.getLogger(__name__)

MAX_CLAIMS = 64
"""Maximum number of tasks of each queue in one claim."""
MAX_UNSTARTED_SECONDS = 10.0
"""Maximum time for which a task may be claimed without being started, if the lease is not shorter. After it, the task
is handed to another agent: an agent starts a task right after claiming it, so the first agent has probably died."""
MAX_REMEMBERED = 2000
"""Maximum number of workers of an endpoint whose latest claim is remembered, so that it can be repeated."""


MAX_WAITING_ENDPOINTS_PER_TENANT = MAX_WAITING_ENDPOINTS // 2
"""Limit of the endpoints of a tenant whose agents wait at one process, so that agents of other tenants can wait too. It
is the default limit of a tenant's endpoints."""
RETRY_AFTER_SECONDS = 1


class WaitingEndpoints:
    """The endpoints whose agents wait at this process, counted by tenant."""

    def __init__(self, limit: int = MAX_WAITING_ENDPOINTS_PER_TENANT) -> None:
        self._limit = limit
        self._counted: Counter[str] = Counter()

    def add(self, tenant: str) -> None:
        """Count an endpoint. Raises TooManyRequests at the tenant's limit."""
        if self._counted[tenant] >= self._limit:
            raise TooManyRequests(
                f"claim: at most {self._limit} endpoints of a tenant can have agents that wait at one API process",
                scope="tenant",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._counted[tenant] += 1

    def remove(self, tenant: str) -> None:
        """Stop counting an endpoint."""
        self._counted[tenant] -= 1
        if not self._counted[tenant]:
            del self._counted[tenant]


@dataclass(eq=False)
class Waiter:
    """An agent that waits for at most `limit` tasks. `claimed` is the result; it is empty if the wait has ended."""

    worker_id: str
    claim_id: str
    limit: int
    claimed: asyncio.Future[Sequence[Entry]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future(), repr=False
    )

    def end(self, entries: Sequence[Entry] = ()) -> None:
        """End the wait, unless it has ended."""
        if not self.claimed.done():
            self.claimed.set_result(entries)

    def fail(self, error: Exception) -> None:
        """End the wait with an error, unless it has ended."""
        if not self.claimed.done():
            self.claimed.set_exception(error)


class EndpointClaims:
    """The claims of one endpoint. `queue` is used for this only, because its reader has a consumer of its own."""

    def __init__(
        self,
        queue: TaskQueue,
        tenant: str,
        waiting_endpoints: WaitingEndpoints,
        *,
        lease_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = queue
        self._tenant = tenant
        self._waiting_endpoints = waiting_endpoints
        self._unstarted_seconds = min(lease_seconds, MAX_UNSTARTED_SECONDS)
        self._monotonic = monotonic
        self._look_at = 0.0
        """The time of the next search for tasks that were claimed and not started."""
        self._waiting: dict[Waiter, None] = {}
        self._by_worker: dict[str, Waiter] = {}
        self._latest: OrderedDict[str, tuple[str, Sequence[Entry]]] = OrderedDict()
        """The id and the result of each worker's latest claim, the oldest first."""
        self._reader: asyncio.Task[None] | None = None
        self._putting_back: set[asyncio.Task[None]] = set()
        self._is_draining = False

    @property
    def is_idle(self) -> bool:
        """True if no agent waits and nothing is being claimed."""
        return self._reader is None and not self._waiting and not self._putting_back

    @property
    def waiting(self) -> int:
        """Number of agents that wait."""
        return len(self._waiting)

    async def claim(self, worker_id: str, claim_id: str, limit: int, ended: asyncio.Future[None]) -> Sequence[Entry]:
        """Return claimed entries; wait for them until `ended` is done.

        A worker has one claim at a time: an earlier one that waits returns without entries. Raises StoreUnavailable,
        and TooManyRequests if agents of too many endpoints of the tenant wait.
        """
        if entries := self.repeated(worker_id, claim_id):
            return entries
        if self._is_draining or ended.done():
            return ()
        return await self._wait(Waiter(worker_id, claim_id, min(limit, MAX_CLAIMS)), ended)

    def repeated(self, worker_id: str, claim_id: str) -> Sequence[Entry]:
        """Return the entries of the worker's latest claim, if it had this id. A claim that waits ends."""
        self._end_earlier(worker_id)
        latest_id, entries = self._latest.get(worker_id, ("", ()))
        return entries if latest_id == claim_id else ()

    async def put_back(self, entries: Sequence[Entry]) -> None:
        """Return entries to the queue that were not started. Raises StoreUnavailable."""
        await from_store(asyncio.gather(*(self.queue.put_back(entry) for entry in entries)))

    def abandon(self, worker_id: str, entries: Sequence[Entry]) -> None:
        """Put back, in the background, entries that did not reach the worker."""
        if not entries:
            return
        self._latest.pop(worker_id, None)
        task = asyncio.create_task(self._put_back_soon(entries), name="put back")
        self._putting_back.add(task)
        task.add_done_callback(self._putting_back.discard)

    def drain(self) -> None:
        """End all waits, and claim nothing from now on."""
        self._is_draining = True
        for waiter in list(self._waiting):
            waiter.end()

    async def aclose(self) -> None:
        """Drain, and wait until the reader has ended and has put back what it has claimed."""
        self.drain()
        running = {*self._putting_back, *([self._reader] if self._reader else [])}
        if running:
            await asyncio.wait(running)
        if self._putting_back:
            await asyncio.wait(self._putting_back)

    # Waiters

    async def _wait(self, waiter: Waiter, ended: asyncio.Future[None]) -> Sequence[Entry]:
        def end(_: asyncio.Future[None]) -> None:
            waiter.end()

        if self._reader is None:
            self._waiting_endpoints.add(self._tenant)
            self._reader = asyncio.create_task(self._read(), name="claim")
        self._waiting[waiter] = None
        metrics.waiting_agents.inc()
        self._by_worker[waiter.worker_id] = waiter
        ended.add_done_callback(end)
        try:
            return await waiter.claimed
        except asyncio.CancelledError:
            if waiter.claimed.done() and not waiter.claimed.cancelled() and waiter.claimed.exception() is None:
                self.abandon(waiter.worker_id, waiter.claimed.result())
            raise
        finally:
            ended.remove_done_callback(end)
            metrics.waiting_agents.dec()
            self._waiting.pop(waiter, None)
            if self._by_worker.get(waiter.worker_id) is waiter:
                del self._by_worker[waiter.worker_id]

    def _end_earlier(self, worker_id: str) -> None:
        earlier = self._by_worker.pop(worker_id, None)
        if earlier is not None:
            self._waiting.pop(earlier, None)
            earlier.end()

    def _remember(self, waiter: Waiter, entries: Sequence[Entry]) -> None:
        self._latest.pop(waiter.worker_id, None)
        self._latest[waiter.worker_id] = (waiter.claim_id, entries)
        if len(self._latest) > MAX_REMEMBERED:
            self._latest.popitem(last=False)

    # Reader

    async def _read(self) -> None:
        """Claim while an agent waits. An error is the result of all waiters."""
        try:
            while room := self._room():
                self._hand_out(await self._next(room))
        except Exception as error:
            reason = unavailability(error)
            if reason is None:
                log.exception("tasks cannot be claimed", extra={"endpoint": self.queue.endpoint_id})
            self._fail_all(error if reason is None else StoreUnavailable(reason))
        finally:
            self._reader = None
            if self._room():  # an agent that came when the reader had failed
                self._reader = asyncio.create_task(self._read(), name="claim")
            else:
                self._waiting_endpoints.remove(self._tenant)

    def _room(self) -> int:
        """Return the number of tasks that agents wait for, at most MAX_CLAIMS."""
        room = 0
        for waiter in self._waiting:
            if not waiter.claimed.done():
                room += waiter.limit
            if room >= MAX_CLAIMS:
                return MAX_CLAIMS
        return room

    async def _next(self, room: int) -> list[Entry]:
        """Return entries that were abandoned, or wait for new ones for some seconds."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + self._unstarted_seconds / 4
            idle_ms = int(self._unstarted_seconds * 1000)
            if found := await self.queue.claim_abandoned(room, idle_ms=idle_ms):
                return found
        return await self.queue.claim(room, block_ms=READ_BLOCK_MS)

    def _hand_out(self, entries: Sequence[Entry]) -> None:
        """Give entries to the waiters in their order, and put back those for which there is no room."""
        for waiter in list(self._waiting):
            if not entries:
                return
            if waiter.claimed.done():
                continue
            share, entries = entries[: waiter.limit], entries[waiter.limit :]
            self._remember(waiter, share)
            waiter.end(share)
        self.abandon("", entries)

    def _fail_all(self, error: Exception) -> None:
        for waiter in list(self._waiting):
            self._waiting.pop(waiter)
            waiter.fail(error)

    async def _put_back_soon(self, entries: Sequence[Entry]) -> None:
        with suppress(StoreUnavailable):  # then another agent gets them when they have waited for too long
            await self.put_back(entries)
