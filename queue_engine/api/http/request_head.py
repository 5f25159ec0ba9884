"""Rules for the head of a request that the HTTP parser does not check. Pure.

A proxy in front of this server, this server and a worker behind it must agree where a request ends and which host it is
for. RFC 9112 lets a lenient server guess (sections 2.2, 3.2, 6.1), but two servers may guess differently. So a request
that needs a guess is refused: a request line with two spaces, `Transfer-Encoding: gzip, chunked`, `Host: a, b`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names in lower case, values without white space around them."""

_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [^\x00-\x20\x7f]+ HTTP/([0-9]\.[0-9])\r\n")
_TARGET = re.compile(rb"/[^#]*|(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://(?P<authority>[^/?#]*)/[^#]*")
_LABEL = rb"-*[A-Za-z0-9_][A-Za-z0-9_-]*"
_NAME = rb"(?=[^:]{1,255}(?::|\Z))" + _LABEL + rb"(?:\." + _LABEL + rb")*\.?"
_HOST = re.compile(rb"(?:(?P<name>" + _NAME + rb")|\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{0,5}))?")
_CODING = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_KNOWN_CODINGS = frozenset({b"chunked", b"compress", b"deflate", b"gzip", b"x-compress", b"x-gzip", b"identity"})
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


class Refusal(NamedTuple):
    """The response to a refused request. The rest of the request is not parsed."""

    status: int
    message: str


def line_problem(line: bytes) -> Refusal | None:
    """Return the reason to refuse the request line, CR LF included; None when it is well-formed and of HTTP/1."""
    found = _LINE.fullmatch(line)
    if found is None:
        return Refusal(400, "request line: must be a method, a target and HTTP/1.1 with one space between them")
    if found[1] not in (b"1.1", b"1.0"):
        return Refusal(505, "request line: the version must be HTTP/1.1 or HTTP/1.0")
    return None


def head_problem(version: str, target: bytes, headers: RawHeaders) -> Refusal | None:
    """Return the reason to refuse a request with this head; None when it is accepted."""
    hosts = [value for name, value in headers if name == b"host"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    return (
        _host_problem(version, hosts)
        or _target_problem(target, hosts)
        or (_coding_problem(version, codings) if codings else None)
    )


def _host_problem(version: str, hosts: Sequence[bytes]) -> Refusal | None:
    if not hosts and version == "1.1":
        return Refusal(400, "Host: is required")
    if len(hosts) > 1:
        return Refusal(400, "Host: must be given once")
    if hosts and _normalized(hosts[0], b"http") is None:
        return Refusal(400, "Host: must be a host name or an address, and a port of 1-65535 if it is not the default")
    return None


def _target_problem(target: bytes, hosts: Sequence[bytes]) -> Refusal | None:
    if target.startswith(b"/") and b"#" not in target:
        return None
    found = _TARGET.fullmatch(target)
    if found is None:
        return Refusal(400, "request target: must be a path, or an http URL with a path, without a fragment")
    scheme = found["scheme"].lower()
    authority = _normalized(found["authority"], scheme)
    if authority is None or (hosts and authority != _normalized(hosts[0], scheme)):
        return Refusal(400, "request target: must name the same host as Host")
    return None


@lru_cache(maxsize=1024)
def _normalized(host: bytes, scheme: bytes) -> tuple[str, int] | None:
    """Return host and port for a comparison; None when `host` is not a host."""
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        return None
    if found["ipv6"] is None:
        return found["name"].decode("ascii").lower(), port
    try:
        return str(IPv6Address(found["ipv6"].decode("ascii"))), port
    except AddressValueError:
        return None


def _coding_problem(version: str, values: Sequence[bytes]) -> Refusal | None:
    codings = [one.strip(b" \t").lower() for value in values for one in value.split(b",")]
    if version == "1.0":
        return Refusal(400, "Transfer-Encoding: must not be used with HTTP/1.0")
    if codings == [b"chunked"]:
        return None
    if any(_CODING.fullmatch(one) and one not in _KNOWN_CODINGS for one in codings):
        return Refusal(501, "Transfer-Encoding: only chunked is implemented")
    return Refusal(400, "Transfer-Encoding: must be chunked")
