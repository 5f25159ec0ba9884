"""Handle standard files that are closed or cannot be written.

A command whose reader has closed the pipe, as in `… | head -1`, ends with status 0 and without a message. Without this
module, click would end such a command with status 1, and `--follow` would continue without a reader while there are no
new lines. A command whose output goes to a full disk prints an error and ends with status 1.
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
"""Errors of a write that the program cannot prevent: the disk, quota or size limit is full, or the terminal closed."""


@contextmanager
def guarded_output(program: str) -> Iterator[None]:
    """End the program with a defined status if the block cannot write its output.

    If the pipe is closed, the status is 0, because its reader has all that it needs; click and rich would use another
    status for the same error. If there is no space, the status is 1, with an error line that begins with `program`. A
    log on standard error that cannot be written does not change the status. Standard files that were closed from the
    start (`>&-`, as some daemons do) are replaced with the null device.
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
    """Return True if writing the output has failed. Errors with a file name are about other files."""
    return isinstance(error, BrokenPipeError) or (error.errno in _UNWRITABLE and error.filename is None)


def _flush_error() -> OSError | None:
    """Flush the output, and return the error if that fails, because the interpreter would fail at its exit."""
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
    """Open closed standard files, in the order of their descriptors, so that each gets its own descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def pause_while_read(seconds: float) -> None:
    """Wait. Raises BrokenPipeError as soon as the reader of a piped standard output has closed the pipe."""
    pipe = _output_pipe()
    if pipe is None:
        threading.Event().wait(seconds)
        return
    waiting = select.poll()
    waiting.register(pipe, 0)  # errors are always reported
    if waiting.poll(seconds * 1000):
        raise BrokenPipeError


def _output_pipe() -> int | None:
    try:
        fd = sys.stdout.fileno()
        mode = os.fstat(fd).st_mode
    except (OSError, ValueError):  # not a file, as in a test, or closed
        return None
    return fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _discard_output() -> None:
    """Discard the buffered output, so that the interpreter does not fail to write it at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
