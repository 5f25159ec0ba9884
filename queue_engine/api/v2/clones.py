"""`/v2/serverless/{id}/tasks/{taskId}/clone`: submit a copy of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, WithJsonSchema, create_model
from pydantic.config import JsonDict
from starlette.requests import Request

from queue_engine.api.http.envelope import Success
from queue_engine.api.http.mistyped import first_mistyped
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.order_log import note
from queue_engine.api.http.queries import shown_name
from queue_engine.api.http.rate_headers import rate_headers
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services, task_id_in
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.fields import RequestModel, WebhookUrl, names_of, parsed_changes
from queue_engine.api.v2.submissions import RAW_FIELDS, JsonText, NewTaskId, traceparent_of
from queue_engine.api.v2.task_views import SubmittedView
from queue_engine.api.v2.tasks import TAG, TASK_ID
from queue_engine.domain.definitions import Defined
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.tasks import TASK_FIELDS, Task, TaskField
from queue_engine.engine.clones import request_of_copy
from queue_engine.engine.submissions import Submitted, counted_rejections
from queue_engine.rules.strict_json import JsonObject
from queue_engine.rules.webhook_urls import MAX_URL_CHARACTERS

_EXAMPLE: JsonDict = {"taskId": "summary_0042_again", "input": {"text": "It was the worst of times"}, "webhook": None}

_Webhook = Annotated[
    WebhookUrl | None,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "uri", "minLength": 1, "maxLength": MAX_URL_CHARACTERS},
                {"type": "null"},
            ]
        }
    ),
]


class _Copy(RequestModel):
    task_id: NewTaskId | None = Field(
        None,
        description="Your id for the copy, which makes it safe to repeat the request; without it, an id is generated",
    )
    input: JsonText = Field(
        b"", description="Any JSON value except null; without it, the copy has the bytes of the original's input"
    )


def _member(field: Defined[TaskField]) -> tuple[Any, Any]:
    rule = _Webhook if field.name == "webhook" else field.rule
    annotation = rule if field.required or field.nullable else rule | None
    return annotation, Field(None, description=field.definition.text)


if TYPE_CHECKING:

    class _Fields(_Copy):
        """The members are made from the definitions, and read by their names."""

else:
    _Fields = create_model("_Fields", __base__=_Copy, **{one.asked: _member(one) for one in TASK_FIELDS})


def _without_default(schema: dict[str, Any]) -> None:
    schema["examples"] = [_EXAMPLE]
    for member in schema["properties"].values():
        member.pop("default", None)


class CloneTask(_Fields):
    """Changes of a copy. An omitted member is copied from the original, and null leaves it out of the copy.

    Delays are not copied. Headers are copied only for the same `workerPort` and `processUri`, and the `webhookAuthKey`
    only for the same `webhook`.
    """

    model_config = ConfigDict(json_schema_extra=_without_default)

    @classmethod
    def parse(cls, body: JsonObject) -> CloneTask:
        """Return the changes in a body. Raises InvalidRequest for all fields that break a rule.

        A member that is probably a mistyped one is refused: if `webhok: null` were ignored, the result would be sent to
        the webhook of the original.
        """
        found, errors = parsed_changes(cls, body.values | body.raw)
        if (mistyped := first_mistyped(body.skipped, names_of(cls))) is not None:
            name, meant = mistyped
            errors.append((shown_name(name), f"is not a field of this request; did you mean {meant}?"))
        changes = found.changes()
        if changes.get("run_at") is not None and changes.get("delay_seconds") is not None:
            errors.append(("runAt", "must not be given together with delaySeconds"))
        raise_for(errors)
        return found

    def changes(self) -> dict[str, Any]:
        """Return the members that were given, by their names in snake case."""
        return {name: getattr(self, name) for name in self.model_fields_set if name not in ("task_id", "input")}


class CloneRoutes:
    """Submit copies of tasks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._clones = services.engine.clones
        self._submissions = services.engine.submissions

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/v2/serverless/{id}/tasks/{taskId}/clone", self.clone_task, right=Right.SUBMIT,
                summary="Submit a copy of a task", tag=TAG, response=Success[SubmittedView], takes=CloneTask,
                parameters=[ENDPOINT_ID, TASK_ID], failures=(400, 401, 404, 409, 413, 415, 429, 503),
            ),
        ]  # fmt: skip

    async def clone_task(self, request: Request) -> Response:
        """The copy is a new task with the input, the headers, the webhook and its key, and the other fields of the
        original, which does not change. The limits of submissions apply. A repeated request with the same `taskId`
        gets the same response and queues nothing while the original exists, and 404 after that. A member whose name is
        similar to that of a field is refused. A key with the role `submit` copies only tasks that it has
        submitted. If the server cannot open the headers or the webhook key, nothing is copied (409).
        """
        principal = await self._services.admit(request)
        with counted_rejections():
            submitted = await self._submitted(request, principal)
        note(request, task=submitted.task_id, result="accepted" if submitted.is_new else "duplicate")
        return success({"taskId": submitted.task_id}, rate_headers(submitted.rates))

    async def _submitted(self, request: Request, principal: Principal) -> Submitted:
        task_id, trace = task_id_in(request), traceparent_of(request.scope["headers"])
        endpoint = await self._services.endpoint(request, principal)
        asked = await self._read_changes(request, principal, task_id)
        original = await self._clones.original(principal, endpoint, task_id)
        has_input = "input" in asked.model_fields_set
        input_ = asked.input if has_input else await self._input_of(original, request, principal)
        copy = request_of_copy(original, endpoint, input_, asked.changes(), task_id=asked.task_id, traceparent=trace)
        return await self._submissions.submit(principal, endpoint.endpoint_id, copy)

    async def _read_changes(self, request: Request, principal: Principal, task_id: str) -> CloneTask:
        body = await self._services.read_object(request, principal, names_of(CloneTask), RAW_FIELDS)
        asked = CloneTask.parse(body)
        if asked.task_id == task_id:
            raise InvalidRequest("taskId", "must not be that of the original")
        return asked

    async def _input_of(self, original: Task, request: Request, principal: Principal) -> bytes | memoryview:
        """Return the input of the original. A long one counts like a body of this request."""
        if original.long is not None:
            self._services.bodies.count_more(request.scope, principal.tenant, original.long.input.size)
        return await self._clones.input_of(original)
