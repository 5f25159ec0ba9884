"""The addresses of the default routes of this process's network, as the kernel lists them.

In a container this is the gateway of the container network, an address of the host.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

ROUTES = Path("/proc/net/route")
IPV6_ROUTES = Path("/proc/net/ipv6_route")
_RTF_UP = 0x0001
_RTF_GATEWAY = 0x0002
_RTF_REJECT = 0x0200


def default_gateways() -> frozenset[IPv4Address | IPv6Address]:
    """Return the gateways of all default routes; none where the kernel does not list its routes in /proc."""
    found: set[IPv4Address | IPv6Address] = set()
    with suppress(OSError):
        found |= ipv4_gateways(ROUTES.read_text())
    with suppress(OSError):
        found |= ipv6_gateways(IPV6_ROUTES.read_text())
    return frozenset(found)


def ipv4_gateways(routes: str) -> set[IPv4Address]:
    """Return the gateways of the default routes in the text of /proc/net/route.

    Addresses are hexadecimal numbers in the byte order of the machine: `0100580A` is 10.88.0.1.
    """
    found: set[IPv4Address] = set()
    for line in routes.splitlines()[1:]:
        _interface, destination, gateway, flags, _references, _uses, _metric, mask, *_ = line.split()
        if int(destination, 16) == int(mask, 16) == 0 and _is_gateway(int(flags, 16)):
            found.add(IPv4Address(int(gateway, 16).to_bytes(4, sys.byteorder)))
    return found


def ipv6_gateways(routes: str) -> set[IPv6Address]:
    """Return the gateways of the default routes in the text of /proc/net/ipv6_route."""
    found: set[IPv6Address] = set()
    for line in routes.splitlines():
        destination, length, _source, _source_length, gateway, _metric, _references, _uses, flags, *_ = line.split()
        if int(destination, 16) == int(length, 16) == 0 and _is_gateway(int(flags, 16)):
            found.add(IPv6Address(bytes.fromhex(gateway)))
    return found


def _is_gateway(flags: int) -> bool:
    return flags & (_RTF_UP | _RTF_GATEWAY | _RTF_REJECT) == _RTF_UP | _RTF_GATEWAY
