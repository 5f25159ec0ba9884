"""The memory of a process: which freed blocks go back to the system, and how much there is."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

LARGE_BLOCK_BYTES = 1024 * 1024
"""Blocks of this size or more are returned to the system when they are freed."""
_CONTROL_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory limit of a container, of control groups version 2 and 1."""
_M_MMAP_THRESHOLD = -3
"""The parameter's number in glibc's malloc.h."""


def return_large_blocks() -> None:
    """Have the C library return large blocks to the system when they are freed, and grow them without a copy.

    glibc stops doing both for blocks up to the size of the largest one that was freed, at most 32 MiB. So a process
    that has handled a few large bodies would keep several times their size.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def available_memory() -> int:
    """Return the memory of the machine in bytes, or that of the container if it has less."""
    import psutil  # here, because most processes do not need it

    limits = [psutil.virtual_memory().total]
    for path in _CONTROL_GROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such control group, or `max`
            limits.append(int(Path(path).read_text()))
    return min(limits)
