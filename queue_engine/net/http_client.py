"""aiohttp's HTTP client, made safe for untrusted responses. The proxy of ALB endpoints uses it.

It differs from plain aiohttp (3.14) in the protocol of the connection:

- The size of a response's head is limited. aiohttp limits each line and the number of lines, but not the total size.
- Data that is not HTTP raises BadResponse with a description. If such data is in the middle of a body, plain aiohttp
  does not notify the reader of the body, which then waits until its timeout.
- The head and the body are parsed separately. If both arrive in one packet and the body is malformed, plain aiohttp
  loses the head too, so that it would depend on the packets if the status is known.
- Data that arrives on a kept connection between two requests closes it. Plain aiohttp stores such data, for example the
  408 with which some servers end an idle connection, and returns it as the response to the next request.
"""

from __future__ import annotations

import ast
import asyncio
import re
import select
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.helpers import _EXC_SENTINEL as NO_CAUSE
from aiohttp.helpers import set_exception
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError, LineTooLong
from aiohttp.tracing import Trace

from queue_engine.net.bad_responses import MAX_HEAD_BYTES, head_too_long, no_status_line, other_protocol, refused
from queue_engine.net.error_types import CLOSED_WITHOUT_RESPONSE, BadResponse, NoResponse

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_SHOWN_LINE = re.compile(r"""(?s:(.*?)):\s+(b'.*'|b".*")(?:\n|$)""")
"""The end of the parser's message: the invalid line, as a Python bytes literal."""


_BROKEN = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)


@dataclass(frozen=True)
class Keeping:
    """Limits of idle connections that are kept for further requests. With `seconds` 0 none is kept."""

    seconds: float = 0.0
    per_server: int = 0
    in_all: int = 0


KEEP_NONE = Keeping()


class ResponseConnector(aiohttp.TCPConnector):
    """A TCPConnector whose connections read responses by the rules of this module. Needs a running event loop.

    A kept connection is used only for a request with the same host, port and `server_hostname`. A request on a kept
    connection that breaks before the first byte of a response raises NoResponse.
    """

    def __init__(self, keeping: Keeping = KEEP_NONE, **options: Any) -> None:
        kept = {"keepalive_timeout": keeping.seconds} if keeping.seconds else {"force_close": True}
        super().__init__(**kept, **options)
        self._keeping = keeping
        self._factory = partial(_new_protocol, asyncio.get_running_loop())

    def close_kept(self, server_hostname: str) -> None:
        """Close the idle connections of this `server_hostname`."""
        for key in [one for one in self._conns if one.server_hostname == server_hostname]:
            for protocol, _ in self._conns.pop(key):
                protocol.close()

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if isinstance(connection.protocol, _ResponseProtocol) and connection.protocol.is_reusable():
                return connection
            connection.close()
        return None

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        kept = self._conns.get(key, ())
        is_full = len(kept) >= self._keeping.per_server or self._kept_in_all() >= self._keeping.in_all
        super()._release(key, protocol, should_close=should_close or is_full)

    def _kept_in_all(self) -> int:
        return sum(map(len, self._conns.values()))


def upgraded_stream(response: aiohttp.ClientResponse, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the connection of a 101 response as a stream, whose reader buffers twice `limit` bytes at most.

    Raises BadResponse if the response does not switch to another protocol. Close the response after the stream.
    """
    before = response.connection.protocol if response.connection is not None else None
    if before is None or before.transport is None or not before.upgraded:
        raise BadResponse("its status is 101, without Connection: Upgrade")
    loop, transport = asyncio.get_running_loop(), before.transport
    reader = asyncio.StreamReader(limit, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    protocol.connection_made(transport)
    transport.set_protocol(protocol)
    transport.resume_reading()
    if before._tail:  # what has arrived with the head or right after it
        reader.feed_data(before._tail)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _new_protocol(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _ResponseProtocol(loop)


class _ResponseProtocol(ResponseHandler):
    """Reads the responses of one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._in_head = False
        self._head_bytes = 0
        self._beginning = b""
        """The first bytes of the current response."""
        self._last = b""
        """The last bytes of the head so far, because the end of the head may be split between packets."""
        self._requests = 0
        self._is_answered = False
        """True if a byte of a response to the latest request has arrived."""

    def is_reusable(self) -> bool:
        """Return True if this kept connection has neither been closed by the server nor received anything.

        The socket is asked, because the event loop may not have noticed it yet.
        """
        return self._is_idle() and not self.should_close and not _has_news(self.transport)

    def set_response_params(self, **params: Any) -> None:
        self._begin_head()
        self._requests += 1
        self._is_answered = False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if data and self._is_idle():
            self._close()
            return
        self._is_answered = self._is_answered or bool(data)
        rest = data
        while self._in_head and rest and self._exception is None:
            end = self._end_of_head(rest)
            self._take_head(rest[:end])
            rest = rest[end:]
        if self._exception is None and (rest or not data):
            super().data_received(rest)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Handle a complete head of a response. After an interim response (1xx), another head follows."""
        status = data[0].code
        self._begin_head()
        self._in_head = 100 <= status < 200 and status != 101
        if status == 101:
            self.force_close()  # because the data that follows is another protocol, not the next response
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException = NO_CAUSE) -> None:
        if isinstance(exc, HttpProcessingError):
            exc = self._judged(exc_cause if isinstance(exc_cause, HttpProcessingError) else exc)
        elif isinstance(exc, _BROKEN) and self._requests > 1 and not self._is_answered:
            exc, exc_cause = NoResponse(CLOSED_WITHOUT_RESPONSE), exc
        super().set_exception(exc, exc_cause)
        if isinstance(exc, BadResponse):
            self._fail_body(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Fail a body if the connection is reset. Otherwise the end of the connection ends a body without a length."""
        if exc is not None:
            self._fail_body(aiohttp.ClientPayloadError("the connection was reset"))
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        """Return True if the last response is complete and no request has followed it."""
        body_ended = self._payload is None or self._payload.is_eof()
        return self._parser is not None and not self._in_head and body_ended and not self.upgraded

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _begin_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._beginning = b""
        self._last = b""

    def _end_of_head(self, data: bytes) -> int:
        """Return the number of bytes of `data` that belong to the current head."""
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
        self.set_exception(head_too_long())
        self._close()

    def _fail_body(self, error: Exception) -> None:
        if self._payload is not None and not self._payload.is_eof():
            set_exception(self._payload, error)

    def _judged(self, error: HttpProcessingError) -> BadResponse:
        if (other := other_protocol(self._beginning)) is not None:
            return other
        if isinstance(error, LineTooLong):
            return head_too_long()
        if isinstance(error, BadStatusLine):
            return no_status_line(self._beginning.partition(b"\n")[0])
        return _in_the_parsers_words(error.message)


def _has_news(transport: asyncio.BaseTransport | None) -> bool:
    """Return True if the peer has sent something or closed the connection."""
    if transport is None:
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _in_the_parsers_words(message: str) -> BadResponse:
    """Return the parser's message as BadResponse.

    A message is, for example, `Invalid header token:`, an empty line, the line of the response, and a pointer into it.
    """
    shown = _SHOWN_LINE.match(message)
    problem = (shown[1] if shown else message.partition("\n")[0]).strip().rstrip(":")
    return refused(problem, ast.literal_eval(shown[2]) if shown else b"")
