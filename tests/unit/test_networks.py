"""The network of a destination."""

import pytest

from queue_engine.delivery.networks import Networks

SEEN = {"a.example": ["198.51.100.7", "2001:db8::1"], "b.example": ["198.51.100.200"]}


def network_of(destination: str) -> str | None:
    return Networks(lambda host: SEEN.get(host, ())).of(destination)


@pytest.mark.parametrize(
    ("destination", "network"),
    [
        ("http://192.0.2.1:80", "192.0.2.0/24"),
        ("https://192.0.2.255:65535", "192.0.2.0/24"),
        ("http://[2001:db8:1:2::3]:443", "2001:db8:1::/48"),
        ("https://a.example:443", "198.51.100.0/24"),
        ("https://b.example:443", "198.51.100.0/24"),
        ("https://unknown.example:443", None),
        ("", None),
        ("damaged", None),
    ],
)
def test_the_network_is_a_24_or_a_48(destination: str, network: str | None) -> None:
    assert network_of(destination) == network
