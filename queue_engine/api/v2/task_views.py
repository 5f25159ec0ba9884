"""Views of tasks: the schemas, and the functions that fill them.

The functions return plain dictionaries, since a task's input and output go out as the JSON text that was recorded; a
test compares them with the schemas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model
from pydantic.alias_generators import to_camel

from queue_engine.api.http.envelope import View
from queue_engine.api.v2.shown import plain, shown_type
from queue_engine.domain.definitions import Defined
from queue_engine.domain.endpoints import Endpoint, TaskCounts
from queue_engine.domain.tasks import (
    HEAD_BYTES,
    SPEC_FIELDS,
    SUSPECT_AFTER,
    Attempt,
    AttemptOutcome,
    DeliveryStatus,
    Head,
    Priority,
    Task,
    TaskField,
    TaskPage,
    TaskState,
    TaskStatus,
)
from queue_engine.domain.waiting import Waiting, WaitingCode
from queue_engine.engine.task_lists import CursorPage
from queue_engine.rules.headers import masked


class _TaskState(View):
    task_id: str = Field(description="Id of the task, as submitted or generated")
    endpoint_id: int = Field(description="Id of its endpoint")
    endpoint_name: str = Field(description="Name of its endpoint")
    status: TaskStatus = Field(
        description="PROCESSING: waiting or running; SUCCESS: executed; "
        "DELIVERED: executed, and the webhook has received the result; FAILED: ended without success"
    )
    state: TaskState = Field(description="State of the task, more specific than `status`")
    worker_url: str | None = Field(description="URL to which the latest attempt was sent")


_SHOWN_FIELDS = tuple(one for one in SPEC_FIELDS if one.definition.is_shown)
_DETAIL_FIELDS = tuple(one for one in SPEC_FIELDS if one.definition.is_in_detail)


def _members(fields: Sequence[Defined[TaskField]]) -> dict[str, Any]:
    """Return the members of a schema that are made from definitions."""
    return {one.shown: (shown_type(one), Field(description=one.definition.text)) for one in fields}


if TYPE_CHECKING:

    class _TaskFields(_TaskState):
        """The members that are made from the definitions."""

else:
    _TaskFields = create_model("_TaskFields", __base__=_TaskState, **_members(_SHOWN_FIELDS))


class TaskView(_TaskFields):
    """A task without input and output."""

    delivery_status: DeliveryStatus = Field(
        description="INIT: not yet sent, or no webhook; FAILED: the last attempt failed and another follows"
    )
    delivery_attempts: int = Field(description="Attempts made to deliver the result")
    delivery_error: str | None = Field(
        description="Reason why the delivery was given up. While `deliveryStatus` is FAILED, the detail of a task has "
        "the error of the latest attempt, and lists have null"
    )
    next_delivery_at: int | None = Field(description="The earliest time of the next delivery attempt")
    delivery_parked: bool = Field(
        description="True while the receiver does not respond or has asked for a pause, so that its deliveries wait. "
        "At `nextDeliveryAt` one of them is sent as a probe. If the probe fails, all of them wait again"
    )
    error: str | None = Field(description="Reason of the failure")
    cancel_requested: bool = Field(description="True if cancellation was requested before the task ended")
    attempts: int = Field(description="Number of attempts, without those that do not count")
    execution_timeout_seconds: float = Field(description="Time limit of one attempt")
    queue_ttl_seconds: float | None = Field(description="Time limit of waiting in the queue; null: none")
    run_at: int | None = Field(description="Time before which it does not begin, if one was given that was ahead")
    priority: Priority = Field(description="Level of the task: higher levels begin first, and lower ones keep a share")
    fairness_key: str | None = Field(description="Name of those whose tasks take turns with the tasks of other keys")
    created_at: int = Field(description="Time of acceptance")
    updated_at: int = Field(description="Time of the last change")
    started_at: int | None = Field(description="Time at which its latest attempt began")
    finished_at: int | None = Field(description="Time at which the task ended")
    duration_ms: int | None = Field(description="Duration of its last attempt")
    delivered_at: int | None = Field(description="Time at which the webhook accepted the result")


def task_view(task: Task, endpoint: Endpoint) -> dict[str, Any]:
    """Return a TaskView."""
    return {
        "taskId": task.task_id,
        "endpointId": int(task.endpoint_id),
        "endpointName": endpoint.config.name,
        "status": task.status,
        "state": task.state,
        "workerUrl": task.worker_url,
        **{to_camel(one.shown): getattr(task.spec, one.name) for one in _SHOWN_FIELDS},
        "deliveryStatus": task.delivery_status,
        "deliveryAttempts": task.delivery_attempts,
        "deliveryError": task.delivery_error,
        "nextDeliveryAt": task.next_delivery_at_ms,
        "deliveryParked": task.delivery_parked,
        "error": task.error,
        "cancelRequested": task.cancel_requested,
        "attempts": task.attempts,
        "executionTimeoutSeconds": plain(task.timeout_seconds),
        "queueTtlSeconds": plain(task.queue_ttl_seconds),
        "runAt": task.run_at_ms,
        "priority": task.priority,
        "fairnessKey": task.fairness_key,
        "createdAt": task.created_at_ms,
        "updatedAt": task.updated_at_ms,
        "startedAt": task.started_at_ms,
        "finishedAt": task.finished_at_ms,
        "durationMs": _duration_ms(task),
        "deliveredAt": task.delivered_at_ms,
    }


def _duration_ms(task: Task) -> int | None:
    """Return the duration of the last attempt; None also for a task that ended while it waited."""
    waited = task.latest_attempt_noted and task.state is not TaskState.DEAD
    if task.started_at_ms is None or task.finished_at_ms is None or waited:
        return None
    return max(0, task.finished_at_ms - task.started_at_ms)


class WaitingView(View):
    """The reason for which a task waits: the first that holds, in the order of `code`."""

    code: WaitingCode = Field(description="The reason as a word, for programs")
    message: str = Field(description="The reason as a sentence, for people")
    since: int = Field(description="Time since which the task has been queued or scheduled")
    until: int | None = Field(description="Time at which this reason ends; null if it is not known")
    ahead: int | None = Field(description="Number of tasks that go before it, with ALL_BUSY and NEXT")
    running: int | None = Field(description="Number of tasks of its fairness key that run, with KEY_LIMIT")
    limit: int | None = Field(description="Number of tasks of its fairness key that may run, with KEY_LIMIT")
    eta_seconds: float | None = Field(
        description="Time until the tasks before it have begun, at the rate of the running workers; with ALL_BUSY. "
        "Null while no run time is known"
    )
    approximate: bool = Field(
        description="True if `ahead` is an estimate, because tasks left the queue out of turn, or levels and keys take "
        "turns"
    )
    as_of: int = Field(description="Time at which the task was looked at. Workers' reports may be two seconds older")


def waiting_view(waiting: Waiting) -> dict[str, Any]:
    """Return a WaitingView."""
    return {
        "code": waiting.code,
        "message": waiting.message,
        "since": waiting.since_ms,
        "until": waiting.until_ms,
        "ahead": waiting.ahead,
        "running": waiting.running,
        "limit": waiting.limit,
        "etaSeconds": waiting.eta_seconds,
        "approximate": waiting.is_approximate,
        "asOf": waiting.as_of_ms,
    }


class HeadView(View):
    """The beginning of an input or output."""

    text: str = Field(
        description=f"Beginning of the JSON text: at most {HEAD_BYTES} bytes of UTF-8, cut between two characters"
    )
    bytes: int = Field(description="Length of `text` in bytes, which is the place of the cut")
    is_cut: bool = Field(description="True if the input or output is longer")


def head_view(head: Head) -> dict[str, Any]:
    """Return a HeadView."""
    return {"text": head.text, "bytes": head.size, "isCut": head.is_cut}


def _heads_view(task: Task, *, hidden: bool) -> dict[str, Any]:
    """Return the members of a detail that are heads: none if not read, null if `hidden`."""
    if task.heads is None:
        return {}
    input_, output = (None, None) if hidden else (task.heads.input, task.heads.output)
    return {
        "inputHead": None if input_ is None else head_view(input_),
        "outputHead": None if output is None else head_view(output),
    }


if TYPE_CHECKING:

    class _TaskDetailFields(TaskView):
        """The members of the detail that are made from the definitions."""

else:
    _TaskDetailFields = create_model("_TaskDetailFields", __base__=TaskView, **_members(_DETAIL_FIELDS))


class TaskDetailView(_TaskDetailFields):
    """A task with its input and output."""

    worker_id: str | None = Field(description="Worker of the latest attempt; null before the first")
    next_attempt_at: int | None = Field(
        description="Time at which a scheduled task is queued for its next attempt, or its first; null in other states"
    )
    expires_at: int | None = Field(
        description="Time at which the waiting task ends as expired, by `queueTtlSeconds`; null without a limit, while "
        "the limit does not apply, and before a delayed task is queued"
    )
    purge_at: int | None = Field(
        description="Time at which the ended task is removed with its data, or later if the delivery of its result has "
        "not ended by then; null before the end"
    )
    lost: int = Field(
        description="Number of attempts that lost their worker, since the latest submission or retry by hand"
    )
    connections_lost: int = Field(
        description="Number of attempts that lost the connection to the container, since the latest submission or "
        "retry by hand"
    )
    suspect: bool = Field(
        description=f"True if `lost` and `connectionsLost` are {SUSPECT_AFTER} or more together, so that the task may "
        "crash its worker and runs alone"
    )
    runs: int = Field(description="Number of times that the task was submitted or retried by hand, from 1")
    input_bytes: int = Field(description="Length of the input as JSON text")
    output_bytes: int | None = Field(description="Length of the output as JSON text; null without one")
    trace_id: str | None = Field(description="Trace in the `traceparent` header of the submission; null without one")
    waiting: WaitingView | None = Field(description="The reason for which the task waits; null if it runs or has ended")

    input: Any = Field(None, description="The input as submitted. Only with `payload=full`")
    output: Any = Field(
        None,
        description="The container's response; null before the task succeeds, and if it failed. Only with "
        "`payload=full`",
    )
    input_head: HeadView | None = Field(None, description="Beginning of the input. Only with `payload=head`")
    output_head: HeadView | None = Field(
        None,
        description="Beginning of the output; null before the task succeeds, and if it failed. Only with "
        "`payload=head`",
    )
    headers: dict[str, str] = Field(description="Headers for the container; values that may be secrets are `***`")


def task_detail_view(
    task: Task, endpoint: Endpoint, waiting: Waiting | None = None, *, hidden: bool = False
) -> dict[str, Any]:
    """Return a TaskDetailView without input and output, which are JSON text already; if `hidden` without headers.

    The task must have been read with its facts.
    """
    facts = task.facts
    if facts is None:
        raise ValueError("the task was read without its facts")
    return task_view(task, endpoint) | {
        **{to_camel(one.shown): getattr(task.spec, one.name) for one in _DETAIL_FIELDS},
        "workerId": task.worker_id,
        "nextAttemptAt": facts.next_attempt_at_ms,
        "expiresAt": facts.expires_at_ms,
        "purgeAt": facts.purge_at_ms(endpoint.config.result_retention_seconds),
        "lost": task.lost,
        "connectionsLost": task.connections_lost,
        "suspect": task.is_suspect,
        "runs": task.runs,
        "inputBytes": facts.input_bytes,
        "outputBytes": facts.output_bytes,
        "traceId": task.spec.trace_id,
        "waiting": None if waiting is None else waiting_view(waiting),
        "headers": {} if hidden else masked(task.spec.headers),
        **_heads_view(task, hidden=hidden),
    }


class TaskPageView(View):
    """A page of tasks, newest first."""

    items: list[TaskView] = Field(description="The tasks of this page")
    page: int = Field(description="Number of this page, from 1")
    size: int = Field(description="Maximum number of tasks on a page")
    total: int = Field(description="Number of tasks on all pages")
    pages: int = Field(description="Number of pages")


def task_page_view(tasks: TaskPage, endpoint: Endpoint, *, page: int, size: int) -> dict[str, Any]:
    """Return a TaskPageView."""
    return {
        "items": [task_view(task, endpoint) for task in tasks.items],
        "page": page,
        "size": size,
        "total": tasks.total,
        "pages": -(-tasks.total // size),
    }


class TaskCursorPageView(View):
    """A page of tasks that is walked by cursor, newest first."""

    items: list[TaskView] = Field(description="The tasks of this page")
    next_cursor: str | None = Field(
        description="Cursor of the next page; null after the last. A page may have few tasks, or none, although others "
        "follow, because a request looks at 2,000 tasks at most"
    )
    scanned: int = Field(description="Number of tasks that were looked at")


def task_cursor_page_view(page: CursorPage, endpoint: Endpoint) -> dict[str, Any]:
    """Return a TaskCursorPageView."""
    items = [task_view(task, endpoint) for task in page.items]
    return {"items": items, "nextCursor": page.next_cursor, "scanned": page.scanned}


class PriorityCountsView(View):
    """Number of queued tasks by priority."""

    high: int = Field(description="Queued tasks with the priority high")
    normal: int = Field(description="Queued tasks with the priority normal")
    low: int = Field(description="Queued tasks with the priority low")


class TaskCountsView(View):
    """Number of the endpoint's tasks by state. Ended tasks count as long as they are kept."""

    processing: int = Field(description="Tasks that have not ended: queued, running and scheduled")
    queued: int = Field(description="Tasks that wait for a worker")
    queued_by_priority: PriorityCountsView = Field(description="`queued` by priority")
    running: int = Field(description="Tasks that are being executed now")
    scheduled: int = Field(description="Tasks that wait for the time of their next attempt")
    delivered: int = Field(description="Executed tasks whose webhook has received the result")
    success: int = Field(description="Executed tasks without a webhook, or whose webhook has not received the result")
    failed: int = Field(description="Tasks that ended without success")
    total: int = Field(description="All tasks")
    waiting_deliveries: int = Field(description="Results that wait for their delivery")


def task_counts_view(counts: TaskCounts) -> dict[str, Any]:
    """Return a TaskCountsView."""
    return {
        "processing": counts.processing,
        "queued": counts.queued,
        "queuedByPriority": {"high": counts.queued_high, "normal": counts.queued_normal, "low": counts.queued_low},
        "running": counts.running,
        "scheduled": counts.scheduled,
        "delivered": counts.delivered,
        "success": counts.success,
        "failed": counts.failed,
        "total": counts.total,
        "waitingDeliveries": counts.waiting_deliveries,
    }


class SubmittedView(View):
    """An accepted task."""

    task_id: str = Field(description="Id of the task, as submitted or generated")


class WaitedTasksView(View):
    """Tasks after a wait. Each id of the request is in one of the three."""

    pending: list[str] = Field(description="Ids of tasks that have not ended, or that the next response has")
    unknown: list[str] = Field(description="Ids of tasks that do not exist")
    ended: list[TaskDetailView] = Field(description="Tasks that have ended")


class TaskStandingView(View):
    """The status of a task."""

    task_id: str = Field(description="Id of the task")
    status: TaskStatus = Field(description="Status, as in the task itself")
    state: TaskState = Field(description="State of the task, more specific than `status`")
    cancel_requested: bool = Field(description="True if cancellation was requested before the task ended")


def task_standing_view(task: Task) -> dict[str, Any]:
    """Return a TaskStandingView."""
    return {
        "taskId": task.task_id,
        "status": task.status,
        "state": task.state,
        "cancelRequested": task.cancel_requested,
    }


class AttemptView(View):
    """An attempt of a task."""

    attempt: int = Field(
        description="Number of the attempt. After an attempt that does not count, the next has the same number"
    )
    worker_id: str = Field(description="Id of the worker that ran the attempt")
    started_at: int = Field(description="Time at which the attempt began")
    ended_at: int | None = Field(description="Time at which the attempt ended; null while it runs")
    outcome: AttemptOutcome = Field(description="Outcome of the attempt")
    error: str | None = Field(description="Reason of the outcome; null if the attempt runs, succeeded or was released")
    tries: int = Field(
        description="Number of consecutive tries in this entry that found the worker busy or unavailable; 1 for others"
    )


def attempts_view(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Return a list of AttemptViews."""
    return [
        {
            "attempt": one.number,
            "workerId": one.worker_id,
            "startedAt": one.started_at_ms,
            "endedAt": one.ended_at_ms,
            "outcome": one.outcome,
            "error": one.error,
            "tries": one.tries,
        }
        for one in attempts
    ]
