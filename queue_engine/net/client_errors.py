"""The error types of aiohttp's exceptions, and of those of the operating system below it."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from queue_engine.net.error_types import (
    BAD_RESPONSE,
    BLOCKED_ADDRESS,
    CLOSED_IN_BODY,
    CLOSED_IN_HEAD,
    CLOSED_WITHOUT_RESPONSE,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    DNS_ERROR,
    INTERNAL,
    INVALID_REQUEST,
    PROBLEMS,
    READ_TIMEOUT,
    RESET,
    TLS_ERROR,
    BlockedAddress,
    CallError,
    closed_after,
    type_of_connecting,
)

# The first matching row is used, so a class comes before its base classes.
_ERROR_TYPES: tuple[tuple[type[BaseException], str], ...] = (
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

_BODY_CUT = re.compile(r"received ([0-9]+) of ([0-9]+) bytes")


def error_type_of(error: BaseException) -> str:
    """Return the error type of the exception of an HTTP call.

    `connect_refused`, `connect_timeout` and `dns_error` mean that no connection was made, so no part of the request can
    have arrived.
    """
    chain = list(_causes(error))
    if any(isinstance(link, BlockedAddress) for link in chain):
        return BLOCKED_ADDRESS
    telling = _telling(chain)
    if isinstance(telling, CallError):
        return telling.error_type
    if isinstance(telling, aiohttp.ClientConnectorError):
        return _connect_error_type(telling, chain)
    return _type_of(telling)


def problem_of(error: BaseException) -> str:
    """Return the problem in a few words of one line, without Python's notation and without an address."""
    error_type = error_type_of(error)
    chain = list(_causes(error))
    if isinstance(chain[0], CallError | BlockedAddress):
        return str(chain[0])
    if error_type == RESET:
        return _how_it_broke(chain)
    reason = _os_error(chain)
    if error_type in (CONNECT_REFUSED, INTERNAL) and reason is not None and reason.errno:
        return os.strerror(reason.errno)
    return PROBLEMS[error_type]


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
    return PROBLEMS[RESET]


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _telling(chain: list[BaseException]) -> BaseException:
    """Return the innermost exception of aiohttp, because the exceptions that wrap it have less information."""
    return next((link for link in reversed(chain) if isinstance(link, aiohttp.ClientError | CallError)), chain[0])


def _connect_error_type(error: aiohttp.ClientConnectorError, chain: list[BaseException]) -> str:
    """Return the error type of a failed connection, which depends on the error of the operating system."""
    if isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError):
        return _type_of(error)
    reason = _os_error(chain)
    if reason is None:
        return CONNECT_REFUSED
    if isinstance(reason, ConnectionResetError | ConnectionAbortedError) and error._conn_key.is_ssl:
        return TLS_ERROR  # a reset happens after the TCP connection was made, so during the TLS handshake
    if isinstance(reason, ssl.SSLError):
        return TLS_ERROR
    return type_of_connecting(reason)


def _os_error(chain: list[BaseException]) -> OSError | None:
    for link in reversed(chain):
        if isinstance(link, OSError) and not isinstance(link, aiohttp.ClientError):
            return link
    return None


def _type_of(error: BaseException) -> str:
    return next((word for kind, word in _ERROR_TYPES if isinstance(error, kind)), INTERNAL)
