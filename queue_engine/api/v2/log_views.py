"""Views of workers' logs: the schemas, and the function that fills them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from queue_engine.api.http.envelope import View
from queue_engine.api.v2.times import iso_utc
from queue_engine.domain.logs import EndpointLogPage, EndpointPlace, LogPage


class LogLineView(View):
    """A line that a container wrote."""

    timestamp: str = Field(description="Time of receipt, ISO 8601 in UTC", examples=["2026-01-31T12:00:00.007Z"])
    log: str = Field(description="The line, without control sequences; the endpoint's environment values are `***`")
    offset: int = Field(description="Distinguishes lines of the same millisecond")


class LogPageView(View):
    """A page of a log's lines, in the requested direction."""

    logs: list[LogLineView] = Field(description="The lines")
    has_more: bool = Field(description="True if more lines may exist now. A short page may be followed by others")
    next_search_after_time: str | None = Field(
        description="`searchAfterTime` of the next page; null: no line was read yet"
    )
    next_search_after_offset: str | None = Field(
        description="`searchAfterOffset` of the next page; null: no line was read yet"
    )


def log_page_view(page: LogPage) -> dict[str, Any]:
    """Return a LogPageView."""
    return {
        "logs": [
            {"timestamp": iso_utc(line.place.time_ms), "log": line.text, "offset": line.place.offset}
            for line in page.lines
        ],
        "hasMore": page.has_more,
        "nextSearchAfterTime": str(page.next.time_ms) if page.next else None,
        "nextSearchAfterOffset": str(page.next.offset) if page.next else None,
    }


class EndpointLogLineView(LogLineView):
    """A line that the container of a worker wrote."""

    worker_id: str = Field(description="Id of the worker")


class EndpointLogPageView(View):
    """A page of the lines of an endpoint's workers, in the requested direction."""

    logs: list[EndpointLogLineView] = Field(description="The lines")
    has_more: bool = Field(description="True if more lines may exist now. A short page may be followed by others")
    next_cursor: str | None = Field(description="`cursor` of the next page; null: no line was read yet")
    complete: bool = Field(
        description="False if the endpoint has more than 100 logs: those that were written last are merged"
    )


def endpoint_log_page_view(page: EndpointLogPage) -> dict[str, Any]:
    """Return an EndpointLogPageView."""
    return {
        "logs": [
            {
                "timestamp": iso_utc(line.place.time_ms),
                "log": line.text,
                "offset": line.place.offset,
                "workerId": line.place.worker_id,
            }
            for line in page.lines
        ],
        "hasMore": page.has_more,
        "nextCursor": log_cursor(page.next),
        "complete": page.is_complete,
    }


def log_cursor(place: EndpointPlace | None) -> str | None:
    """Return the cursor behind a place."""
    return None if place is None else f"{place.time_ms}-{place.offset}-{place.worker_id}"
