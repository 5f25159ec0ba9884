"""aiohttp's client side, made safe for responses of strangers. For all sessions that read whole responses.

Four things differ from plain aiohttp (3.14), each by a few lines in the protocol of the connection:

- The head of a response is limited as a whole. aiohttp limits each line and the number of lines, not their sum.
- What is not HTTP raises BadResponse, which says in words what is wrong. Found in the middle of a body, plain aiohttp
  never tells the reader of the body, which then waits until its timeout.
- The head and the body are parsed apart. When both come in one packet and the body is malformed, plain aiohttp loses
  the head too, so that whether a status is known would depend on how the packets were cut.
- What comes on a kept connection between two requests closes it. Plain aiohttp keeps a response that comes then, such
  as the 408 by which some servers end an idle connection, and returns it as the response to the next request.
"""

from __future__ import annotations

import ast
import asyncio
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL as NO_CAUSE
from aiohttp.helpers import set_exception
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError, LineTooLong

from queue_engine.net.error_types import BadResponse

MAX_HEAD_BYTES = 64 * 1024
"""The status line and the headers of one response, with their line ends. Sessions set aiohttp's own three limits to it:
they are only meant to step back behind it."""

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_TOO_LONG = f"its headers are longer than {MAX_HEAD_BYTES} bytes in all"
_BEGINNINGS = (
    (re.compile(rb"[\x14-\x17]\x03[\x00-\x04]"), "the port speaks TLS (https), not plain HTTP"),
    (re.compile(rb"\x00\x00[\x00-\xff]\x04[\x00\x01]\x00\x00\x00\x00"), "the port speaks HTTP/2 only, not HTTP/1.1"),
)
_SHOWN_LINE = re.compile(r"""(?s:(.*?)):\s+(b'.*'|b".*")(?:\n|$)""")
"""How the parser ends its message: with the line at fault, as Python writes bytes."""


def checked_sockets(check: Callable[[str, int], None]) -> aiohttp.SocketFactoryType:
    """Make the sockets of a connector. `check` is called with address and port before a connection, and may raise."""

    def checked_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        check(str(sockaddr[0]), int(sockaddr[1]))
        return socket.socket(family, kind, protocol)

    return checked_socket


class ResponseConnector(aiohttp.TCPConnector):
    """A TCPConnector whose connections read responses as this module says. Needs a running event loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(_new_protocol, asyncio.get_running_loop())


def _new_protocol(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _ResponseProtocol(loop)


class _ResponseProtocol(ResponseHandler):
    """Reads the responses of one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._in_head = False
        self._head_bytes = 0
        self._beginning = b""
        """The first bytes of the response that is being read."""
        self._last = b""
        """The last bytes of the head so far: its end may be cut by a packet's end."""

    def set_response_params(self, **params: Any) -> None:
        self._begin_head()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if data and self._is_idle():
            self._close()
            return
        rest = data
        while self._in_head and rest and self._exception is None:
            end = self._end_of_head(rest)
            self._take_head(rest[:end])
            rest = rest[end:]
        if self._exception is None and (rest or not data):
            super().data_received(rest)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A response's head is complete. After an interim one (1xx) another head follows."""
        status = data[0].code
        self._begin_head()
        self._in_head = 100 <= status < 200 and status != 101
        if status == 101:
            self.force_close()  # what follows is another protocol, and must not be read as the next response
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException = NO_CAUSE) -> None:
        if isinstance(exc, HttpProcessingError):
            exc = self._judged(exc_cause if isinstance(exc_cause, HttpProcessingError) else exc)
        super().set_exception(exc, exc_cause)
        if isinstance(exc, BadResponse):
            self._fail_body(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """A body without a length ends with its connection, but not when that is reset."""
        if exc is not None:
            self._fail_body(aiohttp.ClientPayloadError("the connection was reset"))
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        """True when the last response is complete and no request has followed it."""
        body_ended = self._payload is None or self._payload.is_eof()
        return self._parser is not None and not self._in_head and body_ended

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _begin_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._beginning = b""
        self._last = b""

    def _end_of_head(self, data: bytes) -> int:
        """How much of `data` belongs to the head that is being read."""
        joined = self._last + data
        found = _END_OF_HEAD.search(joined)
        self._last = b"" if found else joined[-2:]
        return found.end() - (len(joined) - len(data)) if found else len(data)

    def _take_head(self, data: bytes) -> None:
        self._head_bytes += len(data)
        self._beginning = (self._beginning + data)[:64]
        if self._head_bytes <= MAX_HEAD_BYTES:
            super().data_received(data)
            return
        self.set_exception(BadResponse(_TOO_LONG))
        self._close()

    def _fail_body(self, error: Exception) -> None:
        if self._payload is not None and not self._payload.is_eof():
            set_exception(self._payload, error)

    def _judged(self, error: HttpProcessingError) -> BadResponse:
        for beginning, problem in _BEGINNINGS:
            if beginning.match(self._beginning):
                return BadResponse(problem)
        if isinstance(error, LineTooLong):
            return BadResponse(_TOO_LONG)
        if isinstance(error, BadStatusLine):
            return BadResponse("it does not begin with a valid HTTP status line", self._beginning.partition(b"\n")[0])
        return _in_the_parsers_words(error.message)


def _in_the_parsers_words(message: str) -> BadResponse:
    """From, for example, `Invalid header token:`, an empty line, the line of the response, and a pointer into it."""
    shown = _SHOWN_LINE.match(message)
    problem = (shown[1] if shown else message.partition("\n")[0]).strip().rstrip(":") or "it is not HTTP"
    if problem.split()[0].isalpha() and not problem.isupper():
        problem = problem[0].lower() + problem[1:]
    return BadResponse(problem, ast.literal_eval(shown[2]) if shown else b"")
