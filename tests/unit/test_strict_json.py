"""Requests are read strictly, and what is handed on stays as it came in."""

import gc
import json
import math
import re
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.rules.strict_json import (
    MAX_COPIED_BYTES,
    MAX_USUAL_BYTES,
    InvalidJson,
    JsonObject,
    parse_member,
    same_value,
    split_object,
)

INPUT = frozenset({"input"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def _raw(value: str) -> bytes:
    return bytes(split_object(b'{"a": 1, "input": ' + value.encode() + b' , "b": [2]}', INPUT).raw["input"])


@pytest.mark.parametrize(
    "value",
    [
        "12345678901234567890123456789",
        "9" * 5000,
        "-" + "1" * 5000,
        "1e999",
        "0.1000000000000000055511151231257827021181583404541015625",
        '{"a":1,"a":2,"b":{"x":1,"x":1}}',
        '{ "a" :\t[ 1 ,\n2 ] }',
        r'"\ud800 \u0000 \/ \u00e9"',
        '"é𝄞"',
        "null",
        "true",
        '""',
        "{}",
        "[]",
        "-0",
        "-0.0E-0",
    ],
)
def test_a_raw_member_keeps_its_bytes(value: str) -> None:
    assert _raw(value) == value.encode()


def test_space_around_a_raw_member_is_left_out() -> None:
    assert split_object(b' { "input" \n:\r\t [ 1 ]  \n}\n', INPUT).raw == {"input": b"[ 1 ]"}


def test_other_members_are_parsed() -> None:
    found = split_object(b'{"a": 1, "b": 8000.0, "c": "x", "d": {"e": [null, true]}, "input": 5}', INPUT)
    assert found.values == {"a": 1, "b": 8000.0, "c": "x", "d": {"e": [None, True]}}
    assert isinstance(found.values["b"], float)


def test_an_empty_object_has_no_members() -> None:
    assert split_object(b" {\n} ") == split_object(b"{}")
    assert split_object(b"{}").values == {}


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.booleans())
def test_what_json_writes_is_read_back(members: dict[str, object], ascii_only: bool) -> None:
    body = json.dumps(members, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = split_object(body, frozenset(members))
    assert {name: json.loads(bytes(text)) for name, text in found.raw.items()} == members
    assert split_object(body).values == members


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        found = split_object(body, INPUT)
    except InvalidJson:
        return
    assert found.values.keys() | found.raw.keys() == json.loads(body).keys()


@given(st.text(alphabet='{}[]",:\\ 012eE.+-nulltrue\n\x00\ud800é', max_size=40))
def test_what_is_accepted_is_what_json_accepts(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(body.decode())
    except ValueError:
        expected = None
    try:
        found = split_object(body).values
    except InvalidJson as error:
        refused_by_us_alone = "twice" in error.rule or "is not JSON" in error.rule
        if isinstance(expected, dict) and not refused_by_us_alone:
            raise
        return
    assert found == expected


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"", "must be a JSON object"),
        (b"  ", "must be a JSON object"),
        (b"5", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"{}"', "must be a JSON object"),
        (b"[{}]", "must be a JSON object"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b"\xff\xfe", "UTF-8"),
        ("{}".encode("utf-16-le"), "not valid JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"a": "\xc0\x80"}', "UTF-8"),
        (b"{", "not valid JSON"),
        (b'{"a"', "not valid JSON"),
        (b'{"a":', "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": 1,', "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{,"a": 1}', "not valid JSON"),
        (b'{"a" 1}', "not valid JSON"),
        (b'{"a": 1 "b": 2}', "not valid JSON"),
        (b"{a: 1}", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 01}', "not valid JSON"),
        (b'{"a": 1.}', "not valid JSON"),
        (b'{"a": .5}', "not valid JSON"),
        (b'{"a": +1}', "not valid JSON"),
        (b'{"a": 0x10}', "not valid JSON"),
        ('{"a": ٣}'.encode(), "not valid JSON"),
        (b'{"a": tru}', "not valid JSON"),
        (b'{"a": "\n"}', "not valid JSON"),
        (b'{"a\x00": 1}', "not valid JSON"),
        (b'{"a": "\\x41"}', "not valid JSON"),
        (b'{"a": 1} // why', "must end after the object"),
        (b'{"a": 1}{}', "must end after the object"),
        (b'{"a": 1}\x00', "must end after the object"),
        ('{"a":\u00a01}'.encode(), "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, rule: str) -> None:
    with pytest.raises(InvalidJson, match=rule) as caught:
        split_object(body, INPUT)
    assert caught.value.member is None


@pytest.mark.parametrize("name", ["input", "a"])
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("NaN", "NaN"),
        ("[1, -Infinity]", "-Infinity"),
        ('{"x": Infinity}', "Infinity"),
        ("[" * 100_000, "nested too deeply"),
        ('{"x":' * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
)
def test_a_member_that_python_alone_would_read_is_refused_by_name(name: str, value: str, rule: str) -> None:
    with pytest.raises(InvalidJson, match=rule) as caught:
        split_object(f'{{"{name}": {value}}}'.encode(), INPUT)
    assert caught.value.member == name


@pytest.mark.parametrize(
    "body",
    [
        b'{"taskId": "a", "taskId": "b"}',
        b'{"input": 1, "input": 1}',
        b'{"taskId": 1, "task\\u0049d": 2}',
    ],
)
def test_a_name_given_twice_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="is given twice") as caught:
        split_object(body, INPUT)
    assert caught.value.member in {"taskId", "input"}


def test_a_name_given_twice_inside_a_parsed_member_is_refused() -> None:
    with pytest.raises(InvalidJson, match="must not give a name twice") as caught:
        split_object(b'{"headers": {"A": "1", "A": "2"}}')
    assert caught.value.member == "headers"


def test_a_huge_integer_stays_huge_and_costs_nothing() -> None:
    found = split_object(b'{"a": ' + b"9" * 5000 + b', "b": -' + b"9" * 5000 + b', "c": 1e999}')
    assert found.values["a"] > 10**300
    assert found.values["b"] < -(10**300)
    assert math.isinf(found.values["c"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('{"a": 1, "b": [true, null]}', '{"b":[ true ,null ],\n"a":1}'),
        ('{"a": {"x": 1, "y": 2}}', '{"a": {"y": 2, "x": 1}}'),
        ('"é"', r'"\u00e9"'),
        ('"😀/"', r'"\ud83d\ude00\/"'),
        (r'{"\u0061": "\ud800"}', r'{"a": "\uD800"}'),
        ("12345678901234567890123456789", " 12345678901234567890123456789"),
        ("1e999", "1e999"),
        ('""', '""'),
    ],
)
def test_the_same_value_in_another_spelling_is_the_same(first: str, second: str) -> None:
    assert same_value(first.encode(), second.encode())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2", "2.0"),
        ("100", "1e2"),
        ("1e2", "1E2"),
        ("0", "-0"),
        ("9007199254740993", "9007199254740992"),
        ("1e999", "1e998"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("1", "true"),
        ("0", "false"),
        ("1", '"1"'),
        ("[1]", '[["1"]]'),
        ("[]", "{}"),
        ("[1, 2]", "[2, 1]"),
        ('{"a": 1}', '{"a": 1, "b": null}'),
        ('"a"', '"A"'),
        ('"é"', '"e\u0301"'),
        ('{"a": 1, "a": 1}', '{"a": 1, "a": 1}'),
        ('[{"a": 1, "a": 2}]', '[{"a": 2}]'),
    ],
)
def test_another_value_is_another_one(first: str, second: str) -> None:
    assert not same_value(first.encode(), second.encode())


@given(JSON)
def test_what_is_written_in_two_ways_is_the_same(value: object) -> None:
    first = json.dumps(value, sort_keys=True)
    second = json.dumps(value, ensure_ascii=False, indent=1)
    assert same_value(first.encode(), second.encode("utf-8", "surrogatepass"))


def test_what_is_nested_too_deeply_to_compare_is_not_the_same() -> None:
    assert not same_value(b"[" * 30_000 + b"]" * 30_000, b" " + b"[" * 30_000 + b"]" * 30_000)


@pytest.mark.parametrize(
    "value",
    ["[[1, 2], {}]", '{"a":[]}', '"a\\"b"', r'"\ud800"', "1", "true", '"é"', r'"\u00e9d"'],
)
@pytest.mark.parametrize("space", ["", " ", "\r\n\t "])
def test_a_value_ends_before_the_space_that_follows_it(value: str, space: str) -> None:
    body = f'{{"input":{space}{value}{space},"é":{space}{value}{space}}}'.encode()
    found = split_object(body, INPUT)
    assert found.raw == {"input": value.encode()}
    assert found.values == {"é": json.loads(value)}


MEBIBYTE = 1 << 20
SMALL_CONTAINERS = {"arrays": b"[],", "objects": b"{},", "nested": b"[[{}]],", "objects with a member": b'{"":0},'}
KNOWN = frozenset({"input", "headers"})


@pytest.mark.parametrize("kind", SMALL_CONTAINERS)
@pytest.mark.parametrize("name", ["input", "unknown", "headers"])
def test_a_body_of_many_small_containers_builds_few_objects(name: str, kind: str) -> None:
    filling = SMALL_CONTAINERS[kind]
    body = b'{"%b": [%b0]}' % (name.encode(), filling * (MEBIBYTE // len(filling)))
    kept: list[object] = []
    assert _containers_built(lambda: kept.append(_split_or_refused(body))) < 100
    if name == "headers":
        assert kept == ["must have at most 4000 values"]


@pytest.mark.parametrize("kind", SMALL_CONTAINERS)
def test_a_kept_member_of_many_small_containers_is_refused_before_it_is_built(kind: str) -> None:
    filling = SMALL_CONTAINERS[kind]
    text = b"[%b0]" % (filling * (MEBIBYTE // len(filling)))
    refused: list[object] = []

    def parse() -> None:
        try:
            parse_member(text, "a", 20_000)
        except InvalidJson as error:
            refused.append((error.member, error.rule))

    assert _containers_built(parse) < 100
    assert refused == [("a", "must have at most 20000 values")]


def test_a_kept_member_is_parsed_like_others_up_to_its_own_limit() -> None:
    text = json.dumps([",["] * 9999).encode()
    assert parse_member(memoryview(text), "a", 10_000) == json.loads(text)
    with pytest.raises(InvalidJson, match="must have at most 9998 values"):
        parse_member(text, "a", 9998)
    assert parse_member(b'["\\ud800"]', "a", 2) == ["\ud800"]
    with pytest.raises(InvalidJson, match="twice"):
        parse_member(b'[{"a": 1, "a": 2}]', "a", 10)


def _split_or_refused(body: bytes) -> JsonObject | str:
    try:
        return split_object(body, INPUT, KNOWN)
    except InvalidJson as error:
        return error.rule


def _containers_built(call: Callable[[], object]) -> int:
    """Return how many objects that the garbage collector visits `call` has made and kept, or made and freed.

    The collector counts allocations less releases, and collects at a threshold. So it would start for every list and
    object of the text that is alive at the same time.
    """
    collections: list[int] = []
    thresholds = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(note := lambda phase, _info: collections.append(1) if phase == "start" else None)
    gc.set_threshold(10, 1_000_000, 1_000_000)
    try:
        call()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(note)
    return 10 * len(collections)


def test_the_values_of_all_parsed_members_are_limited_together() -> None:
    half = b"[" + b"0," * 2500 + b"0]"
    with pytest.raises(InvalidJson, match="must have at most 4000 values") as caught:
        split_object(b'{"a": %b, "b": %b}' % (half, half))
    assert caught.value.member == "b"
    assert split_object(b'{"a": %b, "b": %b}' % (half, half), known=frozenset({"b"})).values.keys() == {"b"}


def test_separators_inside_strings_are_no_values() -> None:
    text = '[,{"' * 5000
    assert split_object(json.dumps({"a": [text]}).encode()).values == {"a": [text]}


def test_the_members_of_a_body_are_limited() -> None:
    members = [b'"%d": 0' % number for number in range(1001)]
    assert split_object(b"{%b}" % b",".join(members[:1000]), known=frozenset()) == JsonObject()
    with pytest.raises(InvalidJson, match="must have at most 1000 members"):
        split_object(b"{%b}" % b",".join(members), known=frozenset())


def test_an_unknown_member_is_checked_and_skipped() -> None:
    assert split_object(b'{"x": {"a": 1, "a": 2}, "y": 1}', known=frozenset({"y"})).values == {"y": 1}
    with pytest.raises(InvalidJson, match="not valid JSON"):
        split_object(b'{"x": [1,], "y": 1}', known=frozenset({"y"}))
    with pytest.raises(InvalidJson, match="twice"):
        split_object(b'{"x": 1, "x": 2}', known=frozenset())


@pytest.mark.parametrize(("body", "character"), [(b'{"a": [1,]}', 10), ('{"é": [1,]}'.encode(), 10), (b'{"a": [1', 9)])
def test_an_error_names_the_character_where_it_is(body: bytes, character: int) -> None:
    with pytest.raises(InvalidJson, match=rf"not valid JSON \(character {character}\)"):
        split_object(body)


def _outcome(body: bytes, known: frozenset[str] | None) -> object:
    try:
        return split_object(body, INPUT, known)
    except InvalidJson as error:
        return error.member, re.sub(r"character [0-9]+", "character", error.rule)


_WORDS = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        " ",
        "\n",
        '"',
        "\\",
        "u0061",
        "a",
        '"a"',
        '"input"',
        "1",
        "-",
        ".5",
        "NaN",
        "null",
        "é",
    ]
)


@given(st.lists(_WORDS, max_size=14).map("".join), st.sampled_from([None, frozenset({"a", "input"})]))
def test_a_usual_text_is_split_like_a_long_one(inside: str, known: frozenset[str] | None) -> None:
    body = f"{{{inside}}}".encode()
    assert len(body) <= MAX_USUAL_BYTES
    assert _outcome(body, known) == _outcome(body + b" " * MAX_USUAL_BYTES, known)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 1}',
        b'{"a/b": 1, "a\\/b": 1}',
        b'{"\\u00e9": 1, "\xc3\xa9": 1}',
        b'{"z": 1, "z": 2}',
    ],
)
def test_a_name_given_twice_in_any_spelling_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="is given twice"):
        split_object(body, INPUT, frozenset({"a"}))


def test_a_name_inside_a_value_is_not_given_twice() -> None:
    assert split_object(b'{"input": {"input": "input"}, "a": "\\"input\\""}', INPUT) == JsonObject(
        {"a": '"input"'}, {"input": b'{"input": "input"}'}
    )


def test_a_long_raw_member_is_not_copied() -> None:
    long = b'"' + b"x" * MAX_COPIED_BYTES + b'"'
    body = bytearray(b'{"input": ' + long + b', "a": 1}')
    found = split_object(body, INPUT).raw["input"]
    assert isinstance(found, memoryview)
    assert found.obj is body
    assert found == long


@pytest.mark.parametrize("space", [0, 1, MAX_COPIED_BYTES - 1, MAX_COPIED_BYTES, 3 * MAX_COPIED_BYTES])
def test_a_long_value_ends_before_any_space_that_follows_it(space: int) -> None:
    long = b'["' + b"x" * MAX_COPIED_BYTES + b'"]'
    body = b'{"input": ' + long + b" " * space + b', "a": 1}'
    assert split_object(body, INPUT).raw["input"] == long


def test_a_long_body_is_not_copied_to_find_its_members() -> None:
    body = bytearray(b'{"input": ["' + b"x" * 50 * MAX_COPIED_BYTES + b'"], "a": 1}')
    tracemalloc.start()
    try:
        split_object(body, INPUT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(body) / 4
