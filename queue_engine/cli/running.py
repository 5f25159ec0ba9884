"""Run a command to its end, with errors as lines. Imports no settings, no store and no parser of command lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from queue_engine.domain.errors import EngineError
from queue_engine.processes.interrupts import exit_on_interrupt

EXIT_USAGE = 2


def fail(message: str) -> NoReturn:
    """Print each line of the message as an error, and exit."""
    for line in message.splitlines():
        sys.stderr.write(f"queue-engine: {line}\n")
    sys.stderr.flush()
    sys.exit(EXIT_USAGE)


def run(work: Coroutine[Any, Any, Any], *, on: Callable[[Coroutine[Any, Any, Any]], Any] | None = None) -> Any:
    """Run `work` with `on`, by default on uvloop. An EngineError ends the program, with its message as an error."""
    try:
        return (on or _runner())(work)
    except EngineError as error:
        fail(str(error))
    finally:
        exit_on_interrupt()  # again, because the event loop has restored Python's own handler


def _runner() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.run
    return uvloop.run
