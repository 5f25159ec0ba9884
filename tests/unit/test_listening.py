"""Sockets that listen, and the part of the address that an error names."""

import socket
import sys

import pytest

from queue_engine.net.listening import CannotListen, bind, listen


@pytest.mark.parametrize("host", ["a host", "::zz", "192.0.2.1", "\xe4" * 70], ids=["name", "IPv6", "foreign", "idna"])
def test_an_unusable_host_is_the_cause(host: str) -> None:
    with pytest.raises(
        CannotListen, match=f"cannot listen on {host}:0: .+; the host must be an address of this"
    ) as caught:
        bind(host, 0)
    assert caught.value.part == "host"


def test_a_taken_port_is_the_cause() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1:{port}: Address already in use$") as caught:
            listen("127.0.0.1", port)
    assert (caught.value.part, caught.value.reason) == ("port", "Address already in use")


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_a_socket_can_have_an_address_that_the_machine_gets_later(host: str) -> None:
    with bind(host, 0, may_appear=True) as listener:
        listener.listen(1)
        port = listener.getsockname()[1]
        with pytest.raises(CannotListen, match="Address already in use") as caught:
            bind(host, port, may_appear=True).listen(1)
    assert caught.value.part == "port"


def test_a_bound_socket_refuses_connections_until_it_listens() -> None:
    with bind("127.0.0.1", 0) as listener:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname())
        listener.listen(1)
        socket.create_connection(listener.getsockname()).close()
