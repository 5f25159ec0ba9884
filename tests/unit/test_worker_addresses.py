"""Which addresses of workers may be connected to."""

from ipaddress import ip_network

import pytest

from queue_engine.rules.addresses import WorkerPolicy

EVERYWHERE = WorkerPolicy((ip_network("0.0.0.0/0"), ip_network("::/0")))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "10.0.0.5", "172.31.0.1", "192.168.1.1", "100.64.0.1", "100.127.1.1", "::1", "fd12::1"],
)
def test_loopback_and_private_networks_are_allowed_by_default(address: str) -> None:
    assert WorkerPolicy().refusal(address, 8000) is None


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "2606:2800:220:1::1", "172.32.0.1", "100.128.0.1", "192.0.2.1", "240.0.0.1", "2001:db8::1"],
)
def test_other_networks_are_the_operators_to_allow(address: str) -> None:
    refusal = WorkerPolicy().refusal(address, 8000)
    assert refusal is not None
    assert "QUEUE_ENGINE_WORKER_NETWORKS" in refusal
    assert EVERYWHERE.refusal(address, 8000) is None


NEVER = [
    *("169.254.169.254", "169.254.0.1", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fe80::1", "fe80::1%1", "fe80::a9fe:a9fe"),
    *("0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "239.1.1.1", "ff02::1", "255.255.255.255"),
    *("::ffff:169.254.169.254", "::ffff:10.0.0.5", "::ffff:127.0.0.1", "::ffff:0:10.0.0.5", "::10.0.0.5"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1"),
    *("2606::5efe:169.254.169.254", "fd12::5efe:a9fe:a9fe", "fd12::200:5efe:a9fe:a9fe"),
    *("localhost", "127.1", "2130706433", "0x7f000001", "", "127.0.0.1 ", "١٢٧.0.0.1"),
]


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_refused_in_every_network(address: str) -> None:
    assert EVERYWHERE.refusal(address, 8000) is not None
    assert WorkerPolicy().refusal(address, 8000) is not None


def test_the_engines_own_ports_on_this_machine_and_the_stores_everywhere_are_refused() -> None:
    policy = WorkerPolicy(own_ports=frozenset({8000}), store_ports=frozenset({6379}))
    for address in ("127.0.0.1", "127.0.0.2", "::1"):
        assert policy.refusal(address, 8000) is not None
        assert policy.refusal(address, 6379) is not None
        assert policy.refusal(address, 8001) is None
    assert policy.refusal("10.0.0.5", 8000) is None
    assert policy.refusal("10.0.0.5", 8000, machine=["10.0.0.5"]) is not None
    assert policy.refusal("10.0.0.5", 8001, machine=["10.0.0.5"]) is None
    assert policy.refusal("10.0.0.5", 6379) is not None
