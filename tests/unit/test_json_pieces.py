"""Long JSON texts are checked and split in pieces, with the same results as at once."""

import json
import re
from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.rules.json_pieces import (
    MAX_NAME_BYTES,
    MAX_PARSED_BYTES,
    MAX_UNCUT_BYTES,
    PIECE_BYTES,
    is_json_in_pieces,
    split_in_pieces,
    split_items,
)
from queue_engine.rules.strict_json import MAX_MEMBERS, InvalidJson, is_json, split_object
from tests.examples import examples

Result = TypeVar("Result")
INPUT = frozenset({"input"})

_WORDS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"d8", b"00e9", b"0", b"12", b"-", b".", b"e", b"true",
    b"null", b"NaN", b" ", b"\n", b"a", b'"a"', b'"a":', b"\\n", b'\\"', b"\\\\", b"\\ud800", b"\x01", b"\xc3\xa9",
    b"\xff", b"\xef\xbb\xbf", b"[]", b"{}", b'"input":',
]  # fmt: skip
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)
_SIZES = st.sampled_from([1, 2, 3, 7, 64])


def result_of(steps: Generator[None, None, Result]) -> Result:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def in_pieces(text: bytes, size: int = PIECE_BYTES) -> bool:
    return result_of(is_json_in_pieces(text, piece_bytes=size))


@given(st.lists(st.sampled_from(_WORDS), max_size=14).map(b"".join), _SIZES)
@examples(300)
def test_the_check_in_pieces_agrees_with_the_check_of_the_whole(text: bytes, size: int) -> None:
    assert in_pieces(text, size) == is_json(text)


@given(_VALUES, st.booleans(), st.sampled_from([None, 1]), _SIZES, st.data())
@examples(200)
def test_a_change_of_a_byte_is_noticed_in_pieces_as_in_the_whole(
    value: Any, ascii_only: bool, indent: int | None, size: int, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert in_pieces(text, size) == is_json(text)
    at = data.draw(st.integers(0, len(text) - 1))
    word = data.draw(st.sampled_from(_WORDS))
    changed = text[:at] + word + text[at + data.draw(st.integers(0, 1)) :]
    assert in_pieces(changed, size) == is_json(changed)


@pytest.mark.parametrize(
    "text",
    [
        b'"' + b"x" * 3 * PIECE_BYTES + b'"',
        b'"' + b"\\n" * 2 * PIECE_BYTES + b'"',
        b'"' + "é".encode() * 2 * PIECE_BYTES + b'"',
        b"[" + b" " * 3 * PIECE_BYTES + b"1]",
        b"[" + b"1" * 3 * MAX_UNCUT_BYTES + b", -0." + b"0" * 3 * MAX_UNCUT_BYTES + b"1e" + b"9" * PIECE_BYTES + b"]",
        b"[" + b'"",' * PIECE_BYTES + b'"]"]',
        b'{"a":' * 300 + b'["' + b"x" * 2 * PIECE_BYTES + b'"]' + b"}" * 300,
        b"[" + (b"[" * 300 + b"]" * 300 + b",") * 300 + b"1]",
        b"[" + b'{"a":[],"b":{}},' * 10_000 + b"1]",
    ],
    ids=["string", "escapes", "utf-8", "space", "digits", "empty strings", "in objects", "nested", "records"],
)
def test_a_long_text_is_valid_until_it_is_changed(text: bytes) -> None:
    assert in_pieces(text)
    assert not in_pieces(text[:-1])
    assert not in_pieces(text + b"1")
    middle = len(text) // 2
    assert not in_pieces(text[:middle] + b"\x01" + text[middle:])


@pytest.mark.parametrize("text", [b"[" * 3 * MAX_UNCUT_BYTES, b"a" * 3 * MAX_UNCUT_BYTES, b"-" * 3 * MAX_UNCUT_BYTES])
def test_a_text_without_commas_is_refused_before_it_has_ended(text: bytes) -> None:
    """It could grow with each piece, and each check would take longer."""
    steps = sum(1 for _ in is_json_in_pieces(text))
    assert steps < len(text) // PIECE_BYTES


def _outcome(split: Any) -> object:
    try:
        return split()
    except InvalidJson as error:
        return error.member, re.sub(r" \(.*", "", error.rule)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "input", 'é"', ""]), _VALUES), max_size=5),
    st.sampled_from([None, frozenset({"a", "input"})]),
    _SIZES,
    st.booleans(),
)
@examples(200)
def test_an_object_is_split_in_pieces_as_in_the_whole(
    members: list[tuple[str, Any]], known: frozenset[str] | None, size: int, ascii_only: bool
) -> None:
    pairs = (f"{json.dumps(name)} : {json.dumps(value, ensure_ascii=ascii_only)}\n" for name, value in members)
    body = f" {{ {','.join(pairs)} }} ".encode("utf-8", "surrogatepass")
    assert _outcome(lambda: result_of(split_in_pieces(body, INPUT, known, piece_bytes=size))) == _outcome(
        lambda: split_object(body, INPUT, known)
    )


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"\xef\xbb\xbf{}", "must not begin with a byte order mark"),
        (b"[1]", "must be a JSON object"),
        (b"", "is not valid JSON (after character 0)"),
        (b'{"a": "\xff"}', "must be JSON in UTF-8"),
        (b'{"a": [1,]}', "is not valid JSON (after character 0)"),
        (b'{"a": "' + b"x" * 2 * PIECE_BYTES + b'", "b": 1,, "c": 2}', "is not valid JSON (after character 0)"),
        (b'{"a": [' + b"1," * PIECE_BYTES + b"x]}", f"is not valid JSON (after character {2 * PIECE_BYTES})"),
        (b'{"a": ' + b"[" * 5000 + b"1," + b"]" * 5000 + b"}", "is nested too deeply"),
        (b"{%b}" % b",".join(b'"a%d":1' % n for n in range(MAX_MEMBERS + 1)), "must have at most 1000 members"),
        (b'{"%b":1}' % (b"a" * MAX_NAME_BYTES), f"must have names of at most {MAX_NAME_BYTES} bytes"),
        (b'{"a": "%b"}' % (b"x" * MAX_PARSED_BYTES), f"must have at most {MAX_PARSED_BYTES} bytes"),
        (b'{"a": 1, "a": 2}', "is given twice"),
    ],
    ids=[
        "mark", "array", "empty", "not UTF-8", "comma", "commas", "later", "nested", "members", "name", "parsed",
        "twice",
    ],
)  # fmt: skip
def test_a_body_that_breaks_a_rule_is_refused_with_the_rule(body: bytes, rule: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        result_of(split_in_pieces(body, INPUT, None))
    assert refused.value.rule == rule


def test_a_long_kept_member_is_not_copied() -> None:
    text = b'["' + b"x" * 3 * PIECE_BYTES + b'"]'
    body = bytearray(b'{"a": 1, "input":  ' + text + b" " * PIECE_BYTES + b"}")
    found = result_of(split_in_pieces(body, INPUT, None))
    assert found.values == {"a": 1}
    assert isinstance(found.raw["input"], memoryview)
    assert found.raw["input"].obj is body
    assert found.raw["input"] == text


@given(st.lists(_VALUES, max_size=6), st.sampled_from([None, 1]), _SIZES)
@examples(200)
def test_the_items_of_an_array_are_found_wherever_it_is_cut(items: list[Any], indent: int | None, size: int) -> None:
    text = json.dumps(items, indent=indent).encode()
    found = result_of(split_items(text, 6, piece_bytes=size))
    assert [json.loads(bytes(one)) for one in found] == items
    assert all(bytes(one) == bytes(one).strip() for one in found)


@pytest.mark.parametrize(
    ("text", "rule"),
    [(b'{"a": 1}', "must be an array"), (b"5", "must be an array"), (b"[1,2,3]", "must have at most 2 items")],
)
def test_another_value_and_too_many_items_are_refused(text: bytes, rule: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        result_of(split_items(text, 2))
    assert caught.value.rule == rule
