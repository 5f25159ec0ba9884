"""An HTTP/1.1 connection: it posts a request, reads the response, and can then be used again.

Tasks are sent to containers with it, and deliveries to webhooks. Own code and not aiohttp, because a call through
aiohttp costs more than twice the processor time, and there is one for each task and for each delivery. llhttp parses
the responses in both. The rules of this module:

- A request is sent once. When the connection breaks, the call fails: the server may have executed the request.
- The head of a response is limited as a whole (MAX_HEAD_BYTES), and so is what stands between the pieces of its body.
- A connection with a response of 5xx is not used again. Some servers, uvicorn among them, close the connection when a
  handler raises, after a response that does not say so: the next request would be lost without having been read.
- What comes after a response, or between two requests, is not a response: the connection is closed and not used again.
  Some servers end an idle connection with a 408.
- Pieces of a body go to the reader as they arrive. It keeps only the part that it needs, so nothing is queued here and
  reading is never paused.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Protocol, cast

import httptools

from queue_engine.net.bad_responses import MAX_HEAD_BYTES, head_too_long, no_status_line, other_protocol, refused
from queue_engine.net.error_types import (
    CLOSED_IN_BODY,
    CLOSED_IN_HEAD,
    CLOSED_WITHOUT_RESPONSE,
    RESET,
    BadResponse,
    CallError,
    NoResponse,
    closed_after,
)
from queue_engine.net.response_head import Head

MAX_JOINED_BYTES = 64 * 1024
"""Limit for a body that is copied behind its head, which costs less than a second write."""
MAX_FRAMING_SHARE = 16
"""Limit for the bytes that frame a byte of the body, besides MAX_HEAD_BYTES: a chunk of one byte has five or six."""
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_SWITCHING_PROTOCOLS = 101
_SERVER_ERROR = 500
_WITHOUT_BODY = frozenset({_SWITCHING_PROTOCOLS, 204, 304})
"""Statuses of responses without a body, whatever their headers say (RFC 9110, section 6.4.1)."""


class Reader(Protocol):
    """Takes one response as it arrives. An exception that it raises becomes the error of the call."""

    def begin(self, head: Head) -> bool:
        """Take the head of the final response; return whether its body is needed."""
        ...

    def feed(self, data: bytes) -> bool:
        """Take a piece of the body; return whether the rest is needed."""
        ...


class Connection(asyncio.Protocol):
    """A connection of an event loop, for a single request at a time."""

    def __init__(self) -> None:
        self._parser = _parser_for(self)
        self._requests = 0
        self._end: asyncio.Future[None] | None = None
        """The end of the response that is being read; None between two requests."""
        self.tls_seconds: float | None = None
        """Duration of the TLS handshake; None without TLS."""
        self.sent_at: float | None = None
        """Monotonic time at which the system had taken the latest request; None while it has not."""

    @property
    def is_usable(self) -> bool:
        """True if a request may be sent now."""
        return self._end is None and not self._transport.is_closing()

    @property
    def is_kept(self) -> bool:
        """True if the connection has served a request."""
        return self._requests > 0

    @property
    def is_reused(self) -> bool:
        """True if a request came before the latest one, so that the server may have closed it while it was idle."""
        return self._requests > 1

    @property
    def own_host(self) -> str:
        """The address of this machine on the connection."""
        return str(self._transport.get_extra_info("sockname")[0])

    async def post(self, head: bytes, body: bytes | memoryview, reader: Reader) -> None:
        """Send a request, and return when the reader has what it needs of the response.

        Raises CallError, of which NoResponse and BadResponse are kinds, and what the reader raises. After an error or a
        cancellation the connection is closed.
        """
        self._requests += 1
        if self._transport.is_closing():
            raise NoResponse(CLOSED_WITHOUT_RESPONSE)
        self._reader = reader
        self._is_complete = self._is_enough = self._keeps = False
        self._begin_head([], 0)
        self._body_bytes = self._framing_bytes = 0
        self._end = self._loop.create_future()
        if len(body) <= MAX_JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        self.sent_at = None if self._transport.get_write_buffer_size() else time.monotonic()
        try:
            await self._end
        finally:
            # Bytes that are still to be written belong to this request: the response came before its body was sent.
            if not self._keeps or self._transport.get_write_buffer_size():
                self.close()
            self._end = None
            del self._reader  # it has the response, which may be large, and the connection may be idle for long

    def close(self) -> None:
        """Close the connection without waiting for what is still to be written. Safe to call twice."""
        self._transport.abort()

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._transport.set_write_buffer_limits(0)  # so that `resume_writing` is called when all is sent

    def pause_writing(self) -> None:
        """Do nothing, because no data is written after the request."""

    def resume_writing(self) -> None:
        self.sent_at = time.monotonic()

    def data_received(self, data: bytes) -> None:
        if self._end is None or self._end.done():
            self._keeps = False
            self.close()
            return
        try:
            while self._in_head and data:
                data = self._take_head(data)
            if data:
                self._take_body(data)
        except httptools.HttpParserUpgrade:
            self._keeps = False  # what follows is another protocol
        except httptools.HttpParserCallbackError as error:
            self._fail(error.__context__ or error)
        except httptools.HttpParserError as error:
            self._fail(self._refusal(str(error)))
        except BadResponse as error:
            self._fail(error)
        if (self._is_complete or self._is_enough) and not self._end.done():
            self._end.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._end is not None and not self._end.done():
            if error is None and not self._in_head and self._head.body_ends_with_connection:
                self._end.set_result(None)
            else:
                problem = self._how_it_broke() if error is None else ""
                heard = not self._in_head or self._head_pieces
                self._fail(CallError(RESET, problem) if heard else NoResponse(problem))
        del self._parser  # it refers to this object: without a circle both are freed at once

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise BadResponse("another response follows the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer
            return
        value = value.rstrip(b" \t")
        if b"\0" in value:
            raise BadResponse("invalid HTTP header", value)
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != _SWITCHING_PROTOCOLS:
            return
        self._in_head = False
        self._head = Head(status, self._fields)
        self._is_enough = not self._reader.begin(self._head) or status in _WITHOUT_BODY

    def on_body(self, data: bytes) -> None:
        if self._in_head or self._is_enough:
            return
        self._body_bytes += len(data)
        self._framing_bytes -= len(data)
        self._is_enough = not self._reader.feed(data)

    def on_message_complete(self) -> None:
        if self._in_head:  # an interim response: another head follows, and may have begun in the same piece
            before = self._heads_before + 1 if len(self._head_pieces) == 1 else 1
            self._begin_head(self._head_pieces[-1:], before)
            return
        self._is_complete = True
        status = self._head.status
        self._keeps = status < _SERVER_ERROR and status != _SWITCHING_PROTOCOLS and self._parser.should_keep_alive()

    # Decisions

    def _begin_head(self, pieces: list[bytes], heads_before: int) -> None:
        self._in_head = True
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head_pieces = pieces
        self._heads_before = heads_before
        """Heads of interim responses at the beginning of the pieces."""

    def _head_so_far(self) -> bytes:
        """Return the pieces of the head that is being read, with what follows it in the last piece."""
        head = b"".join(self._head_pieces)
        return _END_OF_HEAD.split(head, self._heads_before)[-1] if self._heads_before else head

    def _take_head(self, data: bytes) -> bytes:
        """Parse as much as the head may still take, and return the rest. Raises BadResponse."""
        piece = data[: MAX_HEAD_BYTES - self._head_bytes]
        self._head_pieces.append(piece)
        self._head_bytes += len(piece)
        self._parser.feed_data(piece)
        if self._in_head and self._head_bytes >= MAX_HEAD_BYTES:
            raise head_too_long()
        return data[len(piece) :]

    def _take_body(self, data: bytes) -> None:
        """Parse a part of the body. Raises BadResponse for chunks with long extensions or trailers."""
        self._framing_bytes += len(data)
        self._parser.feed_data(data)
        if self._framing_bytes > MAX_HEAD_BYTES + MAX_FRAMING_SHARE * self._body_bytes:
            raise BadResponse(f"its chunk extensions and trailers are longer than {MAX_HEAD_BYTES} bytes in all")

    def _fail(self, error: BaseException) -> None:
        """End the call with an error. After the end of the response, only do not use the connection again."""
        self._keeps = False
        if self._end is not None and not (self._is_complete or self._is_enough or self._end.done()):
            self._end.set_exception(error)

    def _refusal(self, words: str) -> BadResponse:
        """Return the error for what the parser does not take, with the line at fault if it is in the head."""
        head = self._head_so_far() if self._in_head else b""
        if (other := other_protocol(head)) is not None:
            return other
        number, line = _line_at_fault(head)
        return no_status_line(line) if number == 0 else refused(words, line)

    def _how_it_broke(self) -> str:
        if self._in_head:
            return CLOSED_IN_HEAD if self._head_so_far() else CLOSED_WITHOUT_RESPONSE
        length = self._head.length
        return CLOSED_IN_BODY if length is None else closed_after(self._body_bytes, length)


def _parser_for(receiver: object) -> httptools.HttpResponseParser:
    """Return a parser that takes what servers send in practice: folded headers, lines that end in LF alone."""
    parser = httptools.HttpResponseParser(receiver)
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


def _line_at_fault(head: bytes) -> tuple[int | None, bytes]:
    """Return number and text of the line that the parser does not take: it does not say which."""
    parser = _parser_for(None)
    for number, line in enumerate(head.splitlines(keepends=True)):
        try:
            parser.feed_data(line)
        except httptools.HttpParserError:
            return number, line
    return None, b""
