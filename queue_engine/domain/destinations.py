"""Destinations of webhooks, and what delivery processes have noted of those with which something is wrong.

A destination is the scheme, the host and the port of a webhook, such as `https://hooks.example.net:443`. In a path it
is written without the slashes, as `https:hooks.example.net:443`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from queue_engine.rules.webhook_urls import parse_webhook

MAX_ORIGIN_CHARACTERS = 300
ORIGIN_RULE = "must be http or https, a host and a port, such as https:hooks.example.net:443"
_ORIGIN = re.compile(r"(https?):([^/?]+:[0-9]+)")


class Standing(StrEnum):
    """How delivery processes treat a destination."""

    GOOD = "GOOD"
    """No delivery process has noted anything wrong."""
    DEGRADED = "DEGRADED"
    """Gets few attempts at a time, because attempts have failed or are slow."""
    PARKED = "PARKED"
    """Paused: one attempt at a time is made as a probe, when the pause is over."""


@dataclass(frozen=True)
class DestinationNote:
    """A destination with which something is wrong. Times are epoch milliseconds of the store's clock."""

    destination: str
    standing: Standing
    since_ms: int | None = None
    waiting: int = 0
    """Number of deliveries that processes hold, or have deferred since the pause began. Deliveries that wait for
    their own next attempt are not counted."""
    in_flight: int = 0
    errors: int = 0
    """Number of consecutive attempts without a response, or with a 410."""
    next_attempt_at_ms: int | None = None
    """None while the destination is not parked, or a probe is in flight."""
    error_type: str | None = None
    """The error type of the latest attempt that has failed."""
    failed_at_ms: int | None = None


def merged(notes: Iterable[DestinationNote]) -> list[DestinationNote]:
    """Return one note for each destination from those of several processes, the worst first."""
    found: dict[str, DestinationNote] = {}
    for note in notes:
        before = found.get(note.destination)
        found[note.destination] = note if before is None else _joined(before, note)
    return sorted(found.values(), key=lambda one: (one.standing is not Standing.PARKED, -one.waiting, one.destination))


def _joined(one: DestinationNote, other: DestinationNote) -> DestinationNote:
    latest = max(one, other, key=lambda note: note.failed_at_ms or 0)
    return replace(
        latest,
        standing=Standing.PARKED if Standing.PARKED in (one.standing, other.standing) else Standing.DEGRADED,
        since_ms=min((at for at in (one.since_ms, other.since_ms) if at is not None), default=None),
        waiting=one.waiting + other.waiting,
        in_flight=one.in_flight + other.in_flight,
        errors=max(one.errors, other.errors),
        next_attempt_at_ms=min(
            (at for at in (one.next_attempt_at_ms, other.next_attempt_at_ms) if at is not None), default=None
        ),
    )


def origin_of(destination: str) -> str:
    """Return a destination as it is written in a path."""
    return destination.replace("://", ":", 1)


def destination_in(origin: str) -> str:
    """Return the destination that a path names, in the spelling of webhooks.

    Raises ValueError with the broken rule for a text that is not the origin of any webhook.
    """
    found = _ORIGIN.fullmatch(origin) if len(origin) <= MAX_ORIGIN_CHARACTERS else None
    if found is None:
        raise ValueError(ORIGIN_RULE)
    return parse_webhook(f"{found[1]}://{found[2]}").destination
