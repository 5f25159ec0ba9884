"""One word for what an HTTP call raised. What real connections raise is in tests/integration/test_http_faults.py."""

import errno
import socket
import ssl
from unittest.mock import Mock

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadStatusLine

from queue_engine.runtime.http_faults import FAULTS, BlockedAddress, fault_of

KEY = ConnectionKey("host", 80, False, True, None, None, None)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def connector_error(cause: OSError) -> BaseException:
    return caused(aiohttp.ClientConnectorError(KEY, cause), cause)


@pytest.mark.parametrize(
    ("error", "fault"),
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
        (aiohttp.ClientResponseError(Mock(), (), status=400, message="bad status line"), "reset"),
        (BadStatusLine("x"), "reset"),
        (aiohttp.InvalidURL("x"), "invalid_request"),
        (aiohttp.NonHttpUrlClientError("x"), "invalid_request"),
        # httpx on aiohttp's transport: its own word is wrong, the cause is right
        (caused(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError()), "reset"),
        (caused(httpx.ConnectTimeout("x"), aiohttp.ConnectionTimeoutError("x")), "connect_timeout"),
        (caused(httpx.ConnectError("x"), connector_error(OSError(errno.ECONNREFUSED, "x"))), "connect_refused"),
        (caused(httpx.ConnectError("x"), connector_error(TimeoutError(errno.ETIMEDOUT, "x"))), "connect_timeout"),
        (caused(httpx.ConnectError("x"), connector_error(BlockedAddress("x"))), "blocked_address"),
        (caused(httpx.ReadTimeout("x"), aiohttp.SocketTimeoutError("x")), "read_timeout"),
        (caused(httpx.ReadError("x"), aiohttp.ClientPayloadError("x")), "reset"),
        # httpx by itself
        (httpx.ConnectError("x"), "connect_refused"),
        (caused(httpx.ConnectError("x"), socket.gaierror(-2, "unknown")), "dns_error"),
        (caused(httpx.ConnectError("x"), ssl.SSLError(1, "x")), "tls_error"),
        (httpx.ConnectTimeout("x"), "connect_timeout"),
        (httpx.PoolTimeout("x"), "connect_timeout"),
        (httpx.ProxyError("x"), "connect_refused"),
        (httpx.ReadTimeout("x"), "read_timeout"),
        (httpx.WriteTimeout("x"), "read_timeout"),
        (httpx.ReadError("x"), "reset"),
        (httpx.WriteError("x"), "reset"),
        (httpx.RemoteProtocolError("x"), "reset"),
        (httpx.LocalProtocolError("x"), "invalid_request"),
        (httpx.UnsupportedProtocol("x"), "invalid_request"),
        (httpx.InvalidURL("x"), "invalid_request"),
        # neither
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
def test_an_error_has_its_word(error: BaseException, fault: str) -> None:
    assert fault in FAULTS
    assert fault_of(error) == fault


def test_a_circle_of_causes_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert fault_of(first) == "internal"
