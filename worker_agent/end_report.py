"""Why the agent ends by itself, for the backend that started it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from queue_engine.domain.agent_protocol import END_FD, WorkerEnd, write_end


def say_end(reason: str, last_lines: Iterable[str] = ()) -> None:
    """Write the reason, and the container's last lines, where the backend reads them. The first call counts.

    Does nothing in an agent that no backend started. Works with settings that could not be read.
    """
    fd = os.environ.pop(END_FD, "")
    if fd.isascii() and fd.isdigit():
        with suppress(OSError):  # the reason is in the agent's own log too
            os.pwrite(int(fd), write_end(WorkerEnd(reason, tuple(last_lines))), 0)
