"""A pipe by which children notice that their parent has died, however it died.

The parent holds the writing end and never writes; children inherit the reading end. When the parent ends, even by
SIGKILL, the kernel closes the writing end and every reader sees the end of the file. (Linux has PR_SET_PDEATHSIG for
this, but it is sent when the parent's *thread* ends.)
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable

LIFELINE_VARIABLE = "QUEUE_ENGINE_LIFELINE_FD"
"""The environment variable that tells a supervised child its reading end."""


class Lifeline:
    """The parent's side. Hand `fd` to children (`pass_fds`); keep the object as long as they shall live."""

    def __init__(self) -> None:
        # Neither end is inherited unless it is handed out, so no child keeps the writing end open.
        self._read_end, self._write_end = os.pipe()
        self._closed = False

    @property
    def fd(self) -> int:
        """The reading end."""
        return self._read_end

    def close(self) -> None:
        """Children see the end of the file now. Safe to call twice."""
        if not self._closed:
            self._closed = True
            os.close(self._write_end)
            os.close(self._read_end)


def watch_lifeline(fd: int, lost: Callable[[], None]) -> Callable[[], None]:
    """The child's side: `lost` is called once, in the running event loop, when the parent has died.

    Returns a function that ends the watch; it is safe to call twice. The descriptor is kept from this process's own
    children. Raises ValueError when `fd` is not an open pipe.
    """
    _check_is_pipe(fd)
    os.set_inheritable(fd, False)
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not loop.is_closed():
            loop.remove_reader(fd)

    def at_end_of_file() -> None:
        end()
        lost()

    # Nothing is ever written: readable means the end of the file.
    loop.add_reader(fd, at_end_of_file)
    return end


def _check_is_pipe(fd: int) -> None:
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise ValueError(f"lifeline: descriptor {fd} is not open") from error
    if not stat.S_ISFIFO(mode):
        raise ValueError(f"lifeline: descriptor {fd} is not a pipe")
