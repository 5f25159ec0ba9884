"""Cutting what a connection receives into pieces, none of which goes beyond the end of a request. Pure.

A parser that gets whole reads tells nothing of the bytes between its callbacks: it accepts `GET  / HTTP/1.1` with two
spaces and reports the same as for one. A piece ends after an empty line, where every head and every chunked body ends,
or with the last byte that `Content-Length` announced. So a piece that follows a complete request begins with the next
request line.
"""

from __future__ import annotations

EMPTY_LINE = b"\r\n\r\n"
MAX_PIECES_OF_CHUNKS = 64
"""Pieces of one read inside a chunked body, so that a body full of empty lines costs no more than another one."""


class Cutter:
    """Finds where pieces end, for one connection."""

    def __init__(self) -> None:
        self.body_left = 0
        """Bytes to come of a body with `Content-Length`. Set it when a head is complete."""
        self._tail = b""
        """Up to three bytes since the latest empty line, which may be the beginning of the next one."""

    def end_of_piece(self, data: bytes, start: int, *, whole: bool = False) -> int:
        """Return where the piece that begins at `start` of the read `data` ends; its end with `whole`.

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
