"""A log file of limited size, to which child processes write directly.

A child writes to the file and not to a pipe, so that it never waits for a reader and can write while its parent hangs
or is dead. The file is opened for appending, so it can be truncated while the child writes: the next line is written at
the new end. Lines that are written during a truncation may be lost.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

LIMIT_BYTES = 1024 * 1024
LAST_LINES = 20
_TAIL_BYTES = 16 * 1024
_LINE_CHARACTERS = 1000

logger = logging.getLogger(__name__)


class BoundedLog:
    """At most two files: `path`, and `path` + `.1` with the older lines.

    `.1` is never larger than `limit_bytes`; `path` exceeds it only by the bytes written between two calls of `trim`.
    """

    def __init__(self, path: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self._older = path.with_name(f"{path.name}.1")
        self._limit_bytes = limit_bytes
        self._begin_bytes: int | None = None

    def begin(self) -> None:
        """Leave lines that were written before this call out of `last_lines`, such as those of an earlier process."""
        try:
            self._begin_bytes = self.path.stat().st_size
        except OSError:
            self._begin_bytes = 0

    def open(self) -> int:
        """Return a new descriptor to write to; the caller closes it. Creates the directory. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(self.path, flags, 0o600)

    def trim(self) -> None:
        """Truncate the file if it exceeds the limit. Never raises, so that a full disk does not end the caller."""
        try:
            if self.path.stat().st_size > self._limit_bytes:
                self._cut()
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("log %s cannot be kept under its limit: %s", self.path, error)

    def last_lines(self, count: int = LAST_LINES) -> tuple[str, ...]:
        """Return the newest lines of the last 16 KiB, at most 1000 characters each; none if the file is unreadable.

        The last line may be incomplete. After `begin`, lines that a truncation has moved to the older file are missing.
        """
        if self._begin_bytes is None:
            content = (_tail(self._older) + _tail(self.path))[-_TAIL_BYTES:]
        else:
            content = _tail(self.path, self._begin_bytes)
        text = content.decode("utf-8", "replace")
        lines = [line.rstrip("\r")[:_LINE_CHARACTERS] for line in text.split("\n")]
        return tuple(line for line in lines if line)[-count:]

    def remove(self) -> None:
        """Delete both files. Safe to call twice."""
        self.path.unlink(missing_ok=True)
        self._older.unlink(missing_ok=True)

    def _cut(self) -> None:
        with self.path.open("r+b") as log:
            try:
                log.seek(-self._limit_bytes, os.SEEK_END)
                self._keep(log.read(self._limit_bytes))
            finally:
                # Even if the copy failed, because the disk may be full due to this file.
                log.truncate(0)

    def _keep(self, end: bytes) -> None:
        self._older.unlink(missing_ok=True)
        fd = os.open(self._older, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as older:
            older.write(end)


def _tail(path: Path, begin: int = 0) -> bytes:
    """Return the end of the file, without what is before `begin` unless the file was truncated since."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(begin if begin <= size else 0, size - _TAIL_BYTES))
            return log.read(_TAIL_BYTES)
    except OSError:
        return b""
