"""Read a receiver's response: its error type, its Retry-After, and the excerpt that is stored for users.

Responses are untrusted input, so every length, character and number in them is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from queue_engine.net import error_types
from queue_engine.rules.excerpts import printable

EXCERPT_BYTES = 2048
LOCATION_BYTES = 200
MIN_MASKED_CHARACTERS = 4
"""Length of the shortest secret that is masked. A shorter one is a part of most words, and hides nothing."""

REDIRECT = "redirect"
GONE = "gone"
RATE_LIMITED = "rate_limited"
HTTP_4XX = "http_4xx"
HTTP_5XX = "http_5xx"

ERROR_TYPES = error_types.ERROR_TYPES | {REDIRECT, GONE, RATE_LIMITED, HTTP_4XX, HTTP_5XX}
"""All error types of a delivery attempt."""

ERROR_TEXTS = {
    error_types.DNS_ERROR: "the host name could not be resolved",
    error_types.CONNECT_REFUSED: "the connection was refused or there is no route to the host",
    error_types.CONNECT_TIMEOUT: "no connection, or no TLS handshake, within the time limit",
    error_types.TLS_ERROR: "the TLS handshake failed",
    error_types.READ_TIMEOUT: "no response within the time limit",
    error_types.RESET: "the connection broke before the whole response arrived",
    error_types.BAD_RESPONSE: "the response cannot be understood",
    error_types.BLOCKED_ADDRESS: "the destination is not allowed",
    error_types.INVALID_REQUEST: "the URL or a header cannot be sent",
    error_types.INTERNAL: "an error in the delivery process; see its log",
}
"""Texts that are stored in place of a response. The exception's own text is not used, because it may have an address of
the private network."""

_DELTA_SECONDS = re.compile(r"[0-9]{1,12}")
_HTTP_DATE = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{0,6},? [0-9A-Za-z :-]{12,30}")


def error_type_of_status(status: int) -> str | None:
    """Return the error type of a status; None for 2xx.

    The only possible status below 200 is 101, and it is an error because no request asks for it.
    """
    if 200 <= status < 300:
        return None
    if status < 200:
        return error_types.BAD_RESPONSE
    if status < 400:
        return REDIRECT
    if status >= 500:
        return HTTP_5XX
    return {410: GONE, 429: RATE_LIMITED}.get(status, HTTP_4XX)


def retry_after_seconds(value: str | None, now_epoch_seconds: float) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110, section 10.2.3), not clamped; None if missing or invalid."""
    if value is None:
        return None
    if _DELTA_SECONDS.fullmatch(value) is not None:
        return float(value)
    moment = _http_date(value)
    return None if moment is None else max(0.0, moment.timestamp() - now_epoch_seconds)


def _http_date(value: str) -> datetime | None:
    if _HTTP_DATE.fullmatch(value) is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def redirect_of(location: str, secrets: Iterable[str] = ()) -> str:
    """Return a text about the target of a redirect. No request is sent to it."""
    shown = printable(excerpt_of(location.encode("utf-8", "surrogateescape"), secrets), LOCATION_BYTES)
    return f"a redirect to {shown}, which is not followed"


def excerpt_of(body: bytes, secrets: Iterable[str] = ()) -> str:
    """Return at most 2 KiB of `body` as one line of plain text. Invalid bytes are replaced, unprintable ones escaped.

    `secrets` of MIN_MASKED_CHARACTERS or more that the receiver sent back are masked, both literally and in their JSON
    form. Markup is not escaped; a page that shows the text must escape it.
    """
    text = body.decode("utf-8", "replace")
    for secret in secrets:
        if len(secret) < MIN_MASKED_CHARACTERS:
            continue
        for written in {secret, json.dumps(secret)[1:-1]}:
            text = text.replace(written, "***")
    return printable(text, EXCERPT_BYTES)
