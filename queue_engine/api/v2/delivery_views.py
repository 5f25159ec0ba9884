"""Views of deliveries: the schemas, and the functions that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from queue_engine.api.http.envelope import View
from queue_engine.api.v2.pages import page_view
from queue_engine.domain.deliveries import DeliveryAttempt, Phases, Recovery, RecoveryState, Trigger
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.tasks import DeliveryStatus, GivenUpDelivery, GivenUpPage, GivenUpPart, TaskStatus
from queue_engine.engine.deliveries import SendOrder
from queue_engine.engine.endpoints import Page


class PhasesView(View):
    """Duration of a delivery attempt by phase, in milliseconds. null: not reached, or not needed."""

    connect_ms: int | None = Field(description="Name lookup and connection; null on a kept connection")
    tls_ms: int | None = Field(description="TLS handshake; null without TLS and on a kept connection")
    send_ms: int | None = Field(description="Sending of the request")
    wait_ms: int | None = Field(description="Wait for the head of the response")


class DeliveryAttemptView(View):
    """An attempt to deliver a task's result."""

    at: int = Field(description="Time at which the request was sent")
    trigger: Trigger = Field(
        description="Cause of the delivery. `result`: the task ended; `retry`, `redeliver`: a client ordered it; "
        "`recover`: a recovery of given-up deliveries. Later attempts of the same delivery have the same trigger"
    )
    status: int | None = Field(description="HTTP status of the receiver's response; null without a response")
    error: str | None = Field(description="Error type; null if delivered", examples=["http_5xx"])
    duration_ms: int = Field(description="Duration of the attempt")
    phases: PhasesView | None = Field(description="Duration by phase; null for an attempt of version 0.2 or earlier")
    next_attempt_at: int | None = Field(
        description="Time at which the next attempt was due after this one; null if no other was due"
    )
    response: str = Field(description="The beginning of the receiver's response")


def ledger_view(attempts: Sequence[DeliveryAttempt]) -> list[dict[str, Any]]:
    """Return a list of DeliveryAttemptViews."""
    return [
        {
            "at": one.at_ms,
            "trigger": one.trigger,
            "status": one.status,
            "error": one.error_type,
            "durationMs": one.duration_ms,
            "phases": None if one.phases is None else phases_view(one.phases),
            "nextAttemptAt": one.next_at_ms,
            "response": one.excerpt,
        }
        for one in attempts
    ]


def phases_view(phases: Phases) -> dict[str, int | None]:
    """Return a PhasesView."""
    return {
        "connectMs": phases.connect_ms,
        "tlsMs": phases.tls_ms,
        "sendMs": phases.send_ms,
        "waitMs": phases.wait_ms,
    }


class DeliveryView(View):
    """The delivery of a task's result."""

    task_id: str = Field(description="Id of the task")
    task_status: TaskStatus = Field(description="Status of the task")
    status: DeliveryStatus = Field(description="Status of the delivery, as `deliveryStatus` of the task")
    webhook: str | None = Field(description="URL of the receiver")
    attempts: int = Field(description="Attempts made to deliver the result")
    error: str | None = Field(description="Reason why the delivery was given up")
    finished_at: int | None = Field(description="Time at which the task ended")
    given_up_at: int = Field(description="Time at which the delivery was given up")


class DeliveryPageView(View):
    """A page of deliveries."""

    items: list[DeliveryView] = Field(description="The deliveries, those given up last first")
    page: int = Field(description="Number of the page, from 1")
    size: int = Field(description="Maximum number of deliveries on a page")
    total: int = Field(description="Number of deliveries on all pages")
    pages: int = Field(description="Number of pages")


class DeliveryCursorPageView(View):
    """A page of deliveries in a list that is walked by cursor."""

    items: list[DeliveryView] = Field(
        description="The deliveries, those given up last first. It may be shorter than `pageSize`, or empty, although "
        "others follow"
    )
    next_cursor: str | None = Field(description="The cursor of the next page; null after the last")
    scanned: int = Field(description="Deliveries that were looked at for this page")


def delivery_cursor_page_view(found: GivenUpPart, endpoint: Endpoint) -> dict[str, Any]:
    """Return a DeliveryCursorPageView. Its cursor names the endpoint."""
    after = None if found.next is None else f"{endpoint.endpoint_id}-{found.next.at_ms}-{found.next.task_id}"
    return {"items": _delivery_views(found.items), "nextCursor": after, "scanned": found.scanned}


def delivery_page_view(found: GivenUpPage, page: Page) -> dict[str, Any]:
    """Return a DeliveryPageView."""
    return page_view(_delivery_views(found.items), found.total, page)


def _delivery_views(items: Sequence[GivenUpDelivery]) -> list[dict[str, Any]]:
    return [
        {
            "taskId": one.task.task_id,
            "taskStatus": one.task.status,
            "status": one.task.delivery_status,
            "webhook": one.task.spec.webhook,
            "attempts": one.task.delivery_attempts,
            "error": one.task.delivery_error,
            "finishedAt": one.task.finished_at_ms,
            "givenUpAt": one.at_ms,
        }
        for one in items
    ]


class SendOrderView(View):
    """The result of an order to send a task's result."""

    task_id: str = Field(description="Id of the task")
    result: Literal["queued", "due", "delivered"] = Field(
        description="`queued`: the result is sent now; `due`: it was due before, or is being sent; "
        "`delivered`: it was delivered before and is not sent again"
    )
    delivery_status: DeliveryStatus = Field(description="Status of the delivery after the order")
    delivery_attempts: int = Field(description="Attempts made to deliver the result")
    next_delivery_at: int | None = Field(description="The earliest time of the next delivery attempt")


def send_order_view(order: SendOrder) -> dict[str, Any]:
    """Return a SendOrderView."""
    task = order.task
    return {
        "taskId": task.task_id,
        "result": order.result,
        "deliveryStatus": task.delivery_status,
        "deliveryAttempts": task.delivery_attempts,
        "nextDeliveryAt": task.next_delivery_at_ms,
    }


class RecoveryView(View):
    """A recovery: an endpoint's given-up deliveries of a period are sent again, in the background."""

    state: RecoveryState = Field(description="`running`, `done` (all were made due), or `cancelled`")
    status: DeliveryStatus = Field(description="Status of the deliveries that it selects")
    since: int = Field(description="Beginning of the period in which the deliveries were given up")
    until: int = Field(description="End of the period; never after the start of the recovery")
    total: int = Field(description="Given-up deliveries in the period at the start of the recovery")
    recovered: int = Field(description="Deliveries that the recovery has made due")
    remaining: int = Field(description="Given-up deliveries in the period now")
    created_at: int = Field(description="Time at which the recovery was ordered")
    updated_at: int = Field(description="Time of its last progress")
    ended_at: int | None = Field(description="Time at which it ended; null while it runs")


def recovery_view(recovery: Recovery) -> dict[str, Any]:
    """Return a RecoveryView."""
    return {
        "state": recovery.state,
        "status": DeliveryStatus.MAX_RETRIES_EXCEEDED,
        "since": recovery.since_ms,
        "until": recovery.until_ms,
        "total": recovery.total,
        "recovered": recovery.sent,
        "remaining": recovery.remaining,
        "createdAt": recovery.created_at_ms,
        "updatedAt": recovery.updated_at_ms,
        "endedAt": recovery.ended_at_ms,
    }
