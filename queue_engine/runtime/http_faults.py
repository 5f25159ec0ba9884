"""What went wrong with an HTTP call, as one word of a closed set.

For exceptions of aiohttp, of httpx, and of httpx on aiohttp's transport. The last of these hides what happened: it
turns a connection that the server closed into a ConnectTimeout, so the cause is looked at first.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError

DNS_ERROR = "dns_error"
CONNECT_REFUSED = "connect_refused"
"""No connection: refused, or no route to the network."""
CONNECT_TIMEOUT = "connect_timeout"
TLS_ERROR = "tls_error"
READ_TIMEOUT = "read_timeout"
RESET = "reset"
"""The connection was made and broke, or what came over it is not HTTP."""
BLOCKED_ADDRESS = "blocked_address"
INVALID_REQUEST = "invalid_request"
"""The request could not be written: a URL or a header that HTTP does not allow."""
INTERNAL = "internal"

FAULTS = frozenset(
    {
        DNS_ERROR, CONNECT_REFUSED, CONNECT_TIMEOUT, TLS_ERROR, READ_TIMEOUT, RESET, BLOCKED_ADDRESS,
        INVALID_REQUEST, INTERNAL,
    }
)  # fmt: skip


class BlockedAddress(OSError):
    """The guard refuses the address; nothing was sent to it."""


_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""This process or machine has run out of something: not the other side's fault."""

# The first row that fits decides, so a class comes before those it is derived from.
_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (aiohttp.ClientConnectorDNSError, DNS_ERROR),
    (socket.gaierror, DNS_ERROR),
    (aiohttp.ClientSSLError, TLS_ERROR),
    (aiohttp.ServerFingerprintMismatch, TLS_ERROR),
    (ssl.SSLError, TLS_ERROR),
    (ssl.CertificateError, TLS_ERROR),
    (aiohttp.ConnectionTimeoutError, CONNECT_TIMEOUT),
    (httpx.ConnectTimeout, CONNECT_TIMEOUT),
    (httpx.PoolTimeout, CONNECT_TIMEOUT),
    (httpx.ProxyError, CONNECT_REFUSED),
    (ConnectionRefusedError, CONNECT_REFUSED),
    (aiohttp.ServerTimeoutError, READ_TIMEOUT),
    (httpx.TimeoutException, READ_TIMEOUT),
    (TimeoutError, READ_TIMEOUT),
    (httpx.LocalProtocolError, INVALID_REQUEST),
    (httpx.UnsupportedProtocol, INVALID_REQUEST),
    (httpx.InvalidURL, INVALID_REQUEST),
    (aiohttp.InvalidURL, INVALID_REQUEST),
    (aiohttp.NonHttpUrlClientError, INVALID_REQUEST),
    (aiohttp.ClientError, RESET),
    (HttpProcessingError, RESET),
    (httpx.TransportError, RESET),
    (httpx.DecodingError, RESET),
    (ConnectionError, RESET),
    (ValueError, INVALID_REQUEST),
)


def fault_of(error: BaseException) -> str:
    """The word for what an HTTP call raised. `connect_refused`, `connect_timeout` and `dns_error` mean that no
    connection was made, so that nothing of the request can have arrived."""
    chain = list(_causes(error))
    if any(isinstance(link, BlockedAddress) for link in chain):
        return BLOCKED_ADDRESS
    telling = _telling(chain)
    if isinstance(telling, aiohttp.ClientConnectorError | httpx.ConnectError):
        return _connect_fault(telling, chain)
    return _word_for(telling)


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__  # httpcore suppresses the context, which holds the TLS error


def _telling(chain: list[BaseException]) -> BaseException:
    """The innermost exception of the HTTP libraries: those outside it have lost what it knew."""
    for library in (aiohttp.ClientError, httpx.HTTPError):
        for link in reversed(chain):
            if isinstance(link, library):
                return link
    return chain[0]


def _connect_fault(error: BaseException, chain: list[BaseException]) -> str:
    """For an error while connecting: what the operating system said decides."""
    if isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError):
        return _word_for(error)
    reason = _os_error(chain)
    if reason is None:
        return CONNECT_REFUSED
    if isinstance(reason, ssl.SSLError | ssl.CertificateError | socket.gaierror | ConnectionError):
        return _word_for(reason)
    if isinstance(reason, TimeoutError):
        return CONNECT_TIMEOUT
    return INTERNAL if reason.errno in _OURS else CONNECT_REFUSED


def _os_error(chain: list[BaseException]) -> OSError | None:
    for link in reversed(chain):
        if isinstance(link, OSError) and not isinstance(link, aiohttp.ClientError):
            return link
    return None


def _word_for(error: BaseException) -> str:
    return next((word for kind, word in _WORDS if isinstance(error, kind)), INTERNAL)
