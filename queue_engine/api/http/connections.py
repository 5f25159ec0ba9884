"""Limits of the connections of clients to this process.

A connection counts for its address until a request on it has had a valid key, and then for the tenant of that key. So
neither strangers at one address nor a tenant can take all connections. Connections of agents count apart from those of
their tenant's clients, with the same limit, so that many busy agents do not keep its clients out. Connections of
trusted proxies count only for the limit of all, because each carries the requests of many clients.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from queue_engine.api.http.client_addresses import TrustedProxies, share_of
from queue_engine.domain.errors import TooManyRequests
from queue_engine.observability import metrics

CONNECTION = "queue_engine.connection"
"""The name of the connection in the scope of a request."""
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class ConnectionLimits:
    """Maximum numbers of connections; 0 sets no limit."""

    in_all: int = 0
    per_address: int = 0
    per_tenant: int = 0
    """Applies to the clients of a tenant, and again to its agents."""


class TooManyConnections(Exception):
    """A connection beyond a limit. The message is for the client."""


class Connections:
    """The open connections of this process."""

    def __init__(self, limits: ConnectionLimits, proxies: TrustedProxies | None = None) -> None:
        self.limits = limits
        self.proxies = proxies or TrustedProxies()
        self.count = 0
        self.by_address: Counter[str] = Counter()
        self.by_tenant: Counter[str] = Counter()
        self.agents_by_tenant: Counter[str] = Counter()

    def open(self, address: str) -> Connection:
        """Count a new connection from `address`. Raises TooManyConnections."""
        if self.limits.in_all and self.count >= self.limits.in_all:
            raise _refused("all", f"at most {self.limits.in_all} connections are served at the same time")
        is_trusted = self.proxies.has(address)
        share = None if is_trusted else share_of(address)
        if share is not None and self.limits.per_address and self.by_address[share] >= self.limits.per_address:
            raise _refused(
                "address", f"at most {self.limits.per_address} connections of an address are served without a valid key"
            )
        return Connection(self, share)


class Connection:
    """An open connection. Made by `Connections.open`; close it once."""

    def __init__(self, all_of_them: Connections, share: str | None) -> None:
        self._all = all_of_them
        self._share = share
        self.is_trusted = share is None
        """True if the connection comes from a trusted proxy."""
        self._tenant: str | None = None
        self._of_tenants = all_of_them.by_tenant
        self._all.count += 1
        if share is not None:
            self._all.by_address[share] += 1

    @property
    def is_anonymous(self) -> bool:
        """True until a request has had a valid key. A trusted proxy and a closed connection are never anonymous."""
        return self._share is not None

    def admit(self, tenant: str, *, is_agent: bool = False) -> None:
        """Count the connection for the tenant of its first valid key or agent token. Raises TooManyRequests at the
        tenant's limit.

        Does nothing after `close`, because a client may disconnect while its key is looked up.
        """
        if not self.is_anonymous:
            return
        limit = self._all.limits.per_tenant
        of_tenants = self._all.agents_by_tenant if is_agent else self._all.by_tenant
        if limit and of_tenants[tenant] >= limit:
            metrics.connections_refused.labels(limit="tenant").inc()
            kind = "a tenant's agents" if is_agent else "a tenant"
            raise TooManyRequests(
                f"at most {limit} connections of {kind} are served at the same time",
                scope="tenant",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._release()
        self._tenant = tenant
        self._of_tenants = of_tenants
        of_tenants[tenant] += 1

    def close(self) -> None:
        """Stop counting the connection."""
        self._all.count -= 1
        self._release()

    def _release(self) -> None:
        if self._tenant is not None:
            _subtract(self._of_tenants, self._tenant)
        elif self._share is not None:
            _subtract(self._all.by_address, self._share)
        self._share = self._tenant = None


def _subtract(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]


def _refused(limit: str, message: str) -> TooManyConnections:
    metrics.connections_refused.labels(limit=limit).inc()
    return TooManyConnections(message)
