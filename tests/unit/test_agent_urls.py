"""Agents send their token over HTTPS, and over plain HTTP only where no packet leaves the machine."""

from ipaddress import ip_address

import pytest

from queue_engine.net.gateways import ipv4_gateways, ipv6_gateways
from queue_engine.rules.agent_urls import agent_url_refusal

GATEWAYS = frozenset(map(ip_address, ("10.88.0.1", "fd00::1", "100.64.0.1")))
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100580A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t00000000\t0100A8C0\t0002\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t0000000A\t0200580A\t0003\t0\t0\t0\t000000FF\t0\t0\t0
"""
NOWHERE = "0" * 32
IPV6_ROUTES = f"""\
{NOWHERE} 00 {NOWHERE} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
{NOWHERE} 00 {NOWHERE} 00 {NOWHERE} ffffffff 00000001 00000000 00200200       lo
fd000000000000000000000000000000 40 {NOWHERE} 00 {NOWHERE} 00000100 00000002 00000000 00000001     eth0
"""


@pytest.mark.parametrize(
    "url",
    [
        "https://engine.example",
        "https://203.0.113.7:8443/",
        "http://127.0.0.1:8000",
        "http://localhost:8000",
        "http://[::1]:8000",
        "http://10.88.0.1:8001",
        "http://[fd00::1]:8001",
    ],
)
def test_https_loopback_and_the_own_gateway_are_allowed(url: str) -> None:
    assert agent_url_refusal(url, GATEWAYS) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://engine.example",
        "http://10.88.0.2:8001",
        "http://10.88.0.1.example:8001",
        "http://100.64.0.1:8001",  # a gateway, but not of a private network
        "http://0.0.0.0:8001",
        "http://host.docker.internal:8001",
    ],
)
def test_plain_http_to_another_address_or_to_a_name_is_refused(url: str) -> None:
    assert "because the agent sends its token" in (agent_url_refusal(url, GATEWAYS) or "")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "engine.example",
        "ftp://127.0.0.1",
        "https://",
        "https://user:password@engine.example",
        "https://engine.example/agent/v1",
        "https://engine.example?token=qea_7_x",
        "https://engine.example#x",
        "https://engine.example:0",
        "https://engine.example:99999",
        "https://[engine.example",
    ],
)
def test_a_url_with_more_than_scheme_host_and_port_is_refused(url: str) -> None:
    assert "without a path" in (agent_url_refusal(url, GATEWAYS) or "")


def test_any_private_address_may_be_a_gateway_where_the_gateways_are_not_known() -> None:
    assert agent_url_refusal("http://10.88.0.2:8003", None) is None
    for url in ("http://100.64.0.1:8003", "http://0.0.0.0:8003", "http://engine.example"):
        assert agent_url_refusal(url, None) is not None


def test_only_the_gateways_of_default_routes_that_are_up_are_found() -> None:
    assert ipv4_gateways(ROUTES) == {ip_address("10.88.0.1")}
    assert ipv6_gateways(IPV6_ROUTES) == {ip_address("fd00::1")}


def test_a_network_without_routes_has_no_gateway() -> None:
    assert ipv4_gateways(ROUTES.splitlines()[0]) == set()
    assert ipv4_gateways("") == set()
    assert ipv6_gateways("") == set()
