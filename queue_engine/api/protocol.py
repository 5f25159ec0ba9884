"""HTTP on one connection: uvicorn's httptools protocol, with the limits that it does not have.

A client must send the head of a request within a time and a size, its body with little around it, and no more than a
bounded rest of a body that was answered already. Whoever does not is answered 400 or 431, if that can still be
understood, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, ClassVar

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from queue_engine.api.answers import failure
from queue_engine.api.errors import INVALID_REQUEST

MAX_HEAD_BYTES = 64 * 1024
"""The request line and the headers, and the trailers of a chunked body, all together."""

BODY_OVERHEAD = 16
"""Bytes on the wire for one byte of a body. Chunks of one byte take 6; what takes more is no body."""

MAX_IGNORED_BYTES = 8 * 1024 * 1024
"""How much of a body is read after its answer. A client that sends all before it listens then still sees the answer:
closing at once would reset the connection and could take the answer away."""


_H2C = re.compile(rb"\n(upgrade):(?=[ \t]*h2c[ \t]*(?:\r?\n|$))", re.IGNORECASE)


class _Refused(Exception):
    """Ends parsing from inside a callback of the parser."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Use a class made by `limited_protocol`."""

    patience_seconds: ClassVar[float]
    """How long a client may take to send a head, or the rest of a body that was answered already."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._patience: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_message = False
        self._began = False
        """Whether a message began in the data that is being looked at."""
        self._head_bytes = 0
        self._allowance = 0
        """Bytes that may still come before more of the body must come with them."""
        self._ignored_bytes = 0
        self._refusal = (400, "request: must be valid HTTP/1.1")

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._began = False
        super().data_received(data if self._in_message else _without_h2c(data))
        if self.transport.is_closing():
            return
        if not self._in_message:
            self._expect_after(data)
        elif not self._began:
            self._count_received(len(data))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and not self._in_head and not self.transport.is_closing():
            if self.expect_100_continue:
                self.transport.close()  # the client may take its body back, so what comes next cannot be told
            else:
                self._expect()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = self._began = True
        self._head_bytes = self._ignored_bytes = 0
        self._allowance = MAX_HEAD_BYTES
        self._expect()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        if self._in_head:  # and not a trailer, which nobody here reads
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self._has_body():
            # The parser would take the body for the bytes of another protocol.
            self._refusal = (400, "Upgrade: is not supported with a body")
            raise _Refused
        self._in_head = False
        self._stop_expecting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._allowance += BODY_OVERHEAD * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._stop_expecting()
        super().on_message_complete()

    # What uvicorn asks for when parsing fails

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Tell the client what broke a rule, unless it would take that for the answer to another request; and close.

        `msg` is uvicorn's; what the client is told is in `_refusal`.
        """
        cycle = self._pending_cycle()
        if cycle is None:
            self._write_refusal()
        elif self.pipeline or not cycle.more_body:
            cycle.keep_alive = False  # the requests before are answered, then it is closed
            self.flow.pause_reading()
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._write_refusal()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade may be ignored (RFC 9110, section 7.8)."""

    # Limits

    def _expect(self) -> None:
        """Close the connection unless the client gets on in time. Does nothing when that is expected already."""
        if self._patience is None:
            self._patience = self.loop.call_later(self.patience_seconds, self._give_up)

    def _stop_expecting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _expect_after(self, data: bytes) -> None:
        """Between messages: blank lines before a request must not keep a connection open for ever."""
        if data and self._pending_cycle() is None and self.timeout_keep_alive_task is None:
            self._expect()

    def _pending_cycle(self) -> RequestResponseCycle | None:
        """The latest request, while it is not answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return None if cycle is None or cycle.response_complete else cycle

    def _give_up(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self._in_head:
            self._refuse(400, "headers: did not arrive in time")
        else:
            self.transport.close()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = (431, f"headers: must be at most {MAX_HEAD_BYTES} bytes in all")
            raise _Refused

    def _count_received(self, size: int) -> None:
        """Count what the parser may be keeping to itself: an endless header, trailer or chunk extension."""
        self._allowance -= size
        if self._allowance < 0 and self._in_head:
            self._refuse(431, f"headers: must be at most {MAX_HEAD_BYTES} bytes in all")
        elif self._allowance < 0:
            self._refuse(400, "body: has too much around its chunks")
        elif self._pending_cycle() is None:
            self._ignored_bytes += size
            if self._ignored_bytes > MAX_IGNORED_BYTES:
                self.transport.close()

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        )

    def _refuse(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        self.send_400_response(message)

    def _write_refusal(self) -> None:
        status, message = self._refusal
        body = failure(status, INVALID_REQUEST, message).body
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()


def _without_h2c(data: bytes) -> bytes:
    """`data` with an offer of HTTP/2 in its head made harmless: Java's client makes one with every first request.

    It may be ignored (RFC 9110, section 7.8), but the parser would take the body for the bytes of the other protocol.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end or b"h2c" not in head:
        return data
    return _H2C.sub(rb"\n\1-Ignored:", head) + end + rest


def limited_protocol(patience_seconds: float) -> type[LimitedProtocol]:
    """The class of connections with this patience, for `uvicorn.Config(http=…)`."""
    return type("LimitedProtocol", (LimitedProtocol,), {"patience_seconds": patience_seconds})
