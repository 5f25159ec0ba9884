"""Lines that containers wrote, and what a reader asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """Where a line is in its log. Places are compared as pairs."""

    time_ms: int
    offset: int


@dataclass(frozen=True)
class LogLine:
    """One line that a container wrote."""

    place: Place
    text: str


@dataclass(frozen=True)
class LogQuery:
    """Which lines. Times are epoch milliseconds and belong to the range; they may lie before 1970."""

    size: int
    keyword: str = ""
    """Only lines that have it somewhere, in any case."""
    start_ms: int | None = None
    end_ms: int | None = None
    after: Place | None = None
    """Only lines beyond this one, in the direction of reading."""
    backward: bool = False

    def wants(self, text: str) -> bool:
        """Whether the keyword, if there is one, is in `text`."""
        return not self.keyword or self.keyword.casefold() in text.casefold()


@dataclass(frozen=True)
class LogPage:
    """Some lines, in the direction of reading."""

    lines: tuple[LogLine, ...]
    has_more: bool
    """There may be more now. False: there was nothing more when this was read; lines may come."""
    next: Place | None
    """Where the next page begins: after this. None when nothing has been looked at yet."""
