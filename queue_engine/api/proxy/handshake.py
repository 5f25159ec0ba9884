"""The opening handshake of WebSocket (RFC 6455, section 4): what is checked, and what is passed on. Pure.

The handshake is between the client and the worker: key, subprotocols and extensions are passed on as they are. The
worker's response is checked before the connections become streams. Otherwise a worker that refuses, or does not know
WebSocket, would read the client's bytes as further requests without any check.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

from queue_engine.api.proxy.rules import RawHeaders, headers_for_client
from queue_engine.domain.errors import InvalidRequest

SWITCHING_PROTOCOLS = 101
VERSION = b"13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16
_NEGOTIATED = (b"sec-websocket-protocol", b"sec-websocket-extensions")


@dataclass(frozen=True)
class Handshake:
    """A client's opening handshake."""

    key: bytes
    negotiated: tuple[tuple[bytes, bytes], ...] = field(default=())
    """The subprotocols and extensions that the client offers, as headers."""

    def headers_for_worker(self) -> list[tuple[str, str]]:
        """Return the headers that make a request to the worker the same handshake."""
        headers = [
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", VERSION),
            (b"sec-websocket-key", self.key),
            *self.negotiated,
        ]
        return [(name.decode("ascii"), value.decode("ascii")) for name, value in headers]

    def problem_of(self, headers: RawHeaders) -> str | None:
        """Return the problem with the headers of the worker's 101 response; None if it completes the handshake."""
        if [value.lower() for value in _values(headers, b"upgrade")] != [b"websocket"]:
            return "it switches to another protocol than WebSocket"
        digest = hashlib.sha1(self.key + _GUID, usedforsecurity=False).digest()
        if _values(headers, b"sec-websocket-accept") != [base64.b64encode(digest)]:
            return "its Sec-WebSocket-Accept does not fit the client's key"
        return None


def handshake_in(method: str, headers: RawHeaders) -> Handshake:
    """Return the handshake of a request that asks for WebSocket. Raises InvalidRequest."""
    if method != "GET":
        raise InvalidRequest("Upgrade", "WebSocket needs the method GET")
    if _values(headers, b"sec-websocket-version") != [VERSION]:
        raise InvalidRequest("Sec-WebSocket-Version", f"must be {VERSION.decode()}")
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise InvalidRequest("Sec-WebSocket-Key", f"must be given once, with {_KEY_BYTES} bytes as base64")
    negotiated = tuple((name, value) for name, value in headers if name in _NEGOTIATED)
    for name, value in negotiated:
        if not value.isascii():
            raise InvalidRequest(name.decode().title(), "must be ASCII")
    return Handshake(keys[0], negotiated)


def head_for_client(headers: RawHeaders, request_id: str) -> bytes | None:
    """Return the head of the response that completes the handshake, of the headers in the worker's response.

    None when a header is not valid HTTP.
    """
    kept = headers_for_client(SWITCHING_PROTOCOLS, headers, request_id)
    if kept is None:
        return None
    names = (b"sec-websocket-accept", *_NEGOTIATED)
    kept += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    kept += [(name, value) for name, value in headers if name.lower() in names]
    return b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(b"%b: %b\r\n" % one for one in kept) + b"\r\n"


def _values(headers: RawHeaders, name: bytes) -> list[bytes]:
    return [value.strip() for one, value in headers if one.lower() == name]


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
