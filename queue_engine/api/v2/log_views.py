"""Views of workers' logs: the schemas, and the function that fills them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from queue_engine.api.http.envelope import View
from queue_engine.api.v2.times import iso_utc
from queue_engine.domain.logs import LogPage


class LogLineView(View):
    """One line that a container wrote."""

    timestamp: str = Field(description="When it came in, ISO 8601 in UTC", examples=["2026-01-31T12:00:00.007Z"])
    log: str = Field(description="The line, without control sequences; the endpoint's environment values are `***`")
    offset: int = Field(description="Tells the lines of one millisecond apart")


class LogPageView(View):
    """Some lines of a log, in the direction of reading."""

    logs: list[LogLineView] = Field(description="The lines")
    has_more: bool = Field(description="Whether there may be more now. A page can be short although there is more")
    next_search_after_time: str | None = Field(description="`searchAfterTime` of the next page; null: begin again")
    next_search_after_offset: str | None = Field(description="`searchAfterOffset` of the next page; null: begin again")


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
