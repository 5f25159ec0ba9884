"""The file to which a container's standard output and error are written.

It is a file because a pipe would block the container while the agent hangs. It has no name, so that no file remains
when the agent is killed. The parts that were read are freed in the file system while the container continues to write.
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
"""Maximum number of bytes of one read."""
MAX_UNREAD_BYTES = 32 * 1024 * 1024
"""Maximum number of unread bytes. More are skipped, so that output that is written too fast does not fill the disk."""
TAIL_BYTES = 64 * 1024
"""Number of bytes before the read position that are kept for `tail`."""
_FREE_BYTES = 1024 * 1024
"""Minimum number of bytes that are freed at once."""
_MAX_SIZE_FREED = 1 << 40
_MAX_SIZE_CUT = 8 * 1024 * 1024
"""Sizes above which the file is truncated when all of it has been read. Where read parts can be freed, the size says
nothing about the space used, but file systems limit it too."""

_KEEP_SIZE, _PUNCH_HOLE = 1, 2

Free = Callable[[int, int, int], None]
"""Function that frees `length` bytes of the file `fd` at `offset` in the file system. Raises OSError if it cannot."""


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Call fallocate(2) with FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE. Raises OSError where that is unsupported."""
    if sys.platform != "linux":
        raise OSError("not on this system")
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Capture:
    """Reads the data that is written to `fd`, from the beginning. Close it with `close`.

    A program that opens /dev/stdout again and truncates it (`echo x > /dev/stdout` in a shell) discards the data that
    was not read yet; reading continues with the data that follows.
    """

    def __init__(self, free: Free = punch_hole) -> None:
        """Create the file. Raises OSError."""
        self.fd = _nameless_file()
        self._free = free
        self._can_free = True
        self._read_to = 0
        self._freed_to = 0

    def read(self) -> bytes:
        """Return the next bytes, at most READ_BYTES; empty if all data has been read."""
        if self._size() < self._read_to:
            self._read_to = self._freed_to = 0
        data = os.pread(self.fd, READ_BYTES, self._read_to)
        self._read_to += len(data)
        self._give_back()
        return data

    def skip(self) -> int:
        """Skip data if more than MAX_UNREAD_BYTES are unread; return the number of skipped bytes."""
        unread = self._size() - self._read_to
        if unread <= MAX_UNREAD_BYTES:
            return 0
        skipped = unread - READ_BYTES
        self._read_to += skipped
        self._give_back()
        return skipped

    def tail(self) -> bytes:
        """Return the last lines before the read position, at most TAIL_BYTES. The last line may be incomplete."""
        first = max(0, self._read_to - TAIL_BYTES)
        data = os.pread(self.fd, self._read_to - first, first)
        return data if first == 0 else data.partition(b"\n")[2]

    def resume_point(self, unfinished: int) -> str:  # noqa: ARG002 - of the protocol
        """Return an empty text, because the output can be read only once."""
        return ""

    def write_line(self, text: str) -> None:
        """Append a line that the agent writes, after the output of the container."""
        size = self._size()
        is_open = size > 0 and os.pread(self.fd, 1, size - 1) != b"\n"
        os.write(self.fd, f"{chr(10) if is_open else ''}{text}\n".encode())

    def close(self) -> None:
        """Close the file. It is deleted when the container's processes have closed it too. Safe to call twice."""
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
                log.info("the container's output that was read cannot be freed, only truncated: %s", error)
                self._can_free = False
        if self._read_to > (_MAX_SIZE_FREED if self._can_free else _MAX_SIZE_CUT) and self._size() == self._read_to:
            # Data that is written at this moment is lost. The writer appends, so it continues at the beginning.
            os.ftruncate(self.fd, 0)
            self._read_to = self._freed_to = 0


def _nameless_file() -> int:
    """Return a file without a name in the temporary directory, opened for reading and appending."""
    fd, path = tempfile.mkstemp(prefix="worker-output-")
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND)
    finally:
        os.close(fd)
        os.unlink(path)
