"""Webhook URLs: what is accepted, and where one may point."""

import re
import string
from ipaddress import IPv6Address, ip_network

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from queue_engine.rules.webhook_urls import (
    AddressPolicy,
    InvalidWebhook,
    OwnHost,
    destination_refusal,
    name_refusal,
    parse_own_host,
    parse_webhook,
)

PUBLIC = AddressPolicy()


@pytest.mark.parametrize(
    ("text", "url", "destination"),
    [
        ("http://example.com", "http://example.com", "http://example.com:80"),
        ("https://example.com/a?b=c", "https://example.com/a?b=c", "https://example.com:443"),
        ("HTTPS://Example.COM./A", "https://example.com/A", "https://example.com:443"),
        ("http://example.com:8080/", "http://example.com:8080/", "http://example.com:8080"),
        ("http://example.com:80/", "http://example.com:80/", "http://example.com:80"),
        ("http://example.com?x", "http://example.com?x", "http://example.com:80"),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/", "http://xn--bcher-kva.example:80"),
        ("http://93.184.216.34/", "http://93.184.216.34/", "http://93.184.216.34:80"),
        ("http://[2606:4700:0:0::1]:81/", "http://[2606:4700::1]:81/", "http://[2606:4700::1]:81"),
        ("http://example.com/a@b:c", "http://example.com/a@b:c", "http://example.com:80"),
        ("http://example.com/?f[x]=%2Fa%20b|{}", "http://example.com/?f[x]=%2Fa%20b|{}", "http://example.com:80"),
        ("http://123.example.com/", "http://123.example.com/", "http://123.example.com:80"),
    ],
)
def test_a_url_keeps_its_text_but_for_the_spelling_of_scheme_and_host(text: str, url: str, destination: str) -> None:
    webhook = parse_webhook(text)
    assert (webhook.url, webhook.destination) == (url, destination)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("http://example.com", "/"),
        ("http://example.com?x=1", "/?x=1"),
        ("http://Example.com./a/../b//c?", "/a/../b//c?"),
        ("https://[2606:4700::1]:8443/%2fa;b?c=%7e+{}", "/%2fa;b?c=%7e+{}"),
    ],
)
def test_the_request_line_has_the_path_and_query_as_submitted(text: str, target: str) -> None:
    assert parse_webhook(text).target == target


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "1–512 characters"),
        ("http://example.com/" + "a" * 494, "1–512 characters"),
        # other schemes, and what is not absolute
        ("file:///etc/passwd", "http or https"),
        ("ftp://example.com/", "http or https"),
        ("gopher://example.com/", "http or https"),
        ("javascript:alert(1)", "http or https"),
        ("//example.com/", "http or https"),
        ("example.com", "http or https"),
        ("http:127.0.0.1", "http or https"),
        ("http:/example.com/", "http or https"),
        ("httpss://example.com/", "http or https"),
        # no host
        ("http://", "host"),
        ("http:///path", "host"),
        ("http://?x", "host"),
        ("http://:80/", "host"),
        ("http://./", "host"),
        # ports
        ("http://example.com:/", "port"),
        ("http://example.com:0/", "port"),
        ("http://example.com:080/", "port"),
        ("http://example.com:65536/", "port"),
        ("http://example.com:99999/", "port"),
        ("http://example.com:6379x/", "port"),
        ("http://example.com:-1/", "port"),
        ("http://example.com:+80/", "port"),
        ("http://example.com:80:80/", "port"),
        # what parsers disagree about
        ("http://a@b@127.0.0.1/", "user info"),
        ("http://user:pass@example.com/", "user info"),
        ("http://@example.com/", "user info"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http:\\\\example.com/", "backslashes"),
        ("http://example.com#@127.0.0.1/", "fragment"),
        ("http://example.com/#", "fragment"),
        ("http://127.0.0.1%2f.example.com/", "% in the host"),
        ("http://%31%32%37.0.0.1/", "% in the host"),
        ("http://[fe80::1%25eth0]/", "% in the host"),
        ("http://exa\tmple.com/", "visible ASCII"),
        ("http://example.com/\nHost: x", "visible ASCII"),
        ("http://example.com/\r\n", "visible ASCII"),
        (" http://example.com/", "visible ASCII"),
        ("http://example.com/ ", "visible ASCII"),
        ("http://example.com/\0", "visible ASCII"),
        ("http://example.com/\x7f", "visible ASCII"),
        ("http://bücher.example/", "visible ASCII"),
        ("http://example.com/\udc80", "visible ASCII"),
        ("http://exam\u200bple.com/", "visible ASCII"),
        # fullwidth, Arabic and circled digits and a fullwidth stop
        ("http://\uff11\uff12\uff17.0.0.1/", "visible ASCII"),
        ("http://١٢٧.0.0.1/", "visible ASCII"),
        ("http://①②⑦.0.0.1/", "visible ASCII"),
        ("http://127\uff0e0.0.1/", "visible ASCII"),
        ("http://example.com:٨٠/", "visible ASCII"),
        # other spellings of an IPv4 address
        ("http://127.1/", "four decimal numbers"),
        ("http://127.0.1/", "four decimal numbers"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://0x7F.0.0.1/", "four decimal numbers"),
        ("http://0x7f.1/", "four decimal numbers"),
        ("http://0177.0.0.1/", "four decimal numbers"),
        ("http://127.0.0.01/", "four decimal numbers"),
        ("http://127.0.0.1./", "four decimal numbers"),
        ("http://127.0.0.0x1/", "four decimal numbers"),
        ("http://127.0.0.0x/", "four decimal numbers"),
        ("http://256.0.0.1/", "four decimal numbers"),
        ("http://1.2.3.4.5/", "four decimal numbers"),
        ("http://example.1/", "four decimal numbers"),
        ("http://0/", "four decimal numbers"),
        # IPv6
        ("http://::1/", "port"),
        ("http://[::1/", "host"),
        ("http://[::1]x/", "host"),
        ("http://[]/", "IPv6"),
        ("http://[1:2]/", "IPv6"),
        ("http://[127.0.0.1]/", "IPv6"),
        ("http://[::127.0.0.256]/", "IPv6"),
        ("http://[v1.x]/", "IPv6"),
        # not an LDH name
        ("http://exa_mple.com/", "letters, digits"),
        ("http://-a.com/", "letters, digits"),
        ("http://a-.com/", "letters, digits"),
        ("http://a..com/", "letters, digits"),
        ("http://.a.com/", "letters, digits"),
        ("http://a.com../", "letters, digits"),
        ("http://*.com/", "letters, digits"),
        ("http://a,b.com/", "letters, digits"),
        (f"http://{'a' * 64}.com/", "letters, digits"),
        (f"http://{'a.' * 127}com/", "letters, digits"),
        # path and query
        ('http://example.com/"', "percent-encode"),
        ("http://example.com/<x>", "percent-encode"),
        ("http://example.com/%zz", "percent-encode"),
        ("http://example.com/?a=%", "percent-encode"),
    ],
)
def test_a_url_that_breaks_a_rule_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidWebhook, match=re.escape(rule)):
        parse_webhook(text)


def test_512_characters_are_accepted() -> None:
    text = "http://example.com/" + "a" * 493
    assert len(text) == 512
    assert parse_webhook(text).url == text


HOST_ALPHABET = string.ascii_letters + string.digits + ".-_:[]@%/\\?#"


@given(st.text(HOST_ALPHABET, min_size=1, max_size=24), st.text(string.printable, max_size=12))
def test_what_is_accepted_has_the_same_host_and_port_for_the_http_clients(authority: str, rest: str) -> None:
    try:
        webhook = parse_webhook(f"http://{authority}{rest}")
    except InvalidWebhook:
        return
    for url in (URL(webhook.url, encoded=True), URL(webhook.url)):
        assert (url.scheme, url.host, url.port) == (webhook.scheme, webhook.host, webhook.port)
    other = httpx.URL(webhook.url)
    assert (other.scheme, other.host, other.port or 80) == (webhook.scheme, webhook.host, webhook.port)


@given(st.text(HOST_ALPHABET + string.printable, max_size=40))
def test_a_parsed_url_parses_to_itself(text: str) -> None:
    try:
        webhook = parse_webhook("https://" + text)
    except InvalidWebhook:
        return
    assert parse_webhook(webhook.url) == webhook


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.5", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255",
        "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
        "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "2001::1", "2001:0:7f00:1::",
        "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1",
        "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
        "4000::1", "1::1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:10.0.0.1",
        "", "localhost", "127.1", "not an address",
    ],
)  # fmt: skip
def test_an_address_off_the_public_internet_is_refused(address: str) -> None:
    assert PUBLIC.refusal(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.32.0.1", "192.0.1.1",
     "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e", "2001:4860:4860::8888", "2003::1",
     "2620:4f:8000::1"],
)  # fmt: skip
def test_a_public_address_is_allowed(address: str) -> None:
    assert PUBLIC.refusal(address) is None


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_that_is_allowed_is_global_unicast(address: IPv6Address) -> None:
    if PUBLIC.refusal(address) is None:
        assert address in ip_network("2000::/3")
        assert [address.ipv4_mapped, address.sixtofour, address.teredo] == [None] * 3


def test_the_operators_networks_win() -> None:
    policy = AddressPolicy.allowing(["10.1.0.0/16", " 127.0.0.0/8", "fd00::/8"])
    assert policy.refusal("10.1.2.3") is None
    assert policy.refusal("127.0.0.1") is None
    assert policy.refusal("fd12::1") is None
    assert policy.refusal("10.2.0.1")
    assert policy.refusal("::ffff:10.1.2.3"), "an allowed IPv4 network does not allow IPv6 forms of it"


def test_an_ipv6_form_of_an_ipv4_address_can_be_allowed_by_itself() -> None:
    assert AddressPolicy.allowing(["::ffff:0:0/96"]).refusal("::ffff:127.0.0.1") is None


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.0/33", "localhost", ""])
def test_a_bad_entry_in_the_operators_list_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError):
        AddressPolicy.allowing([entry])


@pytest.mark.parametrize(
    "host",
    ["localhost", "a.localhost", "metadata", "redis", "metadata.google.internal", "printer.local", "x.localdomain",
     "router.lan", "wiki.corp", "nas.home", "nas.home.arpa", "1.0.0.127.in-addr.arpa", "intra.intranet", "x.onion",
     "api.default.svc", "api.default.svc.cluster.local", "x.private"],
)  # fmt: skip
def test_a_name_of_a_private_network_is_refused_by_itself(host: str) -> None:
    assert name_refusal(host)
    webhook = parse_webhook(f"http://{host}/")
    assert destination_refusal(webhook, None, PUBLIC)
    assert destination_refusal(webhook, ["8.8.8.8"], PUBLIC), "whatever it resolves to"


def test_a_name_of_a_private_network_passes_when_all_its_addresses_are_allowed() -> None:
    webhook = parse_webhook("http://localhost:9000/")
    policy = AddressPolicy.allowing(["127.0.0.0/8", "::1/128"])
    assert destination_refusal(webhook, ["127.0.0.1", "::1"], policy) is None
    assert destination_refusal(webhook, ["127.0.0.1", "8.8.8.8"], policy)
    assert destination_refusal(webhook, [], policy)
    assert destination_refusal(webhook, None, policy)


@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [
        (["93.184.216.34"], True),
        (["93.184.216.34", "2606:4700::1"], True),
        (None, True),
        ([], True),
        (["127.0.0.1"], False),
        (["93.184.216.34", "10.0.0.1"], False),
        (["93.184.216.34", "::ffff:10.0.0.1"], False),
        (["fe80::1%2"], False),
        (["garbage"], False),
    ],
)
def test_a_public_looking_name_is_judged_by_all_its_addresses(addresses: list[str] | None, allowed: bool) -> None:
    refusal = destination_refusal(parse_webhook("http://example.com/"), addresses, PUBLIC)
    assert (refusal is None) == allowed


def test_a_refusal_does_not_tell_what_a_name_resolves_to() -> None:
    refusal = destination_refusal(parse_webhook("http://example.com/"), ["10.9.8.7"], PUBLIC)
    assert refusal is not None
    assert "10.9.8.7" not in refusal
    assert "private" not in refusal


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379/", "http://localhost./", "http://[::1]/", "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.5/", "http://metadata.google.internal/", "http://metadata/", "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:ffff:7f00:1]/", "http://[64:ff9b::a00:5]/", "http://0.0.0.0/",
    ],
)  # fmt: skip
def test_an_inside_address_is_refused_whatever_the_resolver_says(url: str) -> None:
    assert destination_refusal(parse_webhook(url), ["8.8.8.8"], PUBLIC)
    assert destination_refusal(parse_webhook(url), None, PUBLIC)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://127.0.0.1:8000/v2/x", None),
        ("http://127.9.9.9:8000/", None),
        ("http://[::1]:8000/", None),
        ("http://[::ffff:127.0.0.1]:8000/", None),
        ("http://0.0.0.0:8000/", None),
        ("http://[::]:8000/", None),
        ("http://localhost:8000/", ["127.0.0.1", "::1"]),
        ("http://me.example.com:8000/", ["93.184.216.34", "127.0.0.1"]),
    ],
)
def test_a_webhook_that_points_back_at_this_api_is_refused_even_when_allowed(
    url: str, addresses: list[str] | None
) -> None:
    everything = AddressPolicy.allowing(["0.0.0.0/0", "::/0"])
    webhook = parse_webhook(url)
    assert (
        destination_refusal(webhook, addresses, everything, frozenset({8000})) == "must not point back at this engine"
    )
    assert destination_refusal(webhook, addresses, everything, frozenset({8001})) is None


EVERYTHING = AddressPolicy.allowing(["0.0.0.0/0", "::/0"])
MACHINE = ("192.0.2.7", "2001:db8::7", "fe80::1%eth0")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "192.0.2.7", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:c000:207]",
        "[64:ff9b::c000:207]", "[::192.0.2.7]", "[::ffff:0:7f00:1]", "[2001:db8::7]", "[2001:DB8:0::7]", "[fe80::1]",
    ],
)  # fmt: skip
def test_an_own_port_is_refused_on_every_address_of_the_machine_whatever_is_allowed(host: str) -> None:
    own_ports = frozenset({6379, 8000})
    for port, refused in ((6379, True), (8000, True), (9000, False)):
        webhook = parse_webhook(f"http://{host}:{port}/")
        assert bool(destination_refusal(webhook, None, EVERYTHING, own_ports, machine=MACHINE)) == refused


def test_an_own_port_elsewhere_is_not_refused() -> None:
    webhook = parse_webhook("http://198.51.100.9:8000/")
    assert destination_refusal(webhook, None, EVERYTHING, frozenset({8000}), machine=MACHINE) is None


@pytest.mark.parametrize(
    ("own", "url"),
    [
        ("api.example.com", "https://api.example.com/v2"),
        ("api.example.com", "https://api.example.com:8443/v2"),
        ("API.Example.COM.", "https://api.example.com./"),
        ("api.example.com", "http://API.EXAMPLE.com/"),
        ("api.example.com:443", "https://api.example.com/"),
        ("api.example.com:80", "http://api.example.com/"),
        ("api.example.com:80", "http://api.example.com:80/"),
        ("bücher.example", "https://xn--bcher-kva.example/"),
        ("BÜCHER.example:443", "https://XN--BCHER-KVA.example/"),
        ("bücher。example", "https://xn--bcher-kva.example/"),
        ("straße.example", "https://xn--strae-oqa.example/"),
        ("xn--bcher-kva.example", "https://xn--bcher-kva.example/"),
        ("93.184.216.34", "https://93.184.216.34/"),
        ("93.184.216.34:8443", "https://93.184.216.34:8443/"),
        ("2606:4700::1", "https://[2606:4700:0::1]/"),
        ("[2606:4700::1]:8443", "https://[2606:4700::1]:8443/"),
        ("93.184.216.34", "https://[::ffff:93.184.216.34]/"),
        ("93.184.216.34", "https://other.example/"),
        ("93.184.216.34:443", "https://other.example/"),
    ],
)
def test_an_own_host_is_refused_in_every_spelling_whatever_is_allowed(own: str, url: str) -> None:
    own_hosts = (OwnHost("elsewhere.example"), parse_own_host(own))
    refusal = destination_refusal(parse_webhook(url), ["93.184.216.34"], EVERYTHING, own_hosts=own_hosts)
    assert refusal is not None
    assert "QUEUE_ENGINE_OWN_HOSTS" in refusal


@pytest.mark.parametrize(
    ("own", "url"),
    [
        ("api.example.com:443", "https://api.example.com:8443/"),
        ("api.example.com:443", "http://api.example.com/"),
        ("api.example.com", "https://www.example.com/"),
        ("api.example.com", "https://api.example.com.evil.example/"),
        ("203.0.113.5:8443", "https://93.184.216.34:8443/"),
    ],
)
def test_another_host_or_port_than_an_own_one_is_not_refused(own: str, url: str) -> None:
    webhook = parse_webhook(url)
    assert destination_refusal(webhook, ["93.184.216.34"], EVERYTHING, own_hosts=(parse_own_host(own),)) is None


@pytest.mark.parametrize(
    "entry",
    ["https://api.example.com", "api.example.com/", "*.example.com", "a b", ":80", "x:0", "x:99999", "[::1", "a:b:c"],
)
def test_an_own_host_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="must be a host name or an address") as refused:
        parse_own_host(entry)
    assert entry in str(refused.value)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://10.0.0.5:6379/", None),
        ("http://10.0.0.6:6379/", None),
        ("http://127.0.0.1:6379/", None),
        ("http://[fd12::5]:6379/", None),
        ("http://[::ffff:10.0.0.5]:6379/", None),
        ("http://redis:6379/", ["10.0.0.5"]),
        ("http://store.example:6379/", ["93.184.216.34", "10.0.0.5"]),
    ],
)
def test_the_stores_port_is_refused_at_every_private_address_whatever_is_allowed(
    url: str, addresses: list[str] | None
) -> None:
    webhook = parse_webhook(url)
    assert destination_refusal(webhook, addresses, EVERYTHING, store_ports=frozenset({6379})) is not None
    assert destination_refusal(webhook, addresses, EVERYTHING, store_ports=frozenset({6380})) is None
    public = parse_webhook("https://93.184.216.34:6379/")
    assert destination_refusal(public, None, EVERYTHING, store_ports=frozenset({6379})) is None


@pytest.mark.parametrize("addresses", [["10.0.0.5"], [], None])
@pytest.mark.parametrize("host", ["db.internal", "db", "db.example"])
def test_the_refusal_of_a_private_name_is_the_same_whether_it_is_the_engines_own(
    host: str, addresses: list[str] | None
) -> None:
    if host == "db.example" and not addresses:
        return  # it may be public, so it passes unless it is an own host
    webhook = parse_webhook(f"http://{host}:6379/")
    refusals = {
        destination_refusal(
            webhook, addresses, PUBLIC, frozenset({6379}), store_ports=ports, own_hosts=own, machine=here
        )
        for ports in (frozenset[int](), frozenset({6379}))
        for own in ((), (OwnHost(host, 6379),), (OwnHost("10.0.0.5"),))
        for here in ((), ("10.0.0.5",))
    }
    assert len(refusals) == 1
    assert None not in refusals


@pytest.mark.parametrize("url", ["http://10.0.0.5/", "http://db.internal/", "http://db/", "http://db.example/"])
def test_the_refusal_of_a_private_webhook_names_the_operators_setting(url: str) -> None:
    assert "QUEUE_ENGINE_WEBHOOK_ALLOW" in (destination_refusal(parse_webhook(url), ["10.0.0.5"], PUBLIC) or "")
