"""Format times for users, and parse the times that they enter."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(s|m|h|d|w)", re.ASCII)
_EPOCH_MS = re.compile(r"\d{1,15}", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def local_time(epoch_ms: int, zone: tzinfo | None) -> str:
    """Return the time in ISO 8601 with its offset; `zone` None means this machine's time zone."""
    try:
        moment = datetime.fromtimestamp(epoch_ms / 1000, UTC).astimezone(zone)
    except (ValueError, OverflowError, OSError):  # the year is out of range
        return str(epoch_ms)
    return moment.isoformat(timespec="milliseconds")


def age(epoch_ms: int, now_ms: int) -> str:
    """Return the age of a time in the largest fitting unit: `5s`, `12m`, `3h`, `40d`; `0s` for future times."""
    return length(max(0, now_ms - epoch_ms) // 1000 * 1000)


def length(milliseconds: int) -> str:
    """Return a duration with about two digits: `0.42s`, `8s`, `12m`, `3h`, `40d`."""
    seconds = milliseconds / 1000
    if 0 < seconds < 1:
        return f"{seconds:.2g}s"
    for unit, size, limit in (("s", 1, 120), ("m", 60, 120), ("h", 3600, 48)):
        if seconds < size * limit:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86_400)}d"


def duration_ms(text: str) -> int | None:
    """Return a duration such as `10m` or `3d` in milliseconds; None if the text is something else."""
    duration = _DURATION.fullmatch(text)
    return None if duration is None else int(float(duration[1]) * _SECONDS[duration[2]] * 1000)


def moment_ms(text: str, now_ms: int, *, later: bool = False) -> int:
    """Return the epoch milliseconds of a time entered by a user. Raises ValueError.

    `text` is a duration such as `10m` (before now, or after it with `later`), ISO 8601 (UTC unless it has an offset, as
    in the API), or epoch milliseconds.
    """
    duration = duration_ms(text)
    if duration is not None:
        return max(0, now_ms + duration if later else now_ms - duration)
    if _EPOCH_MS.fullmatch(text) is not None:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise ValueError("must be like 10m, 2h or 3d, an ISO 8601 time, or epoch milliseconds") from None
