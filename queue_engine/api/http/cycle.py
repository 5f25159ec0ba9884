"""A request and its response on a connection: uvicorn's cycle, with two short cuts.

Most bodies have arrived when the application asks for them, and most responses are complete when it has made them. The
messages of ASGI for both take as long as the rest of the server does. `arrived_body` takes such a body in one call, and
`written_at_once` writes such a response in one call. Under another server, and for what is received or sent in parts,
both do nothing, and the caller uses the messages.
"""

from __future__ import annotations

from functools import lru_cache

from starlette.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

MAX_JOINED_BYTES = 64 * 1024
"""Longest body that is copied behind the head of its response, so that both are one write."""


class Cycle(RequestResponseCycle):
    """A request and its response."""

    def take_body(self) -> bytes | None:
        """Return what is left of the body, as the only message of `receive` would; None if it would wait."""
        if self.more_body or self.disconnected or self.response_complete or self.waiting_for_100_continue:
            return None
        if not self.message_event.is_set():  # taken before
            return None
        self.message_event.clear()
        self.flow.resume_reading()
        body, self.body = bytes(self.body), bytearray()
        return body

    def write(self, status: int, head: bytes, body: bytes) -> bool:
        """Write a whole response and return True; do nothing and return False if `send` would wait or refuse it.

        `head` are the lines of its headers, among them the length of `body`, but not `Connection`.
        """
        if self.response_started or self.disconnected or self.flow.write_paused:
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        common = _lines_of(tuple(self.default_headers))
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        if self.scope["method"] == "HEAD":
            body = b""
        if len(body) <= MAX_JOINED_BYTES:
            self.transport.write(b"".join((STATUS_LINE[status], common, head, end, body)))
        else:
            self.transport.write(b"".join((STATUS_LINE[status], common, head, end)))
            self.transport.write(body)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True


@lru_cache(maxsize=8)
def _lines_of(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Return the lines of headers that are the same for all responses of a second."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def arrived_body(receive: Receive) -> bytes | None:
    """Return the body if all of it has arrived; None if the caller must call `receive`."""
    cycle = getattr(receive, "__self__", None)
    return cycle.take_body() if isinstance(cycle, Cycle) else None


def written_at_once(send: Send, status: int, head: bytes, body: bytes) -> bool:
    """Write a response and return True; return False if the caller must call `send`. See `Cycle.write`."""
    cycle = getattr(send, "__self__", None)
    return isinstance(cycle, Cycle) and cycle.write(status, head, body)


def abort(send: Send) -> None:
    """Close the connection at once, without the bytes that its client does not read. Another server does nothing."""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, Cycle):
        cycle.transport.abort()
