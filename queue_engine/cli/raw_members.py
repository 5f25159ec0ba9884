"""Split the text of a JSON object into its members, some of which stay text, so that no number loses digits."""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

_space = re.compile(r"[ \t\n\r]*").match
_scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
"""Finds the end of a value, without the work of converting its numbers."""


@dataclass(frozen=True)
class Members:
    """The members of an object: those that stayed text, and the values of the others."""

    values: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)


def split_members(text: bytes, keep_raw: AbstractSet[str]) -> Members:
    """Return the members of a JSON object. Raises ValueError if the text is anything else."""
    try:
        return _split(text.decode(), keep_raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def split_items(text: str) -> list[str]:
    """Return the texts of the items of a JSON array. Raises ValueError if the text is anything else."""
    items: list[str] = []
    at = _after(text, 0, "[")
    while not text.startswith("]", at):
        if items:
            at = _after(text, at, ",")
        _, end = _scan(text, at)
        items.append(text[at:end])
        at = _end_of_space(text, end)
    return items


def _split(text: str, keep_raw: AbstractSet[str]) -> Members:
    members = Members()
    at = _after(text, 0, "{")
    if text.startswith("}", at):
        return members
    while True:
        name, at = _scan(text, at)
        if not isinstance(name, str):
            raise ValueError(f"the name of a member is missing before character {at}")
        start = _after(text, _end_of_space(text, at), ":")
        _, at = _scan(text, start)
        if name in keep_raw:
            members.raw[name] = text[start:at]
        else:
            members.values[name] = json.loads(text[start:at])
        at = _end_of_space(text, at)
        if text.startswith("}", at):
            if _end_of_space(text, at + 1) != len(text):
                raise ValueError(f"there is more text after character {at}")
            return members
        at = _after(text, at, ",")


def _after(text: str, at: int, mark: str) -> int:
    """Return the place of what follows a mark. Raises ValueError if the mark is not there."""
    at = _end_of_space(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"there is no {mark} at character {at}")
    return _end_of_space(text, at + 1)


def _end_of_space(text: str, at: int) -> int:
    found = _space(text, at)
    return at if found is None else found.end()
