"""The memory of a process: which freed blocks go back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress

LARGE_BLOCK_BYTES = 1024 * 1024
"""Blocks of this size or more are returned to the system when they are freed."""
_M_MMAP_THRESHOLD = -3
"""The parameter's number in glibc's malloc.h."""


def return_large_blocks() -> None:
    """Have the C library return large blocks to the system when they are freed, and grow them without a copy.

    glibc stops doing both for blocks up to the size of the largest one that was freed, at most 32 MiB. So a process
    that has handled a few large bodies would keep several times their size.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
