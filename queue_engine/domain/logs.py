"""Log lines of containers, and queries over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MAX_BATCH_LINES = 500
"""Maximum number of lines that are appended at once, because the store serves no other client while it appends them."""


class Place(NamedTuple):
    """Position of a line in its log. Places are compared as pairs."""

    time_ms: int
    offset: int


class EndpointPlace(NamedTuple):
    """Position of a line in the logs of all workers of an endpoint, which are merged by time. Compared as a triple."""

    time_ms: int
    offset: int
    worker_id: str


@dataclass(frozen=True)
class LogLine:
    """A line that a container wrote."""

    place: Place
    text: str


@dataclass(frozen=True)
class LogQuery:
    """Selection of lines. Times are epoch milliseconds, inclusive; they may lie before 1970."""

    size: int
    keyword: str = ""
    """Select only lines that contain this text, ignoring case."""
    start_ms: int | None = None
    end_ms: int | None = None
    after: Place | None = None
    """Select only lines after this place, in the direction of reading."""
    backward: bool = False

    def wants(self, text: str) -> bool:
        """Return whether `text` contains the keyword. True if the query has none."""
        return not self.keyword or self.keyword.casefold() in text.casefold()


@dataclass(frozen=True)
class LogPage:
    """Some lines, in the direction of reading."""

    lines: tuple[LogLine, ...]
    has_more: bool
    """True if there may be more lines now. False if there were none at the time of reading; new lines may follow."""
    next: Place | None
    """The next page starts after this place. None if no line was read."""


@dataclass(frozen=True)
class EndpointLogLine:
    """A line that the container of a worker wrote."""

    place: EndpointPlace
    text: str


@dataclass(frozen=True)
class EndpointLogPage:
    """Some lines of the workers of an endpoint, in the direction of reading."""

    lines: tuple[EndpointLogLine, ...]
    has_more: bool
    """True if there may be more lines now."""
    next: EndpointPlace | None
    """The next page starts after this place. None if no line was read."""
    is_complete: bool
    """False if the endpoint has more logs than are merged, so that those with the oldest last lines are left out."""
