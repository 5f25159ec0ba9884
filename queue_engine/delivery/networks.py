"""The network of a destination, which its limits are shared with: a /24 of IPv4 or a /48 of IPv6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network

IPV4_BITS = 24
IPV6_BITS = 48
"""A site commonly gets a /48 (RFC 6177), so that addresses in one may all be the same host's."""


class Networks:
    """Finds networks. `seen` returns the addresses of a name as its latest lookup found them, none before the first."""

    def __init__(self, seen: Callable[[str], Sequence[str]]) -> None:
        self._seen = seen

    def of(self, destination: str) -> str | None:
        """Return the network of `scheme://host:port`; None while the addresses of its host are unknown.

        A name with addresses in several networks belongs to the first in the order of their text.
        """
        host = _host_of(destination)
        literal = network_of(host)
        if literal is not None:
            return literal
        return min(filter(None, map(network_of, self._seen(host))), default=None)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str | None:
    """Return the network of an address; None if it is not an address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    bits = IPV4_BITS if isinstance(parsed, IPv4Address) else IPV6_BITS
    return str(ip_network(f"{parsed}/{bits}", strict=False))


def _host_of(destination: str) -> str:
    authority = destination.partition("://")[2]
    return authority.rpartition(":")[0].removeprefix("[").removesuffix("]")
