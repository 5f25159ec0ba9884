"""What the API shows of endpoints, workers and tasks: the schemas, and the functions that fill them.

The functions make plain dictionaries, since a task's input and output go out as the JSON text that was recorded; a test
holds them against the schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson
from pydantic import Field, create_model
from pydantic.alias_generators import to_camel

from queue_engine.api.http.envelope import View
from queue_engine.api.v2.times import iso_utc
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.definitions import Defined
from queue_engine.domain.endpoints import SETTINGS, Endpoint, EndpointStatus, Expose, Resource, Setting, TaskCounts
from queue_engine.domain.logs import LogPage
from queue_engine.domain.retry import RetryOn
from queue_engine.domain.tasks import (
    SPEC_FIELDS,
    Attempt,
    AttemptOutcome,
    DeliveryStatus,
    Task,
    TaskPage,
    TaskState,
    TaskStatus,
)
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.rules.headers import masked


class ResourceView(View):
    """A place where workers may run."""

    region: str = Field(description="Region")
    gpu_type: str = Field(description="GPU type as the catalogue spells it")
    gpu_count: int = Field(description="GPUs for each worker")


class VariableView(View):
    """An environment variable, without its value, which is masked in workers' logs."""

    key: str = Field(description="Name")


class PlainVariableView(View):
    """An environment variable whose value is no secret, and shown here neither."""

    key: str = Field(description="Name")
    secret: Literal[False] = Field(description="The value is not masked in workers' logs")


class ExposeView(View):
    """The port on which the container listens."""

    port: int = Field(description="1–65535")
    protocol: Literal["HTTP", "TCP"] = Field(description="What it speaks")


class _Shown(NamedTuple):
    """How a setting with a structure of its own is shown."""

    type: Any
    show: Callable[[Endpoint], Any]


_SHOWN = {
    "resources": _Shown(
        list[ResourceView], lambda endpoint: [_resource_view(resource) for resource in endpoint.config.resources]
    ),
    "plain_variables": _Shown(
        list[PlainVariableView | VariableView],
        lambda endpoint: [_variable_view(name, endpoint.config.plain_variables) for name in endpoint.environment_names],
    ),
    "expose": _Shown(ExposeView | None, lambda endpoint: _expose_view(endpoint.config.expose)),
    "retry_on": _Shown(list[RetryOn], lambda endpoint: [word for word in RetryOn if word in endpoint.config.retry_on]),
    "retry_delays_seconds": _Shown(
        list[float], lambda endpoint: [_plain(seconds) for seconds in endpoint.config.retry_delays_seconds]
    ),
}


def _shown_settings() -> dict[str, Any]:
    """Return the members of a view that are settings."""
    return {one.shown: (_shown_type(one), Field(description=one.definition.text)) for one in SETTINGS}


def _shown_type(field: Defined[Any]) -> Any:
    if field.name in _SHOWN:
        return _SHOWN[field.name].type
    return field.kind | None if field.nullable else field.kind


class _EndpointState(View):
    """How an endpoint stands."""

    id: str = Field(description="A positive integer below 2^53", examples=["7"])
    status: EndpointStatus = Field(
        description="INITIALIZING: no worker runs yet; RUNNING: at least one; "
        "FAILED: all crash on start or are not ready in time"
    )
    running_workers: int = Field(description="Workers that run")
    cost: float = Field(description="Price per hour of the desired workers; 0 without a price list")


if TYPE_CHECKING:

    class _EndpointSettings(_EndpointState):
        """The members that are made from the definitions."""

else:
    _EndpointSettings = create_model("_EndpointSettings", __base__=_EndpointState, **_shown_settings())


class EndpointView(_EndpointSettings):
    """One endpoint."""

    created_at: int = Field(description="When it was created")
    updated_at: int = Field(description="When it was last changed")
    queued_tasks: int = Field(description="Tasks that wait, for a worker or for their next attempt")
    running_tasks: int = Field(description="Tasks that are being executed")


class WebhookSecretView(View):
    """The signing secret of an endpoint's webhooks."""

    secret: str = Field(
        description="`whsec_` and base64, as Standard Webhooks has it", examples=["whsec_MfKQ9r8GKYqrTwjU"]
    )


class WorkerView(View):
    """One worker: a container and the agent beside it."""

    worker_id: str = Field(description="Id")
    status: WorkerStatus = Field(description="RUNNING: ready, by `readyPath` or an open port")
    created_at: int = Field(description="When it was started")
    region: str | None = Field(description="Where it runs; null when that is not known")
    gpu_type: str | None = Field(description="What it runs on; null when that is not known")
    restarts: int = Field(description="How often a worker in this place was replaced because it died")
    last_heartbeat_at: int | None = Field(description="When its agent last reported")
    running_tasks: int = Field(description="Tasks that it runs now")
    error: str | None = Field(description="Why it failed")


class LogLineView(View):
    """One line that a container wrote."""

    timestamp: str = Field(description="When it came in, ISO 8601 in UTC", examples=["2026-01-31T12:00:00.007Z"])
    log: str = Field(description="The line, without control sequences; the endpoint's environment values are `***`")
    offset: int = Field(description="Tells the lines of one millisecond apart")


class LogPageView(View):
    """Some lines of a log, in the direction of reading."""

    logs: list[LogLineView] = Field(description="The lines")
    has_more: bool = Field(description="Whether there may be more now. A page can be short although there is more")
    next_search_after_time: str | None = Field(description="`searchAfterTime` of the next page; null: begin again")
    next_search_after_offset: str | None = Field(description="`searchAfterOffset` of the next page; null: begin again")


class _TaskState(View):
    task_id: str = Field(description="The submitter's id, or the one that it was given")
    endpoint_id: int = Field(description="Id of its endpoint")
    endpoint_name: str = Field(description="Name of its endpoint")
    status: TaskStatus = Field(
        description="PROCESSING: waits or runs; SUCCESS: executed; "
        "DELIVERED: executed, and the webhook has the result; FAILED"
    )
    state: TaskState = Field(description="Where it is exactly")
    worker_url: str | None = Field(description="Where the latest attempt was posted to")


_SHOWN_FIELDS = tuple(one for one in SPEC_FIELDS if one.definition.is_shown)

if TYPE_CHECKING:

    class _TaskFields(_TaskState):
        """The members that are made from the definitions."""

else:
    _TaskFields = create_model(
        "_TaskFields",
        __base__=_TaskState,
        **{one.shown: (_shown_type(one), Field(description=one.definition.text)) for one in _SHOWN_FIELDS},
    )


class TaskView(_TaskFields):
    """One task, as lists show it."""

    delivery_status: DeliveryStatus = Field(
        description="INIT: not yet sent, or no webhook; FAILED: the last attempt failed and another is due"
    )
    delivery_attempts: int = Field(description="Attempts made to deliver the result")
    delivery_error: str | None = Field(description="Why the delivery was given up")
    next_delivery_at: int | None = Field(description="The earliest time of the next delivery attempt")
    delivery_parked: bool = Field(
        description="The receiver does not respond, so its deliveries wait. At `nextDeliveryAt` one of them is sent as "
        "a probe, and the others wait again when that fails"
    )
    error: str | None = Field(description="Why it failed")
    cancel_requested: bool = Field(description="Whether its cancellation was asked for before it ended")
    attempts: int = Field(description="Attempts begun, without those that cost nothing")
    execution_timeout_seconds: float = Field(description="How long one attempt may take")
    queue_ttl_seconds: float | None = Field(description="How long it may wait; null: for ever")
    created_at: int = Field(description="When it was accepted")
    updated_at: int = Field(description="When it last changed")
    started_at: int | None = Field(description="When its latest attempt began")
    finished_at: int | None = Field(description="When it ended")
    duration_ms: int | None = Field(description="How long its last attempt took")
    delivered_at: int | None = Field(description="When the webhook took the result")


class TaskDetailView(TaskView):
    """One task with what went in and what came out."""

    input: Any = Field(description="As it was submitted")
    output: Any = Field(description="The container's answer; null before it, and when the task failed")
    headers: dict[str, str] = Field(description="Headers for the container; values that may be secrets are `***`")


class TaskPageView(View):
    """One page of tasks, newest first."""

    items: list[TaskView] = Field(description="The tasks of this page")
    page: int = Field(description="Number of this page, from 1")
    size: int = Field(description="Most tasks on a page")
    total: int = Field(description="Tasks on all pages")
    pages: int = Field(description="Number of pages")


class TaskCountsView(View):
    """How many tasks the endpoint has; ended ones as long as they are kept."""

    processing: int = Field(description="Accepted and not ended: queued, running and scheduled")
    queued: int = Field(description="Wait for a worker")
    running: int = Field(description="Are being executed")
    scheduled: int = Field(description="Wait for the time of their next attempt")
    delivered: int = Field(description="Executed, and the webhook told")
    success: int = Field(description="Executed; no webhook, or not told yet")
    failed: int = Field(description="Ended without success")
    total: int = Field(description="All of them")


class SubmittedView(View):
    """An accepted task."""

    task_id: str = Field(description="The submitter's id, or the one that it was given")


class TaskStandingView(View):
    """How a task stands."""

    task_id: str = Field(description="Id of the task")
    status: TaskStatus = Field(description="As in the task itself")
    state: TaskState = Field(description="Where it is exactly")
    cancel_requested: bool = Field(description="Whether its cancellation was asked for before it ended")


class AttemptView(View):
    """One attempt of a task."""

    attempt: int = Field(description="Its number. One that cost nothing does not count: the next has the same number")
    worker_id: str = Field(description="The worker that ran it")
    started_at: int = Field(description="When it began")
    ended_at: int | None = Field(description="When it ended; null while it runs")
    outcome: AttemptOutcome = Field(description="What came of it")
    error: str | None = Field(description="Why, in short; null when it runs, succeeded or was released")
    tries: int = Field(
        description="Tries in a row that found a worker busy or not up and share this row; 1 for other attempts"
    )


class DeliveryAttemptView(View):
    """One attempt to deliver a task's result."""

    at: int = Field(description="When it was sent")
    status: int | None = Field(description="HTTP status of the receiver's answer; null when none came")
    error: str | None = Field(description="Null when delivered, else what went wrong", examples=["http_5xx"])
    duration_ms: int = Field(description="How long it took")
    response: str = Field(description="The beginning of the receiver's answer")


_FIRST = ("id", "name", "image", "status", "totalWorkers", "runningWorkers", "cost", "serviceMode", "webhook")


def endpoint_view(endpoint: Endpoint, catalogue: Catalogue) -> dict[str, Any]:
    """Return an EndpointView, the members that a person looks for first."""
    view = {
        "id": endpoint.endpoint_id,
        "status": endpoint.status,
        "runningWorkers": endpoint.running_workers,
        "cost": catalogue.cost_per_hour(endpoint.config),
        **{to_camel(one.shown): _shown(one, endpoint) for one in SETTINGS},
        "createdAt": endpoint.created_at_ms,
        "updatedAt": endpoint.updated_at_ms,
        "queuedTasks": endpoint.counts.queued + endpoint.counts.scheduled,
        "runningTasks": endpoint.counts.running,
    }
    return {name: view[name] for name in (*_FIRST, *view)}


def _shown(setting: Defined[Setting], endpoint: Endpoint) -> Any:
    if setting.name in _SHOWN:
        return _SHOWN[setting.name].show(endpoint)
    value = getattr(endpoint.config, setting.name)
    return _plain(value) if setting.kind is float else value


def _plain(number: float | None) -> float | None:
    """A whole number without a fraction, as people write it."""
    return int(number) if number is not None and number == int(number) else number


def _variable_view(name: str, plain: frozenset[str]) -> dict[str, Any]:
    return {"key": name, "secret": False} if name in plain else {"key": name}


def _resource_view(resource: Resource) -> dict[str, Any]:
    return {"region": resource.region, "gpuType": resource.gpu_type, "gpuCount": resource.gpu_count}


def _expose_view(expose: Expose | None) -> dict[str, Any] | None:
    return {"port": expose.port, "protocol": expose.protocol} if expose else None


def worker_view(worker: Worker, endpoint: Endpoint) -> dict[str, Any]:
    """A WorkerView. With several resources nobody has recorded which of them the worker got."""
    resources = endpoint.config.resources
    place = resources[0] if len(resources) == 1 else None
    return {
        "workerId": worker.worker_id,
        "status": worker.status,
        "createdAt": worker.created_at_ms,
        "region": place.region if place else None,
        "gpuType": place.gpu_type if place else None,
        "restarts": worker.restarts,
        "lastHeartbeatAt": worker.last_heartbeat_at_ms,
        "runningTasks": worker.running_tasks,
        "error": worker.error,
    }


def log_page_view(page: LogPage) -> dict[str, Any]:
    """A LogPageView."""
    return {
        "logs": [
            {"timestamp": iso_utc(line.place.time_ms), "log": line.text, "offset": line.place.offset}
            for line in page.lines
        ],
        "hasMore": page.has_more,
        "nextSearchAfterTime": str(page.next.time_ms) if page.next else None,
        "nextSearchAfterOffset": str(page.next.offset) if page.next else None,
    }


def task_view(task: Task, endpoint: Endpoint) -> dict[str, Any]:
    """A TaskView."""
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
        "executionTimeoutSeconds": _plain(task.timeout_seconds),
        "queueTtlSeconds": _plain(task.queue_ttl_seconds),
        "createdAt": task.created_at_ms,
        "updatedAt": task.updated_at_ms,
        "startedAt": task.started_at_ms,
        "finishedAt": task.finished_at_ms,
        "durationMs": _duration_ms(task),
        "deliveredAt": task.delivered_at_ms,
    }


def _duration_ms(task: Task) -> int | None:
    """None also for a task that ended while it waited: its last attempt had ended before."""
    waited = task.latest_attempt_noted and task.state is not TaskState.DEAD
    if task.started_at_ms is None or task.finished_at_ms is None or waited:
        return None
    return max(0, task.finished_at_ms - task.started_at_ms)


def task_detail_view(task: Task, endpoint: Endpoint) -> dict[str, Any]:
    """A TaskDetailView; input and output are the JSON text that was recorded."""
    return task_view(task, endpoint) | {
        "input": _json_text(task.input),
        "output": _json_text(task.output),
        "headers": masked(task.spec.headers),
    }


def _json_text(text: bytes | None) -> orjson.Fragment | None:
    return orjson.Fragment(text) if text else None


def task_page_view(tasks: TaskPage, endpoint: Endpoint, *, page: int, size: int) -> dict[str, Any]:
    """A TaskPageView."""
    return {
        "items": [task_view(task, endpoint) for task in tasks.items],
        "page": page,
        "size": size,
        "total": tasks.total,
        "pages": -(-tasks.total // size),
    }


def task_counts_view(counts: TaskCounts) -> dict[str, int]:
    """A TaskCountsView."""
    return {
        "processing": counts.processing,
        "queued": counts.queued,
        "running": counts.running,
        "scheduled": counts.scheduled,
        "delivered": counts.delivered,
        "success": counts.success,
        "failed": counts.failed,
        "total": counts.total,
    }


def task_standing_view(task: Task) -> dict[str, Any]:
    """A TaskStandingView."""
    return {
        "taskId": task.task_id,
        "status": task.status,
        "state": task.state,
        "cancelRequested": task.cancel_requested,
    }


def attempts_view(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """A list of AttemptViews."""
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


def delivery_log_view(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A list of DeliveryAttemptViews."""
    names = ("at", "status", "error", "durationMs", "response")
    return [{name: record.get(name) for name in names} for record in log]
