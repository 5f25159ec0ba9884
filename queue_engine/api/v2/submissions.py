"""Request model for submitting a task."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, GetPydanticSchema, WithJsonSchema, create_model
from pydantic.config import JsonDict
from pydantic_core import core_schema

from queue_engine.api.v2.fields import OptionalWebhook, RequestModel, parsed
from queue_engine.domain.definitions import Defined
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.field_errors import FieldError, raise_for
from queue_engine.domain.field_types import matching
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import SPEC_FIELDS, TASK_FIELDS, Priority, TaskField, TaskSpec
from queue_engine.engine.submissions import Submissions, TaskRequest
from queue_engine.rules.strict_json import JsonObject
from queue_engine.rules.webhook_urls import Webhook

RAW_FIELDS = frozenset({"input"})

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _not_null(text: bytes | memoryview) -> bytes | memoryview:
    if text == b"null":
        raise ValueError("must not be null")
    return text


_EXAMPLE: JsonDict = {
    "taskId": "summary_0042",
    "input": {"text": "It was the best of times"},
    "workerPort": 8000,
    "processUri": "/summarize",
    "webhook": "https://hooks.example.com/done",
    "webhookAuthKey": "a long random word",
}


JsonText = Annotated[
    bytes | memoryview,
    GetPydanticSchema(lambda _source, _handler: core_schema.no_info_plain_validator_function(_not_null)),
    WithJsonSchema({"not": {"type": "null"}, "title": "Input"}),
]
"""A member that was checked and kept as JSON text."""


NewTaskId = Annotated[
    str,
    matching(r"[A-Za-z0-9_]{1,255}", "must be 1–255 of letters, digits and _"),
    Field(json_schema_extra={"pattern": "^[A-Za-z0-9_]{1,255}$"}),
]


class _Identity(RequestModel):
    task_id: NewTaskId | None = Field(
        None, description="Your id for the task; without it, a UUID without hyphens is generated"
    )
    input: JsonText = Field(description="Any JSON value except null. The container gets the same bytes")


def _member(field: Defined[TaskField]) -> tuple[Any, Any]:
    """Return the annotation and the pydantic field of a field of a task."""
    rule = OptionalWebhook if field.name == "webhook" else field.rule
    return rule, Field(description=field.definition.text, **({} if field.required else _default(field.default)))


def _default(value: Any) -> dict[str, Any]:
    """Return the options of a field for its default. pydantic would make a deep copy of an empty object each time."""
    if isinstance(value, dict | list):
        return {"default_factory": type(value), "json_schema_extra": {"default": value}}
    return {"default": value}


if TYPE_CHECKING:

    class _Fields(_Identity):
        """Types of the members that the code uses, for mypy. The members themselves are made from the definitions."""

        worker_port: int
        process_uri: str
        webhook: Webhook | None
        webhook_auth_key: str | None
        headers: dict[str, str]
        metadata: dict[str, str]
        tags: list[str]
        execution_timeout_seconds: int | None
        queue_ttl_seconds: float | None
        delay_seconds: float | None
        run_at: int | None
        priority: Priority | None
        fairness_key: str | None

else:
    _Fields = create_model("_Fields", __base__=_Identity, **{one.asked: _member(one) for one in TASK_FIELDS})

_KEPT = tuple((one.name, one.asked) for one in SPEC_FIELDS if one.name != "webhook")


class SubmitTask(_Fields):
    """A task for a QUEUE endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    @classmethod
    def parse(cls, body: JsonObject) -> tuple[SubmitTask, list[FieldError]]:
        """Return the task and the field errors, as `parsed` does."""
        task, errors = parsed(cls, body.values | body.raw)
        if getattr(task, "run_at", None) is not None and getattr(task, "delay_seconds", None) is not None:
            errors.append(("runAt", "must not be given together with delaySeconds"))
        return task, errors

    def request(self, traceparent: str | None, name: str | None = None) -> TaskRequest:
        """Return the task to submit. `name` is the id of a task that has none."""
        given, webhook = self.__dict__, self.webhook
        values = {name: given[asked] for name, asked in _KEPT}
        if webhook is not None:
            values |= {"webhook": webhook.url, "webhook_destination": webhook.destination}
        spec = TaskSpec(**values, traceparent=traceparent)
        return TaskRequest(
            self.task_id or name,
            spec,
            self.input,
            webhook,
            execution_timeout_seconds=self.execution_timeout_seconds,
            queue_ttl_seconds=self.queue_ttl_seconds,
            delay_seconds=self.delay_seconds,
            run_at_ms=self.run_at,
            priority=self.priority,
            fairness_key=self.fairness_key,
        )


async def checked_task(body: JsonObject, principal: Principal, submissions: Submissions) -> SubmitTask:
    """Return the task in a request. Raises InvalidTask for all fields that break a rule."""
    task, errors = SubmitTask.parse(body)
    if errors:
        secrets = task.headers, task.webhook_auth_key
        errors += await submissions.field_errors(principal, *secrets, task.webhook)
        try:
            raise_for(errors)
        except InvalidRequest as error:
            raise InvalidTask(error, getattr(task, "task_id", None)) from None
    return task


class InvalidTask(InvalidRequest):
    """Fields of a task break rules. `task_id` is its id, if that is valid."""

    def __init__(self, error: InvalidRequest, task_id: str | None) -> None:
        super().__init__(error.field, error.rule)
        self.task_id = task_id


def traceparent_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's `traceparent` header when there is exactly one and it is well-formed (W3C Trace Context)."""
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) != 1 or _TRACEPARENT.fullmatch(given[0]) is None:
        return None
    return given[0].decode("ascii")
