"""HTTP on one connection: uvicorn's httptools protocol, with additional limits.

A client must send the head of a request within a time and a size, by the rules of `request_head`, and its body with
little overhead. Another request gets 400, 431, 501 or 505, if the client can still relate the response to it, and the
connection is closed.

A response may come before its request is complete, for instance a 401 or a 413. Many clients read nothing before they
have sent all, and closing the connection with bytes unread would reset it and destroy the response. So the rest of the
request is read and discarded, within bounds of bytes, silence and time. When the connection is to be closed, the
sending side is closed first, so that the client sees the end of the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from queue_engine.api.http.connections import (
    CONNECTION,
    RETRY_AFTER_SECONDS,
    Connection,
    Connections,
    TooManyConnections,
)
from queue_engine.api.http.cycle import Cycle
from queue_engine.api.http.errors import INVALID_REQUEST, TOO_MANY, ClientGone
from queue_engine.api.http.request_head import Refusal, head_problem, line_problem
from queue_engine.api.http.request_pieces import MAX_PIECES_OF_CHUNKS, Cutter, HeadLines
from queue_engine.api.http.responses import failure
from queue_engine.api.http.upgrades import READ_BYTES, UPGRADE, ClientStream
from queue_engine.domain.errors import InvalidRequest

MAX_HEAD_BYTES = 64 * 1024
"""Limit of the request line and the headers, and the trailers of a chunked body, all together."""

BODY_OVERHEAD = 16
"""Limit of bytes on the wire for each byte of a body. Chunks of one byte take 6."""

MAX_IGNORED_BYTES = 64 * 1024 * 1024
"""Limit of the bytes of a body that are read and discarded after the response."""
MAX_IGNORED_BYTES_OF_REFUSED = 8 * 1024 * 1024
"""The same limit after a request that broke a rule of HTTP."""
IGNORED_SECONDS = 10.0
"""Total time limit of reading and discarding."""
IGNORED_SILENCE_SECONDS = 2.0
"""Time limit of reading and discarding while nothing arrives."""
KEEP_ALIVE_SECONDS = 75
"""Keep-alive timeout, above the 60 s after which common load balancers close an idle connection themselves."""
ANONYMOUS_KEEP_ALIVE_SECONDS = 10
"""Keep-alive timeout of a connection on which no request has had a valid key."""

_NOT_HTTP = Refusal(400, "request: must be valid HTTP/1.1")
_HEAD_TOO_LARGE = Refusal(431, f"headers: must be at most {MAX_HEAD_BYTES} bytes in all")


class _Refused(Exception):
    """Ends parsing from inside a callback of the parser."""


class _Discarding:
    """Bounds on what is read after a response. Calls `stop` when one is reached."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int, stop: Callable[[], None]) -> None:
        self._loop = loop
        self._left = max_bytes
        self._stop = stop
        self._end = loop.call_later(IGNORED_SECONDS, stop)
        self._silence = loop.call_later(IGNORED_SILENCE_SECONDS, stop)

    def note(self, size: int) -> None:
        self._silence.cancel()
        self._left -= size
        if self._left < 0:
            self._stop()
        else:
            self._silence = self._loop.call_later(IGNORED_SILENCE_SECONDS, self._stop)

    def cancel(self) -> None:
        self._end.cancel()
        self._silence.cancel()


class _CycleTransport:
    """The part of a transport that uvicorn's request-response cycle uses. Its `close` does not destroy the response."""

    def __init__(self, protocol: LimitedProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.abort = protocol.transport.abort

    def close(self) -> None:
        self._protocol.close_after_response()


class LimitedProtocol(HttpToolsProtocol):
    """A connection. Use a class made by `limited_protocol`."""

    patience_seconds: ClassVar[float]
    """Time limit for a client to send a head."""
    connections_of_all: ClassVar[Connections]
    """The open connections of the server, with their limits."""
    anonymous_keep_alive_seconds: ClassVar[float] = ANONYMOUS_KEEP_ALIVE_SECONDS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connection: Connection | None = None
        """None if the connection is not counted yet, or is beyond a limit."""
        self._patience: asyncio.TimerHandle | None = None
        self._idle_until: float | None = None
        """The end of the keep-alive time, on the event loop's clock; None while a request is under way."""
        self._in_head = False
        self._in_message = False
        self._began = False
        """True if a message began in the current piece."""
        self._head_bytes = 0
        self._allowance = 0
        """Bytes that may still arrive before more bytes of the body must arrive."""
        self._discarding: _Discarding | None = None
        self._broken = False
        """True after a rule was broken or while the connection is being closed: bytes are no longer parsed."""
        self._lingers = False
        """True when the sending side is closed."""
        self._refusal = _NOT_HTTP
        self._cycle_transport: Any = None
        self._cutter = Cutter()
        self._head_lines = HeadLines()
        self._line: bytearray | None = bytearray()
        """The part of the request line that has arrived; None when the line is complete."""
        self._completed = False
        """True when a message ended in the current piece."""
        self._can_switch = False
        """True after a request that asks for another protocol, until the client sends more."""
        self._tunnel: asyncio.StreamReaderProtocol | None = None
        """The protocol that follows a 101 response."""
        self._tunnel_stopping: asyncio.Event | None = None
        self._is_stopping = False

    # The connection

    def count_as(self, connection: Connection) -> None:
        """Use this count of the connection, which began before the connection was made."""
        self._connection = connection

    @property
    def is_connected(self) -> bool:
        """True once the connection was made. It stays true when the connection is lost."""
        return self.transport is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cycle_transport = _CycleTransport(self)
        try:
            if self._connection is None:
                self._connection = self.connections_of_all.open(self.client[0] if self.client else "")
        except TooManyConnections as error:
            # Closed without lingering: connections that wait for their end would take the place of others.
            headers = b"retry-after: %d\r\n" % RETRY_AFTER_SECONDS
            transport.write(_last_response(429, TOO_MANY, str(error), headers))
            transport.close()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        self._stop_discarding()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self._connection is not None:
            self._connection.close()
        if self._tunnel is not None:
            self._tunnel.connection_lost(exc)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._is_stopping = True
        if self._tunnel_stopping is None:
            super().shutdown()
        else:
            self._tunnel_stopping.set()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        return None if self._tunnel is None else self._tunnel.eof_received()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._tunnel is not None:
            self._tunnel.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._tunnel is not None:
            self._tunnel.resume_writing()

    def switch(self, head: bytes) -> ClientStream:
        """Send the head of a 101 response: see `Upgrade`. The requests of this connection have ended then."""
        if self.transport.is_closing():
            raise ClientGone
        if not self._can_switch:
            raise InvalidRequest("Upgrade", "nothing may be sent before the response")
        reader = asyncio.StreamReader(READ_BYTES, self.loop)
        self._tunnel = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        self._tunnel.connection_made(self.transport)
        self.cycle.disconnected = True  # so that the server sends nothing more for the request
        self.transport.write(head)
        self.flow.resume_reading()
        self._tunnel_stopping = asyncio.Event()
        if self._is_stopping:
            self._tunnel_stopping.set()
        writer = asyncio.StreamWriter(self.transport, self._tunnel, reader, self.loop)
        return ClientStream(reader, writer, self._tunnel_stopping)

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.data_received(data)
            return
        start, pieces = 0, 0
        while start < len(data) and not self._broken and not self.transport.is_closing():
            pieces += 1
            whole = pieces > MAX_PIECES_OF_CHUNKS and self._in_message and not self._in_head
            end = self._cutter.end_of_piece(data, start, whole=whole)
            self._feed(data[start:end])
            start = end
        if self._broken:
            self._ignore(len(data) - start)

    def on_response_complete(self) -> None:
        if self._lingers:
            self.server_state.total_requests += 1
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._keep_alive()
        if self._in_message and not self._in_head:
            if self.expect_100_continue:
                self.close_after_response()  # the client may omit its body, so the next bytes are ambiguous
            else:
                self._discarding = _Discarding(self.loop, MAX_IGNORED_BYTES, self.transport.close)

    # The keep-alive time. A timer for each response would be started and cancelled for nothing on a busy connection, so
    # the timer keeps running, and looks at its end how long the connection has been idle.

    def _keep_alive(self) -> None:
        """Begin the keep-alive time."""
        is_anonymous = self._connection is not None and self._connection.is_anonymous
        seconds = self.anonymous_keep_alive_seconds if is_anonymous else KEEP_ALIVE_SECONDS
        self._idle_until = self.loop.time() + seconds
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_at(self._idle_until, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_until = None

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if its keep-alive time is over."""
        self.timeout_keep_alive_task = None
        if self._idle_until is None:
            return  # the next response starts the timer again
        if self.loop.time() < self._idle_until:
            self.timeout_keep_alive_task = self.loop.call_at(self._idle_until, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def close_after_response(self) -> None:
        """Close the connection: at once when the request is complete, else when the client has stopped sending."""
        if self.transport.is_closing() or self._lingers:
            return
        if self.cycle.response_complete and (self._in_message or self._broken):
            self._linger(MAX_IGNORED_BYTES_OF_REFUSED if self._broken else MAX_IGNORED_BYTES)
        else:
            self.transport.close()

    def _linger(self, max_bytes: int) -> None:
        """End the response. Close when the client has closed its side or has sent `max_bytes` more."""
        self._broken = self._lingers = True
        self._stop_expecting()
        self._stop_discarding()
        self._unset_keepalive_if_required()
        self._discarding = _Discarding(self.loop, max_bytes, self.transport.close)
        self.flow.resume_reading()
        if self.transport.can_write_eof():  # not with TLS; the response has its length
            self.transport.write_eof()

    def _ignore(self, size: int) -> None:
        """Drop bytes that are not parsed. Stop reading while earlier requests wait for their responses."""
        if self._discarding is not None:
            self._discarding.note(size)
        else:
            self.flow.pause_reading()

    def _feed(self, piece: bytes) -> None:
        self._began = self._completed = self._can_switch = False
        if self._line is not None and not self._takes_line(self._line, piece):
            return
        if self._line is None and (self._in_head or not self._in_message):
            super().data_received(self._head_lines.take(piece))
        else:
            super().data_received(piece)
        if self.transport.is_closing() or self._broken:
            return
        if self._in_head:
            self._expect()
        if not self._in_message:
            self._expect_after(piece)
        elif not self._began:
            self._count_received(len(piece))

    def _takes_line(self, line: bytearray, piece: bytes) -> bool:
        """Return False when the piece completes a request line that is refused. Empty lines may precede it."""
        begun = piece if line else piece.lstrip(b"\r\n")
        end = begun.find(b"\n") + 1
        line += begun[: end or None]
        if not end:
            return True
        problem = line_problem(bytes(line))
        self._line = None
        if problem is not None:
            self._refuse(problem)
        return problem is None

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if self._completed:
            raise _Refused  # its request line was not checked
        super().on_message_begin()
        self.scope |= {CONNECTION: self._connection}  # type: ignore[misc]
        self._in_head = self._in_message = self._began = True
        self._head_bytes = 0
        self._allowance = MAX_HEAD_BYTES

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4  # without a call for each header
        if self._head_bytes > MAX_HEAD_BYTES:
            self._count_head(0)
        if not self._in_head:
            return  # a trailer: no handler reads it
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        problem = head_problem(version, self.url, self.headers)
        if problem is None and self.parser.should_upgrade() and self._has_body():
            # The parser would treat the body as bytes of another protocol.
            problem = Refusal(400, "Upgrade: is not supported with a body")
        if problem is not None:
            self._refusal = problem
            raise _Refused
        self._in_head = False
        self._cutter.body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        self._stop_expecting()
        self._begin_request(version)

    def _begin_request(self, version: str) -> None:
        """Start the application with the request, after the response to the request before it."""
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"),
            "http_version": version,
            "path": unquote(path) if "%" in path else path,
            "raw_path": target.path,
            "query_string": target.query or b"",
        }
        self._note_client()
        if self.parser.should_upgrade():
            self._can_switch = True
            self.scope |= {UPGRADE: self.switch}  # type: ignore[misc]
        before, self.cycle = (
            self._pending_cycle(),
            Cycle(
                scope=self.scope,
                transport=self._cycle_transport,
                flow=self.flow,
                logger=self.logger,
                access_logger=self.access_logger,
                access_log=False,
                default_headers=self.server_state.default_headers,
                message_event=asyncio.Event(),
                expect_100_continue=self.expect_100_continue,
                keep_alive=version != "1.0" and self.parser.should_keep_alive(),
                on_response=self.on_response_complete,
            ),
        )
        if before is None:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._allowance += BODY_OVERHEAD * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._completed = True
        self._line = bytearray()
        self._head_lines = HeadLines()
        self._stop_expecting()
        self._stop_discarding()
        super().on_message_complete()

    # Called by uvicorn when parsing fails

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Send the refusal and close. Send none where the client would read it as the response to another request.

        `msg` is uvicorn's text; the client gets the text of `_refusal`.
        """
        self._broken = True
        cycle = self._pending_cycle()
        if cycle is None:
            self._write_refusal()
        elif self.pipeline or not cycle.more_body:
            cycle.keep_alive = False  # earlier requests get their responses before the close
            self.flow.pause_reading()
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
            self._write_refusal()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: an upgrade may be ignored (RFC 9110, section 7.8)."""

    # Limits

    def _expect(self) -> None:
        """Start the timer that closes the connection unless the client sends in time. Keep a running timer."""
        if self._patience is None:
            self._patience = self.loop.call_later(self.patience_seconds, self._give_up)

    def _stop_expecting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _stop_discarding(self) -> None:
        if self._discarding is not None:
            self._discarding.cancel()
            self._discarding = None

    def _expect_after(self, data: bytes) -> None:
        """Start the timer between messages, so that a client cannot keep a connection open by sending blank lines."""
        if data and self._pending_cycle() is None and self._idle_until is None:
            self._expect()

    def _pending_cycle(self) -> RequestResponseCycle | None:
        """Return the latest request while its response is incomplete, else None."""
        cycle: RequestResponseCycle | None = self.cycle
        return None if cycle is None or cycle.response_complete else cycle

    def _give_up(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self._in_head:
            self._refuse(Refusal(400, "headers: did not arrive in time"))
        if self._lingers or not self._in_head:
            self.transport.close()  # without lingering: the client has been silent

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = _HEAD_TOO_LARGE
            raise _Refused

    def _count_received(self, size: int) -> None:
        """Count bytes that the parser may be buffering: an endless header, trailer or chunk extension."""
        self._allowance -= size
        if self._allowance < 0 and self._in_head:
            self._refuse(_HEAD_TOO_LARGE)
        elif self._allowance < 0:
            self._refuse(Refusal(400, "body: has too much overhead around its chunks"))
        elif self._discarding is not None:
            self._discarding.note(size)

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        )

    def _note_client(self) -> None:
        """Put the address that a trusted proxy names into the scope."""
        if self._connection is not None and self._connection.is_trusted:
            client = self.connections_of_all.proxies.client_of(self.headers)
            if client is not None:
                self.scope["client"] = (client, 0)

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self.send_400_response(refusal.message)

    def _write_refusal(self) -> None:
        status, message = self._refusal
        self.transport.write(_last_response(status, INVALID_REQUEST, message))
        self._linger(MAX_IGNORED_BYTES_OF_REFUSED)


def _last_response(status: int, code: int, message: str, headers: bytes = b"") -> bytes:
    """Return a response after which the connection is closed. `headers` are further lines."""
    body = failure(status, code, message).body
    common = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
    return STATUS_LINE[status] + common + headers + b"\r\n" + body


def limited_protocol(patience_seconds: float, connections: Connections) -> type[LimitedProtocol]:
    """Return the class of connections with these limits, for `uvicorn.Config(http=…)`."""
    members = {"patience_seconds": patience_seconds, "connections_of_all": connections}
    return type("LimitedProtocol", (LimitedProtocol,), members)
