"""Lists of tasks by filters: pages by cursor, and the export."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from queue_engine.api.http.line_streams import NDJSON, LineStream
from queue_engine.api.http.operations import in_query
from queue_engine.api.http.queries import Query, shown_name
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.export_lines import ExportLines, Include
from queue_engine.api.v2.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from queue_engine.api.v2.task_filters import FILTERS, filters_in
from queue_engine.api.v2.task_views import task_cursor_page_view
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Principal
from queue_engine.domain.task_filters import TaskFilters


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
        asked = _export_in(Query(request))
        if asked.include or asked.filters.input is not None:
            self._services.check_shows_payloads(request.scope)
        with ExitStack() as stack:
            stack.enter_context(self._lists.counted(principal.tenant))
            whole = bool(asked.include)
            export = await self._lists.export(principal, endpoint, asked.filters, cursor=asked.cursor, whole=whole)
            lines = ExportLines(self._services, request, endpoint, export, asked.include).made
            return LineStream.to(request, NDJSON.encode(), lines, at_end=stack.pop_all().close)


@dataclass(frozen=True)
class _AskedExport:
    """The export that a request asks for."""

    filters: TaskFilters
    cursor: str
    """Empty for an export from the beginning."""
    include: AbstractSet[Include]


def _export_in(query: Query) -> _AskedExport:
    _check_names(query, FILTERS.keys() | {"cursor", "include"})
    return _AskedExport(filters_in(query), query.one("cursor") or "", query.choices("include", Include))


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
