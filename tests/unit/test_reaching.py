"""Why a platform cannot be reached, in words without its address."""

import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from queue_engine.backends.reaching import reason_without_address

KEY = ConnectionKey(
    "engine.internal", 2376, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("engine.internal"), "it does not respond"),
        (ConnectionRefusedError(111, "Connect call failed ('10.0.0.7', 2376)"), "Connection refused"),
        (
            aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "Connect call failed ('10.0.0.7', 2376)")),
            "Connection refused",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "engine.internal: not known")),
            "its name cannot be resolved",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("engine.internal")),
            "its certificate is not accepted, or it does not use TLS",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError("engine.internal")),
            "its certificate is not accepted, or it does not use TLS",
        ),
        (aiohttp.ServerDisconnectedError("10.0.0.7"), "the connection failed"),
        (OSError("Multiple exceptions: 10.0.0.7"), "the connection failed"),
    ],
)
def test_the_reason_has_no_address(error: BaseException, reason: str) -> None:
    assert reason_without_address(error) == reason
