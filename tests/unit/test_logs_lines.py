"""Lines of a container's output: whole, clean, without secrets, and not too many."""

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.logs.budget import BURST_LINES, BYTES_PER_LINE, LINES_PER_SECOND, line_budget
from queue_engine.logs.lines import CUT, MAX_LINE_BYTES, LineReader, dropped_note
from queue_engine.logs.masking import MASK, Secrets, cleaned

ROOM = 10**6
SECRET = "tiger-4711-canary"


def reader(*secrets: str) -> LineReader:
    return LineReader(Secrets(secrets), line_budget(0.0))


def lines_of(data: bytes, *secrets: str) -> list[str]:
    one = reader(*secrets)
    return one.feed(data, now=0.0, room=ROOM) + one.end(b"")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"10%\r20%\r30%\n", ["10%", "20%", "30%"]),
        (b"one\n\ntwo", ["one", "", "two"]),
        (b"no end", ["no end"]),
        (b"\r", [""]),
        (b"", []),
        ("grüße".encode(), ["grüße"]),
        (b"bad \xff\xfe", ["bad \ufffd\ufffd"]),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07done\x1b(B", ["red done"]),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", ["link"]),
        (b"bell\x07 nul\x00 del\x7f tab\t", ["bell\\x07 nul\\x00 del\\x7f tab\t"]),
        (b"lone \x1b", ["lone \\x1b"]),
        (b"\xc2\x9b31mC1\xc2\x85", ["C1\\x85"]),
    ],
)
def test_output_becomes_lines_of_plain_text(data: bytes, lines: list[str]) -> None:
    assert lines_of(data) == lines


@given(
    pieces=st.lists(
        st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"\xc3", b"\xa9", b"\x1b[0m", b"tiger", b"-4711-canary"])
    ),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_however_output_is_cut_into_reads_it_makes_the_same_lines(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    one = reader(SECRET)
    kept = []
    for first, last in pairwise(ends):
        kept += one.feed(data[first:last], now=0.0, room=ROOM)
    assert kept + one.end(b"") == lines_of(data, SECRET)


@given(st.binary(max_size=300))
def test_no_bytes_make_a_line_that_cannot_be_shown(data: bytes) -> None:
    for line in lines_of(data):
        assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in line.replace("\t", ""))
        line.encode()


# Long lines


@pytest.mark.parametrize("size", [MAX_LINE_BYTES - 1, MAX_LINE_BYTES])
def test_a_line_of_the_limit_is_whole(size: int) -> None:
    assert lines_of(b"x" * size + b"\n") == ["x" * size]


@pytest.mark.parametrize("data", [b"x" * (MAX_LINE_BYTES + 1), b"x" * 10**6, "é".encode() * 10**5])
def test_a_longer_line_is_cut_and_says_so(data: bytes) -> None:
    for given_data in (data + b"\nnext\n", data):
        first, *rest = lines_of(given_data)
        assert first.endswith(CUT)
        assert MAX_LINE_BYTES - 3 <= len(first.encode()) <= MAX_LINE_BYTES
        assert rest == ["next"] * (given_data != data)


def test_a_line_without_end_takes_the_memory_of_one_line() -> None:
    one = reader()
    for _ in range(100):
        assert one.feed(b"x" * 65536, now=0.0, room=ROOM) == []
    assert len(one._rest) < 2 * MAX_LINE_BYTES
    assert one.feed(b"x\r", now=0.0, room=ROOM) == []
    [line] = one.feed(b"\nnext", now=0.0, room=ROOM)
    assert line.endswith(CUT)
    assert one.end(b"") == ["next"]


# Secrets


@pytest.mark.parametrize("secret", ["tiger1", SECRET, "pässwörd~~~???", "a" * 50])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_in_base64_is_masked_wherever_it_stands_in_what_was_encoded(
    secret: str, encode: Callable[[bytes], bytes]
) -> None:
    for user in ("", "u", "us", "use", "somebody"):
        for after in ("", "\n", ":x"):
            encoded = encode(f"{user}:{secret}{after}".encode()).decode()
            (line,) = lines_of(f"Authorization: Basic {encoded}".encode(), secret)
            assert MASK in line
            # The first and last character may belong to the neighbours of the secret too.
            left = len(line.replace(MASK, "").removeprefix("Authorization: Basic "))
            assert left <= len(encode(f"{user}:".encode())) + len(encode(after.encode())) + 2


@pytest.mark.parametrize(
    "printed",
    [
        SECRET,
        f"A={SECRET};B={SECRET}{SECRET}",
        f"tiger-\x1b[31m4711\x1b[0m-canary {SECRET}",
        base64.b64encode(SECRET.encode()).decode(),
        f"x{SECRET[:5]}{SECRET}",
    ],
)
def test_a_secret_is_masked_wherever_it_stands(printed: str) -> None:
    [line] = lines_of(printed.encode(), SECRET)
    assert "***" in line
    assert SECRET not in line
    assert base64.b64encode(SECRET.encode()).decode() not in line


@pytest.mark.parametrize("value", ['quo"te\\and\ttab', "päss wörd/?&", "two\nlines of it", "  padded  ", "ending\n"])
def test_a_secret_is_masked_in_the_ways_in_which_it_is_printed(value: str) -> None:
    for printed in (
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        repr({"k": value}),
        quote(value, safe=""),
    ):
        [line] = lines_of(printed.encode(), value)
        assert "***" in line
        assert value.strip().split("\n")[0] not in line


def test_each_line_of_a_secret_of_several_lines_is_masked() -> None:
    key = "-----BEGIN KEY-----\nMIIBVgIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
    assert lines_of(b"key:\n" + key.encode(), key) == ["key:", "***", "***", "***", "***"]


def test_secrets_that_overlap_leave_nothing_of_each_other() -> None:
    assert Secrets(["abcdef", "defghi", "aaaaaa"]).masked("-abcdefghi-aaaaaaaa-abcdef") == "-***-***-***"


@pytest.mark.parametrize("value", ["", "1", "8000", "false", "a b c", "\x1b[1m", "é" * 5, "a\nb\n"])
def test_a_value_that_is_too_short_to_be_a_secret_is_left_alone(value: str) -> None:
    printed = (
        f"{value} {value!r} {json.dumps(value)} {quote(value)} {base64.b64encode(value.encode()).decode()} {value}"
    )
    assert Secrets([value]).masked(printed) == printed


def test_a_value_of_spaces_does_not_mask_the_space_between_words() -> None:
    assert Secrets([" " * 8]).masked("a" + " " * 20 + "b") == "a" + " " * 20 + "b"


def test_a_value_of_six_characters_is_masked() -> None:
    assert Secrets(["123456"]).masked("a 123456 b 12345") == "a *** b 12345"


def test_short_lines_of_a_long_value_are_left_alone() -> None:
    assert Secrets(["true\nlonger-line\n8000"]).masked("true 8000 longer-line") == "true 8000 ***"


def test_the_engines_own_secrets_are_masked_also_when_they_are_short() -> None:
    assert Secrets(["pass1"], ["pass", "abc"]).masked("pass1 abc") == "***1 abc"


@pytest.mark.parametrize("before", range(MAX_LINE_BYTES - 40, MAX_LINE_BYTES + 20))
def test_cutting_a_line_does_not_uncover_part_of_a_secret(before: int) -> None:
    for rest in (b"", b"y" * 10**5):
        [line] = lines_of(b"x" * before + SECRET.encode() + rest, SECRET)
        assert "tig" not in line


@pytest.mark.parametrize("shown", range(1, len(SECRET)))
def test_a_long_line_that_shrinks_by_its_colours_does_not_uncover_part_of_a_secret(shown: int) -> None:
    looked_at = MAX_LINE_BYTES + 8 * Secrets([SECRET]).longest
    colours = b"\x1b[31m" * 200
    data = colours + b"x" * (looked_at - len(colours) - shown) + SECRET.encode() + b"y" * 10_000
    [line] = lines_of(data, SECRET)
    assert line.endswith(f"x{CUT}")


def test_after_a_skip_the_rest_of_a_line_is_left_out() -> None:
    one = reader(SECRET)
    one.feed(b"begun tiger-", now=0.0, room=ROOM)
    one.skip(1000)
    assert one.feed(b"4711-can", now=0.0, room=ROOM) == []
    assert one.feed(b"ary\nnext\n", now=0.0, room=ROOM) == ["[queue-engine: 1000 bytes of output skipped]", "next"]
    assert one.dropped == 1


# Too many lines


def numbered(first: int, count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(first, first + count))


def test_a_burst_is_kept_and_what_goes_beyond_is_counted_in_its_place() -> None:
    one = reader()
    burst = int(BURST_LINES)
    assert one.feed(numbered(0, burst), now=0.0, room=ROOM) == [f"line {number}" for number in range(burst)]
    assert one.feed(numbered(burst, 700), now=0.0, room=ROOM) == []
    assert one.feed(numbered(burst + 700, 1), now=0.1, room=ROOM) == [dropped_note(700), f"line {burst + 700}"]
    assert one.dropped == 700


def test_the_rate_is_kept_forever() -> None:
    one = reader()
    kept = 0
    for tick in range(1, 101):
        kept += len(one.feed(b"x\n" * 10_000, now=tick / 5, room=ROOM))
    notes = 100
    assert kept <= BURST_LINES + 20 * LINES_PER_SECOND + notes
    assert one.dropped + (kept - notes) + one._unsaid >= 100 * 10_000 - notes


@pytest.mark.parametrize(("flood", "lines"), [(b"x\r\n", 1), (b"x\r", 1), (b"x\n\r", 2), (b"\r\r\n\n", 3)])
def test_dropped_lines_are_counted_by_what_ends_them(flood: bytes, lines: int) -> None:
    one = reader()
    assert one.feed(flood * 100 + b"y", now=0.0, room=0) == []
    assert one.note() == [dropped_note(100 * lines)]


def test_a_long_line_counts_as_several() -> None:
    one = reader()
    kept = one.feed(b"".join(b"x" * MAX_LINE_BYTES + b"\n" for _ in range(1000)), now=0.0, room=ROOM)
    assert len(kept) == BURST_LINES * BYTES_PER_LINE // MAX_LINE_BYTES


def test_lines_for_which_there_is_no_room_are_dropped() -> None:
    one = reader()
    assert one.feed(b"a\nb\nc\n", now=0.0, room=1) == ["a"]
    assert one.note() == [dropped_note(2)]
    assert one.note() == []


def test_the_last_lines_are_kept_although_they_came_in_a_flood() -> None:
    one = reader()
    one.feed(numbered(0, 6000), now=0.0, room=ROOM)
    assert one.pause(numbered(5900, 100)) == [dropped_note(980), *(f"line {number}" for number in range(5980, 6000))]
    assert one.pause(numbered(5900, 100)) == []
    assert one.dropped == 980

    one = reader()
    one.feed(numbered(0, 5001) + b"unfinished", now=0.0, room=ROOM)
    assert one.end(numbered(4990, 11) + b"unfinished") == ["line 5000", "unfinished"]
    assert one.dropped == 0


@given(st.lists(st.tuples(st.integers(0, 4000), st.floats(0, 2), st.integers(0, 3000)), max_size=12))
def test_kept_and_dropped_lines_are_all_that_was_written_in_their_order(feeds: list[tuple[int, float, int]]) -> None:
    one = reader()
    kept: list[str] = []
    written, now = 0, 0.0
    for count, seconds, room in feeds:
        now += seconds
        kept += one.feed(numbered(written, count), now=now, room=room)
        written += count
    kept += one.end(b"")
    expected = 0
    for line in kept:
        if line.startswith("[queue-engine: "):
            expected += int(line.split()[1])
        else:
            assert line == f"line {expected}"
            expected += 1
    assert expected == written


def test_cleaning_takes_a_time_that_grows_with_the_line() -> None:
    cleaned(b"\x1b]" * 50_000)
    cleaned(b"\x1b[" * 50_000)
