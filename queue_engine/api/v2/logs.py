"""`/v2/serverless/{id}/workers/{workerId}/logs` and `…/{id}/logs`: the output of workers' containers."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from starlette.requests import Request

from queue_engine.api.http.envelope import Success
from queue_engine.api.http.operations import Operation, in_path, in_query
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services, worker_id_in
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.log_views import EndpointLogPageView, LogPageView, endpoint_log_page_view, log_page_view
from queue_engine.api.v2.times import epoch_ms
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.logs import EndpointPlace, LogQuery, Place
from queue_engine.domain.principals import Right

TAG = "endpoints"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_KEYWORD_CHARACTERS = 255
MAX_TOKEN = 2**63 - 1

TOKENS = frozenset({"searchAfterTime", "searchAfterOffset"})

_TOKEN = re.compile(r"[0-9]{1,19}")
_CURSOR = "^([0-9]{1,19})-([0-9]{1,19})-([A-Za-z0-9][A-Za-z0-9_-]{0,62})$"

WORKER_ID = in_path("workerId", "Id of a worker", {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"})


class Direction(StrEnum):
    """The way in which a log is read."""

    FORWARD = "FORWARD"
    """Older to newer."""
    BACKWARD = "BACKWARD"


class LogRoutes:
    """Read the logs of workers."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/v2/serverless/{id}/workers/{workerId}/logs", self.get_logs, right=Right.VIEW,
                summary="Read the log of a worker's container", tag=TAG, response=Success[LogPageView],
                parameters=[ENDPOINT_ID, WORKER_ID, *_log_parameters()], failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless/{id}/logs", self.get_endpoint_logs, right=Right.VIEW,
                summary="Read the logs of all workers of an endpoint, merged by time", tag=TAG,
                response=Success[EndpointLogPageView],
                parameters=[
                    ENDPOINT_ID, *(one for one in _log_parameters() if one["name"] not in TOKENS),
                    in_query("cursor", "`nextCursor` of the previous page", {"type": "string", "pattern": _CURSOR}),
                ],
                failures=(400, 401, 404, 429, 503),
            ),
        ]  # fmt: skip

    async def get_logs(self, request: Request) -> Response:
        """Pass the two tokens of a page to get the next page. Each line is returned once, also while lines are added.

        When `hasMore` is false, the same tokens return the lines that are added later. The latest lines of each worker
        are kept, and stay readable for a time after the worker has ended.
        """
        principal = await self._services.admit(request)
        self._services.check_shows_payloads(request.scope)
        endpoint = await self._services.endpoint(request, principal)
        query = log_query(Query(request))
        page = await self._services.engine.queries.log(principal, endpoint, worker_id_in(request), query)
        return success(log_page_view(page))

    async def get_endpoint_logs(self, request: Request) -> Response:
        """Pass the cursor of a page to get the next page. When `hasMore` is false, the same cursor returns the lines
        that are added later. Ended workers are included while their logs are kept.
        """
        principal = await self._services.admit(request)
        self._services.check_shows_payloads(request.scope)
        endpoint = await self._services.endpoint(request, principal)
        given = Query(request)
        query, after = log_query(given), _endpoint_place(given)
        page = await self._services.engine.queries.endpoint_log(principal, endpoint, query, after)
        return success(endpoint_log_page_view(page))


def log_query(given: Query) -> LogQuery:
    """Return the query that the parameters describe. Raises InvalidRequest that names the parameter."""
    query = LogQuery(
        size=given.integer("pageSize", default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE),
        keyword=_keyword(given),
        start_ms=_time(given, "startTime"),
        end_ms=_time(given, "endTime"),
        after=_search_after(given),
        backward=given.choice("direction", Direction) is Direction.BACKWARD,
    )
    if query.start_ms is not None and query.end_ms is not None and query.start_ms > query.end_ms:
        raise InvalidRequest("startTime", "must not be after endTime")
    return query


def _keyword(given: Query) -> str:
    keyword = given.one("keyword") or ""
    if len(keyword) > MAX_KEYWORD_CHARACTERS:
        raise InvalidRequest("keyword", f"must be at most {MAX_KEYWORD_CHARACTERS} characters long")
    return keyword


def _time(given: Query, name: str) -> int | None:
    text = given.one(name)
    return None if text is None else epoch_ms(name, text)


def _search_after(given: Query) -> Place | None:
    time_ms, offset = _token(given, "searchAfterTime"), _token(given, "searchAfterOffset")
    if time_ms is None and offset is None:
        return None
    if time_ms is None:
        raise InvalidRequest("searchAfterTime", "is required with searchAfterOffset")
    if offset is None:
        raise InvalidRequest("searchAfterOffset", "is required with searchAfterTime")
    return Place(time_ms, offset)


def _endpoint_place(given: Query) -> EndpointPlace | None:
    cursor = given.one("cursor")
    if cursor is None:
        return None
    found = re.fullmatch(_CURSOR, cursor)
    if found is None or max(int(found[1]), int(found[2])) > MAX_TOKEN:
        raise InvalidRequest("cursor", "must be the nextCursor of a page, unchanged")
    return EndpointPlace(int(found[1]), int(found[2]), found[3])


def _token(given: Query, name: str) -> int | None:
    text = given.one(name)
    if text is None:
        return None
    if _TOKEN.fullmatch(text) is None or int(text) > MAX_TOKEN:
        raise InvalidRequest(name, "must be the token of the previous page")
    return int(text)


def _log_parameters() -> list[dict[str, Any]]:
    time: dict[str, Any] = {"type": "string", "examples": ["2026-01-31T12:00:00Z", "1769860800000"]}
    token: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{1,19}$"}
    return [
        in_query(
            "pageSize", "Maximum number of lines in the response",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE},
        ),
        in_query(
            "keyword", "Return only lines that contain this text, in any case",
            {"type": "string", "maxLength": MAX_KEYWORD_CHARACTERS},
        ),
        in_query("startTime", "Return only lines from this time on: epoch ms, or ISO 8601 (UTC without offset)", time),
        in_query("endTime", "Return only lines up to this time: epoch ms, or ISO 8601 (UTC without offset)", time),
        in_query("searchAfterTime", "`nextSearchAfterTime` of the previous page; requires searchAfterOffset", token),
        in_query("searchAfterOffset", "`nextSearchAfterOffset` of the previous page; requires searchAfterTime", token),
        in_query(
            "direction", "Forward: older lines first; Backward: newer lines first. In any case",
            {"type": "string", "enum": ["Forward", "Backward"], "default": "Forward"},
        ),
    ]  # fmt: skip
