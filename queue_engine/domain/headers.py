"""Which headers of a task may be forwarded to its container.

Names and values follow RFC 9110 (section 5). Hop-by-hop, framing and routing headers, and those that the agent itself
sets, are refused by name: a submitter must not be able to change how the request is framed
or where it seems to come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_HEADERS = 50
MAX_HEADERS_BYTES = 16 * 1024
MASK = "***"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")
_REFUSED = frozenset(
    {
        # hop-by-hop (RFC 9110 section 7.6.1) and negotiation of the connection
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
        "proxy-authentication-info", "te", "trailer", "upgrade", "expect", "http2-settings", "max-forwards",
        # framing
        "content-length", "content-encoding", "content-range", "transfer-encoding",
        # routing
        "host", "forwarded", "via", "x-real-ip", "x-original-url", "x-rewrite-url", "x-original-host", "x-host",
        "x-http-method-override", "x-http-method", "x-method-override",
        "x-client-ip", "true-client-ip", "cf-connecting-ip", "x-cluster-client-ip",
        # set by the agent
        "x-task-id", "x-endpoint-id", "x-task-attempt",
    }
)  # fmt: skip
_REFUSED_PREFIXES = ("x-forwarded-", "proxy-", "sec-websocket-", ":")
_SECRET_NAMES = frozenset({"authorization", "cookie", "set-cookie"})
_SECRET_PARTS = ("key", "token", "secret", "password", "auth")


def headers_fault(headers: Mapping[str, str]) -> str | None:
    """The rule that `headers` breaks, naming the header, or None. Never repeats a value."""
    if len(headers) > MAX_HEADERS:
        return f"must hold at most {MAX_HEADERS} headers"
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADERS_BYTES:
        return f"must be at most {MAX_HEADERS_BYTES} bytes in all"
    seen: set[str] = set()
    for name, value in headers.items():
        fault = _header_fault(name, value)
        if fault is not None:
            return fault
        if name.lower() in seen:
            return f"{name!r} is given twice (names are case-insensitive)"
        seen.add(name.lower())
    return None


def _header_fault(name: str, value: str) -> str | None:
    if _TOKEN.fullmatch(name) is None:
        return f"{name[:64]!r} is not a header name (RFC 9110 token)"
    lowered = name.lower()
    if lowered in _REFUSED or lowered.startswith(_REFUSED_PREFIXES):
        return f"{name!r} must not be forwarded (hop-by-hop, framing, routing or set by the agent)"
    if _VALUE.fullmatch(value) is None:
        return f"the value of {name!r} must be visible ASCII, with spaces and tabs inside only"
    return None


def is_secret_name(name: str) -> bool:
    """Whether the value of this header must never be shown: it may carry a credential."""
    lowered = name.lower()
    return lowered in _SECRET_NAMES or any(part in lowered for part in _SECRET_PARTS)


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` with the values that may carry a credential replaced by `***`."""
    return {name: MASK if is_secret_name(name) else value for name, value in headers.items()}
