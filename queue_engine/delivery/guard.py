"""The guard: no connection is made to an address that the policy refuses, whatever a URL or a name server says.

It checks twice. All addresses of a name are checked together, so that a name with one refused address is refused. The
address of every connection is checked where its socket is made, which also covers address literals and a name that
resolves to something else than it did at submit.
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
from queue_engine.net.error_types import BlockedAddress
from queue_engine.net.http_client import MAX_HEAD_BYTES, ResponseConnector, checked_sockets
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
    """Who may be connected to: `policy` by address, and nothing of this engine.

    That is its `own_ports` on any address of this machine, its `own_hosts`, and its `store_ports` on any private
    address, whatever the policy allows.
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
        """Check the address of one connection, before it is made. Raises BlockedAddress."""
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
    """What a request learns of its connection: give one as `trace_request_ctx`."""

    def __init__(self) -> None:
        self.reused = False
        """The connection had served another request before."""


def guarded_session(
    guard: Guard, resolver: AbstractResolver, *, connections: int = 256, keep_alive_seconds: float | None = 5.0
) -> aiohttp.ClientSession:
    """A session whose every connection passes the guard. Needs a running event loop; close it, then the resolver.

    At most `connections` are in use at once. An idle one is kept for `keep_alive_seconds`; with None, every request
    has a connection of its own. No proxies, no cookies, no netrc; TLS is verified against the system's authorities.
    """
    kept: dict[str, Any] = (
        {"force_close": True} if keep_alive_seconds is None else {"keepalive_timeout": keep_alive_seconds}
    )
    connector = ResponseConnector(
        resolver=_GuardedResolver(guard, resolver),
        use_dns_cache=False,
        socket_factory=checked_sockets(guard.check_connect),
        ssl=ssl.create_default_context(),
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
    """Another resolver's answers, if all of their addresses are allowed. Does not close the other."""

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
        """Nothing to close."""


def _reuse_trace() -> aiohttp.TraceConfig:
    async def note_reuse(
        _session: aiohttp.ClientSession, context: Any, _params: aiohttp.TraceConnectionReuseconnParams
    ) -> None:
        if isinstance(context.trace_request_ctx, ConnectionUse):
            context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note_reuse)
    return trace
