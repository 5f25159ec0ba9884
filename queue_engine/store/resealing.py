"""Results of resealing stored secrets with the current key."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Resealed(StrEnum):
    """Result of resealing a record."""

    CURRENT = "current"
    """Already sealed with the current key, without a secret, or no longer stored."""
    RESEALED = "resealed"
    UNREADABLE = "unreadable"
    """Sealed with a key that is not configured, or damaged. It is not changed."""


def worst(results: Iterable[Resealed]) -> Resealed:
    """Return the result for a record with several secrets: unreadable if one is, else resealed if one was."""
    found = set(results)
    for result in (Resealed.UNREADABLE, Resealed.RESEALED):
        if result in found:
            return result
    return Resealed.CURRENT
