"""Deliveries: one event to send to a webhook, what is sent, and what follows from the receiver's response."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from queue_engine.domain.retry import Schedule

MAX_RESULT_BYTES = 256 * 1024
"""A larger output is not sent; the body says `result_truncated` and the receiver asks the API for it."""

MAX_RETRY_AFTER_SECONDS = 6 * 3600.0
"""A receiver cannot put a delivery off for longer than this."""


@dataclass(frozen=True)
class TaskResult:
    """What a task's webhook is told. Taken from the task as it ended."""

    task_number: int
    task_id: str
    endpoint_id: str
    succeeded: bool
    finished_at_ms: int
    output: bytes | None = field(default=None, repr=False)
    """JSON text; None when the task failed or the output is larger than MAX_RESULT_BYTES."""
    truncated: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Delivery:
    """One event on its way to a webhook. Given out to one delivery process at a time."""

    delivery_id: str
    entry_id: str
    """The outbox entry that fences: only its holder may settle."""
    message_id: str
    """The `webhook-id`: the same on every attempt of one event."""
    attempts: int
    """Attempts already made."""
    created_at_ms: int
    url: str
    auth_key: str | None = field(repr=False)
    signing_secret: str | None = field(repr=False)
    body: bytes = field(repr=False)
    unreadable: str | None = None
    """Why this process cannot send it: it has not the key that the webhook's secrets were sealed with."""


@dataclass(frozen=True)
class WorkerEvent:
    """A change of a worker's status, as its endpoint's webhook is told."""

    endpoint_id: str
    worker_id: str
    status: str
    previous_status: str | None
    """None for a new worker."""
    reason: str
    at_ms: int


def worker_event_body(event: WorkerEvent) -> bytes:
    """The JSON body. The same on every attempt."""
    body = {
        "type": "worker.status",
        "endpointId": event.endpoint_id,
        "workerId": event.worker_id,
        "status": event.status,
        "previousStatus": event.previous_status,
        "reason": event.reason,
        "timestamp": webhook_time(event.at_ms),
    }
    return json.dumps(body, ensure_ascii=False).encode()


def task_result_body(result: TaskResult, *, retry_count: int) -> bytes:
    """The JSON body for attempt number `retry_count` (1 for the first). The output goes in as the bytes recorded."""
    body: dict[str, object] = {
        "task_id": result.task_number,
        "user_task_id": result.task_id,
        "endpoint_id": result.endpoint_id,
        "status": "Success" if result.succeeded else "Failed",
        "success": result.succeeded,
        "timestamp": webhook_time(result.finished_at_ms),
        "retry_count": retry_count,
    }
    if result.truncated:
        body["result_truncated"] = True
    if result.error is not None:
        body["failed_reason"] = result.error
    text = json.dumps(body, ensure_ascii=False).encode()
    if result.output is None:
        return text
    return text[:-1] + b', "result": ' + result.output + b"}"


def webhook_time(epoch_ms: int) -> str:
    """`YYYY-MM-DD HH:mm:ss.SSS` in UTC."""
    moment = datetime.fromtimestamp(epoch_ms // 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{epoch_ms % 1000:03d}"


@dataclass(frozen=True)
class WebhookResponse:
    """The result of one delivery attempt: a response, or the error in its place."""

    status: int | None
    """HTTP status; None when none came."""
    error_type: str | None
    """None when delivered, else a word of the closed set in docs/operations/metrics.md."""
    excerpt: str = ""
    """The first 2 KiB of the response, or a text for the error."""
    retry_after_seconds: float | None = None
    duration_seconds: float = 0.0


UNRESOLVED = "the host name does not resolve to an address that is allowed"


def as_recorded(response: WebhookResponse, *, named: bool) -> WebhookResponse:
    """Return the response as its tenant may see it.

    With a host that is `named` and no address, one that resolves inside is recorded like one that does not resolve: a
    tenant must not learn the names of the private network from the difference.
    """
    if named and response.error_type in ("dns_error", "blocked_address"):
        return replace(response, error_type="dns_error", excerpt=UNRESOLVED)
    return response


@dataclass(frozen=True)
class Delivered:
    """The receiver answered 2xx."""


@dataclass(frozen=True)
class DeliverAgain:
    """The attempt failed and another is due after `delay_seconds`."""

    delay_seconds: float
    reason: str


@dataclass(frozen=True)
class GivenUp:
    """The last attempt failed, or the receiver wants no more."""

    reason: str


Verdict = Delivered | DeliverAgain | GivenUp


def verdict_on(response: WebhookResponse, schedule: Schedule, *, attempt: int, luck: float) -> Verdict:
    """Decide what follows from the response to attempt number `attempt` (1 for the first).

    Status 410 ends the delivery. `Retry-After` can lengthen the wait up to 6 hours, never shorten it. `luck` in [0, 1)
    spreads the wait.
    """
    if response.error_type is None:
        return Delivered()
    reason = reason_of(response)
    if response.error_type == "gone":
        return GivenUp(f"{reason}; the receiver wants no more")
    delay_seconds = schedule.delay_after(attempt, luck=luck)
    if delay_seconds is None:
        return GivenUp(f"{reason}; attempt {attempt} of {schedule.max_attempts} was the last")
    if response.retry_after_seconds is not None:
        delay_seconds = max(delay_seconds, min(response.retry_after_seconds, MAX_RETRY_AFTER_SECONDS))
    return DeliverAgain(delay_seconds, reason)


def reason_of(response: WebhookResponse) -> str:
    """A short sentence on a failed attempt."""
    what = response.error_type if response.status is None else f"{response.error_type} (status {response.status})"
    return f"{what}: {response.excerpt[:200]}" if response.excerpt else str(what)
