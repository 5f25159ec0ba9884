"""Report to the backend that started the agent why the agent ends without a request."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from queue_engine.domain.agent_protocol import END_FD, WorkerEnd, write_end


def say_end(reason: str, last_lines: Iterable[str] = ()) -> None:
    """Write the reason and the container's last lines to the file that the backend reads. Later calls are ignored.

    Does nothing in an agent that no backend started. It reads no settings, so that it can report invalid ones.
    """
    fd = os.environ.pop(END_FD, "")
    if fd.isascii() and fd.isdigit():
        with suppress(OSError):  # the reason is in the agent's own log too
            os.pwrite(int(fd), write_end(WorkerEnd(reason, tuple(last_lines))), 0)
