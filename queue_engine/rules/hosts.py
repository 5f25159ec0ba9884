"""Hosts of URLs and settings: a name, or an address without brackets."""

from __future__ import annotations

from ipaddress import ip_address


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
