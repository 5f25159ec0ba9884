"""Addresses in the form in which sockets get them, and the check before a socket is made."""

import socket

import pytest

from queue_engine.net.connecting import address_info, checked_sockets
from queue_engine.net.error_types import BlockedAddress


@pytest.mark.parametrize(
    ("address", "family", "sockaddr"),
    [
        ("192.0.2.1", socket.AF_INET, ("192.0.2.1", 8080)),
        ("2001:db8::1", socket.AF_INET6, ("2001:db8::1", 8080, 0, 0)),
        ("fe80::1%1", socket.AF_INET6, ("fe80::1%1", 8080, 0, 0)),
    ],
)
def test_an_address_has_its_family_and_port(
    address: str, family: socket.AddressFamily, sockaddr: tuple[str | int, ...]
) -> None:
    assert address_info(address, 8080) == (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)


def test_a_socket_is_made_after_its_address_was_checked() -> None:
    checked: list[tuple[str, int]] = []
    made = checked_sockets(lambda address, port: checked.append((address, port)))(address_info("::1", 80))
    with made:
        assert (made.family, checked) == (socket.AF_INET6, [("::1", 80)])


def test_no_socket_is_made_for_a_refused_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: str, _port: int) -> None:
        raise BlockedAddress("no")

    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was made"))
    with pytest.raises(BlockedAddress):
        checked_sockets(refuse)(address_info("127.0.0.1", 80))
