"""The output of a container as a cluster sends it: lines with their times, and long lines in parts."""

import pytest

from queue_engine.backends.base import BackendError
from queue_engine.backends.container_logs import LogEntry
from queue_engine.backends.kubernetes.output import PART_BYTES, Entries

STAMP = b"2026-11-28T14:03:07.123456789Z"
LATER = b"2026-11-28T14:03:08.000000001Z"
NS = 1795874587123456789
LATER_NS = 1795874588000000001


def read(*chunks: bytes) -> list[LogEntry]:
    entries = Entries()
    return [entry for chunk in chunks for entry in entries.feed(chunk)]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_lines_are_read_however_the_stream_is_cut(size: int) -> None:
    text = STAMP + b" loading\n" + LATER + b" \n" + LATER + b" done\n"
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(*chunks) == [
        LogEntry(NS, b"loading\n"),
        LogEntry(LATER_NS, b"\n"),
        LogEntry(LATER_NS, b"done\n"),
    ]


def test_a_line_that_is_cut_off_is_left_for_the_next_stream() -> None:
    assert read(STAMP + b" whole\n" + LATER + b" cut off") == [LogEntry(NS, b"whole\n")]


@pytest.mark.parametrize("second", [STAMP + b" ", b""])
@pytest.mark.parametrize("size", [100, 5000, 10**6])
def test_a_long_line_is_read_in_parts_with_or_without_times_in_it(second: bytes, size: int) -> None:
    text = STAMP + b" " + b"a" * PART_BYTES + second + b"b" * 10 + b"\n" + LATER + b" next\n"
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(*chunks) == [
        LogEntry(NS, b"a" * PART_BYTES),
        LogEntry(NS, b"b" * 10 + b"\n"),
        LogEntry(LATER_NS, b"next\n"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"2024-13-45T99:99:99Z no such time",
        b"2026-11-28T14:03:07.123456788Z before the line",
        b"9999-12-31T23:59:59Z much later",
        b"2026-11-28T14:03:07+99:99 no such zone",
    ],
)
def test_what_a_container_writes_in_a_long_line_is_no_time_of_it(data: bytes) -> None:
    text = STAMP + b" " + b"a" * PART_BYTES + data + b"\n" + LATER + b" next\n"
    assert read(text) == [
        LogEntry(NS, b"a" * PART_BYTES),
        LogEntry(NS, data + b"\n"),
        LogEntry(LATER_NS, b"next\n"),
    ]


def test_the_unfinished_last_line_of_a_container_that_has_ended_is_read() -> None:
    entries = Entries()
    assert list(entries.feed(STAMP + b" " + b"a" * PART_BYTES + LATER + b" unfinished")) == []
    assert list(entries.end()) == [LogEntry(NS, b"a" * PART_BYTES), LogEntry(LATER_NS, b"unfinished")]
    assert list(entries.end()) == []


def test_output_without_a_time_is_an_error() -> None:
    with pytest.raises(BackendError, match="without its time"):
        read(b"2024-13-45T99:99:99Z no such time\n")
    with pytest.raises(BackendError, match="without its time"):
        read(b"unable to retrieve container logs\n")
