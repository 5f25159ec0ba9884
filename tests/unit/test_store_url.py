"""The forms of the store's URL, and what is said of a bad one."""

import re

import pytest

from queue_engine.config.durability import Durability, parse_durability
from queue_engine.config.store_url import Address, StoreUrl, Topology, parse_store_url

GOOD = {
    "redis://127.0.0.1:6379/0": StoreUrl(Topology.SINGLE, (Address("127.0.0.1", 6379),)),
    "redis://store": StoreUrl(Topology.SINGLE, (Address("store", 6379),)),
    "redis://store/3": StoreUrl(Topology.SINGLE, (Address("store", 6379),), db=3),
    "redis://store?db=3": StoreUrl(Topology.SINGLE, (Address("store", 6379),), db=3),
    "redis://:pa%2Css@store:1/": StoreUrl(
        Topology.SINGLE, (Address("store", 1),), password="pa,ss", secrets=("pa%2Css", "pa,ss")
    ),
    "redis://me:pw@[::1]:7000/2": StoreUrl(
        Topology.SINGLE, (Address("::1", 7000),), username="me", password="pw", db=2, secrets=("pw", "pw")
    ),
    "redis://[fe80::1%eth0]": StoreUrl(Topology.SINGLE, (Address("fe80::1%eth0", 6379),)),
    "rediss://store?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none": StoreUrl(
        Topology.SINGLE,
        (Address("store", 6379),),
        tls=True,
        tls_options=(("ssl_ca_certs", "/ca.pem"), ("ssl_cert_reqs", "none")),
    ),
    "redis+sentinel://a/main": StoreUrl(Topology.SENTINEL, (Address("a", 26379),), service="main"),
    "rediss+sentinel://u:p@a:1,[::2]:2,c/my.service-1/4?sentinel_username=s&sentinel_password=t": StoreUrl(
        Topology.SENTINEL,
        (Address("a", 1), Address("::2", 2), Address("c", 26379)),
        tls=True,
        username="u",
        password="p",
        service="my.service-1",
        db=4,
        sentinel_username="s",
        sentinel_password="t",
        secrets=("p", "p", "t", "t"),
    ),
    "redis+cluster://a:1,b": StoreUrl(Topology.CLUSTER, (Address("a", 1), Address("b", 6379))),
    "rediss+cluster://a:1/0": StoreUrl(Topology.CLUSTER, (Address("a", 1),), tls=True),
}

BAD = {
    "": "must begin with redis://",
    "store:6379": "must begin with redis://",
    "http://store": "must begin with redis://",
    "redis+sentry://store/main": "must begin with redis://",
    "valkey+cluster://store": "must begin with redis://",
    "redis://": "each host must be a name or an address",
    "redis://a b": "each host must be",
    "redis://::1:6379": "an IPv6 address in [ ]",
    "redis://[::1": "each host must be",
    "redis://[::1]6379": "each host must be",
    "redis://a,b": "must name one host",
    "redis://store:0": "a port must be a number from 1 to 65535",
    "redis://store:65536": "a port must be",
    "redis://store:http": "a port must be",
    "redis://store/x": "the database must be a number",
    "redis://store/-1": "the database must be a number",
    "redis://store/1/2": "too many parts",
    "redis+sentinel://a,b": "must name the service",
    "redis+sentinel://a,b/": "must name the service",
    "redis+sentinel://a/bad name": "must name the service",
    "redis+sentinel://a,/main": "each host must be",
    "redis+sentinel://a/main/0/1": "too many parts",
    "redis+cluster://a/1": "a cluster has database 0 only",
    "redis+cluster://a?db=2": "a cluster has database 0 only",
    "redis+cluster://a?sentinel_password=x": "unknown option",
    "redis://a?ssl_ca_certs=/ca.pem": "ssl_ca_certs is an option of TLS: the URL must begin with rediss",
    "rediss://a?ssl_cert_reqs=maybe": "ssl_cert_reqs must be one of required, optional, none",
    "rediss://a?ssl_check_hostname=maybe": "ssl_check_hostname must be yes or no",
    "rediss://a?ssl_keyfile=/key.pem": "ssl_keyfile requires ssl_certfile",
    "redis://a?socket_timeout=1": "unknown option in its query; known options are db",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_good_url_is_understood(text: str) -> None:
    assert parse_store_url(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_url_is_refused_by_its_rule(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(BAD[text])):
        parse_store_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "redis://me:canary@a:x", "redis://me:canary@a,b", "redis+sentinel://me:canary@a", "redis://me:can/canary@a",
        "redis+cluster://:canary@a/7", "x://:canary@a", "redis://:canary@a?canary=1",
        "redis+sentinel://a/main?sentinel_password=canary&x=1", "redis://:canary#@a:q",
    ],
)  # fmt: skip
def test_no_error_and_no_text_shows_a_password(text: str) -> None:
    with pytest.raises(ValueError, match=" ") as refused:
        parse_store_url(text)
    assert "canary" not in str(refused.value)


def test_the_text_of_a_url_shows_no_password() -> None:
    url = parse_store_url("redis+sentinel://me:canary@a/main?sentinel_password=canary2")
    assert "canary" not in repr(url)
    assert set(url.secrets) == {"canary", "canary2"}


def test_addresses_are_shown_as_they_are_written() -> None:
    assert [str(one) for one in parse_store_url("redis+cluster://a:1,[::1]:2").addresses] == ["a:1", "[::1]:2"]


@pytest.mark.parametrize(
    ("text", "replicas", "disk"),
    [
        ("store", 0, False), ("replica", 1, False), ("replicas:2", 2, False), ("Disk", 0, True),
        ("disk+replica", 1, True),
    ],
)  # fmt: skip
def test_levels_of_durability(text: str, replicas: int, disk: bool) -> None:
    found = parse_durability(text, 0.5)
    assert found == Durability(replicas, disk, 0.5)
    assert found.waits == (text != "store")


@pytest.mark.parametrize(
    "text", ["", "replicas", "replicas:", "replicas:0", "replicas:x", "replica:2", "disk:1", "all"]
)
def test_other_levels_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be store, replica, replicas:N"):
        parse_durability(text)
