"""`POST /v2/serverless/{id}/tasks/batch`: submit many tasks in one request.

A JSON body is read as a whole, and its response has a result for each task. A body of JSON lines is read while it
arrives: the response has a line for each line, in order, and a last line with the sums. At most two groups of lines are
under way, so a client that sends faster than the store accepts, or reads slower than it sends, is slowed down by TCP.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from starlette.requests import Request

from queue_engine.api.http.bodies import check_content_type
from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.json_lines import MEDIA_TYPE, is_json_lines
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.batch_items import Batch, BatchItemView
from queue_engine.api.v2.batch_stream import BatchStream
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.fields import RequestModel
from queue_engine.api.v2.submissions import SubmitTask
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Principal, Right
from queue_engine.engine.batches import MAX_GROUP
from queue_engine.rules.json_pieces import split_items
from queue_engine.rules.strict_json import InvalidJson

MAX_TASKS = 1000
"""Maximum number of tasks in a JSON body."""
_BATCH_ID = re.compile(r"[A-Za-z0-9_]{1,64}")


_EXAMPLE: JsonDict = {
    "tasks": [
        {"taskId": "summary_1", "input": {"text": "It was"}, "workerPort": 8000, "processUri": "/summarize"},
        {"taskId": "summary_2", "input": {"text": "the best"}, "workerPort": 8000, "processUri": "/summarize"},
    ]
}


class SubmitBatch(RequestModel):
    """Tasks for a QUEUE endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    tasks: Annotated[list[SubmitTask], Field(min_length=1, max_length=MAX_TASKS)] = Field(
        description="Each is the body of a single submission. A submission that breaks a rule is rejected, without "
        "an effect on the others"
    )


class BatchView(View):
    """The results of a batch."""

    accepted: int = Field(description="Number of tasks that were accepted now")
    duplicate: int = Field(description="Number of tasks that had been accepted before")
    rejected: int = Field(description="Number of tasks that were refused")
    items: list[BatchItemView] = Field(description="A result for each task, in the order of the request")


class BatchRoutes:
    """Submit many tasks."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/v2/serverless/{id}/tasks/batch", self.submit_batch, right=Right.SUBMIT,
                summary="Submit many tasks", tag="tasks", response=Success[BatchView], takes=SubmitBatch,
                has_lines=True, parameters=[ENDPOINT_ID, _batch_id_parameter()],
                failures=(400, 401, 404, 413, 415, 429, 503), only_reads=True,
            ),
        ]  # fmt: skip

    async def submit_batch(self, request: Request) -> Response | BatchStream:
        """Each task is accepted or rejected by itself, as if it were submitted alone. All limits, also that of
        requests per second, count each task. The request can be repeated after a lost response if the tasks have ids.

        With `application/x-ndjson`, each line is a task, and the response is sent while the lines arrive: a line with
        the result of each, in order, and a last line `{"done": true, "accepted": …, "duplicate": …, "rejected": …}`.
        Without that line the request was cut off. With `done` false it has ended early, and `code` and `message` say
        why; lines without a result were not accepted. A client must read results while it sends, or send at most some
        thousand lines in a request. Lines need a `taskId` or the parameter `batchId`, so that the same lines can be
        sent again.
        """
        principal = await self._services.admit(request)
        batch_id = _batch_id_in(request)
        await self._services.endpoint(request, principal)
        has_lines = is_json_lines(request.scope)
        batch = Batch(self._services, request.scope, principal, batch_id, needs_ids=has_lines)
        if has_lines:
            check_content_type(request.scope, MEDIA_TYPE)
            return await BatchStream.begun(self._services, request, principal, batch)
        return await self._submit_body(request, principal, batch)

    async def _submit_body(self, request: Request, principal: Principal, batch: Batch) -> Response:
        """Submit the tasks in a JSON body, and return all results."""
        texts = await self._read_tasks(request, principal)
        items: list[dict[str, Any]] = []
        for first in range(0, len(texts), MAX_GROUP):
            items += await batch.submit(texts[first : first + MAX_GROUP])
        batch.log(request)
        return success(batch.sums() | {"items": items})

    async def _read_tasks(self, request: Request, principal: Principal) -> list[memoryview]:
        """Return the texts of the tasks in a JSON body."""
        bodies, key = self._services.batch_bodies, self._services.key_of(request)
        body = await bodies.read_object(request, principal.tenant, frozenset(), frozenset({"tasks"}))
        await key.check_if_due()
        if "tasks" not in body.raw:
            raise InvalidRequest("tasks", "is required")
        try:
            texts = await bodies.turns.run(split_items(body.raw["tasks"], MAX_TASKS))
        except InvalidJson as error:
            raise InvalidRequest("tasks", error.rule) from None
        if not texts:
            raise InvalidRequest("tasks", "must have 1 items or more")
        return texts


def _batch_id_parameter() -> dict[str, object]:
    return in_query(
        "batchId",
        "Beginning of the ids of tasks without a `taskId`, which are `<batchId>_<number>`, from 1 for the first task. "
        "With it the same batch can be sent again",
        {"type": "string", "pattern": f"^{_BATCH_ID.pattern}$"},
    )


def _batch_id_in(request: Request) -> str | None:
    """Return the batch id in the query."""
    if not request.scope["query_string"]:
        return None
    query = Query(request)
    batch_id = query.one("batchId")
    if batch_id is not None and _BATCH_ID.fullmatch(batch_id) is None:
        raise InvalidRequest("batchId", "must be 1–64 of letters, digits and _")
    return batch_id
