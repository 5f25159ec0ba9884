"""The error type of a failed HTTP call: a word of a closed set, and a short description for users.

Both are derived from CallError, and from the exceptions of aiohttp and of the operating system.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

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
        super().__init__(problem or _PROBLEMS[error_type])
        self.error_type = error_type


class BadResponse(aiohttp.ClientError):
    """The response cannot be parsed. `problem` is the reason; `line` is the invalid part of the response, if known."""

    def __init__(self, problem: str, line: bytes = b"") -> None:
        shown = line.strip()[:MAX_SHOWN_BYTES].decode("latin-1").encode("unicode_escape").decode()
        super().__init__(f'{problem}: "{shown}"' if shown else problem)
        self.problem = problem


MAX_SHOWN_BYTES = 100

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of this process or machine, which has run out of a resource."""

# The first matching row is used, so a class comes before its base classes.
_ERROR_TYPES: tuple[tuple[type[BaseException], str], ...] = (
    (BadResponse, BAD_RESPONSE),
    (aiohttp.ClientConnectorDNSError, DNS_ERROR),
    (socket.gaierror, DNS_ERROR),
    (aiohttp.ClientSSLError, TLS_ERROR),
    (aiohttp.ServerFingerprintMismatch, TLS_ERROR),
    (ssl.SSLError, TLS_ERROR),
    (ssl.CertificateError, TLS_ERROR),
    (aiohttp.ConnectionTimeoutError, CONNECT_TIMEOUT),
    (ConnectionRefusedError, CONNECT_REFUSED),
    (aiohttp.ServerTimeoutError, READ_TIMEOUT),
    (TimeoutError, READ_TIMEOUT),
    (aiohttp.InvalidURL, INVALID_REQUEST),
    (aiohttp.NonHttpUrlClientError, INVALID_REQUEST),
    (aiohttp.ClientResponseError, BAD_RESPONSE),
    (HttpProcessingError, BAD_RESPONSE),
    (aiohttp.ClientError, RESET),
    (ConnectionError, RESET),
    (ValueError, INVALID_REQUEST),
)

_PROBLEMS = {
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
_BODY_CUT = re.compile(r"received ([0-9]+) of ([0-9]+) bytes")


def error_type_of(error: BaseException) -> str:
    """Return the error type of the exception of an HTTP call.

    `connect_refused`, `connect_timeout` and `dns_error` mean that no connection was made, so no part of the request can
    have arrived.
    """
    if isinstance(error, CallError):
        return error.error_type
    chain = list(_causes(error))
    if any(isinstance(link, BlockedAddress) for link in chain):
        return BLOCKED_ADDRESS
    telling = _telling(chain)
    if isinstance(telling, aiohttp.ClientConnectorError):
        return _connect_error_type(telling, chain)
    return _type_of(telling)


def problem_of(error: BaseException) -> str:
    """Return the problem in a few words of one line, without Python's notation and without an address."""
    error_type = error_type_of(error)
    chain = list(_causes(error))
    if isinstance(chain[0], CallError | BadResponse | BlockedAddress):
        return str(chain[0])
    if error_type == RESET:
        return _how_it_broke(chain)
    reason = _os_error(chain)
    if error_type in (CONNECT_REFUSED, INTERNAL) and reason is not None and reason.errno:
        return os.strerror(reason.errno)
    return _PROBLEMS[error_type]


def closed_after(received: int, length: int) -> str:
    """Return the problem of a body that ended before the length that its headers say."""
    return f"it was closed after {received} of {length} bytes of the body"


def not_connected(error: OSError) -> CallError:
    """Return the error of a call for which no connection was made, because of `error`."""
    error_type = _type_of_connecting(error)
    if error_type in (CONNECT_REFUSED, INTERNAL) and error.errno:
        return CallError(error_type, os.strerror(error.errno))
    return CallError(error_type)


def _how_it_broke(chain: list[BaseException]) -> str:
    disconnected = next((link for link in chain if isinstance(link, aiohttp.ServerDisconnectedError)), None)
    if disconnected is not None:
        no_response = isinstance(disconnected.message, str)  # otherwise it is the received part of the head
        return CLOSED_WITHOUT_RESPONSE if no_response else CLOSED_IN_HEAD
    for link in chain:
        if cut := _BODY_CUT.search(str(link)):
            return closed_after(int(cut[1]), int(cut[2]))
    if any(isinstance(link, HttpProcessingError) for link in chain):
        return CLOSED_IN_BODY
    return _PROBLEMS[RESET]


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _telling(chain: list[BaseException]) -> BaseException:
    """Return the innermost exception of aiohttp, because the exceptions that wrap it have less information."""
    return next((link for link in reversed(chain) if isinstance(link, aiohttp.ClientError)), chain[0])


def _connect_error_type(error: aiohttp.ClientConnectorError, chain: list[BaseException]) -> str:
    """Return the error type of a failed connection, which depends on the error of the operating system."""
    if isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError):
        return _type_of(error)
    reason = _os_error(chain)
    if reason is None:
        return CONNECT_REFUSED
    if isinstance(reason, ConnectionResetError | ConnectionAbortedError) and error._conn_key.is_ssl:
        return TLS_ERROR  # a reset happens after the TCP connection was made, so during the TLS handshake
    return _type_of_connecting(reason)


def _type_of_connecting(reason: OSError) -> str:
    if isinstance(reason, ssl.SSLError | ssl.CertificateError | socket.gaierror | ConnectionError):
        return _type_of(reason)
    if isinstance(reason, TimeoutError):
        return CONNECT_TIMEOUT
    return INTERNAL if reason.errno in _EXHAUSTED else CONNECT_REFUSED


def _os_error(chain: list[BaseException]) -> OSError | None:
    for link in reversed(chain):
        if isinstance(link, OSError) and not isinstance(link, aiohttp.ClientError):
            return link
    return None


def _type_of(error: BaseException) -> str:
    return next((word for kind, word in _ERROR_TYPES if isinstance(error, kind)), INTERNAL)
