"""Read the parts of an endpoint: tasks, attempts, workers, logs."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import Resource
from queue_engine.domain.logs import EndpointLogPage, EndpointPlace, LogPage, LogQuery
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import Attempt, LongText, LongTexts, Payload, Task, TaskPage, TaskStatus
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.engine.access import check_sees, check_sees_task
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.store.endpoint_logs import EndpointLogs
from queue_engine.store.logs import LogStore
from queue_engine.store.tasks import TaskStore
from queue_engine.store.workers import WorkerStore

MAX_WHOLE_BYTES = 1024 * 1024
"""Longest input and output, together, that are read at once. Longer ones are read in parts while they are sent on."""


class Queries:
    """Reads for one endpoint. Each raises NotFound and StoreUnavailable.

    Ids of tasks and workers have the form of an id.
    """

    def __init__(self, tasks: TaskStore, workers: WorkerStore, logs: LogStore, endpoint_logs: EndpointLogs) -> None:
        self._tasks = tasks
        self._workers = workers
        self._logs = logs
        self._endpoint_logs = endpoint_logs

    async def tasks(
        self, principal: Principal, endpoint: Endpoint, status: TaskStatus | None, *, page: int, size: int
    ) -> TaskPage:
        """Return page number `page` of the tasks, newest first. The first page is 1. None means every status."""
        check_sees(principal, endpoint)
        return await from_store(self._tasks.page(endpoint.endpoint_id, status, page=page, size=size))

    async def task(
        self, principal: Principal, endpoint: Endpoint, task_id: str, *, payload: Payload = Payload.FULL
    ) -> Task:
        """Return the task with its detail, and this part of its input and output.

        Reading parts of long ones raises StoreUnavailable.
        """
        check_sees(principal, endpoint)
        reading = self._tasks.get(endpoint.endpoint_id, task_id, max_bytes=MAX_WHOLE_BYTES, payload=payload)
        task = await found_in_store(reading, Resource.TASK)
        check_sees_task(principal, task)
        return task if task.long is None else replace(task, long=_patient(task.long))

    async def texts(self, principal: Principal, endpoint: Endpoint, task_id: str) -> tuple[Task, LongTexts]:
        """Return the task with its input and its output, which are not read yet. Reading raises StoreUnavailable.

        It has an output if it has succeeded.
        """
        check_sees(principal, endpoint)
        task = await found_in_store(self._tasks.texts(endpoint.endpoint_id, task_id), Resource.TASK)
        check_sees_task(principal, task)
        if task.long is None:
            raise ValueError("the task was read without its texts")
        return task, _patient(task.long)

    async def brief(self, principal: Principal, endpoint: Endpoint, task_id: str) -> Task:
        """Return the task without its input and output."""
        check_sees(principal, endpoint)
        task = await found_in_store(self._tasks.brief(endpoint.endpoint_id, task_id), Resource.TASK)
        check_sees_task(principal, task)
        return task

    async def attempts(self, principal: Principal, endpoint: Endpoint, task_id: str) -> list[Attempt]:
        """Return the latest attempts of the task, oldest first."""
        check_sees(principal, endpoint)
        if principal.sees_only_own_tasks:
            await self.brief(principal, endpoint, task_id)
        return await found_in_store(self._tasks.attempts(endpoint.endpoint_id, task_id), Resource.TASK)

    async def workers(
        self, principal: Principal, endpoint: Endpoint, statuses: AbstractSet[WorkerStatus]
    ) -> list[Worker]:
        """Return the endpoint's workers with one of the statuses, oldest first. An empty set means all statuses."""
        check_sees(principal, endpoint)
        workers = await from_store(self._workers.of_endpoint(endpoint.endpoint_id))
        return [one for one in workers if not statuses or one.status in statuses]

    async def log(self, principal: Principal, endpoint: Endpoint, worker_id: str, query: LogQuery) -> LogPage:
        """Return the next lines of a worker's log that match the query."""
        check_sees(principal, endpoint)
        return await found_in_store(self._logs.page(endpoint.endpoint_id, worker_id, query), Resource.WORKER)

    async def endpoint_log(
        self, principal: Principal, endpoint: Endpoint, query: LogQuery, after: EndpointPlace | None
    ) -> EndpointLogPage:
        """Return the next lines of the endpoint's workers that match the query, merged by time."""
        check_sees(principal, endpoint)
        return await from_store(self._endpoint_logs.page(endpoint.endpoint_id, query, after))


def _patient(texts: LongTexts) -> LongTexts:
    """Return texts whose parts are read by the rules of `from_store`."""

    def patient(text: LongText) -> LongText:
        return LongText(text.size, lambda offset: from_store(text.read(offset)))

    return LongTexts(patient(texts.input), None if texts.output is None else patient(texts.output))
