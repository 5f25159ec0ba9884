"""Turn the output of a container into batches of lines for the store.

The output comes from a `Source`: the agent's is the file to which its container writes, and the controller's is a
stream of its platform. The caller sends the batches: it takes `batch()`, sends it until the store has accepted it, and
calls `accept()`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from queue_engine.domain.logs import MAX_BATCH_LINES
from queue_engine.logs.budget import line_budget
from queue_engine.logs.lines import LineReader
from queue_engine.logs.masking import Secrets

MAX_WAITING_LINES = 5000
"""Maximum number of lines that wait for the store. Further lines are dropped."""
MAX_BATCH_CHARACTERS = 256 * 1024


class Source(Protocol):
    """The output of a container, read piece by piece."""

    def skip(self) -> int:
        """Skip output if too much is unread; return the number of skipped bytes."""
        ...

    def read(self) -> bytes:
        """Return the next piece; empty if all output has been read.

        A source with resume points returns at most MAX_PIECE_LINES lines at once, so that they fit into a batch.
        """
        ...

    def tail(self) -> bytes:
        """Return the last lines that were read, from the beginning of a line. The last one may be unfinished."""
        ...

    def resume_point(self, unfinished: int) -> str:
        """Return the point before the last `unfinished` bytes that were read, from which a later source can continue.

        Empty if the output can be read only once.
        """
        ...


MAX_PIECE_LINES = 200


@dataclass(frozen=True)
class Batch:
    """Lines that are stored in one call. No other batch of the log has the same id."""

    batch_id: str
    """The resume point after the lines, with a number, if the source has resume points."""
    lines: tuple[str, ...]


class _Line(NamedTuple):
    text: str
    point: str
    """The resume point after the piece that completed the line."""


class LogWriter:
    """Reads a source. Lines keep their order. Dropped lines are counted, and there is a note in their place.

    `now` is in monotonic seconds. `nonce` distinguishes the batches from those of other writers of the same log.
    """

    def __init__(self, source: Source, masked: Secrets, *, now: float, nonce: str) -> None:
        self._source = source
        self._reader = LineReader(masked, line_budget(now))
        self._waiting: deque[_Line] = deque()
        self._batch: Batch | None = None
        self._nonce = nonce
        self._batches = 0

    @property
    def is_empty(self) -> bool:
        """True if all lines have been accepted."""
        return self._batch is None and not self._waiting

    @property
    def dropped(self) -> int:
        """Number of dropped lines for which there is a note."""
        return self._reader.dropped

    @property
    def unsent(self) -> int:
        """Number of lines that have not been accepted."""
        return len(self._waiting) + (len(self._batch.lines) if self._batch else 0)

    def read(self, now: float) -> int:
        """Read a piece of the output; return its size in bytes."""
        skipped = self._source.skip()
        if skipped:
            self._reader.skip(skipped)
        data = self._source.read()
        room = MAX_WAITING_LINES - len(self._waiting)
        if data:
            self._keep(self._reader.feed(data, now=now, room=room))
        elif room > 0:
            self._keep(self._reader.pause(self._source.tail()))
        return len(data)

    def end(self) -> None:
        """Complete the last line, after all output has been read."""
        self._keep(self._reader.end(self._source.tail()))

    def last_lines(self) -> list[str]:
        """Return the last lines of the output that was read, with the masking of the log."""
        return self._reader.last_lines(self._source.tail())

    def batch(self) -> Batch | None:
        """Return the oldest lines, or None if none waits.

        The batch stays the same until `accept`, because it may have been stored although the reply was lost.
        """
        if self._batch is None and self._waiting:
            lines = [self._waiting.popleft() for _ in range(self._batch_size())]
            self._batches += 1
            begin = lines[-1].point or self._nonce
            self._batch = Batch(f"{begin}-{self._batches}", tuple(line.text for line in lines))
        return self._batch

    def accept(self) -> None:
        """Note that the store has accepted the batch."""
        self._batch = None

    def _keep(self, lines: list[str]) -> None:
        if lines:
            point = self._source.resume_point(self._reader.unfinished)
            self._waiting.extend(_Line(text, point) for text in lines)

    def _batch_size(self) -> int:
        """Return the number of lines of the next batch, at least one."""
        count = characters = 0
        for line in islice(self._waiting, MAX_BATCH_LINES):
            if characters >= MAX_BATCH_CHARACTERS:
                break
            characters += len(line.text)
            count += 1
        return self._without_part(count)

    def _without_part(self, count: int) -> int:
        """Return `count`, less the last lines if they are only a part of a piece, because their point is after it."""
        point = self._waiting[count - 1].point
        if not point or count == len(self._waiting) or self._waiting[count].point != point:
            return count
        whole = count
        while whole and self._waiting[whole - 1].point == point:
            whole -= 1
        return whole or count
