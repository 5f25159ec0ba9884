"""Orders about existing tasks: cancel, retry, delete."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

from queue_engine.domain.audit import Action, task_target
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import NotFound, Resource, StateConflict
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import Task, TaskState
from queue_engine.engine.access import check_sees, check_sees_task
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.engine.queue_limits import closed, full
from queue_engine.observability import metrics
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.tasks import Cancellation, Deletion, Rerun, TaskStore

T = TypeVar("T")

_CANCEL_RESULTS: Mapping[Cancellation, str] = {
    Cancellation.CANCELLED: "cancelled",
    Cancellation.REQUESTED: "requested",
    Cancellation.REPEATED: "requested",
    Cancellation.ENDED: "ended",
    Cancellation.NOT_FOUND: "gone",
}


@dataclass(frozen=True)
class CancelOrder:
    """The result of a request to cancel a task."""

    task: Task
    """The task after the request, without input and output."""
    result: str
    """`cancelled`: the task was waiting and is now cancelled. `requested`: the task is running and its agent stops it.
    `ended`: the task had already ended.
    """


class Orders:
    """Carries out orders. Each is safe to repeat after a lost reply. `task_id` has the form of an id."""

    def __init__(self, tasks: TaskStore, endpoints: EndpointStore, audit: Audit) -> None:
        self._tasks = tasks
        self._endpoints = endpoints
        self._audit = audit

    async def cancel(self, principal: Principal, endpoint: Endpoint, task_id: str) -> CancelOrder:
        """Cancel a task that has not ended. Raises NotFound, StoreUnavailable."""
        check_sees(principal, endpoint)
        if principal.sees_only_own_tasks:
            check_sees_task(principal, await self._task(endpoint, task_id))
        call = self._tasks.cancel(endpoint.endpoint_id, task_id)
        cancellation = await self._change(principal, Action.CANCEL_TASK, endpoint, task_id, call)
        if cancellation is Cancellation.CANCELLED:
            metrics.tasks_finished.labels(state=TaskState.CANCELLED.value).inc()
        if cancellation in (Cancellation.CANCELLED, Cancellation.REQUESTED):
            await self._note(principal, Action.CANCEL_TASK, endpoint, task_id)
        return CancelOrder(await self._task(endpoint, task_id), _CANCEL_RESULTS[cancellation])

    async def retry(self, principal: Principal, endpoint: Endpoint, task_id: str) -> Task:
        """Queue an ended task for another attempt with new budgets.

        Its result and the delivery of that result are removed.
        Raises NotFound, StateConflict, EndpointClosed, StoreUnavailable, and TooManyRequests for a full queue.
        """
        check_sees(principal, endpoint)
        call = self._tasks.rerun(endpoint.endpoint_id, task_id, uuid4().hex)
        result = await self._change(principal, Action.RETRY_TASK, endpoint, task_id, call)
        if result is Rerun.CLOSED:
            raise closed(await from_store(self._endpoints.get(endpoint.endpoint_id, principal.tenant)))
        _check_rerun(result)
        await self._note(principal, Action.RETRY_TASK, endpoint, task_id)
        return await self._task(endpoint, task_id)

    async def delete(self, principal: Principal, endpoint: Endpoint, task_id: str) -> None:
        """Remove an ended task with its input, output, attempts and deliveries.

        Raises NotFound, StateConflict, StoreUnavailable.
        """
        check_sees(principal, endpoint)
        await self._task(endpoint, task_id)
        # The task existed a moment ago. If it is missing now, this call may have removed it and lost the reply, so a
        # missing task is a success.
        call = self._tasks.delete(endpoint.endpoint_id, task_id)
        if await self._change(principal, Action.DELETE_TASK, endpoint, task_id, call) is Deletion.NOT_ENDED:
            raise StateConflict("taskId: the task has not ended; cancel it first")
        await self._note(principal, Action.DELETE_TASK, endpoint, task_id)

    async def _change(
        self, principal: Principal, action: Action, endpoint: Endpoint, task_id: str, call: Awaitable[T]
    ) -> T:
        return await self._audit.change(principal, action, task_target(endpoint.endpoint_id, task_id), call)

    async def _note(self, principal: Principal, action: Action, endpoint: Endpoint, task_id: str) -> None:
        await self._audit.note(principal, action, task_target(endpoint.endpoint_id, task_id))

    async def _task(self, endpoint: Endpoint, task_id: str) -> Task:
        return await found_in_store(self._tasks.brief(endpoint.endpoint_id, task_id), Resource.TASK)


def _check_rerun(result: Rerun) -> None:
    match result:
        case Rerun.QUEUED | Rerun.DUPLICATE:
            return
        case Rerun.NOT_FOUND:
            raise NotFound(Resource.TASK)
        case Rerun.NOT_ENDED:
            raise StateConflict("taskId: the task has not ended")
        case Rerun.CLOSED:
            raise ValueError("the error of a closed endpoint needs the endpoint")
        case Rerun.FULL:
            raise full()
