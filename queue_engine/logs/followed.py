"""The output of a container that its platform stores, as a source that continues where another one has ended.

A platform stores the output in entries, each with the time at which it was received. It returns the same entries in the
same order each time. A resume point names the last entry of the log by its time, and by the number of entries with that
time, because podman's times are whole seconds:

    14:03:07 loading       stamp 07, 1 entry
    14:03:07 loaded        stamp 07, 2 entries      ◄── the log ends here: the point is (07, 2 entries, 0 bytes)
    14:03:07 listening     a source that continues returns this entry first

`offset` counts bytes of the next entry: a progress bar is a single entry with many lines, each of which ends with CR.

Entries can be slightly out of order, because standard output and error are received in parallel. So a source asks for
entries that are SLACK_NS older than the point, and looks for the named entry. All entries that follow it are new,
whatever their times are.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

from queue_engine.logs.writer import MAX_PIECE_LINES

SLACK_NS = 1_000_000_000
"""Maximum disorder of the times of entries."""
MAX_PIECE_BYTES = 16 * 1024
MAX_UNREAD_BYTES = 128 * 1024
"""Size of the unread entries at which a source is full. It limits the memory of hundreds of followed containers."""
MAX_UNREAD_PIECES = 2000
MAX_HELD_ENTRIES = 200
"""Maximum number of entries within SLACK_NS that are held while the entry of the point is looked for."""
TAIL_BYTES = 16 * 1024
"""Number of bytes that are kept for `tail`: 20 lines of usual length."""

_POINT = re.compile(r"(\d{1,18}):(?:(end)|(\d{1,20}):(\d{1,18}):(\d{1,18}))(?:-.*)?")


@dataclass(frozen=True)
class ResumePoint:
    """Point in the output of one run of a worker. The log has all lines before it, and none after it.

    The point is after `entries` entries with the time `stamp_ns`, and `offset` bytes of the next entry with that time.
    """

    run: int
    stamp_ns: int = 0
    entries: int = 0
    offset: int = 0
    is_end: bool = False
    """True if the log of the run is complete."""

    @classmethod
    def of(cls, batch_id: str, run: int) -> ResumePoint:
        """Return the point with which the id of the log's last batch begins; the beginning for a log of other runs."""
        found = _POINT.fullmatch(batch_id)
        if found is None or int(found[1]) != run:
            return cls(run)
        return cls(run, is_end=True) if found[2] else cls(run, int(found[3]), int(found[4]), int(found[5]))

    @property
    def since_ns(self) -> int:
        """Time from which the platform must return entries, so that a source finds this point."""
        return max(0, self.stamp_ns - SLACK_NS)

    def __str__(self) -> str:
        return f"{self.run}:end" if self.is_end else f"{self.run}:{self.stamp_ns}:{self.entries}:{self.offset}"


class _Piece(NamedTuple):
    """A part of an entry."""

    begin: ResumePoint
    end: ResumePoint
    data: bytes

    def before_last(self, count: int) -> ResumePoint:
        """Return the point before the last `count` bytes."""
        if count == 0:
            return self.end
        return self.begin if count == len(self.data) else self._inside(len(self.data) - count)

    def _inside(self, size: int) -> ResumePoint:
        begin, end = self.begin, self.end
        if begin.stamp_ns == end.stamp_ns and begin.offset:  # the piece does not begin its entry
            return replace(begin, offset=begin.offset + size)
        return replace(end, entries=end.entries - (0 if end.offset else 1), offset=size)


class FollowedOutput:
    """A source for a `LogWriter`. `put` adds an entry; entries before `point` are ignored."""

    def __init__(self, point: ResumePoint) -> None:
        self._point = point
        """Point after the last complete line that was read."""
        self._end = point
        """Point after the last piece that was added."""
        self._search: _Search | None = _Search(point)
        self._unread: deque[_Piece] = deque()
        self._unread_bytes = 0
        self._last: _Piece | None = None
        self._tail = bytearray()
        self._is_tail_whole = True
        self._stamp_ns = -1
        self._entries = 0
        """Number of entries with the latest time that were put so far."""

    @property
    def is_full(self) -> bool:
        """True if entries should be read before more are put."""
        return self._unread_bytes >= MAX_UNREAD_BYTES or len(self._unread) >= MAX_UNREAD_PIECES

    @property
    def is_empty(self) -> bool:
        """True if all entries have been read."""
        return not self._unread

    @property
    def stamp_ns(self) -> int:
        """Time of the latest entry; negative if there was none."""
        return self._stamp_ns

    def put(self, stamp_ns: int, data: bytes) -> None:
        """Add the next entry of the platform."""
        entry = self._numbered(stamp_ns, data)
        if self._search is None:
            self._add(entry)
            return
        new = self._search.put(entry)
        if new is not None:
            self._search = None
            for one in new:
                self._add(one)

    def put_end(self) -> None:
        """Note that the platform has no further entry."""
        if self._search is not None:
            for one in self._search.held:
                self._add(one)
            self._search = None

    def skip(self) -> int:
        """Return 0, because nothing is skipped."""
        return 0

    def read(self) -> bytes:
        """Return the next piece; empty if all have been read."""
        if not self._unread:
            return b""
        piece = self._last = self._unread.popleft()
        self._unread_bytes -= len(piece.data)
        self._tail += piece.data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
            self._is_tail_whole = False
        return piece.data

    def tail(self) -> bytes:
        """Return the last lines before the read position. The last line may be unfinished."""
        data = bytes(self._tail)
        return data if self._is_tail_whole else data.partition(b"\n")[2]

    def resume_point(self, unfinished: int) -> str:
        """Return the point before the last `unfinished` bytes that were read, which are an unfinished line."""
        # If the unfinished line began before this piece, no line has ended since the previous point.
        if self._last is not None and unfinished <= len(self._last.data):
            self._point = self._last.before_last(unfinished)
        return str(self._point)

    def _numbered(self, stamp_ns: int, data: bytes) -> _Entry:
        self._entries = self._entries + 1 if stamp_ns == self._stamp_ns else 1
        self._stamp_ns = stamp_ns
        return _Entry(stamp_ns, self._entries, data)

    def _add(self, entry: _Entry) -> None:
        whole = replace(self._point, stamp_ns=entry.stamp_ns, entries=entry.number, offset=0)
        size, first = len(entry.data), entry.first
        while first < size:
            after = min(size, _piece_end(entry.data, first))
            end = whole if after == size else replace(whole, entries=entry.number - 1, offset=after)
            self._unread.append(_Piece(self._end, end, entry.data[first:after]))
            self._unread_bytes += after - first
            self._end, first = end, after


@dataclass(frozen=True)
class _Entry:
    stamp_ns: int
    number: int
    """Number of this entry among those with the same time, from 1."""
    data: bytes
    first: int = 0
    """Index of the first byte that the log does not have."""


class _Search:
    """Looks for a resume point. Entries that may follow it are held until it is found, or cannot be found any more."""

    def __init__(self, point: ResumePoint) -> None:
        self._point = point
        self.held: list[_Entry] = []
        """Entries that are new if the platform no longer has the entry of the point."""

    def put(self, entry: _Entry) -> list[_Entry] | None:
        """Return the new entries, up to this one, when the point is passed; else None."""
        point = self._point
        if entry.stamp_ns == point.stamp_ns:
            return self._at_stamp(entry)
        if entry.stamp_ns < point.stamp_ns:
            return None
        self.held.append(entry)
        is_passed = entry.stamp_ns > point.stamp_ns + SLACK_NS or len(self.held) >= MAX_HELD_ENTRIES
        return self.held if is_passed or not point.entries + point.offset else None

    def _at_stamp(self, entry: _Entry) -> list[_Entry] | None:
        point = self._point
        if entry.number <= point.entries:
            is_found = entry.number == point.entries and not point.offset
            return [] if is_found else None
        return [replace(entry, first=point.offset)]


def _piece_end(data: bytes, first: int) -> int:
    """Return the index after the next piece, which has at most MAX_PIECE_LINES lines."""
    after = first + MAX_PIECE_BYTES
    if data.count(b"\n", first, after) + data.count(b"\r", first, after) > MAX_PIECE_LINES:
        return first + MAX_PIECE_LINES
    return after
