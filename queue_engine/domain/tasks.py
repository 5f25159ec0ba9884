"""Tasks: their states, what the API calls them, and what an answer of the container means.

The state machine is drawn in docs/state_machine.md; the transitions themselves are the scripts in
queue_engine/store/lua.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from enum import StrEnum

from queue_engine.domain.retry import task_retry_delay

ERROR_EXCERPT_BYTES = 2048
"""How much of a container's answer is repeated in a task's `error`."""

NOT_CONNECTED_FAULTS = frozenset({"connect_refused", "connect_timeout", "dns_error"})
"""Faults of a call that never reached the container: the worker is not up."""


class TaskState(StrEnum):
    """Where a task is. The last six are terminal."""

    SCHEDULED = "scheduled"
    """Waits for the time of its next attempt."""
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its time in the queue ran out before it started."""
    TIMED_OUT = "timed_out"
    """No answer within the execution timeout."""
    DEAD = "dead"
    """Its worker was lost too many times."""


TERMINAL_STATES = frozenset(TaskState) - {TaskState.SCHEDULED, TaskState.QUEUED, TaskState.RUNNING}


class TaskStatus(StrEnum):
    """What the API calls a task's state."""

    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


class DeliveryStatus(StrEnum):
    """How far the delivery of a task's result to its webhook is."""

    INIT = "INIT"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    MAX_RETRIES_EXCEEDED = "MAX_RETRIES_EXCEEDED"


def status_of(state: TaskState, delivery: DeliveryStatus) -> TaskStatus:
    """The API's status of a task in `state` whose result's delivery is at `delivery`."""
    if state not in TERMINAL_STATES:
        return TaskStatus.PROCESSING
    if state is not TaskState.SUCCEEDED:
        return TaskStatus.FAILED
    return TaskStatus.DELIVERED if delivery is DeliveryStatus.SUCCESS else TaskStatus.SUCCESS


@dataclass(frozen=True)
class TaskSpec:
    """What the submitter asked for, apart from the input, which is kept as the bytes that came in."""

    worker_port: int
    process_uri: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    webhook: str | None = None
    webhook_destination: str | None = None
    """`scheme://host:port` of the webhook."""
    webhook_auth_key: str | None = field(default=None, repr=False)
    traceparent: str | None = None


@dataclass(frozen=True)
class Task:
    """One task as recorded in the store. Times are epoch milliseconds of the store's clock."""

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
    delivered_at_ms: int | None
    next_delivery_at_ms: int | None
    input: bytes | None = None
    """JSON text; None when it was not asked for."""
    output: bytes | None = None
    """JSON text; None when there is none or it was not asked for."""

    @property
    def status(self) -> TaskStatus:
        return status_of(self.state, self.delivery_status)

    @property
    def worker_url(self) -> str | None:
        """Where the latest attempt was forwarded to; None before the first."""
        if self.worker_address is None:
            return None
        return f"http://{self.worker_address}{self.spec.process_uri}"


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to record its result, kept by heartbeats."""

    endpoint_id: str
    task_id: str
    token: str
    """Random: an attempt with another token than the task's is fenced."""


@dataclass(frozen=True)
class ClaimedTask:
    """A task that this agent runs now."""

    lease: Lease
    number: int
    attempt: int
    """1 for the first; the container sees it as `X-Task-Attempt`."""
    lost: int
    """Attempts that ended because their worker was lost; they do not count against `max_attempts`."""
    max_attempts: int
    timeout_seconds: float
    created_at_ms: int
    started_at_ms: int
    spec: TaskSpec
    input: bytes = field(repr=False)


@dataclass(frozen=True)
class ContainerAnswer:
    """What came of one call of the container: a status with a body, or a fault."""

    status: int | None = None
    content_type: str = ""
    body: bytes = field(default=b"", repr=False)
    fault: str | None = None
    """None, or a word of runtime.http_faults, or `timeout`, `too_large`, `not_exposed`."""
    detail: str = ""


@dataclass(frozen=True)
class Succeeded:
    """The attempt succeeded; `output` is JSON text."""

    output: bytes = field(repr=False)


@dataclass(frozen=True)
class Failed:
    """The task ends in `state` (failed or timed_out); `error` says why in a sentence."""

    error: str
    state: TaskState = TaskState.FAILED


@dataclass(frozen=True)
class TryAgain:
    """The worker was busy or not up: the task waits `delay_seconds` and is tried again."""

    error: str
    delay_seconds: float


Outcome = Succeeded | Failed | TryAgain


def judge(answer: ContainerAnswer, *, attempt: int, max_attempts: int, luck: float) -> Outcome:
    """What the answer of attempt number `attempt` means for the task.

    2xx succeeds. 429, 503, no connection and a lost connection are tried again while attempts are left. Anything else,
    and no answer in time, ends the task. `luck` in [0, 1) spreads the wait.
    """
    if answer.status is not None and answer.fault is None and 200 <= answer.status < 300:
        return Succeeded(output_of(answer.content_type, answer.body))
    error = error_of(answer)
    if answer.fault == "timeout":
        return Failed(error, TaskState.TIMED_OUT)
    if not _worth_retrying(answer):
        return Failed(error)
    if attempt >= max_attempts:
        return Failed(f"{error} (attempt {attempt} of {max_attempts}, no more are left)")
    return TryAgain(error, task_retry_delay(attempt, luck=luck))


def _worth_retrying(answer: ContainerAnswer) -> bool:
    if answer.fault is None:
        return answer.status in (429, 503)
    return answer.fault in NOT_CONNECTED_FAULTS or answer.fault == "reset"


def error_of(answer: ContainerAnswer) -> str:
    """One sentence on a failed answer, with the first 2 KiB of its body."""
    if answer.fault in NOT_CONNECTED_FAULTS:
        return f"no connection to the worker's container: {answer.detail or answer.fault}"
    if answer.fault == "timeout":
        return f"the worker's container gave no answer within the execution timeout{_reason(answer.detail)}"
    if answer.fault == "reset":
        return f"the connection to the worker's container was lost before the whole answer came{_reason(answer.detail)}"
    if answer.fault is not None:
        return answer.detail or answer.fault
    excerpt = answer.body[:ERROR_EXCERPT_BYTES].decode("utf-8", "replace")
    return f"the worker's container answered {answer.status}{_reason(excerpt)}"


def _reason(text: str) -> str:
    return f": {text}" if text else ""


def output_of(content_type: str, body: bytes) -> bytes:
    """The JSON text that is recorded as a task's `output` for this body.

    JSON as it is, to the byte; other text as a string; binary as `{"contentType", "base64"}`; an empty body as null.
    """
    if not body:
        return b"null"
    media_type = content_type.partition(";")[0].strip().lower()
    if _may_be_json(media_type) and is_json(body):
        return body
    text = _text_of(media_type, body)
    if text is not None:
        return json.dumps(text, ensure_ascii=False).encode()
    encoded = base64.b64encode(body).decode()
    return json.dumps({"contentType": media_type or "application/octet-stream", "base64": encoded}).encode()


def _may_be_json(media_type: str) -> bool:
    return media_type in ("", "application/json", "text/json") or media_type.endswith("+json")


def _text_of(media_type: str, body: bytes) -> str | None:
    if not (_may_be_json(media_type) or media_type.startswith("text/") or media_type in _TEXT_TYPES):
        return None
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if media_type or "\x00" not in text else None


_TEXT_TYPES = frozenset({"application/xml", "application/javascript", "application/x-ndjson", "application/yaml"})


def is_json(body: bytes) -> bool:
    """Whether `body` is one JSON value by RFC 8259: UTF-8 without BOM, no NaN or Infinity, not nested beyond reason."""
    try:
        json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
