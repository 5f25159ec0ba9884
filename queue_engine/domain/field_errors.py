"""Errors in the fields of a request. A single message names all of them."""

from __future__ import annotations

from collections.abc import Sequence

from queue_engine.domain.errors import InvalidRequest

MAX_ERRORS_CHARACTERS = 2000
"""Maximum length of the message that names the field errors of one request."""

FieldError = tuple[str, str]
"""A field of a request, and the rule that its value breaks."""


def raise_for(errors: Sequence[FieldError]) -> None:
    """Raise one InvalidRequest for all of `errors`, if there are any. Its message is bounded."""
    if errors:
        (field, rule), *others = errors
        parts = [rule, *(f"{name}: {text}" for name, text in others)]
        raise InvalidRequest(field, listing(parts, "; ", MAX_ERRORS_CHARACTERS - len(f"{field}: ")))


def listing(parts: Sequence[str], separator: str, max_characters: int) -> str:
    """Join `parts`. Parts after the first that would make the text too long are only counted."""
    text = parts[0]
    room = max_characters - len(f"{separator}and {len(parts)} more")
    for index, part in enumerate(parts[1:], start=1):
        if len(text) + len(separator) + len(part) > room:
            return f"{text}{separator}and {len(parts) - index} more"
        text += separator + part
    return text


def place_of(location: Sequence[int | str]) -> str:
    """Return the place of a value in a document as text, such as `gpu[2].price_per_hour`."""
    parts = (part for part in location if part != "[key]")  # pydantic's mark of a rule for a name itself
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
