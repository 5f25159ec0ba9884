"""The limit of open files of this process, connections included."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

ALL_FILES = sys.maxsize
"""More files than any system allows: raises the limit to the hard limit."""


def raise_file_limit(needed: int) -> int:
    """Raise the limit of open files to at least `needed`, as far as the system allows, and return the limit.

    Return `needed` if the limit is unknown, because a sandbox may refuse even to read it.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return needed
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a further limit, which `hard` does not name
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return needed if soft == resource.RLIM_INFINITY else soft
