"""Deliveries: an event for a webhook, the body that is sent, and the verdict on the receiver's response."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from queue_engine.domain.retry import Schedule

MAX_RESULT_BYTES = 256 * 1024
"""A larger output is not sent. The body has `result_truncated`, and the receiver gets the output from the API."""

MAX_RETRY_AFTER_SECONDS = 6 * 3600.0
"""Maximum delay that a receiver can ask for."""


_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each body


@dataclass(frozen=True)
class TaskResult:
    """The result that is sent to a task's webhook, copied from the task when it ended."""

    task_number: int
    task_id: str
    endpoint_id: str
    succeeded: bool
    finished_at_ms: int
    output: bytes | None = field(default=None, repr=False)
    """JSON text; None when the task failed or the output is larger than MAX_RESULT_BYTES."""
    truncated: bool = False
    error: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery:
    """An event to send to a webhook. Only one delivery process holds it at a time."""

    delivery_id: str
    entry_id: str
    """The outbox entry, which serves as a fence: only its holder may settle the delivery."""
    message_id: str
    """The `webhook-id`: the same on every attempt of one event."""
    attempts: int
    """Number of attempts already made."""
    created_at_ms: int
    url: str
    auth_key: str | None = field(repr=False)
    signing_secrets: tuple[str, ...] = field(repr=False)
    """The secrets that sign the event, the newest first. After a rotation there are several."""
    body: bytes = field(repr=False)
    unreadable: str | None = None
    """The reason why this process cannot send the event: the key that sealed the webhook's secrets is missing."""


@dataclass(frozen=True)
class WorkerEvent:
    """A change of a worker's status, as it is sent to the endpoint's webhook."""

    endpoint_id: str
    worker_id: str
    status: str
    previous_status: str | None
    """None for a new worker."""
    reason: str
    at_ms: int


def worker_event_body(event: WorkerEvent) -> bytes:
    """Return the JSON body, which is the same on every attempt."""
    body = {
        "type": "worker.status",
        "endpointId": event.endpoint_id,
        "workerId": event.worker_id,
        "status": event.status,
        "previousStatus": event.previous_status,
        "reason": event.reason,
        "timestamp": webhook_time(event.at_ms),
    }
    return _json(body).encode()


@dataclass(frozen=True)
class WebhookTest:
    """An event without meaning, which a client sends to see whether a webhook works. It has one attempt."""

    test_id: str
    endpoint_id: str
    tenant: str
    url: str
    auth_key: str | None = field(repr=False)
    """The key that the receiver gets; None: none. A key that signs is not sent."""

    @property
    def message_id(self) -> str:
        """The `webhook-id`."""
        return f"msg_test_{self.test_id}"


class Unsent(StrEnum):
    """Reasons why a test of a webhook has no result."""

    NO_PROCESS = "no_process"
    """No delivery process has reported to the store as long as its report is valid."""
    SILENT = "silent"
    """The reports of all delivery processes are late."""
    STARTING = "starting"
    """All delivery processes that are not silent have started while the test waited."""
    BUSY = "busy"
    """No delivery process had a free slot for the test in time."""
    NO_RESULT = "no_result"
    """The delivery process that took the test has sent no result."""


def webhook_test_body(test: WebhookTest, at_ms: int) -> bytes:
    """Return the JSON body of a test."""
    body = {
        "type": "webhook.test",
        "endpointId": test.endpoint_id,
        "message": "A test of this webhook",
        "timestamp": webhook_time(at_ms),
    }
    return _json(body).encode()


def task_result_body(result: TaskResult, *, retry_count: int) -> bytes:
    """Return the JSON body for attempt number `retry_count` (1 for the first). The output is included byte for byte."""
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
    if result.metadata:
        body["metadata"] = dict(result.metadata)
    text = _json(body).encode()
    if result.output is None:
        return text
    return text[:-1] + b', "result": ' + result.output + b"}"


def webhook_time(epoch_ms: int) -> str:
    """Return the time as `YYYY-MM-DD HH:mm:ss.SSS` in UTC."""
    return f"{_second(epoch_ms // 1000)}.{epoch_ms % 1000:03d}"


@lru_cache(maxsize=64)  # tasks that are delivered after each other have ended in the same few seconds
def _second(epoch_seconds: int) -> str:
    return f"{datetime.fromtimestamp(epoch_seconds, UTC):%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True)
class Phases:
    """Milliseconds of a delivery attempt by phase. None: the phase was not reached, or the connection was kept."""

    connect_ms: int | None = None
    """Lookup of the name and connection. If the attempt failed in it, the TLS handshake too."""
    tls_ms: int | None = None
    """TLS handshake; None without TLS."""
    send_ms: int | None = None
    """Until the request was passed to the system."""
    wait_ms: int | None = None
    """Until the head of the response."""


@dataclass(frozen=True)
class WebhookResponse:
    """The result of a delivery attempt: a response, or an error if none was received."""

    status: int | None
    """HTTP status; None if no response was received."""
    error_type: str | None
    """None if delivered, otherwise a word of the closed set in docs/operations/metrics.md."""
    excerpt: str = ""
    """The first 2 KiB of the response, or a text that describes the error."""
    retry_after_seconds: float | None = None
    duration_seconds: float = 0.0
    phases: Phases = Phases()


def in_words(response: WebhookResponse) -> str:
    """Return the result of an attempt as a sentence."""
    if response.status is None:
        return response.excerpt
    took = f"after {response.duration_seconds:.2f} s"
    if response.error_type is None:
        return f"the receiver accepted it with status {response.status} {took}"
    hint = _HINTS.get(response.error_type, "")
    return f"the receiver responded with status {response.status} {took}{hint}"


_HINTS = {
    "redirect": "; redirects are not followed, so give the URL that it leads to",
    "gone": "; a delivery is given up at once after it",
    "rate_limited": "; deliveries wait as long as its Retry-After asks for",
}
UNRESOLVED = "the host name does not resolve to an address that is allowed"


def as_recorded(response: WebhookResponse, *, named: bool) -> WebhookResponse:
    """Return the response in the form that its tenant may see.

    If the host is a name (`named`) and not an address, a host that resolves to a private address is recorded like one
    that does not resolve, so that a tenant cannot probe the names of the private network.
    """
    if named and response.error_type in ("dns_error", "blocked_address"):
        return replace(response, error_type="dns_error", excerpt=UNRESOLVED)
    return response


@dataclass(frozen=True)
class Delivered:
    """The receiver responded 2xx."""


@dataclass(frozen=True)
class DeliverAgain:
    """The attempt failed and another is due after `delay_seconds`."""

    delay_seconds: float
    reason: str


@dataclass(frozen=True)
class GivenUp:
    """The last attempt failed, or the receiver declined further attempts with 410."""

    reason: str


Verdict = Delivered | DeliverAgain | GivenUp


def verdict_on(response: WebhookResponse, schedule: Schedule, *, attempt: int, luck: float) -> Verdict:
    """Return the verdict on the response to attempt number `attempt` (1 for the first).

    Status 410 ends the delivery. `Retry-After` can lengthen the wait up to 6 hours, but not shorten it. `luck` in [0,
    1) determines the jitter.
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
    """Return a short sentence that describes a failed attempt."""
    return _described(response.error_type, response.status, response.excerpt)


def _described(error_type: str | None, status: int | None, excerpt: str) -> str:
    what = error_type if status is None else f"{error_type} (status {status})"
    return f"{what}: {excerpt[:200]}" if excerpt else str(what)


class Trigger(StrEnum):
    """The event that has made a delivery due."""

    RESULT = "result"
    """The task ended, or the schedule of the attempts after that."""
    RETRY = "retry"
    """A client has ordered to send the result now."""
    REDELIVER = "redeliver"
    """A client has ordered to send the result again, although it may have been delivered."""
    RECOVER = "recover"
    """A recovery of deliveries that were given up."""


_TRIGGERS = frozenset(Trigger)


def trigger_in(text: str) -> str:
    """Return the trigger with this name. The name of a trigger that only a later version has stays text."""
    return Trigger(text) if text in _TRIGGERS else text


@dataclass(frozen=True)
class DeliveryAttempt:
    """An attempt in a task's ledger. Times are epoch milliseconds."""

    at_ms: int
    status: int | None
    error_type: str | None
    duration_ms: int
    excerpt: str
    trigger: str = Trigger.RESULT
    """A Trigger, or a trigger that only a later version has."""
    phases: Phases | None = None
    """None for an attempt of version 0.2 or earlier."""
    next_at_ms: int | None = None
    """The time at which the next attempt was due after this one; None when no other was due."""

    @property
    def reason(self) -> str | None:
        """A short sentence that describes the failure; None for an attempt that has delivered."""
        return None if self.error_type is None else _described(self.error_type, self.status, self.excerpt)


class RecoveryState(StrEnum):
    """The state of a recovery."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Recovery:
    """A recovery: the deliveries that an endpoint has given up in a period are sent again, a few at a time.

    Times are epoch milliseconds of the store's clock.
    """

    state: RecoveryState
    since_ms: int
    until_ms: int
    total: int
    """Number of given-up deliveries in the period when the recovery began."""
    sent: int
    """Number of deliveries that the recovery has made due."""
    remaining: int
    """Number of given-up deliveries in the period now."""
    created_at_ms: int
    updated_at_ms: int
    ended_at_ms: int | None
