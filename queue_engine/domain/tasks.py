"""Tasks: their states, the statuses that the API shows, and the outcome of a container's response.

The state machine is drawn in docs/internals/state-machine.md; the transitions themselves are the scripts in
queue_engine/store/lua.
"""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from queue_engine.domain.definitions import Definition, definitions_of
from queue_engine.domain.field_types import (
    ContainerPath,
    Delay,
    EpochMs,
    ExecutionTimeout,
    FairnessKey,
    ForwardedHeaders,
    Metadata,
    Port,
    QueueTtl,
    Tags,
    matching,
)
from queue_engine.domain.quick import quick_init
from queue_engine.domain.retry import RetryOn, TaskRetryPolicy
from queue_engine.rules.signing_secrets import check_auth_key

ERROR_EXCERPT_BYTES = 2048
"""Maximum number of bytes of a container's response that a task's `error` repeats."""

CANCELLED_WHILE_RUNNING = "the task was cancelled while it was running"
"""The error of a task that was cancelled during an attempt."""

CONNECTION_LOST = "the connection to the worker's container was lost before the whole response arrived"
"""Beginning of the error of an attempt that lost the connection. A container's text is never at the beginning."""

SUSPECT_AFTER = 2
"""Number of attempts that ended with a lost worker or connection after which the task is run alone."""

NOT_CONNECTED = frozenset({"connect_refused", "connect_timeout", "dns_error"})
"""Error types of a call that did not reach the container, because the worker is not up."""


class TaskState(StrEnum):
    """The state of a task. The last six are terminal."""

    SCHEDULED = "scheduled"
    """The task waits for the time of its next attempt."""
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """The task's time in the queue ran out before it started."""
    TIMED_OUT = "timed_out"
    """No response within the execution timeout."""
    DEAD = "dead"
    """The task's worker was lost too many times."""


TERMINAL_STATES = frozenset(TaskState) - {TaskState.SCHEDULED, TaskState.QUEUED, TaskState.RUNNING}


class TaskStatus(StrEnum):
    """The status of a task in the API."""

    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


class AttemptOutcome(StrEnum):
    """The outcome of an attempt of a task."""

    RUNNING = "running"
    OK = "ok"
    ERROR = "error"
    """The container responded with an error, or with a response that cannot be recorded."""
    TIMEOUT = "timeout"
    BUSY = "busy"
    """429 or 503, or 409 if it is retried."""
    NO_CONNECTION = "no_connection"
    CONNECTION_LOST = "connection_lost"
    LOST = "lost"
    """The worker was lost."""
    RELEASED = "released"
    """The agent drained and released the task. The attempt does not count."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Attempt:
    """An attempt of a task. Times are epoch milliseconds of the store's clock."""

    number: int
    """1 for the first. The next attempt reuses the number of an attempt that did not count."""
    worker_id: str
    outcome: AttemptOutcome
    started_at_ms: int
    ended_at_ms: int | None
    error: str | None
    tries: int = 1
    """Number of consecutive tries that found a worker busy or not up. The times are of the first and the latest try."""


class DeliveryStatus(StrEnum):
    """Progress of the delivery of a task's result to its webhook."""

    INIT = "INIT"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    MAX_RETRIES_EXCEEDED = "MAX_RETRIES_EXCEEDED"


def status_of(state: TaskState, delivery: DeliveryStatus) -> TaskStatus:
    """Return the API's status of a task in `state`, given the delivery status of its result."""
    if state not in TERMINAL_STATES:
        return TaskStatus.PROCESSING
    if state is not TaskState.SUCCEEDED:
        return TaskStatus.FAILED
    return TaskStatus.DELIVERED if delivery is DeliveryStatus.SUCCESS else TaskStatus.SUCCESS


@dataclass(frozen=True)
class TaskField(Definition):
    """Definition of a field of a submission: see queue_engine/domain/definitions.py."""

    secret: bool = False
    """True for a field that is sealed in the store and left out of lists."""
    is_shown: bool = True
    """True for a field that lists and the detail of tasks show unchanged."""
    is_in_detail: bool = False
    """True for a field that only the detail shows unchanged."""


class Priority(StrEnum):
    """The level of a waiting task. A level goes before those below it, apart from their share of the claims."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


_LEVELS = {Priority.HIGH: "0", Priority.NORMAL: "1", Priority.LOW: "2"}
_DEFAULT_LEVEL = "-"
"""Stands for the level of the endpoint's default priority, until the task is stored."""


def lane_of(priority: Priority | None, fairness_key: str | None) -> str | None:
    """Return the lane in which a new task waits: the digit of its level, and its key.

    Without a priority the store puts the digit of the endpoint's default in. None for a task that gives neither.
    """
    if priority is None and fairness_key is None:
        return None
    return (_DEFAULT_LEVEL if priority is None else _LEVELS[priority]) + (fairness_key or "")


def priority_in(lane: str | None) -> Priority:
    """Return the priority of a task with this lane; None for one that waits in the plain queue."""
    return next((one for one, digit in _LEVELS.items() if lane and lane[0] == digit), Priority.NORMAL)


def fairness_key_in(lane: str | None) -> str | None:
    """Return the fairness key of a task with this lane."""
    return (lane or "")[1:] or None


AuthKey = Annotated[
    str,
    Field(min_length=1, max_length=255),
    matching(r"[!-~](?:[ -~]*[!-~])?", "must be visible ASCII characters, with spaces inside only"),
    AfterValidator(check_auth_key),
]


@quick_init
@dataclass(frozen=True)
class TaskSpec:
    """The fields of a submission without the input, which is kept byte for byte.

    The spec is stored as a whole, so a field that is added here is stored and shown without further code. Fields with a
    definition are fields of the request.
    """

    worker_port: Annotated[
        Port,
        TaskField(
            "Port of the container to which the task is POSTed",
            stored="port",
            option="--port",
            is_shown=False,
            is_in_detail=True,
        ),
    ]
    process_uri: Annotated[
        ContainerPath,
        TaskField(
            "Path to which the task is POSTed; a leading slash is added, a trailing slash is kept",
            stored="uri",
            option="--path",
            is_shown=False,
            is_in_detail=True,
        ),
    ]
    headers: Annotated[
        ForwardedHeaders,
        TaskField(
            "Headers for the container; hop-by-hop, framing and routing headers are refused",
            option="--header",
            secret=True,
            is_shown=False,
        ),
    ] = field(default_factory=dict, repr=False)
    webhook: Annotated[str | None, TaskField("URL to which the result is POSTed")] = None
    webhook_destination: str | None = None
    """`scheme://host:port` of the webhook."""
    webhook_auth_key: Annotated[
        AuthKey | None,
        TaskField(
            "Sent to the webhook as `X-API-Key`; never returned. A key that begins with `whsec_` is a signing secret, "
            "which signs the result in place of the endpoint's, and is never sent",
            stored="auth_key",
            secret=True,
            is_shown=False,
        ),
    ] = field(default=None, repr=False)
    metadata: Annotated[
        Metadata,
        TaskField(
            "Names (1–40 characters) and texts (up to 256) that are returned with the task and sent to its webhook; at "
            "most 16. They are neither searched nor secret",
        ),
    ] = field(default_factory=dict)
    tags: Annotated[
        Tags,
        TaskField("Words by which tasks are found. Their order and repetitions do not count", option="--tag"),
    ] = field(default_factory=list)
    traceparent: str | None = None
    submitter: str | None = None
    """The submitter of a task from a key that may only read its own tasks: see `Principal.submitter`."""

    @property
    def trace_id(self) -> str | None:
        """The trace in the `traceparent` of the submission; None without one."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]


SPEC_FIELDS = definitions_of(TaskSpec, TaskField)
"""The fields of a request that are stored in the task's spec."""


@quick_init
@dataclass(frozen=True)
class NewTask:
    """A validated submission. `input` is the JSON text as received."""

    task_id: str
    endpoint_id: str
    tenant: str
    spec: TaskSpec
    input: bytes | memoryview
    fingerprint: str
    """Hash of the request, which identifies a repeated submission; at most 64 characters."""
    timeout_seconds: Annotated[
        ExecutionTimeout | None,
        TaskField(
            "Time limit of an attempt, in seconds; the endpoint's setting by default",
            asked="execution_timeout_seconds",
            option="--execution-timeout",
        ),
    ] = None
    queue_ttl_seconds: Annotated[
        QueueTtl | None,
        TaskField(
            "Time limit of waiting, in seconds, after which it ends as expired; the endpoint's setting by default",
            option="--queue-ttl",
        ),
    ] = None
    delay_seconds: Annotated[
        Delay | None,
        TaskField("Time from the submission before which it does not begin, in seconds", option="--delay"),
    ] = None
    run_at_ms: Annotated[
        EpochMs | None,
        TaskField(
            "Time before which it does not begin, at most 30 days ahead: RFC 3339 with an offset, or epoch "
            "milliseconds. A time in the past means now. Not together with a delay",
            asked="run_at",
        ),
    ] = None
    priority: Annotated[
        Priority | None,
        Field(strict=False),
        TaskField(
            "`high`, `normal` or `low`: higher levels begin first, and lower ones keep a share. By default the "
            "endpoint's `defaultPriority`",
        ),
    ] = None
    fairness_key: Annotated[
        FairnessKey | None,
        TaskField(
            "Name of those whose tasks take turns with the tasks of other keys, such as a customer; 1–40 of "
            "`[A-Za-z0-9_.@-]`",
        ),
    ] = None

    @property
    def lane(self) -> str | None:
        """The lane in which it waits; None if it gives neither a priority nor a key."""
        return lane_of(self.priority, self.fairness_key)


TASK_FIELDS = (*SPEC_FIELDS, *definitions_of(NewTask, TaskField))
"""The fields of a request besides its id and its input."""


class Payload(StrEnum):
    """The part of a task's input and output that is read with its detail."""

    FULL = "full"
    HEAD = "head"
    """The first HEAD_BYTES of each."""
    NONE = "none"


HEAD_BYTES = 2048
"""Maximum length of the head of an input or output."""


@dataclass(frozen=True)
class Head:
    """The beginning of an input or output, cut between two characters."""

    text: str
    size: int
    """Its length in bytes of UTF-8, which is the place of the cut."""
    is_cut: bool
    """True if the input or output is longer."""

    @classmethod
    def of(cls, read: bytes | memoryview, whole_bytes: int) -> Head:
        """Return the head in the first bytes of a text with `whole_bytes` bytes."""
        is_cut = len(read) < whole_bytes
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(bytes(read), final=not is_cut)
        return cls(text, len(read) - len(decoder.getstate()[0]), is_cut)


@dataclass(frozen=True)
class Heads:
    """The heads of the input and the output of a task."""

    input: Head
    output: Head | None


@dataclass(frozen=True)
class LongText:
    """JSON text that is not read as a whole, because a process would hold megabytes of it while it is sent on."""

    size: int
    read: Callable[[int], Awaitable[bytes]]
    """Function that returns the part that begins at an offset; empty when the text no longer exists."""


@dataclass(frozen=True)
class LongTexts:
    """The input and the output of a task, if they are not read as a whole."""

    input: LongText
    output: LongText | None


@dataclass(frozen=True)
class DetailFacts:
    """Facts about a task that only its detail has. Times are epoch milliseconds of the store's clock."""

    next_attempt_at_ms: int | None
    """Time of the next attempt of a scheduled task."""
    expires_at_ms: int | None
    """Time at which a waiting task ends as expired."""
    kept_from_ms: int | None
    """Time from which the retention of an ended task counts."""
    removed_at_ms: int | None
    """Time at which the store itself removes the data of an ended task."""
    input_bytes: int
    output_bytes: int | None
    """None for a task that has not succeeded."""

    def purge_at_ms(self, retention_seconds: int) -> int | None:
        """Return the time at which an ended task is removed, by its endpoint's retention; None before its end."""
        if self.kept_from_ms is None:
            return self.removed_at_ms
        due_at_ms = self.kept_from_ms + retention_seconds * 1000
        return due_at_ms if self.removed_at_ms is None else min(due_at_ms, self.removed_at_ms)


@dataclass(frozen=True)
class Task:
    """A task as recorded in the store. Times are epoch milliseconds of the store's clock."""

    task_id: str
    endpoint_id: str
    number: int
    state: TaskState
    spec: TaskSpec
    attempts: int
    lost: int
    created_at_ms: int
    updated_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int | None
    worker_id: str | None
    worker_address: str | None
    error: str | None
    delivery_status: DeliveryStatus
    delivery_attempts: int
    delivery_error: str | None
    """Reason why the delivery was given up; in a detail also the error of the latest attempt while others follow."""
    delivered_at_ms: int | None
    next_delivery_at_ms: int | None
    """The earliest time of the next delivery attempt."""
    delivery_parked: bool = False
    """True if the destination is parked: at that time the delivery is checked again, and sent only as a probe."""
    timeout_seconds: float = 0.0
    """Time limit of an attempt."""
    queue_ttl_seconds: float | None = None
    """Time limit in the queue; None if unlimited."""
    run_at_ms: int | None = None
    """Time before which it does not begin, if it was submitted with one that was ahead."""
    priority: Priority = Priority.NORMAL
    fairness_key: str | None = None
    cancel_requested: bool = False
    runs: int = 1
    """Number of times that the task was submitted or retried by hand."""
    retried_connections_lost: int = 0
    """Number of attempts since its latest submission that lost the connection to the container and were retried."""
    lost_lease: bool = False
    """True if the latest attempt lost its lease and no other attempt has started."""
    silent_seconds: int | None = None
    """Time for which its worker had not renewed this lease; None if it is not known."""
    latest_attempt_noted: bool = False
    """True if the history includes the latest attempt: it ended before the task did, or the task has not ended."""
    input: bytes | memoryview | None = None
    """JSON text; None if it was not requested."""
    output: bytes | None = None
    """JSON text; None if there is none or it was not requested."""
    long: LongTexts | None = None
    """Input and output in place of the two before, if they are long."""
    heads: Heads | None = None
    """The beginnings of input and output in place of these, if they were requested."""
    facts: DetailFacts | None = None
    """None if they were not requested."""

    @property
    def ended_by_lost_connection(self) -> bool:
        """True if its last attempt lost the connection to the container and was not retried.

        The error tells it, because the script that ends a task counts nothing.
        """
        return self.state is TaskState.FAILED and (self.error or "").startswith(CONNECTION_LOST)

    @property
    def connections_lost(self) -> int:
        """Number of attempts since its latest submission that lost the connection to the container."""
        return self.retried_connections_lost + self.ended_by_lost_connection

    @property
    def is_suspect(self) -> bool:
        """True if it may crash its worker, because of the attempts that lost their worker or connection."""
        return self.lost + self.connections_lost >= SUSPECT_AFTER

    @property
    def status(self) -> TaskStatus:
        return status_of(self.state, self.delivery_status)

    @property
    def worker_url(self) -> str | None:
        """URL to which the latest attempt was forwarded; None before the first."""
        if self.worker_address is None:
            return None
        return f"http://{self.worker_address}{self.spec.process_uri}"


@dataclass(frozen=True)
class TaskPage:
    """A page of a list. `total` counts the items of all pages."""

    items: tuple[Task, ...]
    total: int


@dataclass(frozen=True)
class GivenUpDelivery:
    """A delivery that was given up, with its task."""

    task: Task
    at_ms: int
    """The time at which it was given up."""


class GivenUpPlace(NamedTuple):
    """The place of a given-up delivery in the order of the times at which deliveries were given up."""

    at_ms: int
    task_id: str


@dataclass(frozen=True)
class GivenUpPart:
    """The next given-up deliveries of a walk, newest first."""

    items: tuple[GivenUpDelivery, ...]
    next: GivenUpPlace | None
    """The place behind which the walk goes on; None if it has ended."""
    scanned: int
    """Number of deliveries that were looked at."""


@dataclass(frozen=True)
class GivenUpPage:
    """A page of given-up deliveries, newest first. `total` counts those of all pages."""

    items: tuple[GivenUpDelivery, ...]
    total: int


@quick_init
@dataclass(frozen=True)
class Lease:
    """The right of an attempt to record its result, renewed by heartbeats."""

    endpoint_id: str
    task_id: str
    token: str
    """Random. An attempt whose token differs from the task's is fenced."""


@quick_init
@dataclass(frozen=True)
class ClaimedTask:
    """A task that this agent runs now."""

    lease: Lease
    number: int
    attempt: int
    """1 for the first; the container sees it as `X-Task-Attempt`."""
    timeout_seconds: float
    spec: TaskSpec
    input: bytes | memoryview = field(repr=False)


@quick_init
@dataclass(frozen=True)
class ContainerResponse:
    """Result of a call of the container: a status with a body, or the error type of a failed call."""

    status: int | None = None
    output: bytes | memoryview = field(default=b"null", repr=False)
    """With 2xx: the body as JSON text."""
    excerpt: str = ""
    """With any other status: the beginning of the body as printable text."""
    location: str = ""
    """With a redirect: its location as printable text."""
    error_type: str | None = None
    """None, or a word of net.error_types, or `timeout`, `too_large`, `not_exposed`."""
    detail: str = ""
    retry_after_seconds: float | None = None
    """The response's `Retry-After`. It counts if the container is busy."""


@dataclass(frozen=True)
class Succeeded:
    """The attempt succeeded; `output` is JSON text."""

    output: bytes | memoryview = field(repr=False)


@dataclass(frozen=True)
class Failed:
    """The task ends in `state` (failed, timed_out or cancelled). `error` is a sentence with the reason."""

    error: str
    state: TaskState = TaskState.FAILED


class Cost(StrEnum):
    """The cost of a retried attempt to its task."""

    ATTEMPT = "attempt"
    BUSY = "busy"
    """Costs nothing until consecutive tries of this kind have lasted for the endpoint's maxBusySeconds; then it counts.
    """
    NOTHING = "nothing"
    """The worker has never been ready. The task does not wait, because another worker may be ready."""


@dataclass(frozen=True)
class TryAgain:
    """The task is retried after `delay_seconds`, or after `retry_after_seconds` if the container asks for that.

    No wait of a busy streak goes beyond the endpoint's maxBusySeconds.
    """

    error: str
    delay_seconds: float
    attempt_outcome: AttemptOutcome = AttemptOutcome.BUSY
    cost: Cost = Cost.ATTEMPT
    last_error: str = ""
    """With Cost.BUSY: the task's error if this try uses up the last attempt."""
    retry_after_seconds: float | None = None
    """With Cost.BUSY: the container's `Retry-After`."""


@dataclass(frozen=True)
class Budget:
    """The attempts that a task has used up."""

    attempt: int
    """Number of the attempt that ends now, not counting attempts that lost their worker."""
    max_attempts: int
    connections_lost: int = 0
    """Number of earlier attempts during which the connection to the container broke."""
    busy_tries: int = 0
    """Number of consecutive tries, up to now, that found a worker busy or not up."""


Outcome = Succeeded | Failed | TryAgain


def outcome_of(
    response: ContainerResponse, policy: TaskRetryPolicy, budget: Budget, *, luck: float, is_starting: bool = False
) -> Outcome:
    """Return the outcome of an attempt with this response.

    2xx succeeds. Responses that `policy` names are retried while attempts are left. 409, 429, 503 and no connection
    have a budget of their own, which the store tracks. 503 and no connection cost nothing while the worker
    `is_starting`, regardless of `policy`. Any other response ends the task. `luck` in [0, 1) sets the jitter of the
    wait.
    """
    if response.error_type is None and response.status is not None and 200 <= response.status < 300:
        return Succeeded(response.output)
    error = error_of(response)
    state = TaskState.TIMED_OUT if response.error_type == "timeout" else TaskState.FAILED
    reason = retry_reason(response)
    if is_starting and reason in _NOT_READY:
        return TryAgain(error, 0, _attempt_outcome(response), Cost.NOTHING)
    if reason not in policy.on:
        return Failed(error, state)
    last_error = f"{error} ({_budget_is_used_up(response, budget)})"
    if reason in _UNAVAILABLE:
        wait, retry_after = policy.delay_after(budget.busy_tries + 1, luck=luck), response.retry_after_seconds
        return TryAgain(error, wait, _attempt_outcome(response), Cost.BUSY, last_error, retry_after)
    if budget.attempt >= budget.max_attempts:
        return Failed(last_error, state)
    return TryAgain(error, policy.delay_after(budget.attempt, luck=luck), _attempt_outcome(response))


_NOT_READY = frozenset({RetryOn.UNAVAILABLE, RetryOn.NO_CONNECTION})
"""Responses of a worker that has never been ready and may still be loading."""
_UNAVAILABLE = _NOT_READY | {RetryOn.TOO_MANY_REQUESTS, RetryOn.CONFLICT}
"""Responses that show that the task has not started."""


def _budget_is_used_up(response: ContainerResponse, budget: Budget) -> str:
    if response.error_type == "reset" and 1 < budget.attempt <= budget.connections_lost + 1:
        return (
            f"the connection was lost in all {budget.attempt} attempts, so the task is assumed to be the cause and is "
            "not retried"
        )
    return f"attempt {budget.attempt} of {budget.max_attempts}, no attempts are left"


def retry_reason(response: ContainerResponse) -> RetryOn | None:
    """Return a retry policy's word for a failed response; None if it has none."""
    if response.error_type in NOT_CONNECTED:
        return RetryOn.NO_CONNECTION
    if response.error_type == "reset":
        return RetryOn.CONNECTION_LOST
    if response.error_type == "timeout":
        return RetryOn.TIMEOUT
    if response.error_type is not None or str(response.status) not in set(RetryOn):
        return None
    return RetryOn(str(response.status))


def _attempt_outcome(response: ContainerResponse) -> AttemptOutcome:
    if response.error_type in NOT_CONNECTED:
        return AttemptOutcome.NO_CONNECTION
    if response.error_type == "reset":
        return AttemptOutcome.CONNECTION_LOST
    if response.error_type == "timeout":
        return AttemptOutcome.TIMEOUT
    return AttemptOutcome.BUSY if response.status in (409, 429, 503) else AttemptOutcome.ERROR


def error_of(response: ContainerResponse) -> str:
    """Return a sentence that describes a failed response, with the first 2 KiB of its body.

    Text of the container comes after the first colon, where `loggable_error` cuts.
    """
    if response.error_type in NOT_CONNECTED:
        return f"no connection to the worker's container: {response.detail or response.error_type}"
    if response.error_type == "timeout":
        return f"the worker's container gave no response within the execution timeout{_reason(response.detail)}"
    if response.error_type == "reset":
        return f"{CONNECTION_LOST}{_reason(response.detail)}"
    if response.error_type == "bad_response":
        return f"the response of the worker's container cannot be understood{_reason(response.detail)}"
    if response.error_type is not None:
        return response.detail or response.error_type
    redirect = f": a redirect to {response.location}, which is not followed" if response.location else ""
    return f"the worker's container answered {response.status}{redirect}{_reason(response.excerpt)}"


def _reason(text: str) -> str:
    return f": {text}" if text else ""


def loggable_error(error: str) -> str:
    """Return the error up to its first colon, at most 200 characters.

    The rest may be text of the container that repeats the task's input, which must not be logged.
    """
    return error.partition(": ")[0][:200]
