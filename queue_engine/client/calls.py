"""The operations of the client, without I/O: see `exchange`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from queue_engine.client.errors import (
    ApiError,
    Conflict,
    Forbidden,
    NotFound,
    OperationTimeout,
    WaitTimeout,
    task_failure,
)
from queue_engine.client.exchange import (
    RESPONSE_SECONDS,
    Flow,
    Patience,
    Request,
    Response,
    call,
    call_for,
    call_for_version,
    data_of,
    json_text,
    path_of,
    path_under,
)
from queue_engine.client.models import Download, EndpointInfo, LogLine, OperationInfo, TaskInfo

WAIT_SECONDS = 50
"""Longest wait of one request: many proxies end an idle one after 60 s."""
MAX_TOGETHER = 256
"""The API's limit of tasks in one request that waits."""
PAGE_SIZE = 1000
FIRST_POLL_SECONDS = 0.1
MAX_POLL_SECONDS = 2.0


def camel(name: str) -> str:
    """Return the API's name of a field in snake case."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def body_of(fields: Mapping[str, Any]) -> bytes:
    """Return a request's body with these fields, which have names in snake case."""
    return json_text({camel(name): value for name, value in fields.items()})


def new_task_id() -> str:
    return uuid.uuid4().hex


def id_or_name_of(given: object) -> str:
    """Return the id or the name of an endpoint as text. Raises TypeError for another type."""
    if isinstance(given, str):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise TypeError(f"id_or_name: must be a str or an int, not {type(given).__name__}")


def id_in(id_or_name: str) -> str | None:
    """Return the text if it is an id; None for a name, which begins with a letter."""
    return id_or_name if id_or_name.isascii() and id_or_name.isdigit() else None


def endpoint_of(id_or_name: str, patience: Patience) -> Flow[EndpointInfo]:
    """Find an endpoint by its id, or by its name. Raises NotFound, or Conflict if several have the name."""
    if id_in(id_or_name) is not None:
        return (yield from endpoint_in(Request("GET", path_of(id_or_name)), patience))
    try:
        rows = yield from call(Request("GET", path_of(), {"name": id_or_name}), patience)
    except Forbidden as error:
        raise forbidden(error, NEEDS_ID) from None
    named = [row for row in rows if row.get("name") == id_or_name]  # an API of an earlier version returns all
    if not named:
        raise NotFound(f"no endpoint is named {id_or_name}", status=404)
    if len(named) > 1:
        ids = ", ".join(str(row.get("id")) for row in named)
        raise Conflict(f"{len(named)} endpoints are named {id_or_name}; use one of the ids {ids}", status=409)
    return EndpointInfo.model_validate(named[0])


NEEDS_ID = "give the id of the endpoint, because a key with the role submit cannot look up its name"
NEEDS_PORT = "give port=, because a key with the role submit cannot read the endpoint's exposed port"


def forbidden(error: Forbidden, advice: str) -> Forbidden:
    """Return the error of a lookup with what to give, so that the lookup is not needed."""
    return Forbidden(f"{error.message}; {advice}", status=error.status, code=error.code, retry_after=error.retry_after)


def endpoint_to_change(id_or_name: str, patience: Patience) -> Flow[EndpointInfo]:
    """Find an endpoint as `endpoint_of` does, and return it with its version, which the list by names does not have."""
    found = yield from endpoint_of(id_or_name, patience)
    if found.id == id_or_name:
        return found
    return (yield from endpoint_of(found.id, patience))


def endpoint_in(request: Request, patience: Patience) -> Flow[EndpointInfo]:
    """Return the endpoint of a response, with its version."""
    data, etag = yield from call_for_version(request, patience)
    return EndpointInfo.model_validate({**data, "etag": etag})


def submit(endpoint_id: str, task: Mapping[str, Any], patience: Patience) -> Flow[None]:
    """Submit a task. Its `task_id` makes the request repeatable. Raises ValueError for a `run_at` without an offset."""
    request = Request("POST", path_of(endpoint_id, "tasks"), body=submission_of(task))
    yield from call(request, patience)


def submission_of(task: Mapping[str, Any]) -> bytes:
    """Return the body of a submission. Raises ValueError for a `run_at` without an offset."""
    if isinstance(run_at := task.get("run_at"), datetime):
        task = {**task, "run_at": _parameter("run_at", run_at)}
    return body_of(task)


_NAMES_OF_COPY = {"path": "process_uri", "port": "worker_port"}


def clone(endpoint_id: str, task_id: str, changes: Mapping[str, Any], patience: Patience) -> Flow[None]:
    """Submit a copy of a task. Its `task_id` makes the request repeatable. Raises ValueError as `submit` does."""
    fields = {_NAMES_OF_COPY.get(name, name): value for name, value in changes.items()}
    path = path_of(endpoint_id, "tasks", task_id, "clone")
    yield from call(Request("POST", path, body=submission_of(fields)), patience)


def read(endpoint_id: str, task_id: str, payload: str, patience: Patience) -> Flow[TaskInfo]:
    query: dict[str, str | int] = {} if payload == "full" else {"payload": payload}
    data = yield from call(Request("GET", path_of(endpoint_id, "tasks", task_id), query), patience)
    return TaskInfo.model_validate(data)


def download(endpoint_id: str, task_id: str, part: str, patience: Patience) -> Flow[Download]:
    """Return the bytes of a task's `input` or `output`. Raises NotFound if it has none."""
    return (yield from call_for(_file_in, Request("GET", path_of(endpoint_id, "tasks", task_id, part)), patience))


_FILE_NAME = re.compile(r'attachment; filename="([A-Za-z0-9_][A-Za-z0-9_.-]*)"')


def _file_in(response: Response) -> Download:
    name = _FILE_NAME.fullmatch(response.disposition)
    if response.status != 200 or name is None:
        data_of(response)
        raise ApiError("the response is no file", status=response.status)
    return Download(response.body, response.content_type, name[1])


def wait(
    endpoint_id: str, task_id: str, timeout: float | None, waiting: Patience, patience: Callable[[], Patience]
) -> Flow[TaskInfo]:
    """Wait until a task has ended, and return it.

    Each request waits in the API. Before a request that follows one which ended early there is a growing pause, because
    an API that has too many waits does not wait. `waiting` ends with the timeout, and `patience` makes that of one
    request. Raises WaitTimeout.
    """
    path, early, pause = path_of(endpoint_id, "tasks", task_id), 0, 0.0
    while True:
        began = waiting.clock()
        seconds = max(0, int(min(WAIT_SECONDS, waiting.until - began - pause)))
        request = Request("GET", path, {"wait": seconds}, timeout=seconds + RESPONSE_SECONDS, after=pause)
        task = TaskInfo.model_validate((yield from call(request, patience().longer(seconds))))
        if task.has_ended:
            return task
        now = waiting.clock()
        if timeout is not None and now >= waiting.until:
            raise WaitTimeout(task, timeout)
        early = early + 1 if now - began - pause < max(seconds / 2, FIRST_POLL_SECONDS) else 0
        pause = min(MAX_POLL_SECONDS, FIRST_POLL_SECONDS * 2.0 ** min(early - 1, 8)) if early else 0.0
        pause = min(pause, max(0.0, waiting.until - now))


def ended_of(endpoint_id: str, asked: Sequence[str], patience: Patience) -> Flow[list[TaskInfo]]:
    """Wait until one of at most MAX_TOGETHER tasks has ended; return those that have, after WAIT_SECONDS none.

    A task that is unknown, because it was deleted while it was waited for, is raised as NotFound.
    """
    body = json_text({"taskIds": list(asked), "wait": WAIT_SECONDS})
    request = Request("POST", path_of(endpoint_id, "tasks", "wait"), body=body, timeout=WAIT_SECONDS + RESPONSE_SECONDS)
    data = yield from call(request, patience.longer(WAIT_SECONDS))
    if data["unknown"]:
        raise NotFound(f"task {data['unknown'][0]} does not exist any more", status=404)
    return [TaskInfo.model_validate(row) for row in data["ended"]]


def output_of(task: TaskInfo) -> Any:
    """Return the output of an ended task. Raises TaskFailed if it has none."""
    if not task.has_succeeded:
        raise task_failure(task)
    return task.output


def order(endpoint_id: str, task_id: str, name: str, patience: Patience, *, repeatable: bool) -> Flow[Any]:
    """Give an order about a task: cancel, retry and the like."""
    request = Request("POST", path_of(endpoint_id, "tasks", task_id, *name.split("/")), repeatable=repeatable)
    return (yield from call(request, patience))


def filter_query(filters: Mapping[str, Any]) -> dict[str, str | int]:
    """Return filters, which have names in snake case, as parameters. Raises ValueError for a time without a zone."""
    return {camel(name): _parameter(name, value) for name, value in filters.items() if value is not None}


def _parameter(name: str, value: Any) -> str | int:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name}: must have a time zone")
        return value.astimezone(UTC).isoformat()
    if isinstance(value, str | int):
        return value
    return ",".join(value)


def page(
    endpoint_id: str, query: Mapping[str, str | int], cursor: str, patience: Patience
) -> Flow[tuple[list[TaskInfo], str | None]]:
    """Return a page of tasks, newest first, and the cursor of the next page; None after the last."""
    asked: dict[str, str | int] = {**query, "cursor": cursor, "pageSize": PAGE_SIZE}
    data = yield from call(Request("GET", path_of(endpoint_id, "tasks"), asked), patience)
    if "nextCursor" not in data:
        raise ApiError("the API is of an earlier version, which has no filters of tasks", status=200)
    return [TaskInfo.model_validate(row) for row in data["items"]], data["nextCursor"]


ALL_OPERATIONS = "v2/operations"
OPERATION_POLL_SECONDS = 0.5


def start_operation(
    endpoint_id: str,
    action: str,
    filters: Mapping[str, Any],
    *,
    task_ids: Sequence[str] | None,
    dry_run: bool,
    operation_id: str | None,
    patience: Patience,
) -> Flow[OperationInfo]:
    """Begin an operation. Its id is made here unless it is given, so that a repeated request begins nothing twice."""
    body: dict[str, Any] = {"action": action, "dryRun": dry_run, "operationId": operation_id or uuid.uuid4().hex}
    if filters:
        body["filter"] = filter_query(filters)
    if task_ids is not None:
        body["taskIds"] = list(task_ids)
    request = Request("POST", path_of(endpoint_id, "operations"), body=json_text(body))
    return OperationInfo.model_validate((yield from call(request, patience)))


def read_operation(endpoint_id: str, operation_id: str, patience: Patience) -> Flow[OperationInfo]:
    data = yield from call(Request("GET", path_of(endpoint_id, "operations", operation_id)), patience)
    return OperationInfo.model_validate(data)


def cancel_operation(endpoint_id: str, operation_id: str, patience: Patience) -> Flow[OperationInfo]:
    path = path_of(endpoint_id, "operations", operation_id, "cancel")
    return OperationInfo.model_validate((yield from call(Request("POST", path), patience)))


def wait_for_operation(
    endpoint_id: str,
    operation_id: str,
    timeout: float | None,
    waiting: Patience,
    patience: Callable[[], Patience],
    show: Callable[[float, int], None],
) -> Flow[OperationInfo]:
    """Read an operation until it has ended, and return it. `show` gets its progress. Raises OperationTimeout."""
    path, pause = path_of(endpoint_id, "operations", operation_id), 0.0
    while True:
        request = Request("GET", path, after=pause)
        operation = OperationInfo.model_validate((yield from call(request, patience())))
        show(operation.progress, operation.done)
        if operation.has_ended:
            return operation
        now = waiting.clock()
        if timeout is not None and now >= waiting.until:
            raise OperationTimeout(operation, timeout)
        pause = min(OPERATION_POLL_SECONDS, max(0.0, waiting.until - now))


def operation_page(endpoint_id: str | None, number: int, patience: Patience) -> Flow[tuple[list[OperationInfo], bool]]:
    """Return a page of an endpoint's operations, or of all, newest first, and whether there are more."""
    path = path_under(ALL_OPERATIONS) if endpoint_id is None else path_of(endpoint_id, "operations")
    data = yield from call(Request("GET", path, {"pageNumber": number, "pageSize": PAGE_SIZE}), patience)
    return [OperationInfo.model_validate(row) for row in data["items"]], number < data["pages"]


def log_page(
    endpoint_id: str, worker_id: str, after: tuple[str, str] | None, query: Mapping[str, str | int], patience: Patience
) -> Flow[tuple[list[LogLine], tuple[str, str] | None, bool]]:
    """Return lines of a worker's log, the place after them, and whether there are more now."""
    asked: dict[str, str | int] = {**query, "pageSize": PAGE_SIZE}
    if after is not None:
        asked |= {"searchAfterTime": after[0], "searchAfterOffset": after[1]}
    data = yield from call(Request("GET", path_of(endpoint_id, "workers", worker_id, "logs"), asked), patience)
    time, offset = data.get("nextSearchAfterTime"), data.get("nextSearchAfterOffset")
    place = (time, offset) if time and offset else after
    return [LogLine.model_validate(row) for row in data["logs"]], place, bool(data["hasMore"])
