"""The real look-up, against a small name server on loopback."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import cast

import pytest

from queue_engine.net.resolver import CachingResolver, DnsLookup, NameNotResolved, NoAnswer

ZONE = {
    "both.example": ["192.0.2.1", "2001:db8::1"],
    "four.example": ["192.0.2.4"],
    "link.example": ["fe80::1"],
}
A, AAAA = 1, 28


class NameServer(asyncio.DatagramProtocol):
    """Answers A and AAAA questions from ZONE, and nothing at all for names that begin with `silent`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _read_name(data)
        (kind,) = struct.unpack_from("!H", data, end)
        self.asked.append(name)
        if not name.startswith("silent"):
            self._transport.sendto(_reply(data[:2], data[12 : end + 4], kind, ZONE.get(name)), addr)


def _read_name(query: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def _reply(number: bytes, question: bytes, kind: int, addresses: list[str] | None) -> bytes:
    packed = [ip_address(text).packed for text in addresses or ()]
    wanted = [data for data in packed if len(data) == {A: 4, AAAA: 16}.get(kind)]
    flags = 0x8180 if addresses is not None else 0x8183  # the last digit: no such name
    records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data for data in wanted)
    return number + struct.pack("!HHHHH", flags, 1, len(wanted), 0, 0) + question + records


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0), family=socket.AF_INET
    )
    yield protocol
    transport.close()


@pytest.fixture
async def resolver(server: NameServer) -> AsyncIterator[CachingResolver]:
    made = CachingResolver(DnsLookup(name_servers=[f"127.0.0.1:{server.port}"], try_seconds=0.2))
    yield made
    await made.close()


async def test_a_name_has_its_addresses_of_both_families(resolver: CachingResolver) -> None:
    assert set(await resolver.addresses("both.example")) == {"192.0.2.1", "2001:db8::1"}
    assert await resolver.addresses("four.example") == ("192.0.2.4",)


async def test_an_address_is_looked_up_once(resolver: CachingResolver, server: NameServer) -> None:
    await resolver.addresses("four.example")
    asked = len(server.asked)
    assert asked
    await resolver.addresses("four.example")
    assert len(server.asked) == asked


async def test_a_name_that_does_not_exist_is_not_resolved(resolver: CachingResolver) -> None:
    with pytest.raises(NameNotResolved, match=r"nowhere\.example") as refused:
        await resolver.addresses("nowhere.example")
    assert not isinstance(refused.value, NoAnswer)


async def test_a_server_that_does_not_respond_is_given_up(resolver: CachingResolver, server: NameServer) -> None:
    with pytest.raises(NoAnswer):
        await resolver.addresses("silent.example")
    assert server.asked


async def test_etc_hosts_is_read(resolver: CachingResolver, server: NameServer) -> None:
    name = _a_name_in_etc_hosts()
    if name is None:
        pytest.skip("/etc/hosts names no host but localhost: nothing to look up there")
    assert await resolver.addresses(name)
    assert server.asked == []


def _a_name_in_etc_hosts() -> str | None:
    with open("/etc/hosts", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            address, *names = line.partition("#")[0].split() or [""]
            for name in names:
                if address == "127.0.0.1" and not name.startswith("localhost"):
                    return name
    return None


async def test_closing_is_safe_twice(server: NameServer) -> None:
    lookup = DnsLookup(name_servers=[f"127.0.0.1:{server.port}"])
    await lookup.close()
    await lookup.close()
