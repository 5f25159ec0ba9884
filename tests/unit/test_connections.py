"""The limits of connections: in all, per address until a key was valid, then per tenant."""

from ipaddress import ip_network

import pytest

from queue_engine.api.http.client_addresses import TrustedProxies, share_of
from queue_engine.api.http.connections import ConnectionLimits, Connections, TooManyConnections
from queue_engine.domain.errors import TooManyRequests

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def test_an_address_has_a_limit_until_a_key_was_valid() -> None:
    connections = Connections(ConnectionLimits(per_address=2))
    first, second = connections.open("192.0.2.1"), connections.open("192.0.2.1")
    with pytest.raises(TooManyConnections, match="at most 2 connections of an address"):
        connections.open("192.0.2.1")
    connections.open("192.0.2.2")
    first.admit("a")
    connections.open("192.0.2.1").close()
    second.close()
    connections.open("192.0.2.1")
    assert not first.is_anonymous


def test_a_tenant_has_a_limit_at_all_addresses_together() -> None:
    connections = Connections(ConnectionLimits(per_tenant=1))
    first, second = connections.open("192.0.2.1"), connections.open("192.0.2.2")
    first.admit("a")
    first.admit("a")
    with pytest.raises(TooManyRequests, match="at most 1 connections of a tenant"):
        second.admit("a")
    assert second.is_anonymous
    second.admit("b")
    first.close()
    connections.open("192.0.2.1").admit("a")


def test_all_connections_have_a_limit_those_of_trusted_proxies_too() -> None:
    connections = Connections(ConnectionLimits(in_all=2, per_address=1, per_tenant=1), PROXIES)
    first, second = connections.open("10.0.0.1"), connections.open("10.0.0.1")
    for one in (first, second):
        assert not one.is_anonymous
        one.admit("a")
    with pytest.raises(TooManyConnections, match="at most 2 connections are served"):
        connections.open("10.0.0.1")
    first.close()
    connections.open("192.0.2.1")


def test_no_count_is_left_of_closed_connections() -> None:
    connections = Connections(ConnectionLimits(), PROXIES)
    opened = [connections.open(address) for address in ("192.0.2.1", "192.0.2.2", "10.0.0.1", "")]
    opened[0].admit("a")
    opened[2].admit("a")
    for one in opened:
        one.close()
    assert (connections.count, dict(connections.by_address), dict(connections.by_tenant)) == (0, {}, {})


def test_a_valid_key_counts_for_nothing_when_its_client_has_disconnected() -> None:
    connections = Connections(ConnectionLimits(per_address=1, per_tenant=1))
    for _ in range(2):
        closed = connections.open("192.0.2.1")
        closed.close()
        closed.admit("a")
        assert (connections.count, dict(connections.by_address), dict(connections.by_tenant)) == (0, {}, {})
    connections.open("192.0.2.1").admit("a")


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([b"198.51.100.7"], "198.51.100.7"),
        ([b"198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ([b"203.0.113.9, 198.51.100.7 ,10.0.0.2"], "198.51.100.7"),
        ([b"203.0.113.9", b"198.51.100.7", b"10.1.2.3"], "198.51.100.7"),
        ([b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([b"203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
        ([b"203.0.113.9, unknown"], None),
        ([b"::ffff:198.51.100.7"], "198.51.100.7"),
        ([b"2001:db8::1, fd00::1"], "2001:db8::1"),
        ([b"198.51.100.7:50000, 10.0.0.2:443"], "198.51.100.7"),
        ([b"[2001:db8::1]:50000, [fd00::1]"], "2001:db8::1"),
        ([b"198.51.100.7, [198.51.100.8"], None),
        ([b"198.51.100.7, 198.51.100.8:"], None),
        ([b"198.51.100.7, [2001:db8::1]:x"], None),
        ([b""], None),
        ([], None),
        ([b"\xff"], None),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(values: list[bytes], client: str | None) -> None:
    assert PROXIES.client_of([(b"host", b"x"), *((b"x-forwarded-for", value) for value in values)]) == client


def test_trusted_proxies_are_known_by_their_networks() -> None:
    assert PROXIES.has("10.1.2.3")
    assert PROXIES.has("::ffff:10.1.2.3")
    assert not PROXIES.has("192.0.2.1")
    assert not PROXIES.has("")
    assert not TrustedProxies().has("10.1.2.3")


def test_addresses_of_one_ipv6_network_share_their_limits() -> None:
    assert share_of("2001:db8::1") == share_of("2001:db8::2:0:0:9") == "2001:db8::/64"
    assert share_of("2001:db8:0:1::1") != share_of("2001:db8::1")
    assert share_of("::ffff:192.0.2.1") == share_of("192.0.2.1") == "192.0.2.1"
    assert share_of("") == ""


def test_agents_of_a_tenant_take_no_connections_of_its_clients() -> None:
    connections = Connections(ConnectionLimits(per_tenant=1))
    agent, client, second = (connections.open("192.0.2.1") for _ in range(3))
    agent.admit("a", is_agent=True)
    with pytest.raises(TooManyRequests, match="of a tenant's agents"):
        second.admit("a", is_agent=True)
    client.admit("a")
    agent.close()
    second.admit("a", is_agent=True)
    client.close()
    second.close()
    assert not connections.by_tenant
    assert not connections.agents_by_tenant
