"""Parse and print the times of the log routes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from queue_engine.domain.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LIKELY_SECONDS = (10**9, 10**11)
_EPOCH_MS = re.compile(r"[0-9]{1,15}")
# A `+` that the client did not escape arrives as a space.
_ISO_8601 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)(Z|[+ -][0-9]{2}:?[0-9]{2})?)?",
    re.IGNORECASE,
)


def iso_utc(epoch_ms: int) -> str:
    """Return a time such as `2026-01-31T12:00:00.007Z`."""
    return f"{_EPOCH + epoch_ms * _MILLISECOND:%Y-%m-%dT%H:%M:%S}.{epoch_ms % 1000:03d}Z"


def epoch_ms(field: str, text: str) -> int:
    """Return epoch milliseconds, given as such or as ISO 8601; UTC when there is no offset. Raises InvalidRequest.

    A number that is a time of 2001 to 5138 in seconds is refused, although it is also a time of 1970 to 1973 in
    milliseconds: the query would silently select nothing, or everything.
    """
    if _EPOCH_MS.fullmatch(text):
        return _checked_ms(field, int(text))
    found = _ISO_8601.fullmatch(text)
    if found is None:
        raise _not_a_time(field)
    day, clock, offset = found[1], found[2] or "00:00", (found[3] or "Z").upper().replace(" ", "+")
    try:
        return (datetime.fromisoformat(f"{day}T{clock}{offset}") - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        raise _not_a_time(field) from None


def _checked_ms(field: str, epoch_ms: int) -> int:
    if _LIKELY_SECONDS[0] <= epoch_ms < _LIKELY_SECONDS[1]:
        raise InvalidRequest(field, f"must be in milliseconds; {epoch_ms} looks like seconds: try {epoch_ms}000")
    return epoch_ms


def _not_a_time(field: str) -> InvalidRequest:
    return InvalidRequest(field, "must be epoch milliseconds or a time in ISO 8601, such as 2026-01-31T12:00:00Z")
