"""`/v2/serverless/{id}/tasks`: tasks of QUEUE endpoints."""

from __future__ import annotations

from starlette.requests import Request

from queue_engine.api.http.envelope import Success
from queue_engine.api.http.headers import named
from queue_engine.api.http.line_streams import NDJSON
from queue_engine.api.http.operations import Operation, in_path
from queue_engine.api.http.order_log import note
from queue_engine.api.http.queries import Query
from queue_engine.api.http.rate_headers import rate_headers
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services, endpoint_id_in, task_id_in
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.fields import names_of
from queue_engine.api.v2.long_texts import detail_response
from queue_engine.api.v2.pages import PAGE_PARAMETERS, page_in, page_parameters
from queue_engine.api.v2.submissions import RAW_FIELDS, SubmitTask, checked_task, traceparent_of
from queue_engine.api.v2.task_filters import filter_parameters, is_cursor_list, refuse_filters, refuse_no_filter
from queue_engine.api.v2.task_lists import TaskLists, cursor_parameter, export_parameters
from queue_engine.api.v2.task_views import (
    AttemptView,
    SubmittedView,
    TaskCountsView,
    TaskCursorPageView,
    TaskDetailView,
    TaskPageView,
    TaskStandingView,
    WaitedTasksView,
    attempts_view,
    task_counts_view,
    task_page_view,
    task_standing_view,
)
from queue_engine.api.v2.waits import (
    TaskWaits,
    Wait,
    WaitForTasks,
    disconnect_parameter,
    payload_in,
    payload_parameter,
    wait_in,
    wait_parameter,
)
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.tasks import TaskStatus
from queue_engine.engine.access import check_may
from queue_engine.engine.submissions import Submitted, counted_rejections

TAG = "tasks"
TASK_ID = in_path("taskId", "Id of a task", {"type": "string", "pattern": "^[A-Za-z0-9_]{1,255}$"})


class TaskRoutes:
    """Submit, read, cancel, retry and delete tasks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._submissions = services.engine.submissions
        self._orders = services.engine.orders
        self._queries = services.engine.queries
        self._waiting = services.engine.waiting
        self._waits = TaskWaits(services)
        self._lists = TaskLists(services)

    def operations(self) -> list[Operation]:
        tasks, task = "/v2/serverless/{id}/tasks", "/v2/serverless/{id}/tasks/{taskId}"
        return [
            Operation(
                "POST", tasks, self.submit_task, right=Right.SUBMIT,
                summary="Submit a task", tag=TAG, response=Success[SubmittedView | TaskDetailView], takes=SubmitTask,
                parameters=[ENDPOINT_ID, wait_parameter("it has the task's id only"), disconnect_parameter()],
                failures=(400, 401, 404, 409, 413, 415, 429, 503),
            ),
            Operation(
                "GET", tasks, self.list_tasks, right=Right.VIEW, summary="List tasks, newest first", tag=TAG,
                response=Success[TaskPageView | TaskCursorPageView], parameters=[ENDPOINT_ID, *_list_parameters()],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", f"{tasks}/export", self._lists.export_tasks, right=Right.VIEW,
                summary="Export tasks, oldest first", tag=TAG, media_type=NDJSON,
                parameters=[ENDPOINT_ID, *filter_parameters(), *export_parameters()],
                failures=(400, 401, 404, 429, 503), waits=True,
            ),
            Operation(
                "GET", f"{tasks}/count", self.count_tasks, right=Right.VIEW, summary="Count tasks", tag=TAG,
                response=Success[TaskCountsView], parameters=[ENDPOINT_ID], failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", task, self.get_task, right=Right.VIEW_TASK,
                summary="Read a task with its input and output", tag=TAG,
                response=Success[TaskDetailView],
                parameters=[ENDPOINT_ID, TASK_ID, payload_parameter(), wait_parameter("it does not wait")],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", f"{task}/attempts", self.list_attempts, right=Right.VIEW_TASK,
                summary="List the latest attempts of a task, oldest first", tag=TAG,
                response=Success[list[AttemptView]], parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", f"{tasks}/wait", self._waits.wait_for_tasks, right=Right.VIEW_TASK,
                summary="Wait for the first of several tasks to end", tag=TAG, response=Success[WaitedTasksView],
                takes=WaitForTasks, parameters=[ENDPOINT_ID], failures=(400, 401, 404, 413, 415, 429, 503),
                only_reads=True, waits=True,
            ),
            Operation(
                "POST", f"{task}/cancel", self.cancel_task, right=Right.CANCEL, summary="Cancel a task", tag=TAG,
                response=Success[TaskStandingView], parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", f"{task}/retry", self.retry_task, right=Right.OPERATE,
                summary="Run an ended task again", tag=TAG,
                response=Success[TaskStandingView], parameters=[ENDPOINT_ID, TASK_ID],
                failures=(401, 404, 409, 429, 503),
            ),
            Operation(
                "DELETE", task, self.delete_task, right=Right.MANAGE,
                summary="Remove an ended task", tag=TAG, response=Success[bool],
                parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 409, 429, 503),
            ),
        ]  # fmt: skip

    async def submit_task(self, request: Request) -> Response:
        """A task id is accepted once. Repeating the same request gets the same response and queues nothing. Where the
        tenant, the key or the endpoint has a rate limit, the response has `RateLimit` and `RateLimit-Policy`.

        With `wait`, the response has the task, when it has ended or at the end of the wait; `status` tells which. A
        repeated request waits for the same task. If the client disconnects, the task continues, unless `onDisconnect`
        is `cancel`. That has no effect at the end of the wait, nor when the API stops.
        """
        principal = await self._services.admit(request)
        with counted_rejections():
            endpoint_id = endpoint_id_in(request)  # checked before the body: an impossible id is a 404
            wait, endpoint = wait_in(request), None
            if wait is not None:
                endpoint = await self._endpoint_to_wait_for(request, principal, wait)
            submitted = await self._submitted(request, principal, endpoint_id)
        note(request, task=submitted.task_id, result="accepted" if submitted.is_new else "duplicate")
        if wait is None or endpoint is None:
            return success({"taskId": submitted.task_id}, rate_headers(submitted.rates))
        return await self._waits.task(request, principal, endpoint, submitted.task_id, wait, submitted.rates)

    async def _endpoint_to_wait_for(self, request: Request, principal: Principal, wait: Wait) -> Endpoint:
        if wait.cancels:
            check_may(principal, Right.CANCEL)
        return await self._services.endpoint(request, principal)

    async def _submitted(self, request: Request, principal: Principal, endpoint_id: str) -> Submitted:
        """Submit the task in the body. The body is referred to here only, so that no wait keeps it in memory."""
        submitted_task = await self._read_task(request, principal)
        is_traced = b"traceparent" in named(request.scope)
        task = submitted_task.request(traceparent_of(request.scope["headers"]) if is_traced else None)
        return await self._submissions.submit(principal, endpoint_id, task)

    async def _read_task(self, request: Request, principal: Principal) -> SubmitTask:
        body = await self._services.read_object(request, principal, names_of(SubmitTask), RAW_FIELDS)
        return await checked_task(body, principal, self._submissions)

    async def list_tasks(self, request: Request) -> Response:
        """With `cursor`, or with any filter but `status`, the list is walked by cursor: the response has `nextCursor`
        in place of page numbers. A walk over all pages has each task that matches throughout exactly once, also while
        tasks are added and removed. An unknown parameter is an error then. Without a filter, a field of tasks
        that is no filter is an error, and a name that is similar to that of a filter.

        A request looks at 2,000 tasks at most, so that a page may have few tasks or none, and others follow.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        query = Query(request)
        if is_cursor_list(query):
            return await self._lists.page(principal, endpoint, query, request.scope)
        refuse_no_filter(query, PAGE_PARAMETERS | {"cursor"})
        status = query.choice("status", TaskStatus)
        page = page_in(query)
        tasks = await self._queries.tasks(principal, endpoint, status, page=page.number, size=page.size)
        return success(task_page_view(tasks, endpoint, page=page.number, size=page.size))

    async def count_tasks(self, request: Request) -> Response:
        """The counts are those of all tasks of the endpoint. A filter of lists is refused."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        refuse_filters(Query(request))
        return success(task_counts_view(endpoint.counts))

    async def get_task(self, request: Request) -> Response:
        """With `wait`, the response has the task when it has ended or at the end of the wait; `status` tells which.
        `waiting` tells why a task that has not ended does not run.
        """
        principal = await self._services.admit(request)
        wait, payload, task_id = wait_in(request), payload_in(request), task_id_in(request)
        endpoint = await self._services.endpoint(request, principal)
        if wait is not None:
            return await self._waits.task(request, principal, endpoint, task_id, wait, payload=payload)
        task = await self._queries.task(principal, endpoint, task_id, payload=payload)
        waiting = await self._waiting.of(principal, endpoint, task)
        hidden = self._services.hides_payloads(request.scope)
        return detail_response(task, endpoint, waiting, hidden=hidden)

    async def list_attempts(self, request: Request) -> Response:
        """Returns the attempt that is running or that ended the task, and up to 50 earlier attempts."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success(attempts_view(await self._queries.attempts(principal, endpoint, task_id_in(request))))

    async def cancel_task(self, request: Request) -> Response:
        """A waiting task is cancelled at once. The agent of a running task is notified at once and stops it, within a
        quarter of the lease time at the latest; until then `cancelRequested` is true. An ended task does not change.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        order = await self._orders.cancel(principal, endpoint, task_id_in(request))
        note(request, result=order.result)
        return success(task_standing_view(order.task))

    async def retry_task(self, request: Request) -> Response:
        """Queues the task again with new retry budgets. Its previous result is removed; the new result is delivered."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success(task_standing_view(await self._orders.retry(principal, endpoint, task_id_in(request))))

    async def delete_task(self, request: Request) -> Response:
        """Removes the task with its input, output, attempts and deliveries. A pending delivery is dropped."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        await self._orders.delete(principal, endpoint, task_id_in(request))
        return success(True)


def _list_parameters() -> list[dict[str, object]]:
    return [*page_parameters("tasks"), cursor_parameter(), *filter_parameters()]
