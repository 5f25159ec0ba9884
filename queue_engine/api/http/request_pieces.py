"""Cut the bytes that a connection receives into pieces that do not go beyond the end of a request. Pure.

A parser that gets whole reads does not report the bytes between its callbacks: it accepts `GET  / HTTP/1.1` with two
spaces and reports the same as for one. A piece ends after an empty line, where every head and every chunked body ends,
or with the last byte that `Content-Length` announced. So a piece that follows a complete request begins with the next
request line.
"""

from __future__ import annotations

import re

EMPTY_LINE = b"\r\n\r\n"
MAX_PIECES_OF_CHUNKS = 64
"""Limit of pieces of one read inside a chunked body, so that a body full of empty lines costs the same as others."""


class Cutter:
    """Finds where pieces end, for one connection."""

    def __init__(self) -> None:
        self.body_left = 0
        """Remaining bytes of a body with `Content-Length`. Set it when a head is complete."""
        self._tail = b""
        """Up to three bytes since the latest empty line, which may be the beginning of the next one."""

    def end_of_piece(self, data: bytes, start: int, *, whole: bool = False) -> int:
        """Return the end of the piece that begins at `start` of the read `data`; the end of `data` with `whole`.

        Call it for every piece in order, the first with `start` 0.
        """
        if self.body_left:
            end = min(len(data), start + self.body_left)
            self.body_left -= end - start
            return end
        tail, self._tail = self._tail if start == 0 else b"", b""
        across = (tail + data[:3]).find(EMPTY_LINE) if tail else -1
        if across >= 0:
            return across + len(EMPTY_LINE) - len(tail)
        found = -1 if whole else data.find(EMPTY_LINE, start)
        if found >= 0:
            return found + len(EMPTY_LINE)
        self._tail = (tail + data[max(start, len(data) - 3) :])[-3:]
        return len(data)


_H2C = re.compile(rb"\n(upgrade):(?=[ \t]*h2c[ \t]*\r?\n)", re.IGNORECASE)
_TAB_AFTER_CHUNKED = re.compile(rb"(\ntransfer-encoding:[ \t]*chunked)[ \t]+(?=\r\n)", re.IGNORECASE)
_UPGRADE = b"upgrade:h2c\r"
_TRANSFER_ENCODING = b"transfer-encoding:chunked\r"
MAX_HELD_BYTES = 64


class HeadLines:
    """Passes a head to the parser in parts, without two lines that the parser would misread.

    Java's client offers HTTP/2 with every first request. The offer may be ignored (RFC 9110, section 7.8), but the
    parser would treat the body as bytes of the other protocol. White space after `chunked` has no meaning. A head may
    be cut anywhere between two reads, so the beginning of such a line is held until the rest has arrived.
    """

    def __init__(self) -> None:
        self._held = b""
        self._line_begins = False
        """True when the next byte begins a header line."""

    def take(self, part: bytes) -> bytes:
        """Return the part of the head that the parser may have now. The first part has the end of the request line."""
        prefix = b"\n" if self._line_begins else b""
        lines = prefix + self._held + part
        end = lines.rfind(b"\n") + 1
        held = lines[end:]
        if held and (not end or not _may_become_such_a_line(held)):
            held = b""
        lines = lines[: len(lines) - len(held)]
        self._held = held
        self._line_begins = lines.endswith(b"\n")
        if b"h2c" in lines.lower():
            lines = _H2C.sub(rb"\n\1-Ignored:", lines)
        if b"\t\r\n" in lines or b" \r\n" in lines:
            lines = _TAB_AFTER_CHUNKED.sub(rb"\1", lines)
        return lines[len(prefix) :]


def _may_become_such_a_line(begun: bytes) -> bool:
    name, colon, value = begun.lower().partition(b":")
    bare = name + colon + value.translate(None, b" \t")
    return 0 < len(begun) <= MAX_HELD_BYTES and (_UPGRADE.startswith(bare) or _TRANSFER_ENCODING.startswith(bare))
