"""Advance operations: the leading controller makes one step after the other, for the tenants in turns.

A step changes a limited number of tasks, and after each step the controller rests for as long as the step took. So the
store is busy with operations for half of the time at most, and an operation of one tenant delays that of another by a
step. An operation whose step fails, or whose queue has no room for the tasks that it retries, is left alone for a
while. The progress is in the store, so another leader goes on where this one was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Container, Iterable, Sequence

from queue_engine.domain.audit import Action, Change, operation_target
from queue_engine.domain.endpoints import refusal_of_tasks
from queue_engine.domain.task_operations import OperationStatus, TaskOperation, end_of
from queue_engine.domain.tasks import TaskState
from queue_engine.observability import metrics
from queue_engine.store.keys import Partition
from queue_engine.store.operation_steps import OperationStep
from queue_engine.store.operations import RunningOperation
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import Store

log = logging.getLogger(__name__)

LIST_SECONDS = 1.0
"""Interval at which the operations that run are read."""
STEP_SECONDS = 10.0
"""Timeout of a step."""
PAUSE_SECONDS = 1.0
"""Time for which an operation is left alone that cannot go on now."""


class Operations:
    """The operations of all endpoints, for the leading controller."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._turns = Turns()
        self._listed_at: float | None = None
        self._noted: set[RunningOperation] = set()
        self._paused: dict[RunningOperation, float] = {}
        """Operations that are left alone, with the time until which."""

    async def step(self) -> int:
        """Make the step of the operation whose turn it is, and rest. Return 0 if there was none. Raises RedisError."""
        await self._list()
        now = self._clock()
        self._paused = {one: until for one, until in self._paused.items() if until > now}
        one = self._turns.next(self._paused)
        if one is None:
            return 0
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await self._note(one)
                await self._advance(one)
        except Exception as error:
            # The others go on, because the server of one partition may be unavailable, or a single record be broken.
            is_known = unavailability(error) is not None or isinstance(error, TimeoutError)
            self._pause(self._beside(one) if is_known else [one])
            extra = {"endpoint": one.endpoint_id, "operation": one.operation_id}
            log.warning("a step of an operation failed: %s", error, exc_info=not is_known, extra=extra)
        await asyncio.sleep(self._clock() - now)
        return 1

    async def _list(self) -> None:
        """Read the operations that run, if that was not done for LIST_SECONDS."""
        now = self._clock()
        if self._listed_at is not None and now - self._listed_at < LIST_SECONDS:
            return
        found = await asyncio.gather(*map(self._running, await self._busy()), return_exceptions=True)
        self._listed_at = now
        running = [one for of_one in found if not isinstance(of_one, BaseException) for one in of_one]
        self._turns.replace(running)
        self._noted &= set(running)
        metrics.operations_running.set(len(running))
        for error in found:
            if isinstance(error, BaseException) and unavailability(error) is None:
                raise error

    async def _busy(self) -> Sequence[Partition]:
        """Return the partitions to read: all of them if a server of the store is unavailable, because the others may
        have operations."""
        try:
            return await self._store.operations.busy()
        except Exception as error:
            if unavailability(error) is None:
                raise
            return self._store.partitions.all()

    async def _running(self, partition: Partition) -> list[RunningOperation]:
        return await self._store.operations.running(partition)

    def _beside(self, one: RunningOperation) -> list[RunningOperation]:
        """Return the operations in the partition of this one, which has the same server."""
        of = self._store.partitions.of
        index = of(one.endpoint_id).partition.index
        return [other for other in self._turns.all() if of(other.endpoint_id).partition.index == index]

    async def _note(self, one: RunningOperation) -> None:
        """Put the operation into its tenant's index, because the process that began it may have died before that."""
        if one not in self._noted:
            await self._store.operations.note(one)
            self._noted.add(one)

    async def _advance(self, one: RunningOperation) -> None:
        step = await self._store.operation_steps.step(one.endpoint_id, one.operation_id)
        if step is None:
            self._turns.remove(one)
            return
        _count(step)
        if step.refusal:
            await self._end(one, OperationStatus.FAILED, step.refusal)
        elif step.is_closed:
            endpoint = await self._store.endpoints.get(one.endpoint_id, None)
            await self._end(one, OperationStatus.FAILED, refusal_of_tasks(endpoint) if endpoint else "")
        elif step.is_complete:
            await self._end(one, OperationStatus.DONE)
        elif step.is_waiting:
            self._pause([one])

    def _pause(self, operations: Iterable[RunningOperation]) -> None:
        self._paused |= dict.fromkeys(operations, self._clock() + PAUSE_SECONDS)

    async def _end(self, one: RunningOperation, status: OperationStatus, error: str = "") -> None:
        if not await self._store.operations.end(one.endpoint_id, one.operation_id, status, error):
            return
        self._turns.remove(one)
        ended = await self._store.operations.get(one.endpoint_id, one.operation_id)
        if ended is not None and not ended.is_dry:
            await self._record(ended)

    async def _record(self, ended: TaskOperation) -> None:
        """Write the end into the tenant's audit log, as a change of the key that began the operation."""
        author = ended.author
        target = operation_target(ended.endpoint_id, ended.operation_id, end_of(ended))
        change = Change(Action.END_OPERATION, target, author.key_id, author.key_name, author.address)
        await self._store.audit.append(ended.tenant, f"{ended.endpoint_id}:{ended.operation_id}", change)


def _count(step: OperationStep) -> None:
    metrics.operation_tasks.labels(action=step.action.value).inc(step.changed)
    metrics.tasks_finished.labels(state=TaskState.CANCELLED.value).inc(step.ended)


class Turns:
    """Operations in turns: those of each tenant, and the tenants."""

    def __init__(self) -> None:
        self._by_tenant: dict[str, dict[RunningOperation, None]] = {}
        """Tenants and operations in the order of their latest turns, the longest ago first. No tenant has none."""

    def all(self) -> list[RunningOperation]:
        """Return all operations."""
        return [one for of_one in self._by_tenant.values() for one in of_one]

    def replace(self, running: Collection[RunningOperation]) -> None:
        """Take over these operations. Operations that were there keep their turns."""
        for one in set(self.all()) - set(running):
            self.remove(one)
        for one in running:
            self._by_tenant.setdefault(one.tenant, {}).setdefault(one)

    def remove(self, one: RunningOperation) -> None:
        """Remove an operation, if it is there."""
        of_tenant = self._by_tenant.get(one.tenant, {})
        of_tenant.pop(one, None)
        if not of_tenant:
            self._by_tenant.pop(one.tenant, None)

    def next(self, paused: Container[RunningOperation]) -> RunningOperation | None:
        """Return the operation whose turn it is, without those in `paused`, and move it to the end."""
        for tenant, of_tenant in self._by_tenant.items():
            one = next((one for one in of_tenant if one not in paused), None)
            if one is not None:
                of_tenant[one] = of_tenant.pop(one)
                self._by_tenant[tenant] = self._by_tenant.pop(tenant)
                return one
        return None
