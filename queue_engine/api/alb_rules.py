"""What of a request goes on to a worker, and what of the worker's answer goes back. Pure.

Hop-by-hop fields by RFC 9110, section 7.6.1. Names are compared with `_` taken for `-`: many frameworks cannot tell the
two apart, and would take `X_Forwarded_For` for what we say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from queue_engine.domain.errors import InvalidRequest

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names and values as they came; names of requests in lower case."""

_TARGET = re.compile(rb"/e/([^/]+)(/.*)", re.DOTALL)
_SEPARATORS = re.compile(rb"[/\\]")

_HOP_BY_HOP = frozenset(
    {b"connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"upgrade-ignored", b"keep-alive"}
)
_NOT_PASSED_ON = _HOP_BY_HOP | {
    # the API's own keys: no business of the container
    b"authorization", b"x-api-key",
    # said anew for the next hop
    b"host", b"content-length", b"expect", b"x-request-id", b"forwarded", b"x-real-ip",
}  # fmt: skip
_NOT_PASSED_BACK = _HOP_BY_HOP | {
    b"content-length",  # said anew, when it is known to be right
    b"date",  # our server says it
}
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_BODYLESS = frozenset({204, 304})


@dataclass(frozen=True)
class Caller:
    """What a worker is told about who asked."""

    address: str
    scheme: str
    host: bytes
    """The `Host` that the client asked for."""
    request_id: str


def split_target(raw_path: bytes) -> tuple[str, bytes] | None:
    """The endpoint id, as it came, and the path on the worker, byte for byte; None when it is no `/e/{id}/…`."""
    match = _TARGET.fullmatch(raw_path)
    return None if match is None else (match[1].decode("latin-1"), match[2])


def check_path(path: bytes) -> None:
    """Raises InvalidRequest for a path that might be resolved to another one on the way: it has a dot segment, spelled
    in whichever way."""
    for segment in _SEPARATORS.split(unquote_to_bytes(path)):
        if segment.partition(b";")[0] in (b".", b".."):
            raise InvalidRequest("path", "must not have a segment . or ..")
    if not path.isascii():
        raise InvalidRequest("path", "must be ASCII; other characters are percent-encoded")


def asks_for_websocket(headers: RawHeaders) -> bool:
    """Whether the client wants to go on with the WebSocket protocol."""
    return any(name == b"upgrade" and b"websocket" in value.lower() for name, value in headers)


def request_id_of(headers: RawHeaders) -> str | None:
    """The client's `X-Request-Id`, when it gave one that can be passed on."""
    given = [value for name, value in headers if name == b"x-request-id"]
    return given[0].decode("ascii") if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) else None


def declared_length(headers: RawHeaders) -> int | None:
    """Bytes of the request's body: 0 when it has none, None when it is chunked."""
    if any(name == b"transfer-encoding" for name, _ in headers):
        return None
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def headers_for_worker(headers: RawHeaders, caller: Caller) -> list[tuple[str, str]]:
    """What the worker gets: the client's headers without those of the hop, and who asked.

    Raises InvalidRequest for a value that is not UTF-8, which the client library could not repeat as it is.
    """
    kept = [(name.decode("ascii"), _text(name, value)) for name, value in _end_to_end(headers, _NOT_PASSED_ON)]
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


def headers_for_client(status: int, headers: RawHeaders, request_id: str) -> list[tuple[bytes, bytes]] | None:
    """What the client gets of an answer's headers; None when one of them is not HTTP."""
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers):
        return None
    kept = _end_to_end(headers, _NOT_PASSED_BACK)
    length = _length_of_answer(status, headers)
    if length is not None:
        kept.append((b"content-length", length))
    if not any(name.lower() == b"x-request-id" for name, _ in kept):
        kept.append((b"x-request-id", request_id.encode("ascii")))
    return kept


def _end_to_end(headers: RawHeaders, left_out: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers without those in `left_out`, those that `Connection` names and those of proxies."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    out = {*left_out, *named}
    return [(name, value) for name, value in headers if not _is_out(name.lower().replace(b"_", b"-"), out)]


def _is_out(name: bytes, out: set[bytes]) -> bool:
    return name in out or name.startswith((b"proxy-", b"x-forwarded-"))


def _length_of_answer(status: int, headers: RawHeaders) -> bytes | None:
    """Its `Content-Length` when it counts: not beside `Transfer-Encoding`, and not where no body follows."""
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
