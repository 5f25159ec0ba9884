"""Requests that wait until tasks have ended: `?wait=` when a task is submitted or read, and `…/tasks/wait`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, TypeVar

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from starlette.requests import Request

from queue_engine.aio import retry_while_unavailable
from queue_engine.api.http.bodies import release
from queue_engine.api.http.errors import CLOSE, ClientGone
from queue_engine.api.http.long_poll import LongPoll
from queue_engine.api.http.middleware import WAITED
from queue_engine.api.http.operations import in_query
from queue_engine.api.http.order_log import log_order
from queue_engine.api.http.queries import Query
from queue_engine.api.http.rate_headers import rate_headers
from queue_engine.api.http.responses import Headers, Item, Response, success_with_items
from queue_engine.api.http.services import Services, with_address
from queue_engine.api.v2.fields import RequestModel, names_of, parsed
from queue_engine.api.v2.long_texts import detail_response, sent_texts
from queue_engine.api.v2.task_views import task_detail_view
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import EngineError, InvalidRequest, StoreUnavailable
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.field_types import matching
from queue_engine.domain.principals import Principal
from queue_engine.domain.rates import RateState
from queue_engine.domain.tasks import Payload, Task

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_WAIT_SECONDS = 300
MAX_TASKS = 256
"""Maximum number of tasks in one request."""
CANCEL_SECONDS = 60.0
"""Time for which the cancellation of a task is repeated while the store is away, after its client has disconnected."""
RETRY_AFTER: Headers = ((b"retry-after", b"1"),)
"""Sent when a wait was not made because of a limit, so that the client does not ask in a tight loop."""


class OnDisconnect(StrEnum):
    """Consequence for the task when the client disconnects before its end."""

    KEEP = "keep"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Wait:
    """The wait that a request asks for."""

    seconds: int
    cancels: bool = False
    """True if the task is cancelled when the client disconnects."""


def wait_in(request: Request) -> Wait | None:
    """Return the wait that the query asks for; None without `wait`. Raises InvalidRequest."""
    if not request.scope["query_string"]:
        return None
    query = Query(request)
    word = query.one("onDisconnect") if request.method == "POST" else None
    if word is not None and word not in list(OnDisconnect):
        raise InvalidRequest("onDisconnect", f"must be one of {', '.join(OnDisconnect)}")
    seconds = query.integer("wait", default=-1, minimum=0, maximum=MAX_WAIT_SECONDS)
    return None if seconds < 0 else Wait(seconds, word == OnDisconnect.CANCEL)


def payload_in(request: Request) -> Payload:
    """Return the part of input and output that the query asks for. Raises InvalidRequest."""
    found = Query(request).choice("payload", Payload) if request.scope["query_string"] else None
    return found or Payload.FULL


def payload_parameter() -> dict[str, object]:
    """Return the parameter `payload`."""
    return in_query(
        "payload",
        "`none` leaves `input` and `output` out, which may be megabytes, and `head` has their beginnings instead, as "
        "`inputHead` and `outputHead`",
        {"type": "string", "enum": list(Payload), "default": Payload.FULL},
    )


def wait_parameter(without: str) -> dict[str, object]:
    """Return the parameter `wait`. `without` says what the response is without it."""
    return in_query(
        "wait",
        "Seconds for which the response waits for the task's end; it has the task as it is then. "
        f"At most 50 behind a proxy, which may close connections without data. Without it, {without}",
        {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS},
    )


def disconnect_parameter() -> dict[str, object]:
    """Return the parameter `onDisconnect`."""
    return in_query(
        "onDisconnect",
        "With `wait`: `cancel` cancels the task when the client disconnects before its end. A client that repeats a "
        "request after a lost connection must use `keep`",
        {"type": "string", "enum": list(OnDisconnect), "default": OnDisconnect.KEEP},
    )


_EXAMPLE: JsonDict = {"taskIds": ["summary_0042", "summary_0043"], "wait": 30}

TaskId = Annotated[str, matching(r"[A-Za-z0-9_]{1,255}", "must be 1–255 of letters, digits and _")]


class WaitForTasks(RequestModel):
    """Tasks of one endpoint to wait for."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    task_ids: Annotated[list[TaskId], Field(min_length=1, max_length=MAX_TASKS)] = Field(
        description="Ids of the tasks; an id that is repeated counts once"
    )
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_SECONDS)] = Field(
        0, description="Seconds for which the response waits for the end of the first of these tasks"
    )


class TaskWaits:
    """Responds to requests that wait."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waits = services.engine.waits
        self._orders = services.engine.orders
        self._waiting = services.engine.waiting

    async def task(
        self,
        request: Request,
        principal: Principal,
        endpoint: Endpoint,
        task_id: str,
        wait: Wait,
        rates: Sequence[RateState] = (),
        *,
        payload: Payload = Payload.FULL,
    ) -> Response:
        """Return the task when it has ended, or as it is at the end of the wait. `rates` are those of a submission."""
        release(request.scope)  # the input of a submission is in the store
        request.scope[WAITED] = True
        try:
            wait_for = partial(self._waits.task, principal, endpoint, task_id, payload=payload)
            waited = await self._polled(request, wait.seconds, wait_for)
        except ClientGone:
            await self._note_disconnect(request, principal, endpoint, task_id, wait)
            raise
        headers = (*rate_headers(rates), *self._headers(is_refused=waited.is_refused))
        waiting = await self._waiting.of(principal, endpoint, waited.task)
        hidden = self._services.hides_payloads(request.scope)
        return detail_response(waited.task, endpoint, waiting, hidden=hidden, headers=headers)

    async def wait_for_tasks(self, request: Request) -> Response:
        """Responds when the first of the tasks has ended, with all that have ended by then or shortly after it. At the
        end of the wait `ended` may be empty. Unknown ids end no wait, unless all are unknown.

        A response has at most 8 MiB of inputs and outputs, if its first task is not longer. Tasks beyond it are in
        `pending`, and the next request returns them at once.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        asked = await self._read(request, principal)
        wait_for = partial(self._waits.tasks, principal, endpoint, asked.task_ids)
        waited = await self._polled(request, asked.wait, wait_for)
        ended = _items(waited.ended, endpoint, hidden=self._services.hides_payloads(request.scope))
        others = {"pending": waited.pending, "unknown": waited.unknown}
        return success_with_items("ended", ended, others, self._headers(is_refused=waited.is_refused))

    async def _read(self, request: Request, principal: Principal) -> WaitForTasks:
        body = await self._services.read_object(request, principal, names_of(WaitForTasks))
        asked, errors = parsed(WaitForTasks, body.values)
        raise_for(errors)
        return asked

    async def _polled(
        self, request: Request, seconds: int, wait_for: Callable[[asyncio.Future[None]], Awaitable[T]]
    ) -> T:
        """Return the result of a wait, which ends after `seconds`. Raises ClientGone if the client disconnects.

        The key is checked again after a long wait, because it may have been revoked.
        """
        key = self._services.key_of(request)
        poll = LongPoll(request.receive, seconds)
        async with poll as ended:
            try:
                result = await wait_for(ended)
            except EngineError:
                if not poll.is_gone:
                    raise
            if poll.is_gone:
                raise ClientGone
        await key.check_if_due()
        return result

    async def _note_disconnect(
        self, request: Request, principal: Principal, endpoint: Endpoint, task_id: str, wait: Wait
    ) -> None:
        """Cancel the task if the client asked for that, and log the submission, which gets no response."""
        if wait.cancels and not self._waits.is_draining:
            await self._cancel(with_address(principal, request), endpoint, task_id)
        if request.method == "POST":
            log_order("submit_task", request.scope)

    async def _cancel(self, principal: Principal, endpoint: Endpoint, task_id: str) -> None:
        """Cancel the task of a client that has disconnected. Does nothing to a task that has ended."""
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await retry_while_unavailable(
                    partial(self._orders.cancel, principal, endpoint, task_id), passing=_reason, what="cancel"
                )
        except (TimeoutError, EngineError) as error:
            facts = {"endpoint": endpoint.endpoint_id, "task": task_id, "reason": str(error)}
            log.warning("a task is not cancelled although its client has disconnected", extra=facts)

    def _headers(self, *, is_refused: bool) -> Headers:
        return (*(RETRY_AFTER if is_refused else ()), *(CLOSE if self._waits.is_draining else ()))


def _reason(error: BaseException) -> str | None:
    return error.reason if isinstance(error, StoreUnavailable) else None


def _items(tasks: Sequence[Task], endpoint: Endpoint, *, hidden: bool) -> list[Item]:
    """Return a view of each task, with its texts."""
    return [(task_detail_view(one, endpoint, hidden=hidden), sent_texts(one, hidden=hidden)) for one in tasks]
