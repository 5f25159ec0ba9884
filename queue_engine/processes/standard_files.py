"""Standard files that cannot be written, read or used at all.

A command whose reader has closed the pipe, as in `… | head -1`, ends with status 0 and without a message. Without this,
click ends such a command with status 1, and a follower that has nothing to print runs on unread. A command whose output
goes to a full disk says so in a line and ends with status 1.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a write that the program cannot avoid: no space, quota or size left, or a terminal that was closed."""


@contextmanager
def guarded_output(program: str) -> Iterator[None]:
    """End the program in order when the block cannot write its output.

    With status 0 when the pipe is closed, because its reader has all that it needs: click and rich have ended the
    program with another status by then, while they handled the same error. With status 1 and a line that begins with
    `program` when there is no space. A log on standard error that cannot be written changes no status. Standard files
    that were closed from the start (`>&-`, as some daemons do) read and write nothing.
    """
    _open_missing_files()
    try:
        yield
    except SystemExit as end:
        broken = end.__context__ if isinstance(end.__context__, BrokenPipeError) else None
        failure = broken or _flush_error()
        if failure is None:
            raise
    except OSError as error:
        if not _is_of_output(error):
            raise
        failure = error
    else:
        failure = _flush_error()
    if failure is not None:
        _end(program, failure)


def _is_of_output(error: OSError) -> bool:
    """Return whether a write has failed because of where it went. Errors with a file name are of other files."""
    return isinstance(error, BrokenPipeError) or (error.errno in _UNWRITABLE and error.filename is None)


def _flush_error() -> OSError | None:
    """Return why the rest of the output cannot be written, if it cannot; the interpreter would fail at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    _discard_output()
    return None


def _end(program: str, error: OSError) -> NoReturn:
    status = 0
    if not isinstance(error, BrokenPipeError):
        status = 1
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{program}: the output cannot be written: {error.strerror}\n")
            sys.stderr.flush()
    _discard_output()
    sys.exit(status)


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
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
