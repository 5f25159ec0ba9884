"""`/v2/serverless/{id}/tasks`: tasks of QUEUE endpoints."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from starlette.requests import Request

from queue_engine import metrics
from queue_engine.api.answers import Answer, success
from queue_engine.api.fields import raise_for
from queue_engine.api.operations import Operation, in_path, in_query
from queue_engine.api.order_log import note
from queue_engine.api.patience import from_store
from queue_engine.api.queries import Query
from queue_engine.api.routes_endpoints import ENDPOINT_ID
from queue_engine.api.services import Services, endpoint_id_in, task_id_in
from queue_engine.api.submissions import RAW_FIELDS, SubmitTask, traceparent_of
from queue_engine.api.views import (
    AttemptView,
    DeliveryAttemptView,
    SubmittedView,
    Success,
    TaskCountsView,
    TaskDetailView,
    TaskPageView,
    TaskStandingView,
    attempts_view,
    delivery_log_view,
    task_counts_view,
    task_detail_view,
    task_page_view,
    task_standing_view,
)
from queue_engine.domain.errors import (
    EndpointClosed,
    EngineError,
    InvalidRequest,
    NotFound,
    Resource,
    StateConflict,
    StoreUnavailable,
    TooManyRequests,
)
from queue_engine.domain.ids import task_id_from
from queue_engine.domain.tasks import NewTask, Task, TaskState, TaskStatus
from queue_engine.runtime.strict_json import same_value
from queue_engine.store.tasks import AcceptedRequest, Cancellation, Deletion, RunAgain, Submission

TAG = "tasks"
MAX_PAGE_NUMBER = 10**9
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 10
MAX_COMPARED_BYTES = 64 * 1024
"""Longest input that is compared by value with another one: some megabytes of Python objects."""
FULL_RETRY_SECONDS = 5
"""A full queue is not worth asking about sooner."""

TASK_ID = in_path("taskId", "Id of a task", {"type": "string", "pattern": "^[A-Za-z0-9_]{1,255}$"})


class TaskRoutes:
    """Submit and read tasks, and decide about those that are there."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks = services.store.tasks
        self._comparing = asyncio.Lock()

    def operations(self) -> list[Operation]:
        tasks, task = "/v2/serverless/{id}/tasks", "/v2/serverless/{id}/tasks/{taskId}"
        return [
            Operation(
                "POST", tasks, self.submit_task, summary="Submit a task", tag=TAG, answer=Success[SubmittedView],
                takes=SubmitTask, parameters=[ENDPOINT_ID], failures=(400, 401, 404, 409, 413, 415, 429, 503),
            ),
            Operation(
                "GET", tasks, self.list_tasks, summary="List tasks, newest first", tag=TAG,
                answer=Success[TaskPageView], parameters=[ENDPOINT_ID, *_page_parameters()],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", f"{tasks}/count", self.count_tasks, summary="Count tasks", tag=TAG,
                answer=Success[TaskCountsView], parameters=[ENDPOINT_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "GET", task, self.get_task, summary="Read a task with its input and output", tag=TAG,
                answer=Success[TaskDetailView], parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "GET", f"{task}/deliveries", self.list_deliveries,
                summary="List the latest attempts to deliver a task's result, oldest first", tag=TAG,
                answer=Success[list[DeliveryAttemptView]], parameters=[ENDPOINT_ID, TASK_ID],
                failures=(401, 404, 429, 503),
            ),
            Operation(
                "GET", f"{task}/attempts", self.list_attempts,
                summary="List the latest attempts of a task, oldest first", tag=TAG,
                answer=Success[list[AttemptView]], parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", f"{task}/cancel", self.cancel_task, summary="Cancel a task", tag=TAG,
                answer=Success[TaskStandingView], parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", f"{task}/retry", self.retry_task, summary="Run an ended task again", tag=TAG,
                answer=Success[TaskStandingView], parameters=[ENDPOINT_ID, TASK_ID],
                failures=(401, 404, 409, 429, 503),
            ),
            Operation(
                "DELETE", task, self.delete_task, summary="Remove an ended task", tag=TAG, answer=Success[bool],
                parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 409, 429, 503),
            ),
        ]  # fmt: skip

    async def submit_task(self, request: Request) -> Answer:
        """Accepted once for each task id: the same request again answers as the first time and runs nothing twice."""
        # The hot path: one script call for a request, and no more work than its checks need.
        tenant = await self._services.admit(request)
        try:
            wanted = await self._wanted(request)
            task = self._new_task(request, tenant, wanted)
            submission = await from_store(self._tasks.enqueue(task))
            if submission is Submission.CONFLICT:
                submission = await self._compare_with_accepted(task, wanted)
            _check_accepted(submission)
        except EngineError as error:
            if not isinstance(error, StoreUnavailable):
                _REJECTED.inc()
            raise
        is_new = submission is not Submission.DUPLICATE
        (_ACCEPTED if is_new else _DUPLICATE).inc()
        note(request, task=task.task_id, result="accepted" if is_new else "duplicate")
        return success({"taskId": task.task_id})

    async def _compare_with_accepted(self, task: NewTask, wanted: SubmitTask) -> Submission:
        """Return DUPLICATE for the request of the accepted task in another spelling or under a previous secret key."""
        accepted = await from_store(
            self._tasks.accepted_request(task.endpoint_id, task.task_id, max_input_bytes=MAX_COMPARED_BYTES)
        )
        if accepted is None:  # removed in between, so that the id is free again
            return await from_store(self._tasks.enqueue(task))
        same = self._is_request_of(wanted, accepted) or await self._is_respelled_request_of(wanted, accepted)
        return Submission.DUPLICATE if same else Submission.CONFLICT

    def _is_request_of(self, wanted: SubmitTask, accepted: AcceptedRequest) -> bool:
        return any(wanted.fingerprint(key) == accepted.fingerprint for key in self._services.fingerprint_keys)

    async def _is_respelled_request_of(self, wanted: SubmitTask, accepted: AcceptedRequest) -> bool:
        """Compare the inputs by value, when all else is the same.

        In a thread, because a hostile input takes some milliseconds; one comparison at a time, because it takes some
        megabytes.
        """
        if accepted.input is None or len(wanted.input) > MAX_COMPARED_BYTES:
            return False
        if not self._is_request_of(wanted.model_copy(update={"input": accepted.input}), accepted):
            return False
        async with self._comparing:
            return await asyncio.to_thread(same_value, accepted.input, wanted.input)

    async def _wanted(self, request: Request) -> SubmitTask:
        endpoint_id_in(request)  # a path that cannot be one is not found, whatever the body
        body = await self._services.bodies.read_object(request, RAW_FIELDS)
        wanted, errors = SubmitTask.parse(body)
        if wanted.first_secret is not None:
            errors += self._services.secret_errors(wanted.first_secret)
        if wanted.webhook is not None:
            errors += await self._services.destinations.errors(wanted.webhook)
        raise_for(errors)
        return wanted

    def _new_task(self, request: Request, tenant: str, wanted: SubmitTask) -> NewTask:
        return NewTask(
            task_id=wanted.task_id or task_id_from(uuid4()),
            endpoint_id=endpoint_id_in(request),
            tenant=tenant,
            spec=wanted.spec(traceparent_of(request.scope["headers"])),
            input=wanted.input,
            fingerprint=wanted.fingerprint(self._services.fingerprint_keys[0]),
            timeout_seconds=wanted.execution_timeout_seconds,
            queue_ttl_seconds=wanted.queue_ttl_seconds,
        )

    async def list_tasks(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        query = Query(request)
        status = query.choice("status", TaskStatus)
        page = query.integer("pageNumber", default=1, most=MAX_PAGE_NUMBER)
        size = query.integer("pageSize", default=DEFAULT_PAGE_SIZE, most=MAX_PAGE_SIZE)
        tasks = await from_store(self._tasks.page(endpoint.endpoint_id, status, page=page, size=size))
        return success(task_page_view(tasks, endpoint, page=page, size=size))

    async def count_tasks(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        return success(task_counts_view(endpoint.counts))

    async def get_task(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        return success(task_detail_view(await self._task(request, endpoint.endpoint_id), endpoint))

    async def list_deliveries(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        task = await self._task(request, endpoint.endpoint_id)
        log = await from_store(self._tasks.delivery_log(endpoint.endpoint_id, task.task_id))
        return success(delivery_log_view(log))

    async def list_attempts(self, request: Request) -> Answer:
        """Up to 50 attempts that are over and did not end the task, and the one that runs or ended it."""
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        attempts = await from_store(self._tasks.attempts(endpoint.endpoint_id, task_id_in(request)))
        if attempts is None:
            raise NotFound(Resource.TASK)
        return success(attempts_view(attempts))

    async def cancel_task(self, request: Request) -> Answer:
        """One that waits ends at once. One that runs is stopped when its worker's agent hears of it, within a quarter
        of a lease: `cancelRequested` is true until then. One that has ended stays as it is.
        """
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        cancellation = await from_store(self._tasks.cancel(endpoint.endpoint_id, task_id_in(request)))
        if cancellation is Cancellation.CANCELLED:
            metrics.tasks_finished.labels(state=TaskState.CANCELLED.value).inc()
        note(request, result=cancellation.value.lower())
        return success(task_standing_view(await self._brief_task(request, endpoint.endpoint_id)))

    async def retry_task(self, request: Request) -> Answer:
        """The same task with its next attempt and new budgets. Its result goes; the new one is delivered anew."""
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        task_id = task_id_in(request)
        _check_runs_again(await from_store(self._tasks.run_again(endpoint.endpoint_id, task_id, uuid4().hex)))
        return success(task_standing_view(await self._brief_task(request, endpoint.endpoint_id)))

    async def delete_task(self, request: Request) -> Answer:
        """Its input, output, attempts and deliveries go at once; a delivery that was still to come is dropped."""
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        task = await self._brief_task(request, endpoint.endpoint_id)
        # It was there a moment ago: when it is gone now, this very call may have removed it and lost the reply.
        if await from_store(self._tasks.delete(endpoint.endpoint_id, task.task_id)) is Deletion.NOT_ENDED:
            raise StateConflict("taskId: the task has not ended; cancel it first")
        return success(True)

    async def _brief_task(self, request: Request, endpoint_id: str) -> Task:
        task = await from_store(self._tasks.brief(endpoint_id, task_id_in(request)))
        if task is None:
            raise NotFound(Resource.TASK)
        return task

    async def _task(self, request: Request, endpoint_id: str) -> Task:
        task = await from_store(self._tasks.get(endpoint_id, task_id_in(request)))
        if task is None:
            raise NotFound(Resource.TASK)
        return task


_ACCEPTED = metrics.tasks_submitted.labels(result="accepted")
_DUPLICATE = metrics.tasks_submitted.labels(result="duplicate")
_REJECTED = metrics.tasks_submitted.labels(result="rejected")


def _check_accepted(submission: Submission) -> None:
    match submission:
        case Submission.ACCEPTED | Submission.DUPLICATE:
            return
        case Submission.CONFLICT:
            raise StateConflict("taskId: is taken by a task with another body")
        case Submission.NOT_FOUND:
            raise NotFound(Resource.ENDPOINT)
        case Submission.NOT_QUEUE:
            raise InvalidRequest("serviceMode", "only endpoints with service mode QUEUE take tasks")
        case Submission.CLOSED:
            raise EndpointClosed("the endpoint is stopped, stopping or failed and takes no tasks")
        case Submission.FULL:
            raise TooManyRequests("the endpoint's queue is full", scope="queue", retry_after_seconds=FULL_RETRY_SECONDS)


def _check_runs_again(result: RunAgain) -> None:
    match result:
        case RunAgain.QUEUED | RunAgain.DUPLICATE:
            return
        case RunAgain.NOT_FOUND:
            raise NotFound(Resource.TASK)
        case RunAgain.NOT_ENDED:
            raise StateConflict("taskId: the task has not ended")
        case RunAgain.CLOSED:
            raise EndpointClosed("the endpoint is stopped, stopping or failed and takes no tasks")
        case RunAgain.FULL:
            raise TooManyRequests("the endpoint's queue is full", scope="queue", retry_after_seconds=FULL_RETRY_SECONDS)


def _page_parameters() -> list[dict[str, object]]:
    statuses = [status.value for status in TaskStatus]
    return [
        in_query("status", "Only tasks with this status, in any case", {"type": "string", "enum": statuses}),
        in_query(
            "pageNumber",
            "Which page, from 1",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_NUMBER, "default": 1},
        ),
        in_query(
            "pageSize",
            "Tasks on a page",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE},
        ),
    ]
