"""The requests that webhooks get, for the description of the API. `domain/deliveries.py` creates their bodies."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from queue_engine.api.http.envelope import View
from queue_engine.domain.deliveries import MAX_RESULT_BYTES
from queue_engine.domain.workers import WorkerStatus

TAG = "webhooks"
_TIME = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}$"


class TaskResultEvent(BaseModel):
    """The end of a task, sent to the task's `webhook`."""

    task_id: int = Field(description="Internal number of the task; the API uses the id in `user_task_id`")
    user_task_id: str = Field(description="The `taskId` of the submission")
    endpoint_id: str = Field(description="The endpoint's id")
    status: Literal["Success", "Failed"] = Field(description="Result of the task")
    success: bool = Field(description="The same as `status`")
    timestamp: str = Field(description="Time of the task's end: UTC, `YYYY-MM-DD HH:mm:ss.SSS`", pattern=_TIME)
    retry_count: int = Field(ge=1, description="Number of this delivery attempt, 1 for the first")
    result: Any = Field(
        None,
        description=f"The task's `output`, if the task succeeded and it has at most {MAX_RESULT_BYTES // 1024} KiB",
    )
    result_truncated: Literal[True] | None = Field(
        None, description="Present if the output is larger: read it from the API"
    )
    failed_reason: str | None = Field(None, description="The task's `error`; present if the task failed")
    metadata: dict[str, str] | None = Field(None, description="The task's `metadata`; present if it has any")


class WorkerStatusEvent(View):
    """A change of a worker's status, sent to the endpoint's `webhook`. The body is the same in every attempt."""

    type: Literal["worker.status"] = Field(description="Type of the event")
    endpoint_id: str = Field(description="The endpoint's id")
    worker_id: str = Field(description="The worker's id")
    status: WorkerStatus = Field(description="The worker's new status")
    previous_status: WorkerStatus | None = Field(description="The worker's previous status; null for a new worker")
    reason: str = Field(description="Reason for the change, in a sentence")
    timestamp: str = Field(description="Time of the change: UTC, `YYYY-MM-DD HH:mm:ss.SSS`", pattern=_TIME)


class WebhookTestEvent(View):
    """A test that a client has ordered. It is about no task and no worker."""

    type: Literal["webhook.test"] = Field(description="Type of the event")
    endpoint_id: str = Field(description="The endpoint's id")
    message: str = Field(description="A text for people")
    timestamp: str = Field(description="Time of the test: UTC, `YYYY-MM-DD HH:mm:ss.SSS`", pattern=_TIME)


EVENTS: dict[str, tuple[type[BaseModel], str]] = {
    "taskResult": (TaskResultEvent, "The end of a task, sent to the task's `webhook`"),
    "webhookTest": (WebhookTestEvent, "A test that a client has ordered, sent to the webhook that it names"),
    "workerStatus": (WorkerStatusEvent, "A change of a worker's status, sent to the endpoint's `webhook`"),
}

_HEADERS = (
    ("webhook-id", "Id of the event, the same in every attempt. Use it to detect repeated deliveries", True),
    ("webhook-timestamp", "Time of this attempt, in seconds since 1970", True),
    (
        "webhook-signature",
        "`v1,` and the base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, with the decoded signing "
        "secret as its key (Standard Webhooks). The secret is the endpoint's, or a `webhookAuthKey` that begins with "
        "`whsec_`. For 24 hours after a rotation there are several values, separated by spaces: accept the request if "
        "one of them fits",
        True,
    ),
    ("X-API-Key", "The task's `webhookAuthKey`. Absent if the task has none or if it begins with `whsec_`", False),
)
_RESPONSES = {
    "2XX": {"description": "Delivered. At most 16 KiB of the body are read"},
    "410": {"description": "Given up: no further attempts are made"},
    "default": {
        "description": "The attempt failed. It also fails without a response within 15 s. Redirects are not followed. "
        "The delay before the next attempt grows; `Retry-After` can extend it to at most 6 hours"
    },
}


def describe_webhooks() -> dict[str, Any]:
    """Return the `webhooks` of the OpenAPI document. Their bodies refer to schemas by the names of the models."""
    return {
        name: {
            "post": {
                "tags": [TAG],
                "summary": summary,
                "operationId": name,
                "security": [],
                "parameters": [_header(*header) for header in _HEADERS],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}},
                },
                "responses": _RESPONSES,
            }
        }
        for name, (model, summary) in EVENTS.items()
    }


def _header(name: str, description: str, required: bool) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}
