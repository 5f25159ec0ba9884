"""`/v2/serverless/{id}/operations` and `/v2/operations`: bulk operations on tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_path
from queue_engine.api.http.order_log import note
from queue_engine.api.http.queries import Query, shown_name
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.fields import RequestModel, names_of, parsed
from queue_engine.api.v2.pages import page_in, page_parameters, page_view
from queue_engine.api.v2.task_filters import FILTERS, filter_parameters, filters_of
from queue_engine.api.v2.waits import TaskId
from queue_engine.domain.errors import InvalidRequest, NotFound, Resource
from queue_engine.domain.field_errors import FieldError, raise_for
from queue_engine.domain.field_types import matching
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.task_filters import FilterKind, TaskFilters
from queue_engine.domain.task_operations import (
    MAX_GIVEN_TASKS,
    OPERATION_ID_RULE,
    OperationPage,
    OperationStatus,
    SkipReason,
    TaskAction,
    TaskOperation,
    filter_error,
    is_operation_id,
)
from queue_engine.domain.tasks import TaskState
from queue_engine.engine.endpoints import Page
from queue_engine.engine.operations import OperationOrder

TAG = "operations"
_ID = "[A-Za-z0-9_]{1,64}"
_IDS = frozenset({"taskIds"})
_MAX_ID_VALUES = 2 * MAX_GIVEN_TASKS
"""Limit of the values in `taskIds`. A list with more is refused before it is built; one with fewer, by its rules."""
OPERATION_ID = in_path("operationId", "Id of an operation", {"type": "string", "pattern": f"^{_ID}$"})
_STATES: dict[str, Any] = {"type": "array", "items": {"type": "string", "enum": list(TaskState)}, "minItems": 1}


def _filter_schemas() -> dict[str, Any]:
    """Return the schemas of the filters in a body, where states may be a list."""
    schemas = {str(one["name"]): (one["description"], one["schema"]) for one in filter_parameters()}
    kinds = {name: one.definition.kind for name, one in FILTERS.items()}
    return {
        name: {"description": text, "anyOf": [schema, *([_STATES] if kinds[name] is FilterKind.STATES else [])]}
        for name, (text, schema) in schemas.items()
    }


_EXAMPLE: JsonDict = {"action": "retry", "filter": {"state": "failed", "errorContains": "CUDA out of memory"}}


class StartOperation(RequestModel):
    """A change of many tasks. It has either `filter` or `taskIds`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE], "additionalProperties": False})

    action: TaskAction = Field(
        strict=False,
        description="The change: `cancel` tasks that have not ended; `retry` or `delete` tasks that have, or send "
        "their results again (`redeliver`), also those that were delivered",
    )
    filter: dict[str, Any] | None = Field(
        None,
        description="Filters of the list of tasks, by their names; at least one. Tasks that are submitted later than "
        "the request do not match",
        json_schema_extra={"properties": _filter_schemas(), "minProperties": 1, "additionalProperties": False},
    )
    task_ids: Annotated[list[TaskId], Field(min_length=1, max_length=MAX_GIVEN_TASKS)] | None = Field(
        None, description="Ids of the tasks; an id that is repeated counts once"
    )
    dry_run: bool = Field(False, description="Find and count the tasks, and change none")
    operation_id: Annotated[str, matching(_ID, OPERATION_ID_RULE)] | None = Field(
        None,
        description="Id of the operation. A repeated request with the same id begins nothing and returns the "
        "operation. Without it, the engine makes an id, and a repeated request begins another operation",
    )


class OperationView(View):
    """A bulk operation on tasks of an endpoint."""

    operation_id: str = Field(description="Id of the operation")
    endpoint_id: int = Field(description="Id of the endpoint")
    action: TaskAction = Field(description="The change")
    filter: dict[str, Any] | None = Field(description="The filters; null if the tasks were given by their ids")
    dry_run: bool = Field(description="True if it only counts")
    status: OperationStatus = Field(
        description="`running`; `done`: every task was looked at; `cancelled`; `failed`: it cannot go on, see `error`"
    )
    progress: float = Field(description="Part of the tasks that the operation has come to, from 0 to 1")
    total: int = Field(description="Tasks of the endpoint at the start, or number of given tasks")
    scanned: int = Field(description="Tasks that were looked at; an index leaves out others")
    given_tasks: int | None = Field(description="Number of ids in `taskIds`, without repetitions; null with `filter`")
    unknown_tasks: list[str] = Field(
        description="Given ids that have no task: the first of them, up to 1,024 characters together. "
        "`skipReasons.notFound` has their number"
    )
    matched: int = Field(description="Tasks that were found. A given id that has no task does not count")
    done: int = Field(description="Tasks that were changed; with `dryRun`, that would have been changed")
    skipped: int = Field(description="Tasks that were found and not changed, and given ids that have no task")
    skip_reasons: dict[SkipReason, int] = Field(
        description="`skipped` by reason. `notFound`: deleted, or never submitted; `newer`: submitted after the start; "
        "`notEnded`: cannot be retried, deleted or sent again; `ended`: cannot be cancelled; `changed`: ended, began, "
        "ran again or got another delivery status after it was found; `requested`: its cancellation was requested "
        "before; `noWebhook`: its result is sent to no webhook; `due`: its result is being sent"
    )
    failed: int = Field(description="Tasks whose change failed")
    error: str | None = Field(description="Why the operation, or the change of a task, failed")
    started_at: int = Field(description="Time at which it was ordered")
    updated_at: int = Field(description="Time of its last progress")
    ended_at: int | None = Field(description="Time at which it ended; null while it runs")


class OperationPageView(View):
    """A page of operations."""

    items: list[OperationView] = Field(description="The operations, newest first")
    page: int = Field(description="Number of the page, from 1")
    size: int = Field(description="Maximum number of operations on a page")
    total: int = Field(description="Number of operations on all pages")
    pages: int = Field(description="Number of pages")


class TaskOperationRoutes:
    """Begin, read and cancel bulk operations."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._operations = services.engine.operations

    def operations(self) -> list[Operation]:
        several = "/v2/serverless/{id}/operations"
        one, of_one = f"{several}/{{operationId}}", [ENDPOINT_ID, OPERATION_ID]
        pages = page_parameters("operations")
        return [
            Operation(
                "POST", several, self.start_operation, right=Right.OPERATE,
                summary="Cancel, retry, delete or send again many tasks, in the background", tag=TAG,
                response=Success[OperationView], takes=StartOperation, parameters=[ENDPOINT_ID],
                failures=(400, 401, 404, 409, 413, 415, 429, 503),
            ),
            Operation(
                "GET", several, self.list_operations, right=Right.VIEW,
                summary="List the operations of an endpoint, newest first", tag=TAG,
                response=Success[OperationPageView], parameters=[ENDPOINT_ID, *pages],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", one, self.get_operation, right=Right.VIEW, summary="Read an operation", tag=TAG,
                response=Success[OperationView], parameters=of_one, failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", f"{one}/cancel", self.cancel_operation, right=Right.OPERATE, summary="Cancel an operation",
                tag=TAG, response=Success[OperationView], parameters=of_one, failures=(401, 404, 429, 503),
            ),
            Operation(
                "GET", "/v2/operations", self.list_all_operations, right=Right.VIEW,
                summary="List the operations of all endpoints, newest first", tag=TAG,
                response=Success[OperationPageView], parameters=pages, failures=(400, 401, 429, 503),
            ),
        ]  # fmt: skip

    async def start_operation(self, request: Request) -> Response:
        """Tasks that are submitted later than the request are not changed. A task that has ended, begun or run again
        since the operation found it is skipped, and so is one whose delivery status no longer matches. At most four
        operations of an endpoint run at a time; one more gets 409. To delete, a key needs the role admin, as for a
        single task.

        Retries wait while the queue is full. If the endpoint is stopped, they end as `failed`. At most four results are
        sent again at a time, behind fresh ones.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        order = await self._read_order(request, principal)
        started = await self._operations.start(principal, endpoint, order)
        note(request, result=started.status.value)
        return success(operation_view(started))

    async def _read_order(self, request: Request, principal: Principal) -> OperationOrder:
        # More ids than a parsed member may have values, so the member is kept as text.
        body = await self._services.read_object(request, principal, names_of(StartOperation), _IDS)
        if body.skipped:
            # Elsewhere they are ignored. Here a misspelt `dryRun` would change the tasks that it was to count.
            names = ", ".join(sorted(names_of(StartOperation)))
            raise InvalidRequest(shown_name(body.skipped[0]), f"is not a member of this request; it has {names}")
        given = {name: self._services.bodies.parse(body, name, _MAX_ID_VALUES) for name in body.raw}
        order = _order_in(body.values | given)
        if order.filters is not None and order.filters.input is not None:
            self._services.check_shows_payloads(request.scope)
        return order

    async def list_operations(self, request: Request) -> Response:
        """An operation can be read for seven days after its end; of an endpoint, the latest 1,000 are kept."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        page = page_in(Query(request))
        found = await self._operations.page(principal, endpoint, page=page.number, size=page.size)
        return success(_page_view(found, page))

    async def get_operation(self, request: Request) -> Response:
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success(operation_view(await self._operations.get(principal, endpoint, _operation_id_in(request))))

    async def cancel_operation(self, request: Request) -> Response:
        """No further task is changed after the response. An operation that has ended is not changed."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success(operation_view(await self._operations.cancel(principal, endpoint, _operation_id_in(request))))

    async def list_all_operations(self, request: Request) -> Response:
        """A key that is limited to some endpoints sees their operations only."""
        principal = await self._services.admit(request)
        page = page_in(Query(request))
        found = await self._operations.all(principal, page=page.number, size=page.size)
        return success(_page_view(found, page))


def _order_in(values: dict[str, Any]) -> OperationOrder:
    """Return the order in a body. Raises InvalidRequest."""
    asked, errors = parsed(StartOperation, values)
    filters = None
    given = getattr(asked, "filter", None)
    if given is not None:
        filters, filter_errors = _filters_in(given, getattr(asked, "action", None))
        errors += filter_errors
    has_ids = values.get("taskIds") is not None
    if has_ids and values.get("filter") is not None:
        errors.append(("taskIds", "must not be given together with filter"))
    if not has_ids and values.get("filter") is None:
        errors.append(("filter", "is required without taskIds"))
    raise_for(errors)
    return OperationOrder(
        action=asked.action,
        filters=filters,
        task_ids=asked.task_ids or (),
        is_dry=asked.dry_run,
        operation_id=asked.operation_id,
    )


def _filters_in(given: Mapping[str, Any], action: TaskAction | None) -> tuple[TaskFilters | None, list[FieldError]]:
    try:
        filters = filters_of(given)
    except InvalidRequest as error:
        return None, [(f"filter.{error.field}", error.rule)]
    if filters.is_empty:
        return filters, [("filter", "must have at least one filter")]
    wrong = None if action is None else filter_error(action, filters)
    if wrong is None:
        return filters, []
    name, rule = wrong
    return filters, [(f"filter.{to_camel(name)}" if name else "filter", rule)]


def _operation_id_in(request: Request) -> str:
    """Return the operation's id in the path. Raises NotFound for text that cannot be an id."""
    operation_id: str = request.scope["path_params"]["operationId"]
    if not is_operation_id(operation_id):
        raise NotFound(Resource.OPERATION)
    return operation_id


def operation_view(one: TaskOperation) -> dict[str, Any]:
    """Return an OperationView."""
    return {
        "operationId": one.operation_id,
        "endpointId": int(one.endpoint_id),
        "action": one.action,
        "filter": None if one.filters is None else _shown_filters(one.filters),
        "dryRun": one.is_dry,
        "status": one.status,
        "progress": round(one.progress, 4),
        "total": one.total,
        "scanned": one.scanned,
        "givenTasks": one.given,
        "unknownTasks": list(one.unknown_ids),
        "matched": one.matched,
        "done": one.done,
        "skipped": one.skipped,
        "skipReasons": {reason.value: count for reason, count in one.skips.items()},
        "failed": one.failed,
        "error": one.error,
        "startedAt": one.started_at_ms,
        "updatedAt": one.updated_at_ms,
        "endedAt": one.ended_at_ms,
    }


def _shown_filters(filters: TaskFilters) -> dict[str, Any]:
    """Return filters by their names in requests, as a request may have them."""
    values = {name: (getattr(filters, one.name), one.default) for name, one in FILTERS.items()}
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, (value, default) in values.items()
        if value != default
    }


def _page_view(found: OperationPage, page: Page) -> dict[str, Any]:
    return page_view([operation_view(one) for one in found.items], found.total, page)
