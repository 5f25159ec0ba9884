"""From the bytes that a container writes to lines that may be kept: split, cleaned, free of secrets, not too many."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from queue_engine.domain.token_bucket import TokenBucket

MAX_LINE_BYTES = 4096
"""A longer line is cut and says so."""
MIN_VALUE_CHARACTERS = 6
"""A shorter value of an endpoint's variable is not masked: `true` and `8000` are no secrets, and are in many lines."""
MIN_OWN_SECRET_CHARACTERS = 4
"""The same for a secret of the engine, which is one for certain."""
LINES_PER_SECOND = 1000.0
BURST_LINES = 5000.0
TAIL_LINES = 20
BYTES_PER_LINE = 256
"""A longer line counts as several."""

CUT = " [queue-engine: line cut]"
MASK = "***"

_LINE_END = re.compile(rb"\r\n|\n|\r")
# ECMA-48: control sequences; strings up to their terminator; other escape sequences. Also in their one-byte form.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-OQ-WYZ\\`-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def cleaned(line: bytes) -> str:
    """Plain text: without escape sequences, other control characters but the tab as `\\x07`, bad UTF-8 as `\ufffd`."""
    text = line.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", _ESCAPES.sub("", text))


def dropped_note(lines: int) -> str:
    """What stands in the log where lines are missing."""
    return f"[queue-engine: {lines} lines dropped]" if lines > 1 else "[queue-engine: 1 line dropped]"


def skipped_note(skipped_bytes: int) -> str:
    """What stands in the log where so much is missing that nobody has counted its lines."""
    return f"[queue-engine: {skipped_bytes} bytes of output skipped]"


class Secrets:
    """Values that must not be in a log, with the ways in which they are commonly printed.

    `values` are those of the endpoint's variables, `own` the engine's secrets. A value of several lines is looked for
    line by line. `longest` is the number of characters of the longest form.
    """

    def __init__(self, values: Iterable[str], own: Iterable[str] = ()) -> None:
        forms = {form for value in values for form in _forms(value, MIN_VALUE_CHARACTERS)}
        forms |= {form for secret in own for form in _forms(secret, MIN_OWN_SECRET_CHARACTERS)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self.longest = len(self._forms[0]) if self._forms else 0

    def masked(self, text: str) -> str:
        """`text` with every secret in it as `***`, secrets that overlap as one."""
        spans = sorted((at, at + len(form)) for form in self._forms for at in _places(form, text))
        if not spans:
            return text
        parts, end = [], 0
        for first, after in spans:
            if first >= end:
                parts += [text[end:first], MASK]
            end = max(end, after)
        return "".join([*parts, text[end:]])


def _forms(value: str, minimum: int) -> Iterable[str]:
    """Yield what is looked for. Parts and forms with fewer than `minimum` characters would be found everywhere."""
    texts = {value, *(line.strip() for line in re.split(r"[\r\n]+", value))}
    for text in texts:
        if len(text) >= minimum and not text.isspace():
            yield from (form for form in _printed(text) if len(form) >= minimum)
    if len(value) >= minimum:
        yield from (form for form in _base64_forms(value.encode("utf-8", "surrogateescape")) if len(form) >= minimum)


def _base64_forms(value: bytes) -> Iterable[str]:
    """Yield the value in base64, alone and as a part of a longer text, such as `user:<value>` of Basic credentials.

    Base64 makes 4 characters of 3 bytes, so the characters depend on the place of the value modulo 3. For each of the
    three, these are the characters that the value alone determines.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(value).decode().rstrip("=")
        for before in range(3):
            determined = (before + len(value)) * 8 // 6
            yield encode(bytes(before) + value).decode()[(before * 8 + 5) // 6 : determined]


def _printed(text: str) -> Iterable[str]:
    plain = cleaned(text.encode("utf-8", "surrogateescape"))
    yield from (plain, repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    yield from (quote(text, safe="", errors="replace"), quote(text, errors="replace"))
    yield quote_plus(text, errors="replace")


def _places(form: str, text: str) -> Iterable[int]:
    at = text.find(form)
    while at >= 0:
        yield at
        at = text.find(form, at + 1)


def line_budget(now: float) -> TokenBucket:
    """Return how many lines may be kept, each of which costs `line_cost` tokens."""
    return TokenBucket(LINES_PER_SECOND, BURST_LINES, now)


def line_cost(line_bytes: int) -> float:
    """Return the tokens for a line of this size."""
    return max(1.0, line_bytes / BYTES_PER_LINE)


class LineReader:
    """Makes lines of what a container writes, however it is cut into pieces.

    A line ends with LF, CR or CRLF. Lines above the budget are dropped without being looked at, and a note in their
    place says how many. `dropped` counts those that were said.
    """

    def __init__(self, secrets: Secrets, budget: TokenBucket) -> None:
        self._secrets = secrets
        self._budget = budget
        # The end of what is kept of a longer line is given up: there may be the beginning of a secret.
        self._kept_bytes = MAX_LINE_BYTES + 8 * secrets.longest
        self._rest = b""
        self._torn = False
        self._unsaid = 0
        self._skipped_bytes = 0
        self.dropped = 0

    def feed(self, data: bytes, *, now: float, room: int) -> list[str]:
        """The lines that `data` completes, at most about `room` of them. `now` is monotonic, in seconds."""
        self._budget.fill(now)
        data = self._mended(self._rest + data)
        kept: list[str] = []
        done = 0
        for end in _LINE_END.finditer(data, 0, len(data) - data.endswith(b"\r")):  # an LF may follow
            line = data[done : end.start()]
            if len(kept) >= room or not self._budget.take(line_cost(min(len(line), MAX_LINE_BYTES))):
                done = self._drop(data, done)
                break
            kept += [*self.note(), self._text(line)]
            done = end.end()
        self._rest = self._shortened(data[done:])
        return kept

    def note(self) -> list[str]:
        """Notes about what was dropped since the last one, if there was something."""
        notes = []
        if self._unsaid:
            notes.append(dropped_note(self._unsaid))
        if self._skipped_bytes:
            notes.append(skipped_note(self._skipped_bytes))
        self.dropped += self._unsaid + (1 if self._skipped_bytes else 0)
        self._unsaid = self._skipped_bytes = 0
        return notes

    def skip(self, skipped_bytes: int) -> None:
        """A stretch of output is never fed. Nobody knows its lines; it counts as one."""
        self._rest = b""
        self._torn = True
        self._skipped_bytes += skipped_bytes

    def pause(self, tail: bytes) -> list[str]:
        """Nothing follows for now. Of what was dropped right before, the last lines are kept after all.

        They say mostly why it came to an end. `tail` is the end of what was fed, from the beginning of a line.
        """
        lines = self._complete(tail)[-min(self._unsaid, TAIL_LINES) :] if self._unsaid else []
        self._unsaid -= len(lines)
        return [*self.note(), *(self._text(line) for line in lines)]

    def end(self, tail: bytes) -> list[str]:
        """Nothing follows any more: as `pause`, and what has come of an unfinished line."""
        unfinished = [self._text(self._rest.removesuffix(b"\r"))] if self._rest else []
        self._rest = b""
        return [*self.pause(tail), *unfinished]

    def last_lines(self, tail: bytes) -> list[str]:
        """The last lines of a text that begins with a line, as they would be kept; an unfinished one too."""
        lines = _LINE_END.split(tail)
        return [self._text(line) for line in (lines if lines[-1] else lines[:-1])[-TAIL_LINES:]]

    @staticmethod
    def _complete(tail: bytes) -> list[bytes]:
        return _LINE_END.split(tail.removesuffix(b"\r"))[:-1]  # after a CR an LF may follow

    def _mended(self, data: bytes) -> bytes:
        """Without the rest of a line whose beginning was skipped: there may be the end of a secret."""
        if not self._torn:
            return data
        end = _LINE_END.search(data)
        self._torn = end is None
        return data[end.end() :] if end else b""

    def _drop(self, data: bytes, first: int) -> int:
        """Count the complete lines from `first` on; where they end."""
        last = len(data) - data.endswith(b"\r")
        breaks = data.count(b"\n", first, last) + data.count(b"\r", first, last) - data.count(b"\r\n", first, last)
        self._unsaid += breaks
        return max(data.rfind(b"\n", first, last), data.rfind(b"\r", first, last)) + 1

    def _shortened(self, rest: bytes) -> bytes:
        """The beginning of an unfinished line, as much as its text needs; one byte more tells that there is more."""
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
