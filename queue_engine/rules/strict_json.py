"""Strict parsing of requests as JSON objects (RFC 8259), with some members kept as the bytes received.

Parsing and serializing JSON loses big integers, duplicate keys and spacing, and takes time. So this module splits only
the top-level object: the standard library's C scanner finds the end of each value, and members for other programs are
passed on unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import Any

MAX_DIGITS = 400
"""A longer integer is cut to this number of digits, which is cheap to parse and still above every limit."""

_space = re.compile(r"[ \t\n\r]*").match


class InvalidJson(ValueError):
    """The text is not an acceptable JSON object. `rule` is about `member`, or about the whole text if that is None."""

    def __init__(self, rule: str, member: str | None = None) -> None:
        super().__init__(rule)
        self.rule = rule
        self.member = member


@dataclass(frozen=True)
class JsonObject:
    """The members of a JSON object by name."""

    values: dict[str, Any] = field(default_factory=dict)
    """Parsed members."""
    raw: dict[str, bytes] = field(default_factory=dict)
    """Members that were checked and kept as JSON text, without the surrounding space."""


def split_object(body: bytes, keep_raw: AbstractSet[str] = frozenset()) -> JsonObject:
    """Split a JSON object into its members. Members named in `keep_raw` stay text.

    Raises InvalidJson for anything but one object in UTF-8 without a byte order mark, for a name that is repeated in
    the object or at any depth of a parsed member, for NaN and Infinity, and for nesting that the interpreter cannot
    follow (about 1,000 levels on Python 3.11). Lone surrogates, written as escapes, are accepted.
    """
    text = _text_of(body)
    found = JsonObject()
    at = _first_name(text)
    while text[at] == '"':
        name, start = _name_and_value(text, at)
        if name in found.values or name in found.raw:
            raise InvalidJson("is given twice", name)
        value, end = _scan(text, start, name, _CHECKER if name in keep_raw else _PARSER)
        if name in keep_raw:
            found.raw[name] = text[start:end].encode()
        else:
            found.values[name] = value
        at = _next_name(text, end)
    if _after_space(text, at + 1) != len(text):
        raise InvalidJson(f"must end after the object (character {at + 2})")
    return found


def same_value(first: bytes, second: bytes) -> bool:
    """Return whether two checked JSON texts are one value. Order of names, white space and escapes do not count.

    Numbers are compared as written, so that no digit is lost: `2.0` is not `2`. The result is False for a text in which
    an object repeats a name, because readers interpret it differently, and for a text nested too deeply to compare.
    """
    try:
        return bool(_VALUES.decode(first.decode()) == _VALUES.decode(second.decode()))
    except (_Refused, RecursionError):
        return False


def _text_of(body: bytes) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJson("must be JSON in UTF-8") from None
    if text.startswith("\ufeff"):
        raise InvalidJson("must not begin with a byte order mark")
    return text


def _first_name(text: str) -> int:
    """Return where the first name begins, or where the object ends if it is empty."""
    start = _after_space(text, 0)
    if text[start : start + 1] != "{":
        raise InvalidJson("must be a JSON object")
    return _expect(text, _after_space(text, start + 1), '"}')


def _name_and_value(text: str, at: int) -> tuple[str, int]:
    """Return the name whose opening quote is at `at`, and where its value begins."""
    name, end = _scan(text, at, None, _PARSER)
    colon = _expect(text, _after_space(text, end), ":")
    return name, _after_space(text, colon + 1)


def _next_name(text: str, end: int) -> int:
    """Return where the next name begins after a value that ended at `end`, or where the object ends."""
    at = _expect(text, _after_space(text, end), ",}")
    return at if text[at] == "}" else _expect(text, _after_space(text, at + 1), '"')


def _scan(text: str, start: int, name: str | None, decoder: json.JSONDecoder) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, start)
    except JSONDecodeError as error:
        raise _malformed(error.pos) from None
    except RecursionError:
        raise InvalidJson("is nested too deeply", name) from None
    except _Refused as error:
        raise InvalidJson(str(error), name) from None


def _after_space(text: str, at: int) -> int:
    if text[at : at + 1] > " ":  # usually there is no white space
        return at
    match = _space(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, characters: str) -> int:
    if at >= len(text) or text[at] not in characters:
        raise _malformed(at)
    return at


def _malformed(at: int) -> InvalidJson:
    return InvalidJson(f"is not valid JSON (character {at + 1})")


class _Refused(ValueError):
    """Text that Python's decoder accepts and this module refuses."""


def _refuse_constant(name: str) -> Any:
    raise _Refused(f"must not hold {name}: it is not JSON")


def _bounded_integer(digits: str) -> int:
    return int(digits[:MAX_DIGITS])


def _as_written(number: str) -> tuple[str]:
    """Return a number as its text, which equals no string of that text."""
    return (number,)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("must not give a name twice")
    return members


# The checker keeps numbers as text, so that no digit is interpreted and the scanner builds little.
_CHECKER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
_PARSER = json.JSONDecoder(parse_int=_bounded_integer, parse_constant=_refuse_constant, object_pairs_hook=_unique)
_VALUES = json.JSONDecoder(
    parse_int=_as_written, parse_float=_as_written, parse_constant=_refuse_constant, object_pairs_hook=_unique
)
