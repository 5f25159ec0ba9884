"""Check and split long JSON texts in pieces, so that a server can do other work after each piece.

The checker of `strict_json` needs a whole text, and holds the interpreter for a second for some hundred megabytes. So a
text is cut at a comma between two values, and each part is completed to a text of its own. The first part of
`{"a": [1, 2, "x,y"]}` up to its second comma, and the rest, become

    {"a": [1, 2,0]}      and      {"": [0, "   "]}

The contents of strings are checked first and replaced by spaces, so that all commas and brackets that are left belong
to the structure. The parts are valid if and only if the whole text is valid. The work is done by methods of `bytes` and
by the checker; Python takes a step for a piece and, at worst, for a bracket.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator, Iterator
from collections.abc import Set as AbstractSet

import msgspec

from queue_engine.rules.strict_json import (
    BYTE_ORDER_MARK,
    MAX_MEMBERS,
    InvalidJson,
    JsonObject,
    MemberCollector,
    end_before_space,
)

PIECE_BYTES = 32 * 1024
"""Size of a piece. The worst one, of empty strings, takes 5 ms."""
MAX_UNCUT_BYTES = 64 * 1024
"""Limit of a text between two commas, without the contents of strings, repeated spaces and most digits. A valid one has
a few bytes for each level of nesting, of which the checker follows about 1,000."""
MAX_NAME_BYTES = 64 * 1024
"""Limit of the name of a member of a long object, so that finding its end takes one short step."""
MAX_PARSED_BYTES = 1024 * 1024
"""Limit of a member of a long object that is parsed. No field that is parsed may be that long."""

_UNCUT_KEPT = 4 * 1024
"""Length from which on a text without a comma is shortened."""
_DIGITS_KEPT = 16
_CHECKER = msgspec.json.Decoder(msgspec.Raw)
_CONTROLS = bytes(range(0x20))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_CLOSING = bytes.maketrans(b"[{", b"]}")
_OPENING = frozenset(b"[{")
_COMMA = ord(",")
_REDUCTIONS = 4
"""Number of times that pairs of brackets are removed at once, before the others are removed one by one."""
_LONGEST_ESCAPE = len(rb"\u0000")

_short_escape = re.compile(rb'\\["\\/bfnrt]')
_unicode_escape = re.compile(rb"\\u[0-9a-fA-F]{4}")
_spaces = re.compile(rb"[ \t\n\r]+")
_digits = re.compile(rb"([0-9]{%d})[0-9]+" % _DIGITS_KEPT)
_structure = re.compile(rb"[\[\]{},]").finditer
_string = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL).match


def is_json_in_pieces(
    text: bytes | bytearray | memoryview, *, piece_bytes: int = PIECE_BYTES
) -> Generator[None, None, bool]:
    """Return what `is_json` returns, after a step for each piece."""
    check = JsonPieces()
    try:
        for piece in _pieces(text, piece_bytes):
            check.feed(piece)
            yield
        check.end()
    except InvalidJson:
        return False
    return True


def split_in_pieces(
    body: bytes | bytearray,
    keep_raw: AbstractSet[str],
    known: AbstractSet[str] | None,
    *,
    piece_bytes: int = PIECE_BYTES,
) -> Generator[None, None, JsonObject]:
    """Return what `split_object` returns, after steps for each piece. Raises InvalidJson.

    The message about a text that is not JSON names a character before the problem, not the problem itself. Names have
    at most MAX_NAME_BYTES, and parsed members at most MAX_PARSED_BYTES.
    """
    if body.startswith(BYTE_ORDER_MARK):
        raise InvalidJson("must not begin with a byte order mark")
    check = JsonPieces()
    for piece in _pieces(body, piece_bytes):
        check.feed(piece)
        yield
    check.end()
    start = _after_space(body, 0)
    if body[start : start + 1] != b"{":
        raise InvalidJson("must be a JSON object")
    ends: list[int] = []
    too_many = InvalidJson(f"must have at most {MAX_MEMBERS} members")
    yield from _find_ends(_pieces(body, piece_bytes), ends, too_many, MAX_MEMBERS)
    return _collected(body, start + 1, ends, MemberCollector(keep_raw, known))


def split_items(
    text: bytes | memoryview, max_items: int, *, piece_bytes: int = PIECE_BYTES
) -> Generator[None, None, list[memoryview]]:
    """Return the items of an array, which is valid JSON without space around it, after steps for each piece.

    Raises InvalidJson for another value, and for more than `max_items`.
    """
    whole = memoryview(text)
    if bytes(whole[:1]) != b"[":
        raise InvalidJson("must be an array")
    ends: list[int] = []
    yield from _find_ends(
        _pieces(text, piece_bytes), ends, InvalidJson(f"must have at most {max_items} items"), max_items
    )
    starts = [1, *(end + 1 for end in ends)]
    items = [_without_space(whole[start:end]) for start, end in zip(starts, ends, strict=False)]
    return items if len(items) > 1 or items[0] else []


def _without_space(text: memoryview) -> memoryview:
    """Return the text without the space at its ends. Does not copy a long text."""
    start = _after_space(text, 0)
    return text[start : end_before_space(text, start, len(text))]


def _collected(body: bytes | bytearray, start: int, ends: list[int], collector: MemberCollector) -> JsonObject:
    """Return the members of a valid object that have these ends, the first of which begins at `start`."""
    whole = memoryview(body)
    names: set[str] = set()
    for end in ends:
        start = _after_space(body, start)
        if start < end:  # not in an empty object
            name, value_start = _name_and_value(body, start)
            if name in names:
                raise InvalidJson("is given twice", name)
            names.add(name)
            value = whole[value_start : end_before_space(body, value_start, end)]
            if collector.parses(name) and len(value) > MAX_PARSED_BYTES:
                raise InvalidJson(f"must have at most {MAX_PARSED_BYTES} bytes", name)
            collector.add(name, value)
        start = end + 1
    return collector.found


class JsonPieces:
    """Checks one JSON text, of which it is fed one piece after the other. Each method raises InvalidJson."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._blanks = _Blanks()
        self._open = bytearray()
        """The brackets that are open at the latest comma."""
        self._rest = b""
        """The text after it, with blank strings."""
        self._characters = 0
        """Number of characters that were fed."""
        self._valid_characters = 0
        """Number of characters that belong to a valid beginning."""

    def feed(self, piece: bytes) -> None:
        """Check a piece, up to the latest comma between two values."""
        try:
            before, self._characters = self._characters, self._characters + len(self._decoder.decode(piece))
            text = self._rest + self._blanks.feed(piece)
            cut = text.rfind(b",") + 1
            if cut:
                self._check(text[:cut])
                self._valid_characters = before
            self._rest = self._shortened(text[cut:])
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise self._problem(error) from None

    def end(self) -> None:
        """Check the rest of the text, which is complete now."""
        try:
            self._decoder.decode(b"", final=True)
            self._blanks.end()
            _CHECKER.decode(self._opened() + self._rest)
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise self._problem(error) from None

    def _check(self, text: bytes) -> None:
        """Check a text that ends with a comma, and note the brackets that are open after it."""
        before = self._opened()
        _follow(self._open, text)
        if not self._open:
            raise ValueError("a comma outside of an array or object")
        filler = b"0" if self._open.endswith(b"[") else b'"":0'
        _CHECKER.decode(before + text + filler + bytes(reversed(self._open)).translate(_CLOSING))

    def _opened(self) -> bytes:
        """Return the beginning of a text in which the open brackets are open, and a comma follows a value."""
        if not self._open:
            return b""
        outer = bytes(self._open[:-1]).replace(b"{", b'{"":')
        return outer + (b"[0," if self._open.endswith(b"[") else b'{"":0,')

    def _shortened(self, text: bytes) -> bytes:
        """Return a text that is as valid as this one, and has at most MAX_UNCUT_BYTES."""
        if len(text) <= _UNCUT_KEPT:
            return text
        text = _digits.sub(rb"\1", _spaces.sub(b" ", text))
        if len(text) > MAX_UNCUT_BYTES:
            raise ValueError("too long without a comma")
        return text

    def _problem(self, error: Exception) -> InvalidJson:
        if isinstance(error, UnicodeDecodeError):
            return InvalidJson("must be JSON in UTF-8")
        if isinstance(error, RecursionError):
            return InvalidJson("is nested too deeply")
        return InvalidJson(f"is not valid JSON (after character {self._valid_characters})")


class _Blanks:
    """Replaces the contents of the strings of a text by spaces, one piece after the other. Raises ValueError."""

    def __init__(self) -> None:
        self._is_in_string = False
        self._escape = b""
        """The beginning of an escape that the latest piece has cut."""

    def feed(self, piece: bytes) -> bytes:
        """Return the pieces up to here with blank strings, from where the latest result ended. No length changes.

        An escape outside of a string becomes a character that is not valid there.
        """
        text = self._escape + piece
        self._escape = b""
        if b"\\" in text:
            text = self._without_escapes(text)
        parts = text.split(b'"')
        first = 0 if self._is_in_string else 1
        contents = parts[first::2]
        joined = b"".join(contents)
        if len(joined.translate(None, _CONTROLS)) != len(joined):
            raise ValueError("a control character in a string")
        parts[first::2] = [b" " * len(one) for one in contents]
        self._is_in_string ^= len(parts) % 2 == 0
        return b'"'.join(parts)

    def end(self) -> None:
        """Check that no string is open at the end of the text."""
        if self._escape or self._is_in_string:
            raise ValueError("a string without an end")

    def _without_escapes(self, text: bytes) -> bytes:
        text = _unicode_escape.sub(b"~~~~~~", _short_escape.sub(b"~~", text))
        at = text.find(b"\\")
        if at < 0:
            return text
        if at <= len(text) - _LONGEST_ESCAPE:
            raise ValueError("an escape that is not valid")
        self._escape = text[at:]
        return text[:at]


def _pieces(text: bytes | bytearray | memoryview, piece_bytes: int) -> Iterator[bytes]:
    view = memoryview(text)
    for at in range(0, len(view), piece_bytes):
        yield bytes(view[at : at + piece_bytes])


def _follow(is_open: bytearray, text: bytes) -> int:
    """Note in `is_open` the brackets that are open after a text with blank strings.

    Return the smallest number of open brackets within it.
    """
    brackets = text.translate(None, _NOT_BRACKETS)
    smallest = len(is_open)
    for _ in range(_REDUCTIONS):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    for one in brackets:
        if one in _OPENING:
            is_open.append(one)
            continue
        if not is_open:
            raise ValueError("a bracket that closes none")
        is_open.pop()
        smallest = min(smallest, len(is_open))
    return smallest


def _find_ends(pieces: Iterator[bytes], ends: list[int], too_many: InvalidJson, limit: int) -> Iterator[None]:
    """Add the ends of all members of a valid object, or of all items of a valid array, to `ends`: the places of the
    commas, and of its last bracket. Raises `too_many` above the limit.
    """
    blanks = _Blanks()
    is_open = bytearray()
    at = 0
    for piece in pieces:
        text = blanks.feed(piece)
        depth = len(is_open)
        if _follow(is_open, text) <= 1:
            _add_ends(text, at, depth, ends)
            if len(ends) > limit:
                raise too_many
        at += len(text)
        yield


def _add_ends(text: bytes, at: int, depth: int, ends: list[int]) -> None:
    """Add the ends of members in a part of an object that begins at `at`, where `depth` brackets are open."""
    for found in _structure(text):
        place = found.start()
        one = text[place]
        if one == _COMMA:
            is_end = depth == 1
        else:
            depth += 1 if one in _OPENING else -1
            is_end = depth == 0
        if is_end:
            ends.append(at + place)


def _name_and_value(body: bytes | bytearray, at: int) -> tuple[str, int]:
    """Return the name that begins at `at` in a valid object, and where its value begins."""
    quoted = _string(body, at, at + MAX_NAME_BYTES)
    if quoted is None:
        raise InvalidJson(f"must have names of at most {MAX_NAME_BYTES} bytes")
    name: str = json.loads(quoted[0])
    return name, _after_space(body, _after_space(body, quoted.end()) + 1)


def _after_space(body: bytes | bytearray | memoryview, at: int) -> int:
    """Return the place of the first byte from `at` on that is no white space, or the end of the text."""
    while at < len(body):
        piece = bytes(body[at : at + PIECE_BYTES])
        if left := len(piece.lstrip(b" \t\n\r")):
            return at + len(piece) - left
        at += len(piece)
    return at
