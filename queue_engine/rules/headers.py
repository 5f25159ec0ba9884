"""HTTP header names by kind: which headers of a task or of an ALB request may reach a container.

Names and values follow RFC 9110 (section 5). A client must not be able to change how a request is framed, where it
seems to come from, or which URL and method it has. All users of the list compare names in one spelling (`canonical`):
a CGI-style server puts `X-Task-Id` and `X_Task_Id` into the same variable `HTTP_X_TASK_ID`, so both are the same name.

Identity and tracing headers are in no kind, because a client may make such claims to its own container:
`Authorization`, `X-Amzn-Oidc-*`, `X-Amzn-Trace-Id`, `Cf-Access-Jwt-Assertion`, `CDN-Loop`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

MAX_HEADERS = 50
MAX_HEADERS_BYTES = 16 * 1024
MASK = "***"


class HeaderKind(Enum):
    """The reason why a client may not set a header."""

    HOP_BY_HOP = "hop-by-hop"
    """Headers of one connection only (RFC 9110, section 7.6.1), or the negotiation of it."""
    FRAMING = "framing"
    """Headers that determine where the body ends."""
    CONTENT = "describes a body that the agent writes"
    """Applies to tasks only; an ALB request has a body of its own."""
    ROUTING = "routing or client address"
    """The client's address, host and scheme, as reported by a proxy."""
    OVERRIDE = "overrides the URL or the method"
    """A URL, method or file other than the requested one, for servers that trust a proxy in front of them."""
    AGENT = "set by the agent"


_NAMES = {
    HeaderKind.HOP_BY_HOP: (
        "connection", "keep-alive", "te", "trailer", "upgrade", "upgrade-ignored", "expect", "http2-settings",
        "max-forwards", "proxy",  # CGI-style servers turn Proxy into the variable HTTP_PROXY (CVE-2016-5385)
    ),
    HeaderKind.FRAMING: ("content-length", "transfer-encoding"),
    HeaderKind.CONTENT: ("content-encoding", "content-range"),
    HeaderKind.ROUTING: (
        "host", "forwarded", "forwarded-for", "x-forwarded", "x-forward-for", "via",
        "x-host", "x-original-host", "x-real-host", "x-host-override", "x-http-host-override",
        "x-scheme", "x-url-scheme", "front-end-https", "x-arr-ssl", "cf-visitor", "cloudfront-forwarded-proto",
        "client-ip", "real-ip", "remote-addr", "x-client-ip", "x-remote-ip", "x-remote-addr", "x-originating-ip",
        "x-proxyuser-ip", "cf-connecting-ipv6", "cf-pseudo-ipv4", "cloudfront-viewer-address",
        "x-azure-clientip", "x-azure-socketip", "x-appengine-user-ip", "x-appengine-remote-addr",
        "x-nf-client-connection-ip",
    ),
    HeaderKind.OVERRIDE: (
        "x-original-url", "x-original-uri", "x-original-method", "x-rewrite-url", "x-rewrite-uri", "x-override-url",
        "x-original-path", "x-rewrite-path", "x-request-uri", "x-http-path-override", "x-script-name", "script-name",
        "x-http-method", "x-http-method-override", "x-method-override",
        "x-sendfile-type", "x-accel-mapping",  # select the files that Rack::Sendfile sends
    ),
    HeaderKind.AGENT: ("x-task-id", "x-endpoint-id", "x-task-attempt"),
}  # fmt: skip
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names}
_PREFIXES = (
    ("proxy-", HeaderKind.HOP_BY_HOP),
    ("sec-websocket-", HeaderKind.HOP_BY_HOP),
    ("x-forwarded-", HeaderKind.ROUTING),
    ("x-envoy-", HeaderKind.ROUTING),  # control Envoy's retries, timeouts, paths and addresses
)
_CLIENT_ADDRESS_SUFFIXES = ("-forwarded-for", "-client-ip", "-real-ip", "-connecting-ip")
"""Suffixes that platforms combine with their own prefix: `Ali-CDN-Real-IP`, `X-Vercel-Forwarded-For`."""
_ANY_PREFIX = tuple(prefix for prefix, _ in _PREFIXES)
_CONTENT_TYPE = "content-type"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")
_ONE_SPELLING = {code: "-" for code in range(256) if not chr(code).isalnum()}

_SECRET_PARTS = re.compile(
    "key|token|secret|auth|cookie|session|sessid|signature|signed|hmac|credential|passw|passphrase|passcode|bearer|jwt"
    "|csrf|xsrf|assertion|saml|ticket|dpop"
)
_SECRET_WORDS = frozenset({"pass", "pwd", "psk", "pin", "otp", "totp", "sid", "sess", "sig", "sign", "cred", "creds"})


def canonical(name: str) -> str:
    """Return the spelling that all look-alikes of a name share: lower case, and `-` for `_` and other punctuation.

    CGI-style servers replace `-` by `_`; some, lighttpd for one, replace every character that is no letter or digit.
    """
    return name.lower().translate(_ONE_SPELLING)


def kind_of(name: str) -> HeaderKind | None:
    """Return the reason why a client may not set a header of this name; None if it may."""
    spelled = canonical(name)
    kind = _KINDS.get(spelled)
    if kind is None and spelled.startswith(_ANY_PREFIX):
        kind = next(kind for prefix, kind in _PREFIXES if spelled.startswith(prefix))
    if kind is None and spelled.endswith(_CLIENT_ADDRESS_SUFFIXES):
        kind = HeaderKind.ROUTING
    return kind


def headers_error(headers: Mapping[str, str]) -> str | None:
    """Return the rule that a task's `headers` break, naming the header, or None. Never repeats a value."""
    if len(headers) > MAX_HEADERS:
        return f"must have at most {MAX_HEADERS} headers"
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADERS_BYTES:
        return f"must be at most {MAX_HEADERS_BYTES} bytes in all"
    seen: set[str] = set()
    for name, value in headers.items():
        error = _header_error(name, value)
        if error is not None:
            return error
        if canonical(name) in seen:
            return f"{name!r} is given twice (case does not count, and _ is the same as -)"
        seen.add(canonical(name))
    return None


def _header_error(name: str, value: str) -> str | None:
    if _TOKEN.fullmatch(name) is None:
        return f"{name[:64]!r} is not a header name (RFC 9110 token)"
    kind = kind_of(name)
    if kind is not None:
        return f"{name!r} must not be forwarded ({kind.value})"
    if canonical(name) == _CONTENT_TYPE != name.lower():
        return f"{name!r} must be spelled Content-Type"  # because the agent adds one in this spelling
    if _VALUE.fullmatch(value) is None:
        return f"the value of {name!r} must be visible ASCII, with spaces and tabs inside only"
    return None


def is_secret_name(name: str) -> bool:
    """Return whether the value of this header may be a credential and must never be shown."""
    spelled = canonical(name)
    return _SECRET_PARTS.search(spelled) is not None or not _SECRET_WORDS.isdisjoint(spelled.split("-"))


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` with the values that may carry a credential replaced by `***`."""
    return {name: MASK if is_secret_name(name) else value for name, value in headers.items()}
