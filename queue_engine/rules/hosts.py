"""Hosts of URLs and settings: a name, or an address without brackets."""

from __future__ import annotations

import re
from ipaddress import ip_address

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


def bracketed(host: str) -> str:
    """Return the host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def host_header(host: str, port: int, *, default_port: int) -> str:
    """Return the value of the Host header."""
    return bracketed(host) if port == default_port else f"{bracketed(host)}:{port}"


def is_loopback(host: str) -> bool:
    """Return True if the host is `localhost` or a loopback address. Other names are not looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_host(text: str) -> bool:
    """Return True for an address in its usual spelling, and for a name that no resolver reads as an address."""
    try:
        ip_address(text)
    except ValueError:
        labels = text.split(".")
        return all(map(_LABEL.fullmatch, labels)) and _NUMERIC_LABEL.fullmatch(labels[-1]) is None
    return True
