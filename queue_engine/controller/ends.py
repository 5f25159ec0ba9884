"""End workers in the background, so that a platform which does not respond delays no other worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from queue_engine.backends.base import BackendError, EndNotConfirmed
from queue_engine.domain.workers import Worker, WorkerStatus

log = logging.getLogger(__name__)

Call = Callable[[], Awaitable[None]]


class Records(Protocol):
    """The part of the worker store that is used here."""

    async def remove(
        self, endpoint_id: str, worker_id: str, *, status: WorkerStatus = ..., reason: str = ...
    ) -> None: ...


class Ends:
    """The ends of workers that are in progress, one for each worker.

    An error is logged, because the next round requests the end again. The backend limits the time of each end. An
    end is not recorded after the leadership has ended, because the next leader may have started the worker again.
    """

    def __init__(self, records: Records, leads: Callable[[], bool]) -> None:
        self._records = records
        self._leads = leads
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def in_progress(self) -> frozenset[str]:
        """Return the ids of the workers that are being ended."""
        return frozenset(self._tasks)

    def begin(self, worker: Worker, end: Call, then: Call | None = None) -> None:
        """Begin to end a worker, unless that is in progress: call `end`, and `then` after the end is confirmed.

        If the end is not confirmed, the worker's record is removed, so that the next round replaces the worker under a
        new id: two agents with the same id would adopt each other's tasks. The backend still has the worker, so it is
        ended as a stranger until the backend no longer has it.
        """

        async def end_and_record() -> None:
            record = then
            try:
                await end()
            except EndNotConfirmed as error:
                record = partial(self._give_up, worker, error)
            if record is not None and self._leads():
                await record()

        self._begin(worker.worker_id, end_and_record)

    def begin_stranger(self, worker_id: str, end: Call) -> None:
        """Begin to end a worker that has no record."""
        self._begin(worker_id, end)

    async def aclose(self) -> None:
        """Stop waiting for the ends; the next leader requests them again. Safe to call twice."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_up(self, worker: Worker, error: EndNotConfirmed) -> None:
        reason = f"its end is not confirmed: {error}"
        facts = {"endpoint": worker.endpoint_id, "worker": worker.worker_id, "reason": str(error)}
        log.warning("a worker is given up: its end is not confirmed", extra=facts)
        remove = self._records.remove
        await remove(worker.endpoint_id, worker.worker_id, status=WorkerStatus.FAILED, reason=reason)

    def _begin(self, worker_id: str, end: Call) -> None:
        if worker_id in self._tasks:
            return
        task = asyncio.create_task(_end(worker_id, end), name=f"end-{worker_id}")
        self._tasks[worker_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(worker_id, None))


async def _end(worker_id: str, end: Call) -> None:
    try:
        await end()
    except BackendError as error:
        log.warning("a worker cannot be stopped: %s", error, extra={"worker": worker_id})
    except Exception:
        log.exception("the end of a worker was interrupted", extra={"worker": worker_id})
