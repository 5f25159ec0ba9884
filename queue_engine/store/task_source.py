"""The store as an agent sees it: its queue, its worker's record and its container's log.

The classes fit the ports of `worker_agent/ports.py` by structure. Errors by which the store cannot serve now are raised
as StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from redis.exceptions import NoPermissionError

from queue_engine.crypto.sealing import SealBroken, SealKeyUnknown, SecretKeyMissing
from queue_engine.domain.attempts import Renewal, Settled, StartedAttempt, Unreadable
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import ClaimedTask, Lease, Outcome
from queue_engine.domain.workers import Pace, WorkerStatus
from queue_engine.store.codec import SealedForEngine
from queue_engine.store.logs import LogStore
from queue_engine.store.queue import Entry, Started, TaskQueue
from queue_engine.store.redis.client import unavailability
from queue_engine.store.workers import WorkerStore

READ_BLOCK_MS = 2000
"""Maximum wait of a read for a task. A connection that is silent for longer is treated as dead."""
FULL_REPORT_SECONDS = 60.0
"""Maximum time between two complete reports. Between them an agent sends heartbeats if nothing changes."""
IDLE_BLOCK_MS = 10_000
"""The same for an idle agent on the store. A task whose bell it does not hear, for instance because its connection is
dead, is found by its next report."""

NO_LANES = (
    "the agent leaves tasks with a priority or a fairness key to other agents, because its user of the store has the "
    "rules of an earlier version (deploy/redis/users.acl)"
)
"""The worker's `error` while it claims nothing out of lanes."""

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _raises_unavailable(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return `call` with StoreUnavailable in place of errors by which the store cannot serve now.

    Not `store_errors`, because an asynchronous context manager costs ten times as much and every task passes here.
    """

    @wraps(call)
    async def converted(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except Exception as error:
            reason = unavailability(error)
            if reason is None:
                raise
            raise StoreUnavailable(reason) from error

    return converted


@dataclass(frozen=True)
class StoreClaim:
    """An entry of the queue that was handed to this agent."""

    _queue: TaskQueue
    _entry: Entry

    @_raises_unavailable
    async def start(self, *, address: str, is_ahead: bool = False) -> StartedAttempt | None:
        started = await self._queue.start(self._entry, address=address, is_ahead=is_ahead)
        return None if started is None else await opened_attempt(started, self._queue)

    @_raises_unavailable
    async def put_back(self) -> None:
        await self._queue.put_back(self._entry)


class StoreTaskSource:
    """The queue of one endpoint, for the agent of one worker.

    With `is_reported` a StoreWorkerRecord has the same queue. Its reports wake an idle agent, which then waits longer.
    """

    def __init__(self, queue: TaskQueue, *, is_reported: bool = False) -> None:
        self._queue = queue
        self._idle_block_ms = IDLE_BLOCK_MS if is_reported else READ_BLOCK_MS

    @_raises_unavailable
    async def claim(self, limit: int) -> Sequence[StoreClaim]:
        entries = await self._queue.claim(limit, block_ms=READ_BLOCK_MS, idle_block_ms=self._idle_block_ms)
        return self._claims_of(entries)

    @_raises_unavailable
    async def claim_abandoned(self, limit: int, *, unstarted_seconds: float) -> Sequence[StoreClaim]:
        return self._claims_of(await self._queue.claim_abandoned(limit, idle_ms=int(unstarted_seconds * 1000)))

    @_raises_unavailable
    async def unstarted_claims(self) -> Sequence[StoreClaim]:
        return self._claims_of(await self._queue.unstarted())

    @_raises_unavailable
    async def renew(self, leases: Sequence[Lease], *, begun: int = 0) -> Sequence[Renewal]:
        return await self._queue.renew(leases, begun=begun)

    @_raises_unavailable
    async def cancelled(self) -> Collection[str]:
        """Return what `TaskQueue.cancelled` does; never, if the store's user may not read it."""
        try:
            return await self._queue.cancelled(block_ms=READ_BLOCK_MS)
        except NoPermissionError:
            log.warning(
                "cancelled tasks are stopped by the next renewal of their leases, and not at once: the user of the "
                "store lacks a right that this version needs (deploy/redis/users.acl)"
            )
            never: asyncio.Future[Collection[str]] = asyncio.get_running_loop().create_future()
            return await never

    @_raises_unavailable
    async def settle(self, lease: Lease, outcome: Outcome) -> Settled:
        return await self._queue.settle(lease, outcome)

    @_raises_unavailable
    async def release(self, lease: Lease, *, called: bool) -> str:
        return await self._queue.release(lease, called=called)

    def _claims_of(self, entries: Sequence[Entry]) -> list[StoreClaim]:
        return [StoreClaim(self._queue, entry) for entry in entries]


class StoreWorkerRecord:
    """The record of one worker. `run` is the number of its start, 0 when no controller started it.

    Reports tell `queue`, that of the same agent, whether tasks are queued.
    """

    def __init__(
        self, workers: WorkerStore, *, endpoint_id: str, worker_id: str, run: int = 0, queue: TaskQueue | None = None
    ) -> None:
        self._workers = workers
        self._queue = queue
        self._endpoint_id = endpoint_id
        self._worker_id = worker_id
        self._run = run
        self._reported: tuple[object, ...] | None = None
        """The latest report, if heartbeats may follow it."""
        self._report_by = 0.0
        """Monotonic time at which the next report is complete."""
        self._sends_beats = False
        """True if the controllers of this store read heartbeats."""
        self._may_use_lanes = queue is None
        """True if the user of the store may claim from lanes, or the agent claims no tasks."""
        self._has_warned = False

    @_raises_unavailable
    async def register(self) -> None:
        await self._workers.put(self._endpoint_id, self._worker_id, managed=False)

    @_raises_unavailable
    async def report(
        self,
        status: WorkerStatus,
        *,
        running_tasks: int,
        address: str,
        reason: str,
        error: str,
        pace: Pace | None = None,
    ) -> DesiredState | None:
        asked_at = time.monotonic()
        error = error or await self._reason_for_no_lanes()
        told = (status, running_tasks, address, reason, error, pace)

        def seen(has_queued: bool, is_open: bool) -> None:
            if self._queue is not None:
                self._queue.note_report(asked_at, has_queued=has_queued, is_open=is_open)

        if told == self._reported and asked_at < self._report_by:
            desired = await self._workers.beat(self._endpoint_id, self._worker_id, status, run=self._run)
            if desired is not None:
                seen(False, False)
                return desired
        self._sends_beats = self._sends_beats or await self._workers.are_beats_read()
        desired = await self._workers.report(
            self._endpoint_id,
            self._worker_id,
            status,
            running_tasks=running_tasks,
            address=address,
            reason=reason,
            run=self._run,
            error=error,
            pace=pace,
            seen=seen,
        )
        self._reported = told if desired is not None and self._sends_beats else None
        self._report_by = asked_at + FULL_REPORT_SECONDS
        return desired

    async def _reason_for_no_lanes(self) -> str:
        """Return why the agent claims no tasks out of lanes; empty if it does. The rules may be loaded at any time."""
        self._may_use_lanes = self._may_use_lanes or await self._workers.may_use_lanes(self._endpoint_id)
        if self._may_use_lanes:
            return ""
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s", NO_LANES)
        return NO_LANES

    @_raises_unavailable
    async def remove(self) -> None:
        await self._workers.remove(self._endpoint_id, self._worker_id, by_agent=True)


class StoreLog:
    """The log of one worker's container. Lines are kept until `retention_seconds` after the last call."""

    def __init__(self, logs: LogStore, *, endpoint_id: str, worker_id: str, retention_seconds: float) -> None:
        self._logs = logs
        self._endpoint_id = endpoint_id
        self._worker_id = worker_id
        self._retention_ms = int(retention_seconds * 1000)

    @_raises_unavailable
    async def append(self, batch_id: str, lines: Sequence[str]) -> None:
        await self._logs.append(self._endpoint_id, self._worker_id, batch_id, lines, retention_ms=self._retention_ms)


async def opened_attempt(started: Started, queue: TaskQueue) -> StartedAttempt:
    """Return the attempt for its agent, with the secrets of its task opened if that is possible."""
    return _attempt(started, queue.worker_id, await _opened(started, queue))


async def _opened(started: Started, queue: TaskQueue) -> ClaimedTask | Unreadable:
    """Open the task's headers. No process can open them when they were moved or changed in the store, or when their key
    is no longer in use."""
    try:
        return queue.open(started)
    except SealedForEngine as error:
        await queue.ask_for_headers(started)
        return Unreadable(str(error), is_key_missing=True, is_being_sealed=True)
    except SealKeyUnknown as error:
        return Unreadable(str(error), is_key_missing=await queue.is_key_in_use(error.fingerprint))
    except SecretKeyMissing as error:
        return Unreadable(str(error), is_key_missing=True)
    except SealBroken as error:
        return Unreadable(str(error), is_key_missing=False)


def _attempt(started: Started, worker_id: str, task: ClaimedTask | Unreadable) -> StartedAttempt:
    return StartedAttempt(
        lease=started.lease,
        worker_id=worker_id,
        attempt=started.attempt,
        queued_at_ms=started.queued_at_ms,
        started_at_ms=started.started_at_ms,
        task=task,
        budget=started.budget,
        retry_policy=started.retry_policy,
        cancel_uri=started.cancel_uri,
        is_suspect=started.is_suspect,
        is_first=started.is_first,
    )
