"""One word for what an HTTP call raised. What real connections raise is in tests/integration/test_error_types.py."""

import errno
import socket
import ssl
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadStatusLine, ContentLengthError, TransferEncodingError

from queue_engine.net.client_errors import error_type_of, problem_of
from queue_engine.net.error_types import (
    ERROR_TYPES,
    BadResponse,
    BlockedAddress,
    CallError,
    not_connected,
)

KEY = ConnectionKey("host", 80, False, True, None, None, None)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def connector_error(cause: OSError) -> BaseException:
    return caused(aiohttp.ClientConnectorError(KEY, cause), cause)


def tls_connector_error(cause: OSError) -> BaseException:
    return caused(aiohttp.ClientConnectorError(KEY._replace(is_ssl=True), cause), cause)


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (connector_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused")), "connect_refused"),
        (connector_error(OSError(errno.ENETUNREACH, "unreachable")), "connect_refused"),
        (connector_error(OSError(errno.EHOSTUNREACH, "unreachable")), "connect_refused"),
        (connector_error(OSError(errno.EADDRNOTAVAIL, "no such address here")), "connect_refused"),
        (connector_error(OSError("Multiple exceptions: …")), "connect_refused"),
        (connector_error(PermissionError(errno.EPERM, "firewall")), "connect_refused"),
        (connector_error(TimeoutError(errno.ETIMEDOUT, "timed out")), "connect_timeout"),
        (connector_error(ConnectionResetError(errno.ECONNRESET, "reset")), "reset"),
        (connector_error(OSError(errno.EMFILE, "too many open files")), "internal"),
        (connector_error(BlockedAddress("no")), "blocked_address"),
        (caused(aiohttp.ClientConnectorDNSError(KEY, OSError(None, "x")), OSError(None, "x")), "dns_error"),
        (caused(aiohttp.ClientConnectorDNSError(KEY, OSError(None, "x")), BlockedAddress("x")), "blocked_address"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "handshake")), "tls_error"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, "expired")), "tls_error"),
        (aiohttp.ServerFingerprintMismatch(b"a", b"b", "host", 1), "tls_error"),
        (caused(aiohttp.ConnectionTimeoutError("x"), TimeoutError()), "connect_timeout"),
        (aiohttp.SocketTimeoutError("x"), "read_timeout"),
        (aiohttp.ServerTimeoutError("x"), "read_timeout"),
        (aiohttp.ServerDisconnectedError(), "reset"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), "reset"),
        (aiohttp.ClientConnectionResetError("closing transport"), "reset"),
        (aiohttp.ClientPayloadError("cut"), "reset"),
        (aiohttp.ClientResponseError(Mock(), (), status=400, message="bad status line"), "bad_response"),
        (BadStatusLine("x"), "bad_response"),
        (BadResponse("not HTTP"), "bad_response"),
        (CallError("reset"), "reset"),
        (not_connected(ConnectionRefusedError(errno.ECONNREFUSED, "refused")), "connect_refused"),
        (not_connected(OSError(errno.ENETUNREACH, "unreachable")), "connect_refused"),
        (not_connected(OSError("Multiple exceptions: …")), "connect_refused"),
        (not_connected(socket.gaierror(-2, "unknown")), "dns_error"),
        (not_connected(TimeoutError(errno.ETIMEDOUT, "timed out")), "connect_timeout"),
        (not_connected(OSError(errno.EMFILE, "too many open files")), "internal"),
        (tls_connector_error(ConnectionResetError(errno.ECONNRESET, "reset")), "tls_error"),
        (tls_connector_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused")), "connect_refused"),
        (aiohttp.InvalidURL("x"), "invalid_request"),
        (aiohttp.NonHttpUrlClientError("x"), "invalid_request"),
        # the operating system's
        (TimeoutError(), "read_timeout"),
        (socket.gaierror(-2, "unknown"), "dns_error"),
        (ConnectionRefusedError(), "connect_refused"),
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (BlockedAddress("x"), "blocked_address"),
        (ValueError("a header with a newline"), "invalid_request"),
        (UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogate"), "invalid_request"),
        (OSError(errno.EMFILE, "x"), "internal"),
        (KeyError("a bug"), "internal"),
        (RuntimeError("Session is closed"), "internal"),
    ],
)  # fmt: skip
def test_an_error_has_its_word(error: BaseException, error_type: str) -> None:
    assert error_type in ERROR_TYPES
    assert error_type_of(error) == error_type


def test_a_circle_of_causes_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert error_type_of(first) == "internal"


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (connector_error(ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.7', 80)")),
         "Connection refused"),
        (connector_error(OSError(errno.EHOSTUNREACH, "x")), "No route to host"),
        (OSError(errno.EMFILE, "x"), "Too many open files"),
        (aiohttp.ConnectionTimeoutError("to host http://10.0.0.7/"), "no connection within the time limit"),
        (aiohttp.ServerDisconnectedError(), "it was closed without a response"),
        (aiohttp.ServerDisconnectedError(Mock()), "it was closed within the response's headers"),
        (caused(aiohttp.ClientPayloadError("x: <ContentLengthError>"), ContentLengthError("(received 3 of 50 bytes).")),
         "it was closed after 3 of 50 bytes of the body"),
        (caused(aiohttp.ClientPayloadError("x"), TransferEncodingError("cut")), "it was closed within the body"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"), "the connection was reset"),
        (BadResponse("duplicate header", b"X: \xe9\x00\r\n"), 'duplicate header: "X: \\xe9\\x00"'),
        (BadResponse("x", b"a" * 5000), 'x: "' + "a" * 100 + '"'),
        (CallError("reset"), "the connection was reset"),
        (CallError("reset", "it was closed without a response"), "it was closed without a response"),
        (not_connected(OSError(errno.EHOSTUNREACH, "x")), "No route to host"),
        (not_connected(OSError("Multiple exceptions: …")), "the connection was refused"),
        (not_connected(socket.gaierror(-2, "x")), "the host name could not be resolved"),
        (BlockedAddress("the address is private"), "the address is private"),
        (ValueError("Newline in header <repr>"), "the URL or a header of the request cannot be sent"),
        (KeyError("a bug"), "an internal error"),
    ],
)  # fmt: skip
def test_an_error_has_words_for_people(error: BaseException, problem: str) -> None:
    assert problem_of(error) == problem
