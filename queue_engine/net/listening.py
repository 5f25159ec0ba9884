"""TCP sockets that listen, and the part of their address that is the cause when they cannot."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
"""Options of Linux (linux/in.h and linux/in6.h) that Python's `socket` has no names for."""
_HOST_ERRORS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of the operating system for an address that this machine does not have."""


class CannotListen(OSError):
    """No socket can listen on this address. `reason` says why, without the address."""

    def __init__(self, host: str, port: int, error: OSError | TypeError) -> None:
        number = error.errno if isinstance(error, OSError) else None
        is_host = isinstance(error, socket.gaierror | TypeError) or number in _HOST_ERRORS
        self.part = "host" if is_host else "port"
        """The part of the address that is the cause: `host` or `port`."""
        self.reason = (isinstance(error, OSError) and error.strerror) or str(error)
        if is_host:
            self.reason += "; the host must be an address of this machine, or a name that resolves to one"
        super().__init__(number, f"cannot listen on {host}:{port}: {self.reason}")


def bind(host: str, port: int, *, ipv6_only: bool = False, may_appear: bool = False) -> socket.socket:
    """Return a socket with this address, which refuses connections until it listens. Raises CannotListen.

    Port 0 takes a free one. On `::` the socket accepts IPv4 too, unless `ipv6_only`. With `may_appear` the machine may
    get the address later, as that of a network that does not exist yet; not every system can do that.
    """
    try:
        return _bound(host, port, ipv6_only, may_appear)
    except (OSError, TypeError) as error:  # TypeError: the name cannot be encoded
        raise CannotListen(host, port, error) from None


def listen(host: str, port: int, *, backlog: int = 32) -> socket.socket:
    """Return a socket that listens on this address, on `::` for IPv6 only. Raises CannotListen."""
    listener = bind(host, port, ipv6_only=True)
    try:
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise CannotListen(host, port, error) from None
    return listener


def _bound(host: str, port: int, ipv6_only: bool, may_appear: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if ipv6_only and listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if may_appear and sys.platform == "linux":
            _allow_to_appear(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _allow_to_appear(listener: socket.socket) -> None:
    if listener.family == socket.AF_INET6:
        level, option = socket.IPPROTO_IPV6, _IPV6_FREEBIND
    else:
        level, option = socket.IPPROTO_IP, _IP_FREEBIND
    with suppress(OSError):  # then the address must exist already
        listener.setsockopt(level, option, 1)
