"""Submit many tasks, without I/O: see `exchange`. A request has a line for each task, and so has its response."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from queue_engine.client.calls import submission_of
from queue_engine.client.errors import ApiError, api_error
from queue_engine.client.exchange import (
    Flow,
    Patience,
    Request,
    Response,
    data_of,
    may_help,
    path_of,
)
from queue_engine.client.models import Batch, BatchItem

MAX_LINES = 256
"""Tasks in one request. The response fits into the buffers of a connection, because it is read after the request was
sent."""
MAX_BYTES = 1024 * 1024
"""Size from which on a request gets no further task."""
SUBMIT_SECONDS = 60.0
"""Time limit of a response."""
_JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True)
class TaskLines:
    """Makes the lines of tasks with the same fields, which have names in snake case."""

    fields: Mapping[str, Any]

    def of(self, value: Any, task_id: str) -> bytes:
        """Return the line of a task with this input. Raises ValueError for a `run_at` without an offset."""
        return submission_of({**self.fields, "input": value, "task_id": task_id})


def groups_of(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield lines in groups, each for one request."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        group.append(line)
        size += len(line)
        if len(group) == MAX_LINES or size >= MAX_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def submit_group(endpoint_id: str, lines: Sequence[bytes], patience: Callable[[], Patience]) -> Flow[list[BatchItem]]:
    """Submit tasks that have ids, and return a result for each, in order.

    Tasks that the API cannot take now are sent again, and so are those without a result because the connection was
    lost. `patience` makes that of the tries without any progress. Raises ApiError when it ends.
    """
    found: dict[int, BatchItem] = {}
    failures, delay, trying = 0, 0.0, patience()
    while left := [index for index in range(len(lines)) if index not in found]:
        body = b"".join(lines[index] + b"\n" for index in left)
        path = path_of(endpoint_id, "tasks", "batch")
        request = Request("POST", path, body=body, content_type=_JSON_LINES, timeout=SUBMIT_SECONDS, after=delay)
        error: ApiError | None = None
        settled: list[BatchItem] = []
        try:
            items, error = _items_of((yield request))
            settled = [item for item in items if not item.is_refused_for_now]
            error = error or next((item.error for item in items if item.is_refused_for_now), None)
        except ApiError as refused:
            error = refused
        for item in settled:
            index = left[item.index]
            found[index] = item.model_copy(update={"index": index})
        if error is None:
            if not settled:
                raise ApiError("the response has no result for any task", status=200)
            delay = 0.0
            continue
        if settled:
            failures, trying = 0, patience()
        failures += 1
        pause = trying.delay(error, failures) if may_help(error, request) else None
        if pause is None:
            raise error
        delay = pause
    return [found[index] for index in range(len(lines))]


def batch_of(items: Sequence[BatchItem]) -> Batch:
    """Return the sums of results, with the results."""
    results = [item.result for item in items]
    return Batch(
        accepted=results.count("accepted"),
        duplicate=results.count("duplicate"),
        rejected=results.count("rejected"),
        items=list(items),
    )


def _items_of(response: Response) -> tuple[list[BatchItem], ApiError | None]:
    """Return the results in a response, and the error that has ended it early. Raises ApiError if it is refused."""
    if response.status != 200:
        data_of(response)
    try:
        rows = [json.loads(line) for line in response.body.splitlines()]
        last = rows.pop()
        items = [BatchItem.model_validate(row) for row in rows]
        if last["done"]:
            return items, None
        code, message = int(last["code"]), str(last["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ApiError("the response has no results of a batch", status=response.status) from None
    return items, api_error(message, status=_STATUSES.get(code, 503), code=code, retry_after=None)


_STATUSES = {10001: 503, 40101: 401, 40301: 403, 429: 429}
"""HTTP statuses of the codes that end a stream early. A line that came too late may come in time when it is sent
again."""
