"""Free TCP ports on the loopback interface, and the addresses of this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Container
from functools import lru_cache
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"
IPV6_LOOPBACK = "::1"
_LOWEST_PORT = 20_000
_HIGHEST_PORT = 29_999
_TRIES = 200
_USUAL_EPHEMERAL_START = 32_768
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(taken: Container[int] = ()) -> int:
    """Return a port that was free a moment ago and is not in `taken`. Raises OSError if none is found.

    The port is below the range that the system uses for outgoing connections, for two reasons. A client that tries to
    connect to a port of that range on loopback, while no server listens there, may get the same port as its local port:
    it connects to itself, and the server cannot listen. And any outgoing connection could take the port while a server
    restarts.
    """
    highest = min(_HIGHEST_PORT, _ephemeral_start() - 1)
    for _ in range(_TRIES):
        # If outgoing connections may use all ports, let the system choose.
        wanted = random.randint(_LOWEST_PORT, highest) if highest > _LOWEST_PORT else 0
        port = _bound_port(wanted)
        if port is not None and port not in taken:
            return port
    raise OSError("no free TCP port found on the loopback interface")


def is_free(port: int) -> bool:
    """Return True if a server could listen on this loopback port now."""
    return _bound_port(port) is not None


def machine_addresses() -> frozenset[str]:
    """Return the current IP addresses of this machine's interfaces."""
    return frozenset(
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def _bound_port(wanted: int) -> int | None:
    """Return the port if a server can listen on it; else None. With 0, the system chooses the port.

    A port is not usable if another server listens on it at `::1`, because a client that tries both addresses would
    reach that server until the intended one listens.
    """
    port = _bound(socket.AF_INET, LOOPBACK, wanted)
    if port is None or (_has_ipv6_loopback() and _bound(socket.AF_INET6, IPV6_LOOPBACK, port) is None):
        return None
    return port


def _bound(family: socket.AddressFamily, host: str, wanted: int) -> int | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Like servers do, because old connections of a server that has just ended do not prevent listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError:
            return None
        port: int = probe.getsockname()[1]
        return port


def _ephemeral_start() -> int:
    try:
        return int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_EPHEMERAL_START


@lru_cache(maxsize=1)
def _has_ipv6_loopback() -> bool:
    try:
        return _bound(socket.AF_INET6, IPV6_LOOPBACK, 0) is not None
    except OSError:  # the system does not support IPv6
        return False
