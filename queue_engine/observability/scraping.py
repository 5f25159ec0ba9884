"""Pages of metrics of other processes of this machine, fetched over their Unix sockets."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

MAX_BYTES = 4 * 1024 * 1024
"""Maximum size of a page."""


def fetch_page(address: Path, seconds: float) -> str | None:
    """Return the page `/metrics` that is served on a Unix socket; None if it does not come in time."""
    connection = _UnixConnection(address, seconds)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        body = response.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body.decode(errors="replace") if response.status == 200 and len(body) <= MAX_BYTES else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, address: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._address))
