"""Webhook targets: the URLs that are accepted, and the addresses to which connections are allowed.

URLs are parsed by a grammar narrower than RFC 3986, so that all parsers agree about the host: the host checked here is
the host connected to later. Refused networks are an explicit table from the IANA special-purpose address registries
(RFC 6890), because `ipaddress.is_global` is wrong for several IPv6 forms on Python 3.11.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

import idna

from queue_engine.rules.hosts import bracketed

MAX_URL_CHARACTERS = 512

DEFAULT_PORTS = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_VISIBLE = re.compile(r"[^\x21-\x7e]")
_URL = re.compile(r"(?i:(?P<scheme>https?)://)(?P<authority>[^/?]*)(?P<rest>[/?].*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?P<port>:.*)?")
_PORT = re.compile(r":[1-9][0-9]{0,4}")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_PATH = re.compile(r"[\"<>`]")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOTTED_IPV4 = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")


class InvalidWebhook(ValueError):
    """The URL breaks a rule. The text is the rule, and follows the field's name."""


@dataclass(frozen=True)
class Webhook:
    """A target with a well-formed URL. Its addresses are checked elsewhere."""

    url: str
    """The URL as submitted, with the scheme and the host in canonical spelling."""
    scheme: str
    host: str
    """Lower case, no trailing dot, no brackets."""
    port: int

    @property
    def destination(self) -> str:
        """Return `scheme://host:port`. Webhooks with the same destination share one receiver's state."""
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"

    @property
    def target(self) -> str:
        """Return the path and the query of the URL, as the request line has them."""
        parts = _URL.fullmatch(self.url)
        rest = (parts and parts["rest"]) or ""
        return rest if rest.startswith("/") else f"/{rest}"

    @property
    def literal(self) -> Address | None:
        """Return the host as an address; None if it is a name."""
        return _address(self.host)


@lru_cache(maxsize=512)  # a destination gets many tasks, and each delivery parses its URL again
def parse_webhook(text: str) -> Webhook:
    """Parse `text`. Raises InvalidWebhook. The destination is not checked: see `destination_refusal`."""
    if not 1 <= len(text) <= MAX_URL_CHARACTERS:
        raise InvalidWebhook(f"must be 1–{MAX_URL_CHARACTERS} characters")
    if _NOT_VISIBLE.search(text) is not None or "\\" in text:
        raise InvalidWebhook("must be visible ASCII characters without spaces and backslashes")
    if "#" in text:
        raise InvalidWebhook("must not have a fragment")
    parts = _URL.fullmatch(text)
    if parts is None:
        raise InvalidWebhook("must be an absolute http or https URL")
    scheme, rest = parts["scheme"].lower(), parts["rest"] or ""
    if _NOT_IN_PATH.search(rest) is not None or _BAD_PERCENT.search(rest) is not None:
        raise InvalidWebhook('must percent-encode ", <, >, ` and % in the path and the query')
    host, port = _parse_authority(parts["authority"])
    url = f"{scheme}://{bracketed(host)}{'' if port is None else f':{port}'}{rest}"
    return Webhook(url, scheme, host, port or DEFAULT_PORTS[scheme])


def _parse_authority(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise InvalidWebhook("must not have user info")
    if "%" in authority:
        raise InvalidWebhook("must not have a % in the host")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise InvalidWebhook("must have a host name, an IPv4 address or an IPv6 address in brackets")
    port = None if parts["port"] is None else _parse_port(parts["port"])
    return _parse_host(parts["host"].lower()), port


def _parse_port(text: str) -> int:
    if _PORT.fullmatch(text) is None or int(text[1:]) > 65535:
        raise InvalidWebhook("must have a port of 1–65535, without leading zeros")
    return int(text[1:])


def _parse_host(host: str) -> str:
    if host.startswith("["):
        return _parse_ipv6(host[1:-1])
    name = host.removesuffix(".")
    labels = name.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]) is not None:
        # Forms that inet_aton and browsers treat as an address: 127.1, 2130706433, 0x7f000001, 127.0.0.1. and similar.
        return _parse_ipv4(host)
    if len(name) > 253 or any(_LABEL.fullmatch(label) is None for label in labels):
        raise InvalidWebhook(
            "must have a host of letters, digits, hyphens and dots (an international name in its xn-- form)"
        )
    return name


def _parse_ipv4(host: str) -> str:
    if _DOTTED_IPV4.fullmatch(host) is None or _address(host) is None:
        raise InvalidWebhook("must write an IPv4 address as four decimal numbers of 0–255")
    return host


def _parse_ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise InvalidWebhook("must have a valid IPv6 address in the brackets") from None


EMBEDDED_IPV4 = "an IPv4 address inside an IPv6 one"
"""Prefix of the reason to refuse such a form."""
ISATAP = f"{EMBEDDED_IPV4} (ISATAP)"

# Rows of the IANA IPv4 and IPv6 special-purpose address registries that a webhook must not reach, and their equivalents
# on clouds. The error shows the text to the client that submitted the address.
_REFUSED_NETWORKS: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier's network address translation"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud platform's own service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "IETF protocol assignment"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", f"{EMBEDDED_IPV4} (IPv4-compatible)"),
        ("::ffff:0:0/96", f"{EMBEDDED_IPV4} (IPv4-mapped)"),
        ("::ffff:0:0:0/96", f"{EMBEDDED_IPV4} (IPv4-translated)"),
        ("64:ff9b::/96", f"{EMBEDDED_IPV4} (NAT64)"),
        ("64:ff9b:1::/48", f"{EMBEDDED_IPV4} (local NAT64)"),
        ("100::/64", "discard-only"),
        ("100:0:0:1::/64", "dummy prefix"),
        ("2001::/32", f"{EMBEDDED_IPV4} (Teredo)"),
        ("2001:2::/48", "benchmarking"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHIDv2"),
        ("2001::/23", "IETF protocol assignment"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", f"{EMBEDDED_IPV4} (6to4)"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "private (unique local)"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_GLOBAL_UNICAST_IPV6 = IPv6Network("2000::/3")
"""The ranges that IANA has allocated to the public internet."""
_ISATAP_MARKS = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""The upper half of an interface identifier that ends in an IPv4 address (RFC 5214, section 6.1)."""


@dataclass(frozen=True)
class AddressPolicy:
    """The addresses to which connections are allowed: the public internet and the networks that the operator allows.

    An allowed IPv4 network does not allow the IPv6 forms that embed its addresses.
    """

    allowed: tuple[Network, ...] = ()

    @classmethod
    def allowing(cls, networks: Iterable[str]) -> AddressPolicy:
        """Return the policy of an operator's list such as `10.0.0.0/8`. Raises a ValueError that names a bad entry."""
        return cls(tuple(ip_network(network.strip()) for network in networks))

    def allows_explicitly(self, address: str | Address) -> bool:
        """Return whether the operator's list includes the address. False if the text is not an address."""
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self.allowed)

    def refusal(self, address: str | Address) -> str | None:
        """Return the reason to refuse connections to the address; None if they are allowed."""
        parsed = _address(address)
        if parsed is None:
            return "is not an IP address"
        if self.allows_explicitly(parsed):
            return None
        reason = special_use(parsed)
        return None if reason is None else f"is not on the public internet ({reason})"


def _address(text: str | Address) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def special_use(address: Address) -> str | None:
    """Return the purpose of an address that is not on the public internet; None for a public address."""
    for network, reason in _REFUSED_NETWORKS:
        if address in network:
            return reason
    if isinstance(address, IPv4Address):
        return None
    if address not in _GLOBAL_UNICAST_IPV6:
        return "not global unicast"
    return ISATAP if is_isatap(address) else None


def is_isatap(address: IPv6Address) -> bool:
    """Return whether the address ends in an IPv4 address by the rules of ISATAP, in any network."""
    return (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP_MARKS


_INSIDE_SUFFIXES = (
    "localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan", "svc",
    "arpa", "onion", "alt",
)  # fmt: skip
"""Suffixes that are never on the public internet: RFC 6761, 6762, 7686, 8375, 9476, ICANN's `internal`, and names in
common private use.
"""


def name_refusal(host: str) -> str | None:
    """Return the reason to refuse a host name without a lookup; None if it may be public. For names, not addresses."""
    labels = host.split(".")
    if labels[-1] in _INSIDE_SUFFIXES:
        return f"names under .{labels[-1]} are not on the public internet"
    if len(labels) == 1:
        return "a name without a dot is not on the public internet"
    return None


HOW_TO_ALLOW = "the operator may allow it by QUEUE_ENGINE_WEBHOOK_ALLOW"
NO_PUBLIC_ADDRESS = (
    f"must not point at this host: it does not resolve to addresses on the public internet only ({HOW_TO_ALLOW})"
)
"""The refusal of a name that resolves to a private address, and of a name that does not resolve. Different texts would
show a tenant the names of the private network.
"""
POINTS_BACK = "must not point back at this engine"
POINTS_AT_OWN_HOST = "must not point at a host of this engine (QUEUE_ENGINE_OWN_HOSTS)"


def destination_refusal(
    webhook: Webhook,
    addresses: Sequence[str] | None,
    policy: AddressPolicy,
    own_ports: frozenset[int] = frozenset(),
    *,
    store_ports: frozenset[int] = frozenset(),
    own_hosts: Collection[OwnHost] = (),
    machine: Collection[str] = (),
) -> str | None:
    """Return the reason to refuse this webhook; None if it is allowed. The text follows the field's name.

    `addresses` holds all addresses of the host. With None, which means that they are not known, a name that looks
    public is accepted, since the guard checks the address of every connection again. `own_ports` are the ports on which
    this engine listens on this machine, whose addresses besides loopback are `machine`. `own_hosts` are its hosts
    elsewhere, and `store_ports` the ports of its store. The policy cannot allow connections to the engine or its store.

    The address rules come first, so that a refusal reveals the engine's own host only if that host is otherwise
    allowed. All private names are refused with the same text, the engine's own included.
    """
    if webhook.literal is not None:
        addresses = (webhook.host,)
    refusal = addresses_refusal(webhook.host, addresses, policy)
    if refusal is not None:
        return refusal
    if points_at_own_host(webhook.host, addresses or (), webhook.port, own_hosts):
        return POINTS_AT_OWN_HOST
    if any(points_back(address, webhook.port, own_ports, machine) for address in addresses or ()):
        return POINTS_BACK
    if any(may_be_store(address, webhook.port, store_ports) for address in addresses or ()):
        return POINTS_BACK
    return None


def addresses_refusal(host: str, addresses: Sequence[str] | None, policy: AddressPolicy) -> str | None:
    """Apply `destination_refusal` to a host without its port. A single refused address refuses the host."""
    if _address(host) is not None:
        reason = policy.refusal(host)
        return None if reason is None else f"must not point at this address: it {reason}; {HOW_TO_ALLOW}"
    reason = name_refusal(host)
    if reason is not None:
        named = bool(addresses) and all(policy.allows_explicitly(address) for address in addresses or ())
        return None if named else f"must not point at this host: {reason}; {HOW_TO_ALLOW}"
    if any(policy.refusal(address) is not None for address in addresses or ()):
        return NO_PUBLIC_ADDRESS
    return None


def may_be_store(address: str, port: int, store_ports: frozenset[int]) -> bool:
    """Return whether the address and port may be the store's.

    The store is configured by a name, which may resolve to any private address, so its ports are refused at all
    private addresses.
    """
    parsed = _plain(address)
    return port in store_ports and (parsed is None or special_use(parsed) is not None)


def points_back(address: str, port: int, own_ports: frozenset[int], machine: Collection[str] = ()) -> bool:
    """Return whether a connection to the address and port reaches one of our own listeners on this machine.

    `machine` holds the machine's addresses besides loopback. A listener is assumed to listen on all of them.
    """
    parsed = _plain(address)
    if parsed is None or port not in own_ports:
        return False
    return parsed.is_loopback or parsed.is_unspecified or any(parsed == _plain(own) for own in machine)


@dataclass(frozen=True)
class OwnHost:
    """A public host of this engine. `port` None means every port."""

    host: str
    """A name in the form of `Webhook.host`, or an address."""
    port: int | None = None


@dataclass(frozen=True)
class DestinationRules:
    """The allowed destinations of webhooks."""

    policy: AddressPolicy = AddressPolicy()
    own_ports: frozenset[int] = frozenset()
    """Ports of this engine on this machine."""
    store_ports: frozenset[int] = frozenset()
    own_hosts: tuple[OwnHost, ...] = ()
    """Public hosts of this engine."""
    policy_for_one_tenant: AddressPolicy | None = None
    """Replaces `policy` as long as there has never been a second tenant. None if there is no such exception."""


def parse_own_host(text: str) -> OwnHost:
    """Parse `host`, `host:port`, an IPv6 address or `[address]:port`. Raises a ValueError that names the entry."""
    try:
        if _address(text) is not None:
            return OwnHost(str(_plain(text)))
        parts = _AUTHORITY.fullmatch(text)
        if parts is None:
            raise InvalidWebhook("is no host name and no address")
        port = None if parts["port"] is None else _parse_port(parts["port"])
        host = parts["host"]
        return OwnHost(_parse_host(host if host.startswith("[") else _ascii_name(host)), port)
    except ValueError as error:
        raise ValueError(f"{text!r} must be a host name or an address, with :port to name only that port") from error


def _ascii_name(name: str) -> str:
    return name.lower() if name.isascii() else idna.encode(name, uts46=True).decode("ascii")


def points_at_own_host(host: str, addresses: Iterable[str], port: int, own_hosts: Collection[OwnHost]) -> bool:
    """Return whether a webhook's host name or one of its addresses is among `own_hosts`."""
    meant = {own.host for own in own_hosts if own.port in (None, port)}
    if not meant:
        return False
    return host.lower().removesuffix(".") in meant or any(str(_plain(address)) in meant for address in addresses)


_WITH_IPV4_AT_THEIR_END = tuple(map(IPv6Network, ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "::/96")))


def _plain(text: str | Address) -> Address | None:
    """Return the address without its interface. For an IPv6 form of an IPv4 address, return the IPv4 address."""
    address = _address(text.partition("%")[0] if isinstance(text, str) else text)
    if address is None or int(address) <= 1 or not any(address in network for network in _WITH_IPV4_AT_THEIR_END):
        return address
    return IPv4Address(int(address) & 0xFFFF_FFFF)
