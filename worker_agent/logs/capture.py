"""The file that a container's standard output and error go to.

A file and not a pipe: it never blocks its writer, also while the agent hangs. It has no name, so nothing is left behind
when the agent is killed. What has been read is given back to the file system while the container goes on writing.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import tempfile
from collections.abc import Callable

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
"""Looked through in one go."""
MAX_UNREAD_BYTES = 32 * 1024 * 1024
"""What is written faster than it can be read is skipped from here on: it must not fill the disk."""
TAIL_BYTES = 64 * 1024
"""Of what has been read, this much stays readable."""
_FREE_BYTES = 1024 * 1024
"""Freed at once."""
_MAX_SIZE_FREED = 1 << 40
_MAX_SIZE_CUT = 8 * 1024 * 1024
"""Above it the file is cut when all has been read: where nothing can be freed; elsewhere it is only a number, but file
systems have a limit for that too."""

_KEEP_SIZE, _PUNCH_HOLE = 1, 2

Free = Callable[[int, int, int], None]
"""Gives the bytes of a file from an offset on, so many, back to the file system. Raises OSError when it cannot."""


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE. Raises OSError where there is no such thing."""
    if sys.platform != "linux":
        raise OSError("not on this system")
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Capture:
    """Reads what is written to `fd`, from the beginning. `close` it when nobody reads any more.

    A program that opens /dev/stdout anew and truncates it (`echo x > /dev/stdout` in a shell) takes away what was
    not read yet; reading goes on with what follows.
    """

    def __init__(self, free: Free = punch_hole) -> None:
        """Raises OSError."""
        self.fd = _nameless_file()
        self._free = free
        self._can_free = True
        self._read_to = 0
        self._freed_to = 0

    def read(self) -> bytes:
        """What comes next, at most READ_BYTES; nothing when all has been read."""
        if self._size() < self._read_to:
            self._read_to = self._freed_to = 0
        data = os.pread(self.fd, READ_BYTES, self._read_to)
        self._read_to += len(data)
        self._give_back()
        return data

    def skip(self) -> int:
        """Leave out what cannot be kept up with: the number of bytes that are never read, mostly 0."""
        unread = self._size() - self._read_to
        if unread <= MAX_UNREAD_BYTES:
            return 0
        skipped = unread - READ_BYTES
        self._read_to += skipped
        self._give_back()
        return skipped

    def tail(self) -> bytes:
        """The last lines of what has been read, of at most TAIL_BYTES; the very last as far as it has come."""
        first = max(0, self._read_to - TAIL_BYTES)
        data = os.pread(self.fd, self._read_to - first, first)
        return data if first == 0 else data.partition(b"\n")[2]

    def write_line(self, text: str) -> None:
        """Add a line of the agent's own, after what the container has written."""
        size = self._size()
        is_open = size > 0 and os.pread(self.fd, 1, size - 1) != b"\n"
        os.write(self.fd, f"{chr(10) if is_open else ''}{text}\n".encode())

    def close(self) -> None:
        """Let go of the file; it goes when the container's processes have let go of it too. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _size(self) -> int:
        return os.fstat(self.fd).st_size

    def _give_back(self) -> None:
        if self._can_free and self._read_to - TAIL_BYTES >= self._freed_to + _FREE_BYTES:
            try:
                self._free(self.fd, self._freed_to, self._read_to - TAIL_BYTES - self._freed_to)
                self._freed_to = self._read_to - TAIL_BYTES
            except OSError as error:
                log.info("what was read of the container's output cannot be freed, only cut: %s", error)
                self._can_free = False
        if self._read_to > (_MAX_SIZE_FREED if self._can_free else _MAX_SIZE_CUT) and self._size() == self._read_to:
            # What is written right now is lost. The writer appends, so it goes on at the beginning.
            os.ftruncate(self.fd, 0)
            self._read_to = self._freed_to = 0


def _nameless_file() -> int:
    """A file in the directory for temporary files, opened for reading and appending."""
    fd, path = tempfile.mkstemp(prefix="worker-output-")
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND)
    finally:
        os.close(fd)
        os.unlink(path)
