"""Turn the output of a container into log lines: split, cleaned, masked, and limited in number."""

from __future__ import annotations

import re

from queue_engine.domain.token_bucket import TokenBucket
from queue_engine.logs.budget import line_cost
from queue_engine.logs.masking import Secrets, cleaned

MAX_LINE_BYTES = 4096
"""Maximum length of a line. A longer line is cut and ends with CUT."""
TAIL_LINES = 20
CUT = " [queue-engine: line cut]"

_LINE_END = re.compile(rb"\r\n|\n|\r")


def dropped_note(lines: int) -> str:
    """Return the line that the log has in place of dropped lines."""
    return f"[queue-engine: {lines} lines dropped]" if lines > 1 else "[queue-engine: 1 line dropped]"


def skipped_note(skipped_bytes: int) -> str:
    """Return the line that the log has in place of output whose lines were not counted."""
    return f"[queue-engine: {skipped_bytes} bytes of output skipped]"


def lag_note(seconds: int) -> str:
    """Return the line that the log has in place of output that was written faster than it could be followed."""
    return f"[queue-engine: the output of {seconds} seconds skipped]"


class LineReader:
    """Turns the output of a container into lines, independent of the chunks in which it arrives.

    A line ends with LF, CR or CRLF. Lines above the budget are dropped without being parsed, and a note with their
    number is in their place. `dropped` is the number of dropped lines for which there was a note. `unfinished` is the
    number of bytes after the last line end.
    """

    def __init__(self, secrets: Secrets, budget: TokenBucket) -> None:
        self._secrets = secrets
        self._budget = budget
        # More than MAX_LINE_BYTES, because the end of the kept part is discarded: it may be the beginning of a secret.
        self._kept_bytes = MAX_LINE_BYTES + 8 * secrets.longest
        self._rest = b""
        self._torn = False
        self._unsaid = 0
        self._skipped_bytes = 0
        self.dropped = 0
        self.unfinished = 0

    def feed(self, data: bytes, *, now: float, room: int) -> list[str]:
        """Return the lines that `data` completes, at most about `room`. `now` is in monotonic seconds."""
        self._budget.fill(now)
        was_torn, new_bytes = self._torn, len(data)
        data = self._completed(self._rest + data)
        kept: list[str] = []
        done = 0
        for end in _LINE_END.finditer(data, 0, len(data) - data.endswith(b"\r")):  # an LF may follow
            line = data[done : end.start()]
            if len(kept) >= room or not self._budget.take(line_cost(min(len(line), MAX_LINE_BYTES))):
                done = self._drop(data, done)
                break
            kept += [*self.note(), self._text(line)]
            done = end.end()
        self.unfinished = len(data) - done if done or was_torn else self.unfinished + new_bytes
        self._rest = self._shortened(data[done:])
        return kept

    def note(self) -> list[str]:
        """Return notes about lines dropped since the last note."""
        notes = []
        if self._unsaid:
            notes.append(dropped_note(self._unsaid))
        if self._skipped_bytes:
            notes.append(skipped_note(self._skipped_bytes))
        self.dropped += self._unsaid + (1 if self._skipped_bytes else 0)
        self._unsaid = self._skipped_bytes = 0
        return notes

    def skip(self, skipped_bytes: int) -> None:
        """Note output that is never fed. The number of its lines is unknown; it counts as one."""
        self._rest = b""
        self._torn = True
        self._skipped_bytes += skipped_bytes

    def pause(self, tail: bytes) -> list[str]:
        """Return the last lines that were dropped before output paused, because they often have the reason of a crash.

        `tail` is the end of the fed output, from the beginning of a line.
        """
        lines = self._complete(tail)[-min(self._unsaid, TAIL_LINES) :] if self._unsaid else []
        self._unsaid -= len(lines)
        return [*self.note(), *(self._text(line) for line in lines)]

    def end(self, tail: bytes) -> list[str]:
        """Return the lines of `pause` and an unfinished last line, at the end of the output."""
        unfinished = [self._text(self._rest.removesuffix(b"\r"))] if self._rest else []
        self._rest = b""
        self.unfinished = 0
        return [*self.pause(tail), *unfinished]

    def last_lines(self, tail: bytes) -> list[str]:
        """Return the last lines of `tail`, masked and cut, including an unfinished one. It must begin with a line."""
        lines = _LINE_END.split(tail)
        return [self._text(line) for line in (lines if lines[-1] else lines[:-1])[-TAIL_LINES:]]

    @staticmethod
    def _complete(tail: bytes) -> list[bytes]:
        return _LINE_END.split(tail.removesuffix(b"\r"))[:-1]  # after a CR an LF may follow

    def _completed(self, data: bytes) -> bytes:
        """Return the data without the rest of a line whose beginning was skipped: it may be part of a secret."""
        if not self._torn:
            return data
        end = _LINE_END.search(data)
        self._torn = end is None
        return data[end.end() :] if end else b""

    def _drop(self, data: bytes, first: int) -> int:
        """Count the complete lines from `first` on as dropped; return the index where they end."""
        last = len(data) - data.endswith(b"\r")
        breaks = data.count(b"\n", first, last) + data.count(b"\r", first, last) - data.count(b"\r\n", first, last)
        self._unsaid += breaks
        return max(data.rfind(b"\n", first, last), data.rfind(b"\r", first, last)) + 1

    def _shortened(self, rest: bytes) -> bytes:
        """Return the part of an unfinished line that its text needs, and one byte more if the line is longer."""
        if len(rest) <= self._kept_bytes:
            return rest
        return rest[: self._kept_bytes + 1] + (b"\r" if rest.endswith(b"\r") else b"")

    def _text(self, line: bytes) -> str:
        overlong = len(line) > self._kept_bytes
        text = self._secrets.masked(cleaned(line[: self._kept_bytes]))
        if overlong:
            text = text[: max(0, len(text) - self._secrets.longest)]
        data = text.encode()
        if not overlong and len(data) <= MAX_LINE_BYTES:
            return text
        return data[: MAX_LINE_BYTES - len(CUT)].decode("utf-8", "ignore") + CUT
