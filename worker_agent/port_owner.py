"""Check that the container, and no program of another user, listens on the container's port.

All workers of a machine share its loopback interface. A program of another endpoint could listen on the port before the
container does, and would get its tasks. Listeners at other addresses than the one that tasks are sent to do not count,
because a program could otherwise take a container out of service by listening at 127.0.0.2.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from worker_agent.probes import Probe
from worker_agent.readiness import Finding, Probed

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"


_IPV4_ANY, _IPV6_ANY = IPv4Address(0), IPv6Address(0)
Address = IPv4Address | IPv6Address


def users_listening(host: str, port: int) -> set[int]:
    """Return the ids of the users whose programs get connections to a TCP port of this network at `host`.

    `host` is a numeric address. As in the kernel, a listener at exactly this address comes before those at all
    addresses, and those of IPv4 before `::`. Blocks. Raises OSError and ValueError.
    """
    address = ip_address(host)
    tables = [table.read_text() for table in _TABLES if table.exists()]
    found = [listener for table in tables for listener in _listeners(table, port)]
    for bound in (address, _IPV4_ANY, _IPV6_ANY) if address.version == 4 else (address, _IPV6_ANY):
        if users := {user_id for at, user_id in found if at == bound}:
            return users
    return set()


class OwnedPortProbe:
    """A probe that does not take a program of another user for the container."""

    def __init__(
        self, probe: Probe, port: int, user_id: int, *, listening: Callable[[str, int], set[int]] = users_listening
    ) -> None:
        self._probe = probe
        self._port = port
        self._user_id = user_id
        self._listening = listening

    @property
    def host(self) -> str:
        return self._probe.host

    async def probe(self, *, was_ready: bool) -> Probed:
        found = await self._probe.probe(was_ready=was_ready)
        if found.finding is not Finding.READY:
            return found
        try:
            others = await asyncio.to_thread(self._listening, self._probe.host, self._port) - {self._user_id}
        except (OSError, ValueError) as error:
            return Probed(Finding.UNREADY, f"the user who listens on port {self._port} is not known: {error}")
        if others:
            return Probed(Finding.REFUSED, f"a program of another user listens on port {self._port}")
        return found

    def has_other_connections(self) -> bool:
        return self._probe.has_other_connections()

    async def aclose(self) -> None:
        await self._probe.aclose()


def _listeners(table: str, port: int) -> Iterator[tuple[Address, int]]:
    """Yield address and user of a table's listeners. As in proc_pid_net(5), the address is `hex address:hex port`."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[3] == _LISTEN:
            address, _, own_port = fields[1].rpartition(":")
            if int(own_port, 16) == port:
                yield _address(address), int(fields[7])


def _address(text: str) -> Address:
    """Return an address that the kernel has written as hexadecimal words in the machine's byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return IPv4Address(packed)
    found = IPv6Address(packed)
    return found.ipv4_mapped or found  # a socket of IPv6 at ::ffff:127.0.0.1 gets connections to 127.0.0.1
