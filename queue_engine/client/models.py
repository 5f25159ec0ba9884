"""Objects that the API returns. They are immutable. Their members are those of the HTTP API in snake case.

A member that this version does not know is kept in `model_extra`. Times are epoch milliseconds of the engine's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from queue_engine.client.errors import ApiError, api_error


class View(BaseModel):
    """Base of all of them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="allow")


class Waiting(View):
    """The reason for which a task waits."""

    code: str
    """The reason as a word, such as ALL_BUSY or NO_WORKERS: see docs/guides/waiting.md."""
    message: str
    """The reason as a sentence."""
    since: int
    until: int | None = None
    ahead: int | None = None
    """Number of tasks that go before it."""
    running: int | None = None
    """With KEY_LIMIT: number of tasks of its fairness key that run."""
    limit: int | None = None
    """With KEY_LIMIT: number of them that may run."""
    eta_seconds: float | None = None
    """Time until these have begun."""
    approximate: bool = False
    as_of: int


@dataclass(frozen=True)
class Download:
    """The input or output of a task as bytes."""

    content: bytes = field(repr=False)
    content_type: str
    """Such as `application/json`, `text/plain; charset=utf-8` or `image/png`."""
    file_name: str
    """A name for a file: letters, digits, `_`, `.` and `-`."""


class Head(View):
    """The beginning of an input or output as JSON text."""

    text: str
    bytes: int
    """Length of `text` in bytes of UTF-8."""
    is_cut: bool
    """True if the input or output is longer."""


class TaskInfo(View):
    """A task as last read. Members from `worker_id` on are None in lists, and `suspect` is False."""

    task_id: str
    endpoint_id: int
    endpoint_name: str = ""
    status: str
    """PROCESSING, SUCCESS, DELIVERED or FAILED."""
    state: str
    """scheduled, queued, running, succeeded, failed, cancelled, expired, timed_out or dead."""
    attempts: int = 0
    error: str | None = None
    cancel_requested: bool = False
    worker_url: str | None = None
    webhook: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    delivery_status: str = "INIT"
    delivery_attempts: int = 0
    delivery_error: str | None = None
    next_delivery_at: int | None = None
    run_at: int | None = None
    """Time before which it does not begin, if one was given."""
    priority: str = "normal"
    """high, normal or low."""
    fairness_key: str | None = None
    created_at: int
    updated_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    delivered_at: int | None = None
    duration_ms: int | None = None
    worker_id: str | None = None
    """Worker of the latest attempt."""
    worker_port: int | None = None
    process_uri: str | None = None
    next_attempt_at: int | None = None
    """Time at which a scheduled task is queued."""
    expires_at: int | None = None
    """Time at which a waiting task ends as expired."""
    purge_at: int | None = None
    """Time at which an ended task is removed with its data, unless the delivery of its result takes longer."""
    lost: int | None = None
    """Number of attempts that lost their worker, since the latest submission or retry by hand."""
    connections_lost: int | None = None
    """Number of attempts that lost the connection to the container, since then."""
    suspect: bool = False
    """True if attempts lost their worker or connection, so that the task may crash its worker."""
    runs: int | None = None
    """Number of times that the task was submitted or retried by hand, from 1."""
    input_bytes: int | None = None
    output_bytes: int | None = None
    trace_id: str | None = None
    waiting: Waiting | None = None
    """None for a task that runs or has ended."""
    input: Any = None
    output: Any = None
    input_head: Head | None = None
    """Beginning of the input, if only that was asked for."""
    output_head: Head | None = None
    headers: dict[str, str] | None = None

    @property
    def has_ended(self) -> bool:
        return self.status != "PROCESSING"

    @property
    def has_succeeded(self) -> bool:
        return self.status in ("SUCCESS", "DELIVERED")


class BatchItem(View):
    """The result of one task of a batch."""

    index: int
    """Place of the task among those that were given, from 0."""
    task_id: str | None = None
    """None if the task is rejected before its id was read."""
    result: str
    """accepted, duplicate (the same task was accepted before) or rejected."""
    code: int
    message: str

    @property
    def error(self) -> ApiError | None:
        """The error that the submission of this task alone would raise; None if it was accepted."""
        if self.result != "rejected":
            return None
        return api_error(self.message, status=_STATUSES.get(self.code, 400), code=self.code, retry_after=None)

    @property
    def is_refused_for_now(self) -> bool:
        """True if the same task may be accepted later."""
        return self.result == "rejected" and self.code in (429, 10002)


_STATUSES = {10001: 400, 10002: 503, 12001: 409, 14000: 404, 24000: 409, 429: 429}
"""HTTP statuses of the codes of a single submission."""


class Batch(View):
    """The results of `batch`."""

    accepted: int
    duplicate: int
    rejected: int
    items: list[BatchItem]


class PriorityCounts(View):
    """Numbers of queued tasks by priority."""

    high: int = 0
    normal: int = 0
    low: int = 0


class TaskCounts(View):
    """Numbers of tasks of an endpoint."""

    processing: int
    queued: int
    queued_by_priority: PriorityCounts = PriorityCounts()
    running: int
    scheduled: int = 0
    delivered: int
    success: int
    failed: int
    total: int
    waiting_deliveries: int = 0
    """Results that wait for their delivery."""


class Attempt(View):
    """An attempt of a task."""

    attempt: int
    worker_id: str
    outcome: str
    started_at: int
    ended_at: int | None = None
    error: str | None = None
    tries: int = 1


class Delivery(View):
    """An attempt to deliver the result of a task to its webhook."""

    at: int
    trigger: str
    status: int | None = None
    error: str | None = None
    duration_ms: int | None = None
    next_attempt_at: int | None = None
    response: str | None = None


class EndpointInfo(View):
    """An endpoint as last read. `model_extra` has the rest of its settings, in camel case."""

    id: str
    name: str
    image: str
    status: str
    """INITIALIZING, RUNNING, STOPPING, STOPPED or FAILED."""
    total_workers: int
    running_workers: int
    service_mode: str
    etag: str | None = None
    """The version that was read, for `if_match` of a change; None in lists."""
    queued_tasks: int = 0
    running_tasks: int = 0
    paused: bool = False
    """True while workers begin no tasks."""
    cost: float = 0.0
    expose: dict[str, Any] | None = None
    webhook: str | None = None
    webhook_secret: str | None = None
    """Only in the response that creates the endpoint."""
    error: str | None = None
    """Why no worker runs. Only in the response that shows this endpoint alone."""


class WorkerInfo(View):
    """A worker of an endpoint."""

    worker_id: str
    status: str
    created_at: int
    region: str | None = None
    gpu_type: str | None = None
    restarts: int = 0
    last_heartbeat_at: int | None = None
    running_tasks: int = 0
    error: str | None = None


class OperationInfo(View):
    """A bulk operation on tasks as last read."""

    operation_id: str
    endpoint_id: int
    action: str
    """cancel, retry or delete."""
    filter: dict[str, Any] | None = None
    dry_run: bool = False
    status: str
    """running, done, cancelled or failed."""
    progress: float = 0.0
    """From 0 to 1."""
    total: int = 0
    scanned: int = 0
    given_tasks: int | None = None
    """Number of given ids; None with filters."""
    unknown_tasks: list[str] = Field(default_factory=list)
    """Given ids that have no task: the first of them."""
    matched: int = 0
    done: int = 0
    skipped: int = 0
    skip_reasons: dict[str, int] = {}
    failed: int = 0
    error: str | None = None
    started_at: int
    updated_at: int | None = None
    ended_at: int | None = None

    @property
    def has_ended(self) -> bool:
        return self.status != "running"


class LogLine(View):
    """A line of a worker's log. `timestamp` is ISO 8601 in UTC."""

    timestamp: str
    log: str
    offset: str | int


class WebhookEvent(BaseModel):
    """A verified webhook. Exactly one of `result` and `failed_reason` belongs to a task's result.

    An event of a worker has no `task_id`; its members are in `model_extra`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    """The `webhook-id`, the same in every attempt: use it to detect repeated deliveries."""
    sent_at: int
    """Time of this attempt in seconds since 1970."""
    task_id: int | None = None
    user_task_id: str | None = None
    """The id with which the task was submitted."""
    endpoint_id: str | None = None
    status: str | None = None
    success: bool | None = None
    timestamp: str | None = None
    retry_count: int | None = None
    """1 in the first attempt."""
    result: Any = None
    result_truncated: bool = False
    """True if the output is over 256 KiB: read the task for it."""
    failed_reason: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
