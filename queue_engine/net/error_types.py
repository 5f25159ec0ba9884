"""The error type of a failed HTTP call: a word of a closed set, and a short description for users.

For calls through aiohttp, queue_engine/net/client_errors.py derives both from its exceptions. Only the API loads it,
because it would take 11 MB of an agent's memory and a third of its start.
"""

from __future__ import annotations

import errno
import os
import socket

DNS_ERROR = "dns_error"
CONNECT_REFUSED = "connect_refused"
"""The connection was refused, or there is no route to the host."""
CONNECT_TIMEOUT = "connect_timeout"
TLS_ERROR = "tls_error"
READ_TIMEOUT = "read_timeout"
RESET = "reset"
"""The connection was made, and broke before the whole response arrived."""
BAD_RESPONSE = "bad_response"
"""The response cannot be parsed: it is not HTTP, or its body is not in the declared coding. The same request would get
the same response again."""
BLOCKED_ADDRESS = "blocked_address"
INVALID_REQUEST = "invalid_request"
"""The request could not be written, because HTTP does not allow its URL or a header."""
INTERNAL = "internal"

ERROR_TYPES = frozenset(
    {
        DNS_ERROR, CONNECT_REFUSED, CONNECT_TIMEOUT, TLS_ERROR, READ_TIMEOUT, RESET, BAD_RESPONSE,
        BLOCKED_ADDRESS, INVALID_REQUEST, INTERNAL,
    }
)  # fmt: skip


class BlockedAddress(OSError):
    """The guard refuses the address. No request was sent to it."""


class CallError(Exception):
    """A call over a connection of the engine's own failed. Its text is the problem in a few words."""

    def __init__(self, error_type: str, problem: str = "") -> None:
        super().__init__(problem or PROBLEMS[error_type])
        self.error_type = error_type


class BadResponse(CallError):
    """The response cannot be parsed. `problem` is the reason; `line` is the invalid part of the response, if known."""

    def __init__(self, problem: str, line: bytes = b"") -> None:
        shown = line.strip()[:MAX_SHOWN_BYTES].decode("latin-1").encode("unicode_escape").decode()
        super().__init__(BAD_RESPONSE, f'{problem}: "{shown}"' if shown else problem)
        self.problem = problem


class NoResponse(CallError):
    """The connection broke before the first byte of a response."""

    def __init__(self, problem: str = "") -> None:
        super().__init__(RESET, problem)


MAX_SHOWN_BYTES = 100

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of this process or machine, which has run out of a resource."""

PROBLEMS = {
    DNS_ERROR: "the host name could not be resolved",
    CONNECT_REFUSED: "the connection was refused",
    CONNECT_TIMEOUT: "no connection within the time limit",
    TLS_ERROR: "the TLS handshake failed",
    READ_TIMEOUT: "no response within the time limit",
    RESET: "the connection was reset",
    BAD_RESPONSE: "it is not HTTP",
    BLOCKED_ADDRESS: "the address is not allowed",
    INVALID_REQUEST: "the URL or a header of the request cannot be sent",
    INTERNAL: "an internal error",
}
CLOSED_WITHOUT_RESPONSE = "it was closed without a response"
CLOSED_IN_HEAD = "it was closed within the response's headers"
CLOSED_IN_BODY = "it was closed within the body"


def closed_after(received: int, length: int) -> str:
    """Return the problem of a body that ended before the length that its headers say."""
    return f"it was closed after {received} of {length} bytes of the body"


def not_connected(error: OSError) -> CallError:
    """Return the error of a call for which no connection was made, because of `error`."""
    error_type = type_of_connecting(error)
    if error_type in (CONNECT_REFUSED, INTERNAL) and error.errno:
        return CallError(error_type, os.strerror(error.errno))
    return CallError(error_type)


def type_of_connecting(reason: OSError) -> str:
    """Return the error type of a call for which no connection was made, because of `reason`."""
    if isinstance(reason, BlockedAddress):
        return BLOCKED_ADDRESS
    if isinstance(reason, socket.gaierror):
        return DNS_ERROR
    if isinstance(reason, ConnectionError):
        return CONNECT_REFUSED if isinstance(reason, ConnectionRefusedError) else RESET
    if isinstance(reason, TimeoutError):
        return CONNECT_TIMEOUT
    return INTERNAL if reason.errno in _EXHAUSTED else CONNECT_REFUSED
