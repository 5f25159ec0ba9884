"""Strict parsing of requests as JSON objects (RFC 8259), with some members kept as the bytes received.

Parsing and serializing JSON loses big integers, duplicate keys and spacing, and takes time: a megabyte of `[],[],…`
becomes 350,000 lists, and the garbage collector visits each of them. So this module splits only the top-level object.
msgspec's checker finds the end of each value and builds nothing. Members for other programs are passed on unchanged,
members that nothing reads are skipped, and the others are parsed if they have few values.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

MAX_DIGITS = 400
"""A longer integer is cut to this number of digits, which is cheap to parse and still above every limit."""
MAX_MEMBERS = 1000
"""Limit of the members of the object, the skipped ones included, because each takes a step in Python."""
MAX_VALUES = 4000
"""Limit of the values in all parsed members together. The largest valid request has about 2,500."""
MAX_USUAL_BYTES = 4096
"""Longest text that is split by the checker itself. A longer one takes more time for its values than for its names."""
MAX_COPIED_BYTES = 64 * 1024
"""Longest member that is kept as bytes of its own. A longer one is kept as a view, because a copy of a large body would
stay in memory until its request ends."""

_SLICE = 64 * 1024
"""Bytes that are decoded at once, so that a long text is not copied as a whole."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = rb"[ \t\n\r]*+"
_PLAIN = rb'"([^"\\\x00-\x1f]*)"'
_SCALAR = rb"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null"

_opening = re.compile(_SPACE + rb"\{" + _SPACE).match
_name_and_colon = re.compile(_PLAIN + _SPACE + rb":" + _SPACE).match
_colon = re.compile(_SPACE + rb":" + _SPACE).match
_next = re.compile(_SPACE + rb"(?:," + _SPACE + rb'(?=")|(?=\}))').match
_ending = re.compile(_SPACE + rb"\}" + _SPACE).match
_simple_value = re.compile(_PLAIN + _SCALAR).match
"""Most values. The checker finds the end of the others. It is slower for a short value, because it raises an error."""
_constant = re.compile(rb"(?<!\\)(?:NaN|Infinity)").match
_string_or_separator = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*+"|[\[{,]', re.DOTALL).finditer

_CHECKER = msgspec.json.Decoder(msgspec.Raw)
_SPLITTER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_followed = re.compile(r"JSON is malformed: trailing characters \(byte ([0-9]+)\)").fullmatch
"""The checker's message about a value that is followed by other text."""
_byte = re.compile(r"\(byte ([0-9]+)\)").search
_WITHOUT_SURROGATES = bytes.maketrans(b"dD", b"cC")


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
    raw: dict[str, bytes | memoryview] = field(default_factory=dict)
    """Members that were checked and kept as JSON text, without the surrounding space; views of more than
    MAX_COPIED_BYTES."""
    skipped: list[str] = field(default_factory=list, compare=False)
    """Names of the members that are not known."""


def split_object(
    body: bytes | bytearray, keep_raw: AbstractSet[str] = frozenset(), known: AbstractSet[str] | None = None
) -> JsonObject:
    """Split a JSON object into its members. Members named in `keep_raw` stay text, and members that are not in `known`
    are checked and skipped; None means that all are known.

    Raises InvalidJson for anything but one object in UTF-8 without a byte order mark, for a name that is repeated in
    the object or at any depth of a parsed member, for NaN and Infinity, for nesting that the interpreter cannot follow
    (about 1,000 levels on Python 3.11), and for more than MAX_MEMBERS members or MAX_VALUES values. Lone surrogates,
    written as escapes, are accepted.
    """
    collector = MemberCollector(keep_raw, known)
    usual = _usual_members(body)
    for name, value in _members(body) if usual is None else usual.items():
        collector.add(name, value)
    return collector.found


class MemberCollector:
    """Collects the members of an object in `found`: kept, parsed or skipped, as `split_object` says."""

    def __init__(self, keep_raw: AbstractSet[str], known: AbstractSet[str] | None) -> None:
        self.found = JsonObject()
        self._keep_raw = keep_raw
        self._known = known
        self._left = MAX_VALUES

    def parses(self, name: str) -> bool:
        """Return True if a member of this name is parsed."""
        return name not in self._keep_raw and (self._known is None or name in self._known)

    def add(self, name: str, value: memoryview | msgspec.Raw) -> None:
        """Add a member, whose text is valid JSON. Raises InvalidJson."""
        if name in self._keep_raw:
            self.found.raw[name] = bytes(value) if len(value) <= MAX_COPIED_BYTES else memoryview(value)
        elif self.parses(name):
            text = bytes(value)
            if text.startswith((b"[", b"{")):
                self._left -= _count_values(text, self._left)
            if self._left < 0:
                raise InvalidJson(f"must have at most {MAX_VALUES} values", name)
            self.found.values[name] = _parsed(text, name)
        else:
            self.found.skipped.append(name)


def parse_member(text: bytes | memoryview, name: str, max_values: int) -> Any:
    """Return the value of a member that `split_object` has kept as text.

    It is for a member that may have more than MAX_VALUES values. Raises InvalidJson for more than `max_values`, and for
    all else that is refused in a parsed member.
    """
    text = bytes(text)
    if _count_values(text, max_values) > max_values:
        raise InvalidJson(f"must have at most {max_values} values", name)
    return _parsed(text, name)


def is_json(text: bytes | bytearray | memoryview) -> bool:
    """Return whether `text` is one JSON value by RFC 8259: UTF-8 without a byte order mark, no NaN or Infinity, nested
    only as deep as the interpreter can follow. Builds no objects, so 8 MiB take only tens of milliseconds. A long text
    is not copied, unless the checker refuses it for a surrogate.
    """
    try:
        _check_utf8(text)
        _check_json(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return True


def _check_utf8(text: bytes | bytearray | memoryview) -> None:
    """Raise UnicodeDecodeError if `text` is not UTF-8, because the checker does not look inside strings."""
    if len(text) <= _SLICE:
        str(text, "utf-8")
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(text), _SLICE):
        decoder.decode(text[at : at + _SLICE], final=at + _SLICE >= len(text))


def _check_json(text: bytes | bytearray | memoryview) -> None:
    """Raise DecodeError if `text` is not JSON, apart from its encoding."""
    try:
        _CHECKER.decode(text)
    except msgspec.DecodeError:
        text = bytes(text)
        if b"\\u" not in text:
            raise
        _CHECKER.decode(text.translate(_WITHOUT_SURROGATES))


def same_value(first: bytes, second: bytes) -> bool:
    """Return whether two checked JSON texts are one value. Order of names, white space and escapes do not count.

    Numbers are compared as written, so that no digit is lost: `2.0` is not `2`. The result is False for a text in which
    an object repeats a name, because readers interpret it differently, and for a text nested too deeply to compare.
    """
    try:
        return bool(_VALUES.decode(first.decode()) == _VALUES.decode(second.decode()))
    except (_Refused, RecursionError):
        return False


def _usual_members(body: bytes | bytearray) -> dict[str, msgspec.Raw] | None:
    """Return the members of a usual request, which takes a sixth of the time of `_members`; None for any other text.

    The checker keeps only the last of the members with one name. A name of letters, digits and `_` is written in one
    way only in a text without `\\u`, so a name that is repeated appears twice between quotes.
    """
    if len(body) > MAX_USUAL_BYTES or b"\\u" in body or not body.isascii():
        return None
    try:
        found: dict[str, msgspec.Raw] = _SPLITTER.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None  # `_members` finds the error again, and says where it is
    for name in found:
        quoted = _quoted(name)
        if quoted is None or body.count(quoted) > 1:
            return None
    return found


@lru_cache(maxsize=64)
def _quoted(name: str) -> bytes | None:
    """Return a name of letters, digits and `_` in quotes; None for any other name."""
    return b'"%b"' % name.encode() if name.isidentifier() else None


def _members(body: bytes | bytearray) -> Iterator[tuple[str, memoryview]]:
    """Yield the name and the text of each member."""
    _check_encoding(body)
    whole, text = memoryview(body), memoryview(_for_checker(body))
    at = _first_name(body)
    names: set[str] = set()
    while body[at : at + 1] == b'"':
        name, start = _name_and_value(body, text, at)
        if name in names:
            raise InvalidJson("is given twice", name)
        if len(names) == MAX_MEMBERS:
            raise InvalidJson(f"must have at most {MAX_MEMBERS} members")
        names.add(name)
        end = _end_of_value(body, text, start, name)
        yield name, whole[start:end]
        after = _next(body, end)
        if after is None:
            raise _malformed(body, end)
        at = after.end()
    ending = _ending(body, at)
    if ending is None:
        raise _malformed(body, at)
    if ending.end() != len(body):
        raise InvalidJson(f"must end after the object (character {_character(body, ending.end())})")


def _check_encoding(body: bytes | bytearray) -> None:
    if body.startswith(BYTE_ORDER_MARK):
        raise InvalidJson("must not begin with a byte order mark")
    try:
        _check_utf8(body)
    except UnicodeDecodeError:
        raise InvalidJson("must be JSON in UTF-8") from None


def _for_checker(text: bytes | bytearray) -> bytes | bytearray:
    """Return a text of the same length that the checker accepts if and only if `text` is valid.

    The checker refuses escapes of lone surrogates, which RFC 8259 allows. Replacing `d` by `c` removes them without
    making another text valid or invalid.
    """
    return text.translate(_WITHOUT_SURROGATES) if b"\\u" in text else text


def _first_name(body: bytes | bytearray) -> int:
    """Return where the first name begins, or where the object ends if it is empty."""
    opening = _opening(body)
    if opening is None:
        raise InvalidJson("must be a JSON object")
    return opening.end()


def _name_and_value(body: bytes | bytearray, text: memoryview, at: int) -> tuple[str, int]:
    """Return the name whose opening quote is at `at`, and where its value begins."""
    plain = _name_and_colon(body, at)
    if plain is not None:
        return plain[1].decode(), plain.end()
    end = _end_of_value(body, text, at, None)
    colon = _colon(body, end)
    if colon is None:
        raise _malformed(body, end)
    return json.loads(body[at:end]), colon.end()


def _end_of_value(body: bytes | bytearray, text: memoryview, start: int, name: str | None) -> int:
    simple = _simple_value(body, start)
    if simple is not None:
        return simple.end()
    try:
        _CHECKER.decode(text[start:])
    except RecursionError:
        raise InvalidJson("is nested too deeply", name) from None
    except msgspec.DecodeError as error:
        followed = _followed(str(error))
        if followed is None:
            raise _problem(body, start, str(error), name) from None
        return end_before_space(body, start, start + int(followed[1]) - _COUNTED_FROM)
    raise _malformed(body, len(body))


def end_before_space(body: bytes | bytearray | memoryview, start: int, end: int) -> int:
    """Return the end of the text from `start` to `end` without the space at its end. Does not copy a long text."""
    while start < end:
        tail = bytes(body[max(start, end - _SLICE) : end])
        if kept := len(tail.rstrip(b" \t\n\r")):
            return end - len(tail) + kept
        end -= len(tail)
    return end


def _problem(body: bytes | bytearray, start: int, message: str, name: str | None) -> InvalidJson:
    """Return the error for a value in which the checker found a problem."""
    place = _byte(message)
    at = len(body) if place is None else start + int(place[1])
    constant = _constant(body, at)
    if constant is None:
        return _malformed(body, at)
    sign = "-" if body[at - 1 : at] == b"-" else ""
    return InvalidJson(f"must not hold {sign}{constant[0].decode()}: it is not JSON", name)


def _malformed(body: bytes | bytearray, at: int) -> InvalidJson:
    return InvalidJson(f"is not valid JSON (character {_character(body, at)})")


def _character(body: bytes | bytearray, at: int) -> int:
    """Return the number, from 1, of the character at an offset in bytes."""
    return len(body[:at].decode(errors="replace")) + 1


def _count_values(text: bytes, limit: int) -> int:
    """Return the number of arrays, objects and commas of a JSON text, or a number above `limit` if there are more."""
    count = text.count(b"[") + text.count(b"{") + text.count(b",")
    if count <= limit:
        return count
    count = 0
    for found in _string_or_separator(text):
        count += text[found.start()] != ord('"')
        if count > limit:
            break
    return count


def _parsed(text: bytes, name: str) -> Any:
    if text[0] == ord('"') and b"\\" not in text:
        return text[1:-1].decode()
    if len(text) <= MAX_DIGITS and text.isdigit():
        return int(text)
    try:
        return _PARSER.raw_decode(text.decode())[0]
    except RecursionError:
        raise InvalidJson("is nested too deeply", name) from None
    except _Refused as error:
        raise InvalidJson(str(error), name) from None


class _Refused(ValueError):
    """Text that Python's decoder accepts and this module refuses."""


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


def _counted_from() -> int:
    """Return the number that the checker gives the first byte in its message about text that follows a value."""
    try:
        _CHECKER.decode(b"0,")
    except msgspec.DecodeError as error:
        if followed := _followed(str(error)):
            return int(followed[1]) - 1
    raise ImportError("msgspec does not say where a JSON value ends: use another version")


_COUNTED_FROM = _counted_from()
_PARSER = json.JSONDecoder(parse_int=_bounded_integer, object_pairs_hook=_unique)
_VALUES = json.JSONDecoder(parse_int=_as_written, parse_float=_as_written, object_pairs_hook=_unique)
