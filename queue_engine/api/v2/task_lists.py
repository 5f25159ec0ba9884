"""Lists of tasks by filters: pages by cursor, and the export."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, aclosing
from enum import StrEnum
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Scope

from queue_engine.api.http.errors import ResponseCutOff
from queue_engine.api.http.line_streams import NDJSON, LineStream
from queue_engine.api.http.middleware import WITHOUT_BODY
from queue_engine.api.http.operations import in_query
from queue_engine.api.http.queries import Query, shown_name
from queue_engine.api.http.responses import Response, pieces_of, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.long_texts import sent_texts
from queue_engine.api.v2.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from queue_engine.api.v2.task_filters import FILTERS, filters_in
from queue_engine.api.v2.task_views import task_cursor_page_view, task_view
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import Forbidden, InvalidRequest, StoreUnavailable, Unauthorized
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import Task
from queue_engine.engine.principals import REVOCATION_SECONDS
from queue_engine.engine.task_lists import Export

QUIET_SECONDS = 10.0
"""Time without a line after which an empty line is sent, because proxies close connections without data."""
STOPS = "the server is shutting down"

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""In JSON text, line ends are only between values, so they can be replaced by spaces."""


class Include(StrEnum):
    """Texts of a task that an export has on request."""

    INPUT = "input"
    OUTPUT = "output"


class TaskLists:
    """Responds to requests for lists that are walked by cursor."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lists = services.engine.task_lists

    async def page(self, principal: Principal, endpoint: Endpoint, query: Query, scope: Scope) -> Response:
        """Return a page of tasks by cursor."""
        _check_names(query, FILTERS.keys() | {"cursor", "pageSize"})
        size = query.integer("pageSize", default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        filters, cursor = filters_in(query), query.one("cursor") or ""
        if filters.input is not None:
            self._services.check_shows_payloads(scope)
        page = await self._lists.page(principal, endpoint, filters, cursor=cursor, size=size)
        return success(task_cursor_page_view(page, endpoint))

    async def export_tasks(self, request: Request) -> Response:
        """The response is NDJSON: a line for each task that matched the filters and existed when the export began, in
        the order of creation. It is made as fast as the client reads it. Each line has a `cursor`. After a lost
        connection, the same request with the `cursor` of the last complete line continues after that task.

        The last line has `end` and no task. With `end` true, the export is complete. With `end` false, it was ended by
        the `reason`, and `nextCursor` continues it. A line before it may be incomplete then. Empty lines keep the
        connection open while no task matches.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        query = Query(request)
        _check_names(query, FILTERS.keys() | {"cursor", "include"})
        filters, cursor, include = filters_in(query), query.one("cursor") or "", query.choices("include", Include)
        if include or filters.input is not None:
            self._services.check_shows_payloads(request.scope)
        with ExitStack() as stack:
            stack.enter_context(self._lists.counted(principal.tenant))
            export = await self._lists.export(principal, endpoint, filters, cursor=cursor, whole=bool(include))
            lines = partial(self._lines, request, endpoint, export, include)
            return LineStream(
                200,
                b"",
                NDJSON.encode(),
                lines=None if WITHOUT_BODY in request.scope else lines,
                receive=request.receive,
                at_end=stack.pop_all().close,
            )

    async def _lines(
        self, request: Request, endpoint: Endpoint, export: Export, include: AbstractSet[Include]
    ) -> AsyncGenerator[bytes, None]:
        cursor, reason = export.cursor, None
        monotonic = self._services.monotonic
        checked = sent = monotonic()
        try:
            async with aclosing(aiter(export)) as tasks:
                async for task in tasks:
                    cursor_after = export.cursor
                    if task is not None:
                        async for part in _line_of(task, endpoint, include, cursor_after):
                            yield part
                    elif monotonic() - sent > QUIET_SECONDS:
                        yield b"\n"
                    if task is not None or monotonic() - sent > QUIET_SECONDS:
                        sent = monotonic()
                    cursor = cursor_after
                    if self._lists.is_draining:
                        reason = STOPS
                        break
                    if monotonic() - checked > REVOCATION_SECONDS:
                        await self._services.check_again(request)
                        checked = monotonic()
        except ResponseCutOff:
            reason = "the input or output of a task could not be read to its end"
            yield b"\n"
        except (StoreUnavailable, Unauthorized, Forbidden) as error:
            reason = str(error)
        yield _line(_last(cursor, reason))


def _last(cursor: str, reason: str | None) -> Mapping[str, Any]:
    if reason is None:
        return {"end": True, "nextCursor": None}
    return {"end": False, "nextCursor": cursor, "reason": reason}


async def _line_of(
    task: Task, endpoint: Endpoint, include: AbstractSet[Include], cursor: str
) -> AsyncGenerator[bytes, None]:
    """Yield the parts of a task's line."""
    view = task_view(task, endpoint)
    if not include:
        yield _line({**view, "cursor": cursor})
        return
    yield orjson.dumps(view).removesuffix(b"}")
    texts = sent_texts(task)
    for name in sorted(include):
        yield b',"%b":' % name.encode()
        async for piece in pieces_of(texts[name] or b"null"):
            yield bytes(piece).translate(_ONE_LINE)
    yield b",%b\n" % orjson.dumps({"cursor": cursor}).removeprefix(b"{")


def _line(members: Mapping[str, Any]) -> bytes:
    return orjson.dumps(members) + b"\n"


def _check_names(query: Query, known: AbstractSet[str]) -> None:
    """Raise InvalidRequest for a parameter that a list by cursor does not have: a mistyped filter would match all."""
    for name in sorted(query.names - known):
        if name == "pageNumber":
            raise InvalidRequest(name, "cannot be combined with cursor or filters; the next page is at nextCursor")
        raise InvalidRequest(shown_name(name), f"is not a parameter of this list; it has {', '.join(sorted(known))}")


def cursor_parameter() -> dict[str, object]:
    """Return the parameter `cursor` of a list."""
    return in_query(
        "cursor",
        "`nextCursor` of the page before; empty for the first page. A cursor is only for the endpoint and the filters "
        "of its page",
        {"type": "string"},
    )


def export_parameters() -> list[dict[str, object]]:
    """Return the parameters of the export besides the filters."""
    included = {"type": "array", "items": {"type": "string", "enum": ["input", "output"]}}
    return [
        in_query("cursor", "`cursor` or `nextCursor` of a line, to continue after it", {"type": "string"}),
        in_query(
            "include", "Texts that each line has too: `input`, `output` or both", included, style="form", explode=False
        ),
    ]
