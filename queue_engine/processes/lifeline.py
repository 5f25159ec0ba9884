"""A pipe with which children notice that their parent has died, even by SIGKILL.

The parent keeps the write end open and never writes; children inherit the read end. When the parent ends, the kernel
closes the write end and every reader gets an end-of-file. (Linux has PR_SET_PDEATHSIG for this, but it is sent when the
parent's *thread* ends.)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

LIFELINE_VARIABLE = "QUEUE_ENGINE_LIFELINE_FD"
"""The environment variable with the descriptor of the read end, for supervised children."""


class Lifeline:
    """The parent's side. Pass `fd` to children (`pass_fds`), and keep the object as long as they should live."""

    def __init__(self) -> None:
        # Neither end is inherited by default, so that no child keeps the write end open.
        self._read_end, self._write_end = os.pipe()
        self._closed = False

    @property
    def fd(self) -> int:
        """The descriptor of the read end."""
        return self._read_end

    def close(self) -> None:
        """Close the pipe, so that children get an end-of-file. Safe to call twice."""
        if not self._closed:
            self._closed = True
            os.close(self._write_end)
            os.close(self._read_end)


def watch_lifeline(fd: int, lost: Callable[[], None]) -> Callable[[], None]:
    """Call `lost` once, in the running event loop, when the parent has died. For the child's side.

    Returns a function that ends the watch; it is safe to call twice. This process's own children do not inherit the
    descriptor. Raises ValueError if `fd` is not an open pipe.
    """
    import asyncio  # here, because the tether, which needs only the name of the variable, would keep its 9 MB

    check_is_pipe(fd)
    os.set_inheritable(fd, False)
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not loop.is_closed():
            loop.remove_reader(fd)

    def at_end_of_file() -> None:
        end()
        lost()

    # The pipe is never written to, so readable means end-of-file.
    loop.add_reader(fd, at_end_of_file)
    return end


def check_is_pipe(fd: int) -> None:
    """Raise ValueError unless the descriptor is an open pipe."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise ValueError(f"lifeline: descriptor {fd} is not open") from error
    if not stat.S_ISFIFO(mode):
        raise ValueError(f"lifeline: descriptor {fd} is not a pipe")
