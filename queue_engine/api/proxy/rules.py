"""Select the headers of a request for the worker, and the headers of its response for the client. Pure.

`rules/headers.py` has the names by kind and treats look-alikes as the same name. Behind a CDN, a request carries client
addresses and `Via` that the client did not write, so these are dropped and the request is accepted. A look-alike of a
framing name has no legitimate source: `Transfer_Encoding` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from queue_engine.domain.errors import InvalidRequest
from queue_engine.rules.headers import HeaderKind, canonical, kind_of

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names and values as received; names of requests in lower case."""

_TARGET = re.compile(rb"/e/([^/]+)(/.*)?", re.DOTALL)
_SEPARATORS = re.compile(rb"[/\\]")

_FRAMING_NAMES = frozenset({b"content-length", b"transfer-encoding"})
_DROPPED_KINDS = frozenset({HeaderKind.HOP_BY_HOP, HeaderKind.FRAMING, HeaderKind.ROUTING, HeaderKind.OVERRIDE})
_NOT_PASSED_ON = frozenset(
    {
        "authorization", "x-api-key",  # the API's own keys
        "x-request-id",  # added again below
    }
)  # fmt: skip
_DROPPED_KINDS_BACK = frozenset({HeaderKind.HOP_BY_HOP, HeaderKind.FRAMING})
_NOT_PASSED_BACK = frozenset({"date"})
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_BODYLESS = frozenset({101, 204, 304})


@dataclass(frozen=True)
class Caller:
    """The client of a request, for the headers that the worker gets."""

    address: str
    scheme: str
    host: bytes
    """The `Host` of the client's request."""
    request_id: str


def split_target(raw_path: bytes) -> tuple[str, bytes] | None:
    """Return the endpoint id, as sent, and the path on the worker, byte for byte. None for another path.

    `/e/{id}` is `/e/{id}/`, as the path of an `http://host` is `/`.
    """
    match = _TARGET.fullmatch(raw_path)
    return None if match is None else (match[1].decode("latin-1"), match[2] or b"/")


def check_path(path: bytes) -> None:
    """Raise InvalidRequest for a path with a dot segment in any spelling, because another server may resolve it to
    another path.
    """
    for segment in _SEPARATORS.split(unquote_to_bytes(path)):
        if segment.partition(b";")[0] in (b".", b".."):
            raise InvalidRequest("path", "must not have a segment . or ..")
    if not path.isascii():
        raise InvalidRequest("path", "must be ASCII; other characters are percent-encoded")


def asks_for_websocket(headers: RawHeaders) -> bool:
    """Return True if the client asks to switch to the WebSocket protocol."""
    return any(name == b"upgrade" and b"websocket" in value.lower() for name, value in headers)


def request_id_of(headers: RawHeaders) -> str | None:
    """Return the client's `X-Request-Id` if it can be passed on, else None."""
    given = [value for name, value in headers if name == b"x-request-id"]
    return given[0].decode("ascii") if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) else None


def declared_length(headers: RawHeaders) -> int | None:
    """Return the size of the request's body: 0 when it has none, None when it is chunked."""
    if any(name == b"transfer-encoding" for name, _ in headers):
        return None
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def headers_for_worker(headers: RawHeaders, caller: Caller) -> list[tuple[str, str]]:
    """Return the headers for the worker: the client's, without those of the connection, and those that describe the
    client.

    Raises InvalidRequest for a look-alike of a framing name, and for a value that is not UTF-8, which the client
    library could not repeat unchanged.
    """
    _check_framing_names(headers)
    passed_on = _end_to_end(headers, _NOT_PASSED_ON, _DROPPED_KINDS)
    kept = [(name.decode("ascii"), _text(name, value)) for name, value in passed_on]
    length = declared_length(headers)
    if length:
        kept.append(("content-length", str(length)))
    kept += [
        ("x-forwarded-for", caller.address),
        ("x-forwarded-proto", caller.scheme),
        ("x-forwarded-host", _text(b"host", caller.host)),
        ("x-request-id", caller.request_id),
    ]
    return kept


def _check_framing_names(headers: RawHeaders) -> None:
    for name, _ in headers:
        text = name.decode("latin-1")
        if name.lower() not in _FRAMING_NAMES and kind_of(text) is HeaderKind.FRAMING:
            raise InvalidRequest("headers", f"{text!r} must not be sent: a server may read it as {canonical(text)!r}")


def headers_for_client(status: int, headers: RawHeaders, request_id: str) -> list[tuple[bytes, bytes]] | None:
    """Return the headers for the client, of those in the worker's response; None when a header is not valid HTTP."""
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers):
        return None
    kept = _end_to_end(headers, _NOT_PASSED_BACK, _DROPPED_KINDS_BACK)
    length = _length_of_response(status, headers)
    if length is not None:
        kept.append((b"content-length", length))
    if not any(name.lower() == b"x-request-id" for name, _ in kept):
        kept.append((b"x-request-id", request_id.encode("ascii")))
    return kept


def _end_to_end(
    headers: RawHeaders, left_out: AbstractSet[str], kinds: AbstractSet[HeaderKind]
) -> list[tuple[bytes, bytes]]:
    """Return the headers without those in `left_out`, those of these `kinds` and those that `Connection` names."""
    named = {
        canonical(token.strip().decode("latin-1"))
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    out = left_out | named
    return [(name, value) for name, value in headers if not _is_out(name.decode("latin-1"), out, kinds)]


def _is_out(name: str, out: AbstractSet[str], kinds: AbstractSet[HeaderKind]) -> bool:
    return canonical(name) in out or kind_of(name) in kinds


def _length_of_response(status: int, headers: RawHeaders) -> bytes | None:
    """Return the response's `Content-Length` if it counts: not beside `Transfer-Encoding`, and not without a body."""
    names = [name.lower() for name, _ in headers]
    if status in _BODYLESS or b"transfer-encoding" in names:
        return None
    found = {value.strip() for name, value in headers if name.lower() == b"content-length"}
    only = found.pop() if len(found) == 1 else b""
    return only if _LENGTH.fullmatch(only) else None


def _text(name: bytes, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(name.decode("ascii"), "must be ASCII or UTF-8") from None
