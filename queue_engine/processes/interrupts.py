"""End the process with status 130 and without a message on Ctrl-C, while a command has no handler of its own.

Imports take half a second. Python's own handler would end them with a traceback, and an exception that a handler raises
may be lost in a callback of the import system. No work has begun during the imports, so the process exits at once.

The same holds for SIGTERM in the first process of a container, with status 143: the kernel ignores signals to it for
which it has no handler.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_FIRST = 1
"""The id of the first process of a container."""


def exit_on_interrupt() -> None:
    """Exit at once on SIGINT, unless the signal is ignored, as in a background job of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def exit_on_termination() -> None:
    """Exit at once on SIGTERM, until the process has a handler of its own. Only the first process needs this."""
    if os.getpid() == _FIRST and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


@contextmanager
def raised_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT in the block, so that the block can clean up."""
    if signal.getsignal(signal.SIGINT) is not _exit:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        exit_on_interrupt()


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
