"""Open HTTP connections: to a host that the system looks up, or to addresses that the caller has found and checks."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohappyeyeballs import AddrInfoType, SocketFactoryType, pop_addr_infos_interleave, start_connection

from queue_engine.net.connection import Connection
from queue_engine.net.error_types import TLS_ERROR, CallError
from queue_engine.net.names import is_literal, look_up

HAPPY_EYEBALLS_SECONDS = 0.25
"""Time after which the next address of a name is tried beside the one that has not responded (RFC 8305, section 8)."""

_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})
"""Errors of OpenSSL for a peer that does not speak TLS."""


@dataclass(frozen=True)
class Tls:
    """How a server proves who it is: the certificates that `context` trusts, and the name that one must have."""

    context: ssl.SSLContext
    server_name: str


async def connect_to_host(address: tuple[str, int]) -> Connection:
    """Connect to the first address of a host that accepts, of both families. Raises OSError and UnicodeError."""
    host, port = address
    flags = 0 if is_literal(host) else socket.AI_ADDRCONFIG
    return await connect(await look_up(host, port, flags=flags))


async def connect(
    addresses: Sequence[AddrInfoType], *, new_socket: SocketFactoryType | None = None, tls: Tls | None = None
) -> Connection:
    """Connect to the first of the addresses that accepts and, with `tls`, completes the handshake.

    Each socket is made by `new_socket`, which may refuse its address by an OSError. Raises OSError, and CallError when
    the handshake fails.
    """
    left = list(addresses)
    while True:
        accepted = await start_connection(left, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, socket_factory=new_socket)
        try:
            return await _connection_on(accepted, tls)
        except CallError:
            pop_addr_infos_interleave(left)  # a name may have a second server, whose certificate is in order
            if not left:
                raise


def address_info(address: str, port: int) -> AddrInfoType:
    """Return an IP address and a port in the form of `getaddrinfo`."""
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))


def checked_sockets(check: Callable[[str, int], None]) -> SocketFactoryType:
    """Return a function that makes sockets. It calls `check`, which may raise, with the address and port of each
    connection before it is made."""

    def checked_socket(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        check(str(sockaddr[0]), int(sockaddr[1]))
        return socket.socket(family, kind, protocol)

    return checked_socket


def tls_problem(error: CallError) -> str:
    """Return the reason of a failed TLS handshake, without an address; empty if it is not known."""
    match error.__cause__:
        case ssl.SSLCertVerificationError() as cause:
            return cause.verify_message
        case ConnectionError():
            return "the connection was closed; does the port speak TLS?"
        case ssl.SSLError() as cause if cause.reason in _NOT_TLS:
            return "the response is not TLS; does the port speak plain http?"
        case _:
            return ""


async def _connection_on(accepted: socket.socket, tls: Tls | None) -> Connection:
    """Return a connection that uses the socket. Raises CallError when the TLS handshake fails."""
    context, name = (None, None) if tls is None else (tls.context, tls.server_name)
    loop, began = asyncio.get_running_loop(), time.monotonic()
    try:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, connection = await loop.create_connection(Connection, sock=accepted, ssl=context, server_hostname=name)
    except BaseException as error:
        accepted.close()
        if tls is not None and isinstance(error, ssl.SSLError | ConnectionError):
            raise CallError(TLS_ERROR) from error
        raise
    connection.tls_seconds = None if tls is None else time.monotonic() - began
    return connection
