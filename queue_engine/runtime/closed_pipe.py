"""A command whose reader has closed the pipe, as in `… | head -1`, ends with status 0 and without a message.

Without this, click ends such a command with status 1, and a follower that has nothing to print runs on unread.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def quiet_when_closed() -> Iterator[None]:
    """End the program with status 0 when a write in the block finds its pipe closed.

    click and rich have ended it with another status by then, while they handled the same error. Standard files that
    were closed from the start (`>&-`, as some daemons do) read and write nothing.
    """
    _open_missing_files()
    try:
        yield
    except BrokenPipeError:
        _discard_output()
        sys.exit(0)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        _discard_output()
        sys.exit(0)


def _open_missing_files() -> None:
    """Open what is closed of the standard files, in the order of their descriptors, so that each gets its own."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def pause_while_read(seconds: float) -> None:
    """Wait. Raises BrokenPipeError as soon as standard output is a pipe that is read no longer."""
    pipe = _output_pipe()
    if pipe is None:
        threading.Event().wait(seconds)
        return
    waiting = select.poll()
    waiting.register(pipe, 0)  # errors are reported without being asked for
    if waiting.poll(seconds * 1000):
        raise BrokenPipeError


def _output_pipe() -> int | None:
    try:
        fd = sys.stdout.fileno()
        mode = os.fstat(fd).st_mode
    except (OSError, ValueError):  # no file, as in a test, or closed
        return None
    return fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _discard_output() -> None:
    """Send what is still in the buffers nowhere, so that the interpreter does not fail to write it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            with suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
