"""The address of a client: behind trusted proxies, and as a share of limits. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_SHARED_PREFIX = 64
_WITH_PORT = re.compile(r"\[([^]]*)\](?::[0-9]{1,5})?|([^:]*):[0-9]{1,5}")
"""An address as some proxies write it: `192.0.2.1:50000`, `[2001:db8::1]:50000` or `[2001:db8::1]`."""


@lru_cache(maxsize=1024)
def share_of(address: str) -> str:
    """Return the share of limits that `address` uses: itself, or its /64 network, which an IPv6 client usually has."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SHARED_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


class TrustedProxies:
    """Proxies in `networks`, whose `X-Forwarded-For` names the client."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def has(self, address: str) -> bool:
        """Return True if `address` is that of a trusted proxy."""
        parsed = _parsed(address) if self._networks else None
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_of(self, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Return the client that a trusted proxy names; None if it names none.

        Each proxy adds the address of its peer at the end, so the client is the last address that is not a trusted
        proxy. Addresses before it may be invented.
        """
        client = None
        for text in reversed(_forwarded_for(headers)):
            parsed = _parsed(_without_port(text))
            if parsed is None:
                break
            client = str(parsed)
            if not any(parsed in network for network in self._networks):
                break
        return client


def _forwarded_for(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    values = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return [one.strip() for value in values for one in value.split(",")]


def _without_port(text: str) -> str:
    found = _WITH_PORT.fullmatch(text)
    return text if found is None else found[1] or found[2] or ""


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Return the address; IPv4 inside IPv6 as IPv4, so that a client has one address. None for other text."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return parsed if mapped is None else mapped
