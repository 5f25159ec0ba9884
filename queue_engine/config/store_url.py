"""The place of the store: one server, a master behind sentinels, or a cluster (`docs/operations/high-availability.md`).

Error messages name the broken rule and never repeat the URL, because it may contain a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
TLS_OPTIONS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers", "ssl_keyfile")
_SENTINEL_SECRET = "sentinel_password"  # noqa: S105 - the name of an option
_CERT_REQS = ("required", "optional", "none")
_YES = ("yes", "true", "1")
_NO = ("no", "false", "0")
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


class Topology(StrEnum):
    """The number of servers with data, and how they are found."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Address(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class StoreUrl:
    """A parsed URL. `addresses` are the server, the sentinels, or the first nodes of the cluster to contact."""

    topology: Topology
    addresses: tuple[Address, ...]
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    service: str = ""
    """The sentinels' name of the master."""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls_options: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """The passwords, decoded and as written in the URL."""


def parse_store_url(text: str) -> StoreUrl:
    """Parse a URL. Raises ValueError that names the broken rule."""
    scheme, found, rest = text.strip().partition("://")
    topology, tls = _scheme(scheme if found else "")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    options = _options(query, topology, tls)
    service, db = _place(path, options.pop("db", None), topology)
    return StoreUrl(
        topology=topology,
        addresses=_addresses(hosts, topology),
        tls=tls,
        username=unquote(username) or None,
        password=unquote(password) or None,
        db=db,
        service=service,
        sentinel_username=options.pop("sentinel_username", None),
        sentinel_password=options.pop(_SENTINEL_SECRET, None),
        tls_options=tuple(options.items()),
        secrets=tuple(text for text in (password, unquote(password), *_sentinel_passwords(query)) if text),
    )


def _sentinel_passwords(query: str) -> list[str]:
    written = [
        value for name, _, value in (part.partition("=") for part in query.split("&")) if name == _SENTINEL_SECRET
    ]
    return [*written, *(unquote(value) for value in written)]


def _scheme(scheme: str) -> tuple[Topology, bool]:
    transport, _, kind = scheme.lower().partition("+")
    topologies = {"": Topology.SINGLE, "sentinel": Topology.SENTINEL, "cluster": Topology.CLUSTER}
    if transport not in ("redis", "rediss") or kind not in topologies:
        raise ValueError(
            "must begin with redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or "
            "rediss+cluster://"
        )
    return topologies[kind], transport == "rediss"


def _addresses(hosts: str, topology: Topology) -> tuple[Address, ...]:
    default = DEFAULT_SENTINEL_PORT if topology is Topology.SENTINEL else DEFAULT_PORT
    addresses = tuple(_address(part, default) for part in hosts.split(","))
    if topology is Topology.SINGLE and len(addresses) > 1:
        raise ValueError(
            "must name one host; several are for redis+sentinel:// and redis+cluster:// (a comma in a user name or "
            "password is written %2C)"
        )
    return addresses


def _address(text: str, default_port: int) -> Address:
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        fits = bool(closed) and _IPV6.fullmatch(host) is not None and (not port or port.startswith(":"))
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
        host = unquote(host)
        fits = _HOST.fullmatch(host) is not None and ":" not in port
    if not fits:
        raise ValueError("each host must be a name or an address, an IPv6 address in [ ], and may have :port after it")
    if not port:
        return Address(host, default_port)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError("a port must be a number from 1 to 65535")
    return Address(host, int(port))


def _place(path: str, db_option: str | None, topology: Topology) -> tuple[str, int]:
    """Return the service's name and the number of the database."""
    parts = [unquote(part) for part in path.split("/") if part]
    service = ""
    if topology is Topology.SENTINEL:
        if not parts or _SERVICE.fullmatch(parts[0]) is None:
            raise ValueError(
                "must name the service that the sentinels watch: redis+sentinel://host:port,…/SERVICE (letters, digits "
                "and . _ -)"
            )
        service = parts.pop(0)
    if len(parts) > 1:
        raise ValueError("has too many parts in its path")
    number = parts[0] if parts else db_option or "0"
    if not (number.isascii() and number.isdigit()):
        raise ValueError("the database must be a number")
    if topology is Topology.CLUSTER and int(number) != 0:
        raise ValueError("a cluster has database 0 only")
    return service, int(number)


def _options(query: str, topology: Topology, tls: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    allowed = {
        "db",
        *(TLS_OPTIONS if tls else ()),
        *(("sentinel_username", _SENTINEL_SECRET) if topology is Topology.SENTINEL else ()),
    }
    for name in options:
        if name in TLS_OPTIONS and not tls:
            raise ValueError(f"{name} is an option of TLS: the URL must begin with rediss")
        if name not in allowed:
            raise ValueError(f"has an unknown option in its query; known options are {', '.join(sorted(allowed))}")
    if options.get("ssl_cert_reqs", "required") not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs must be one of {', '.join(_CERT_REQS)}")
    if options.get("ssl_check_hostname", "yes").lower() not in _YES + _NO:
        raise ValueError("ssl_check_hostname must be yes or no")
    if options.get("ssl_keyfile") and not options.get("ssl_certfile"):
        raise ValueError("ssl_keyfile requires ssl_certfile")
    return options


def is_yes(text: str) -> bool:
    """Return whether an option of a URL means yes."""
    return text.lower() in _YES
