"""The guard: prevent connections to addresses that the policy refuses, for any URL and any response of a name server.

Addresses are checked twice. All addresses of a name are checked together, so that a name with one refused address is
refused. The address of every connection is checked again when its socket is created, and the socket connects to that
address without another lookup. This covers address literals, and names that resolve to another address than at
submission.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from queue_engine.net.connecting import Tls, address_info, checked_sockets, connect
from queue_engine.net.connection import Connection
from queue_engine.net.connection_pool import ConnectionPool
from queue_engine.net.error_types import DNS_ERROR, BlockedAddress, CallError
from queue_engine.net.names import is_literal
from queue_engine.net.ports import machine_addresses
from queue_engine.rules.webhook_urls import (
    AddressPolicy,
    OwnHost,
    addresses_refusal,
    may_be_store,
    points_at_own_host,
    points_back,
)

KEEPALIVE_SECONDS = 5.0

TlsContext = Callable[[], ssl.SSLContext]


@dataclass(frozen=True)
class Guard:
    """Decides which addresses may be connected to: those that `policy` allows, except those of this engine.

    The engine's addresses are refused even if the policy allows them: its `own_ports` on any address of this machine,
    its `own_hosts`, and its `store_ports` on any private address.
    """

    policy: AddressPolicy = field(default_factory=AddressPolicy)
    own_ports: frozenset[int] = frozenset()
    own_hosts: Collection[OwnHost] = ()
    store_ports: frozenset[int] = frozenset()
    machine: Callable[[], Collection[str]] = machine_addresses

    def check_addresses(self, host: str, addresses: list[str], port: int = 0) -> None:
        """Check all addresses that a host name resolves to. Raises BlockedAddress."""
        refusal = addresses_refusal(host, addresses, self.policy)
        if refusal is not None:
            raise BlockedAddress(refusal)
        if points_at_own_host(host, addresses, port, self.own_hosts):
            raise BlockedAddress("the host is this engine's own")

    def check_connect(self, address: str, port: int) -> None:
        """Check the address of a connection before it is made. Raises BlockedAddress."""
        refusal = self.policy.refusal(address)
        if refusal is not None:
            raise BlockedAddress(f"the address {refusal}")
        own = port in self.own_ports and points_back(address, port, self.own_ports, self.machine())
        if (
            own
            or may_be_store(address, port, self.store_ports)
            or points_at_own_host(address, (address,), port, self.own_hosts)
        ):
            raise BlockedAddress("the address is this engine's own")


class Origin(NamedTuple):
    """Where a request goes. Requests with the same origin share connections."""

    host: str
    """A name, or an address without brackets."""
    port: int
    is_tls: bool
    tenant: str = ""
    """The tenant that sends. Tenants share no connections, and each has its own share of lookups."""


class Resolver(Protocol):
    """Looks up host names."""

    async def addresses(self, host: str, owner: str = "") -> Sequence[str]:
        """Return all addresses of a name, looked up for `owner`. Raises OSError if there is none."""
        ...


class GuardedConnector:
    """Opens connections that the guard allows. `tls` returns the context of a new connection."""

    def __init__(self, guard: Guard, resolver: Resolver, tls: TlsContext) -> None:
        self._guard = guard
        self._resolver = resolver
        self._tls = tls
        self._new_socket = checked_sockets(guard.check_connect)

    async def connect(self, origin: Origin) -> Connection:
        """Connect, with a TLS handshake if the origin has one. Raises CallError, OSError, and BlockedAddress."""
        tls = Tls(self._tls(), origin.host) if origin.is_tls else None
        found = [address_info(address, origin.port) for address in await self._addresses(origin)]
        return await connect(found, new_socket=self._new_socket, tls=tls)

    async def _addresses(self, origin: Origin) -> Sequence[str]:
        if is_literal(origin.host):
            return (origin.host,)
        try:
            found = await self._resolver.addresses(origin.host, origin.tenant)
        except OSError as error:
            raise CallError(DNS_ERROR) from error
        self._guard.check_addresses(origin.host, list(found), origin.port)
        return found


def guarded_pool(
    guard: Guard, resolver: Resolver, *, tls: TlsContext, connections: int, connect_seconds: float
) -> ConnectionPool[Origin]:
    """Return a pool that checks every connection with the guard. Close it; the resolver belongs to the caller.

    `connect_seconds` limits the lookup of the name, the connection and the TLS handshake together.
    """
    connector = GuardedConnector(guard, resolver, tls)
    return ConnectionPool(
        connector.connect, connections, keepalive_seconds=KEEPALIVE_SECONDS, connect_seconds=connect_seconds
    )
