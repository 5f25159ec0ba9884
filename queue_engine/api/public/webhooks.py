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

    task_id: int = Field(description="The engine's number of the task; `user_task_id` is the id that the API uses")
    user_task_id: str = Field(description="The `taskId` of the submission")
    endpoint_id: str = Field(description="The endpoint's id")
    status: Literal["Success", "Failed"] = Field(description="Whether the task was executed")
    success: bool = Field(description="The same as `status`")
    timestamp: str = Field(description="Time of the task's end: UTC, `YYYY-MM-DD HH:mm:ss.SSS`", pattern=_TIME)
    retry_count: int = Field(ge=1, description="Number of this delivery attempt, 1 for the first")
    result: Any = Field(
        None, description=f"The task's `output`, when it succeeded and has at most {MAX_RESULT_BYTES // 1024} KiB"
    )
    result_truncated: Literal[True] | None = Field(
        None, description="Present when the output is larger: get it from the API"
    )
    failed_reason: str | None = Field(None, description="The task's `error`; present when it failed")


class WorkerStatusEvent(View):
    """A change of a worker's status, sent to the endpoint's `webhook`. The body is the same in every attempt."""

    type: Literal["worker.status"] = Field(description="The kind of the event")
    endpoint_id: str = Field(description="The endpoint's id")
    worker_id: str = Field(description="The worker's id")
    status: WorkerStatus = Field(description="The new status")
    previous_status: WorkerStatus | None = Field(description="The status before; null for a new worker")
    reason: str = Field(description="Reason for the change, in a sentence")
    timestamp: str = Field(description="Time of the change: UTC, `YYYY-MM-DD HH:mm:ss.SSS`", pattern=_TIME)


EVENTS: dict[str, tuple[type[BaseModel], str]] = {
    "taskResult": (TaskResultEvent, "The end of a task, sent to the task's `webhook`"),
    "workerStatus": (WorkerStatusEvent, "A change of a worker's status, sent to the endpoint's `webhook`"),
}

_HEADERS = (
    ("webhook-id", "Id of the event: the same in every attempt. Compare it to notice repeats", True),
    ("webhook-timestamp", "Time of this attempt, in seconds since 1970", True),
    (
        "webhook-signature",
        "`v1,` and the base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, with the decoded signing "
        "secret as its key (Standard Webhooks). The secret is the endpoint's, or a `webhookAuthKey` that begins with "
        "`whsec_`",
        True,
    ),
    ("X-API-Key", "The task's `webhookAuthKey`; absent without one, and when it begins with `whsec_`", False),
)
_RESPONSES = {
    "2XX": {"description": "Delivered. The body is not read further than 16 KiB"},
    "410": {"description": "Given up at once: the receiver wants no further attempts"},
    "default": {
        "description": "The attempt has failed, as it has without a response within 15 s. A redirect is not followed. "
        "The next attempt comes after a growing wait, which `Retry-After` can lengthen to 6 hours at most"
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
