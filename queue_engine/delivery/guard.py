"""The guard: prevent connections to addresses that the policy refuses, for any URL and any response of a name server.

Addresses are checked twice. All addresses of a name are checked together, so that a name with one refused address is
refused. The address of every connection is checked again when its socket is created. This covers address literals, and
names that resolve to another address than at submission.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from queue_engine import __version__
from queue_engine.net.bad_responses import MAX_HEAD_BYTES
from queue_engine.net.error_types import BlockedAddress
from queue_engine.net.http_client import ResponseConnector, checked_sockets
from queue_engine.net.ports import machine_addresses
from queue_engine.rules.webhook_urls import (
    AddressPolicy,
    OwnHost,
    addresses_refusal,
    may_be_store,
    points_at_own_host,
    points_back,
)

USER_AGENT = f"queue-engine/{__version__}"

READ_BUFFER_BYTES = 16 * 1024


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


class ConnectionUse:
    """Information about a request's connection, filled in if it is passed as `trace_request_ctx`."""

    def __init__(self) -> None:
        self.reused = False
        """True if the connection has served another request before."""


def guarded_session(
    guard: Guard,
    resolver: AbstractResolver,
    *,
    connections: int = 256,
    keep_alive_seconds: float | None = 5.0,
    tls: ssl.SSLContext | None = None,
) -> aiohttp.ClientSession:
    """Return a session that checks every connection with the guard. Needs a running event loop.

    At most `connections` are in use at the same time. An idle connection is kept for `keep_alive_seconds`; with None,
    every request uses a new connection. Proxies, cookies and netrc are not used; TLS certificates are verified as `tls`
    says, by default against the system's authorities. Close the session, then the resolver.
    """
    kept: dict[str, Any] = (
        {"force_close": True} if keep_alive_seconds is None else {"keepalive_timeout": keep_alive_seconds}
    )
    connector = ResponseConnector(
        resolver=_GuardedResolver(guard, resolver),
        use_dns_cache=False,
        socket_factory=checked_sockets(guard.check_connect),
        ssl=tls or ssl.create_default_context(),
        limit=connections,
        **kept,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        skip_auto_headers=("Accept", "Content-Type"),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        read_bufsize=READ_BUFFER_BYTES,
        trace_configs=[_reuse_trace()],
        max_line_size=MAX_HEAD_BYTES,
        max_field_size=MAX_HEAD_BYTES,
        max_headers=MAX_HEAD_BYTES,
    )


class _GuardedResolver(AbstractResolver):
    """Returns another resolver's results if all their addresses are allowed. Does not close the other resolver."""

    def __init__(self, guard: Guard, inner: AbstractResolver) -> None:
        self._guard = guard
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        self._guard.check_addresses(host, [result["host"] for result in found], port)
        return found

    async def close(self) -> None:
        """Do nothing, because the inner resolver belongs to the caller."""


def _reuse_trace() -> aiohttp.TraceConfig:
    async def note_reuse(
        _session: aiohttp.ClientSession, context: Any, _params: aiohttp.TraceConnectionReuseconnParams
    ) -> None:
        if isinstance(context.trace_request_ctx, ConnectionUse):
            context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note_reuse)
    return trace
