"""Views of defined fields: the type of a field's member, and its numbers."""

from __future__ import annotations

from typing import Any

from queue_engine.domain.definitions import Defined


def plain(number: float | None) -> float | None:
    """Return a whole number without a fraction."""
    return int(number) if number is not None and number == int(number) else number


def shown_type(field: Defined[Any]) -> Any:
    """Return the type of a field that has no structure of its own."""
    return field.kind | None if field.nullable else field.kind
