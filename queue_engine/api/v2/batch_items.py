"""The tasks of a batch: read their texts, submit them, and make their results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from time import perf_counter
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.types import Scope

from queue_engine.api.http.envelope import View
from queue_engine.api.http.errors import BodyTooLarge, failure_of
from queue_engine.api.http.headers import named
from queue_engine.api.http.middleware import count_refusal
from queue_engine.api.http.order_log import log_order, note
from queue_engine.api.http.responses import SUCCESS, printable
from queue_engine.api.http.services import Services
from queue_engine.api.v2.fields import names_of
from queue_engine.api.v2.submissions import RAW_FIELDS, InvalidTask, SubmitTask, checked_task, traceparent_of
from queue_engine.domain.errors import EngineError, InvalidRequest, StoreUnavailable, TooManyRequests
from queue_engine.domain.principals import Principal
from queue_engine.engine.batches import Outcome
from queue_engine.engine.submissions import Submitted, TaskRequest

STEP_SECONDS = 0.005
"""Time after which the reading of tasks lets other requests go on."""
_NAMES = names_of(SubmitTask)


class ItemResult(StrEnum):
    """Result of a task of a batch."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class BatchItemView(View):
    """The result of one task of a batch."""

    index: int = Field(description="Place of the task in the request, from 0. Empty lines do not count")
    task_id: str | None = Field(description="Id of the task, as submitted or generated; null if none could be read")
    result: ItemResult = Field(description="`duplicate`: the same task was accepted before")
    code: int = Field(description="10000, or the error code that a single submission would have had")
    message: str = Field(description="`success`, or the message of the error")


class Batch:
    """The tasks of one request. `batch_id` is the beginning of the ids of tasks without an id. `needs_ids` is True if
    such a task is rejected.
    """

    def __init__(
        self, services: Services, scope: Scope, principal: Principal, batch_id: str | None, *, needs_ids: bool
    ) -> None:
        self._services = services
        self._engine = services.engine
        self._scope = scope
        self._principal = principal
        self._batch_id = batch_id
        self._needs_ids = needs_ids and batch_id is None
        self._traceparent = traceparent_of(scope["headers"]) if b"traceparent" in named(scope) else None
        self._endpoint_id: str = scope["path_params"]["id"]
        self._index = 0
        self._is_counted = True
        """True while the request itself, which the tenant's request limit has counted, stands for the next task."""
        self._latest = asyncio.Event()
        """Set when the group that was submitted latest has ended."""
        self._latest.set()
        self._counts = dict.fromkeys(ItemResult, 0)
        self.store_error: StoreUnavailable | None = None
        """The latest error of the store."""

    async def check_first(self, text: bytes | None) -> None:
        """Raise InvalidRequest if the first of the tasks needs an id and has none: then none of them is submitted."""
        if not self._needs_ids or text is None:
            return
        try:
            body = await self._services.bodies.split(text, frozenset({"taskId"}))
        except InvalidRequest:
            return
        if body.values.get("taskId") is None:
            raise _no_id()

    async def submit(self, texts: Sequence[bytes | memoryview | None]) -> list[dict[str, Any]]:
        """Submit a group of tasks after those before it, and return their results.

        A text that is None was too long to be read.
        """
        first, self._index = self._index, self._index + len(texts)
        before, self._latest = self._latest, asyncio.Event()
        ended = self._latest
        try:
            names, requests = await self._parsed(texts, first)
            # The checks of a group may wait, and the group behind it must not go ahead then.
            await before.wait()
            outcomes = await self._engine.batches.submit(self._principal, self._endpoint_id, requests)
        finally:
            ended.set()
        return [
            self._item(index, name, outcome)
            for index, (name, outcome) in enumerate(zip(names, outcomes, strict=True), start=first)
        ]

    def sums(self) -> dict[str, int]:
        """Return the numbers of tasks by their results."""
        return {str(result): count for result, count in self._counts.items()}

    def log(self, request: Request) -> None:
        """Log the sums. Each task is no line of the log."""
        note(request, **self.sums())
        log_order("submit_batch", request.scope)

    async def _parsed(
        self, texts: Sequence[bytes | memoryview | None], first: int
    ) -> tuple[list[str | None], list[TaskRequest | EngineError]]:
        """Return the ids of the tasks and their requests, or the errors of those that break a rule."""
        names: list[str | None] = []
        requests: list[TaskRequest | EngineError] = []
        began = perf_counter()
        for index, text in enumerate(texts, start=first):
            name = None if self._batch_id is None else f"{self._batch_id}_{index + 1}"
            try:
                self._count_request()
                task = await self._task(text)
                request = task.request(self._traceparent, name)
                if request.task_id is None and self._needs_ids:
                    raise _no_id()
            except EngineError as error:
                names.append((isinstance(error, InvalidTask) and error.task_id) or name)
                requests.append(error)
            else:
                names.append(request.task_id)
                requests.append(request)
            if perf_counter() - began > STEP_SECONDS:
                await asyncio.sleep(0)
                began = perf_counter()
        return names, requests

    def _count_request(self) -> None:
        """Count a task as a request of the tenant. Raises TooManyRequests, before the task is read."""
        if self._is_counted:
            self._is_counted = False
        else:
            self._services.limiter.take(self._principal.tenant)

    async def _task(self, text: bytes | memoryview | None) -> SubmitTask:
        """Return the task in a text. Raises EngineError for one that breaks a rule."""
        bodies = self._services.bodies
        if text is None or len(text) > bodies.max_bytes:
            raise BodyTooLarge(bodies.max_bytes)
        body = await bodies.split(bytes(text), _NAMES, RAW_FIELDS)
        return await checked_task(body, self._principal, self._engine.submissions)

    def _item(self, index: int, name: str | None, outcome: Outcome) -> dict[str, Any]:
        code, message = SUCCESS, "success"
        if isinstance(outcome, Submitted):
            result = ItemResult.ACCEPTED if outcome.is_new else ItemResult.DUPLICATE
            name = outcome.task_id
        else:
            result = ItemResult.REJECTED
            _, code, message = failure_of(outcome, self._scope)
            self._note(outcome)
        self._counts[result] += 1
        return {"index": index, "taskId": name, "result": result, "code": code, "message": printable(message)}

    def _note(self, error: Exception) -> None:
        if isinstance(error, TooManyRequests):
            count_refusal(error)
        elif isinstance(error, StoreUnavailable):
            self.store_error = error


def _no_id() -> InvalidRequest:
    return InvalidRequest("taskId", "is required without batchId")
