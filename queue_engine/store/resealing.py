"""What comes of sealing a stored secret anew."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Resealed(StrEnum):
    """One record after it was looked at."""

    CURRENT = "current"
    """Sealed with the current key, without a secret, or gone."""
    RESEALED = "resealed"
    UNREADABLE = "unreadable"
    """Sealed with a key that is not configured, or broken: it stays as it is."""


def worst(results: Iterable[Resealed]) -> Resealed:
    """What to say of a record with several secrets: unreadable when one is, resealed when one was."""
    found = set(results)
    for result in (Resealed.UNREADABLE, Resealed.RESEALED):
        if result in found:
            return result
    return Resealed.CURRENT
