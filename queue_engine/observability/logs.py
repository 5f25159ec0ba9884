"""Logging as JSON lines on standard error.

A line that a process writes for each task goes through `log_soon`, because a record of the logging module costs more
than the rest of such a line. These lines are written together in the next turn of the event loop; every other line is
written at once, after those that wait. The end of the process loses no line, nor does an exception. Only SIGKILL and
a crash of the interpreter lose lines: at most those of one turn.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from json.encoder import encode_basestring as _text_of
from math import isfinite
from typing import Any, TextIO

MAX_WAITING_LINES = 200
"""Limit for the lines of one turn of the event loop; more are written at once."""

MAX_TEMPLATES = 256
"""Limit for the kinds of lines whose constant part is kept."""

_HEAD = frozenset({"time", "level", "process", "message"})
_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""Attributes of a record that are no fields of its line. `color_message` is uvicorn's message with terminal colours."""


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time (UTC), level, process role, message, and the fields of `extra`."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role
        self._template = lru_cache(maxsize=MAX_TEMPLATES)(self._new_template)

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return self.line(record.created, record.levelname, record.getMessage(), fields)

    def line(self, created: float, level: str, message: str, fields: Mapping[str, Any]) -> str:
        """Return the line with these fields; `created` is in epoch seconds."""
        second = int(created)
        when = f"{_second(second)}.{int((created - second) * 1000):03d}Z"
        template = self._template(level, tuple(fields))
        if template is None:
            head = {"time": when, "level": level, "process": self._role, "message": message}
            return _encode(head | dict(fields))
        return template % (
            when,
            _text_of(message),
            *[
                _text_of(value) if type(value) is str else _ENCODERS.get(type(value), _encode)(value)
                for value in fields.values()
            ],
        )

    def _new_template(self, level: str, names: tuple[str, ...]) -> str | None:
        """Return the line with places for its time, its message, and the values of fields with these names.

        A program has few kinds of lines, and most of the cost of a line was to put its names together. Return None if a
        field takes the place of one of the line's own.
        """
        if not _HEAD.isdisjoint(names):
            return None
        constant = f', "level": {_text_of(level)}, "process": {_text_of(self._role)}, "message": '.replace("%", "%%")
        places = "".join(f", {_text_of(name)}: ".replace("%", "%%") + "%s" for name in names)
        return f'{{"time": "%s"{constant}%s{places}}}'


def _number(value: float) -> str:
    return repr(value) if isfinite(value) else _encode(value)


_ENCODERS: dict[type, Callable[[Any], str]] = {int: repr, float: _number}
"""Encoders of most values that are not text. Others need the one of all values, which costs ten times as much."""


class LineHandler(logging.Handler):
    """Writes lines to a stream. Safe to use from several threads and event loops."""

    def __init__(self, stream: TextIO, formatter: JsonFormatter) -> None:
        super().__init__()
        self.formatter: JsonFormatter = formatter
        self._stream = stream
        self._waiting: list[str] = []
        self._waiting_lock = threading.RLock()
        self._writer: asyncio.AbstractEventLoop | None = None
        """The event loop that is going to write the waiting lines."""
        self._writer_thread = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a line that cannot be made must not stop its caller
            self.handleError(record)
        else:
            with self._waiting_lock:
                self._waiting.append(line)
                self.flush()

    def emit_soon(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Write a line in the next turn of the event loop; at once where no event loop runs."""
        line = self.formatter.line(time.time(), level, message, fields)
        with self._waiting_lock:
            self._waiting.append(line)
            if len(self._waiting) >= MAX_WAITING_LINES:
                self.flush()
            elif not self._has_writer():
                loop = asyncio._get_running_loop()
                if loop is None:
                    self.flush()
                else:
                    self._writer, self._writer_thread = loop, threading.get_ident()
                    loop.call_soon(self.flush)

    def _has_writer(self) -> bool:
        """Return True if this thread's event loop is going to write the waiting lines.

        Asking for the running loop takes as long as making the line, so that only the first line of a turn does.
        """
        writer = self._writer
        return writer is not None and self._writer_thread == threading.get_ident() and not writer.is_closed()

    def flush(self) -> None:
        """Write the lines that wait. A stream that cannot be written, such as a closed pipe, changes nothing."""
        with self._waiting_lock, suppress(OSError, ValueError):
            lines, self._waiting = self._waiting, []
            self._writer = None
            if lines:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()


def log_soon(logger: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Log a line that a process writes for each task. Like `logger.log(level, message, extra=fields)`, at less cost."""
    if not logger.isEnabledFor(level):
        return
    match logging.root.handlers:
        case [LineHandler() as handler]:
            handler.emit_soon(logging.getLevelName(level), message, fields)
        case _:
            logger.log(level, message, extra=fields)


def configure_logging(role: str, level: str) -> None:
    """Send all logging of this process to standard error as JSON lines. Call it once, from a composition root."""
    root = logging.getLogger()
    root.handlers = [LineHandler(sys.stderr, JsonFormatter(role))]
    root.setLevel(level)
    for noisy in ("asyncio", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # No line has these, and finding them costs a third of a line.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


@lru_cache(maxsize=1)
def _second(epoch_seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_seconds))
