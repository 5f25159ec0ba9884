"""Output that a platform stores: a source that continues at a resume point neither loses nor repeats a line."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from queue_engine.backends.container_logs import stamp_ns
from queue_engine.logs.budget import line_budget
from queue_engine.logs.followed import MAX_UNREAD_BYTES, SLACK_NS, FollowedOutput, ResumePoint
from queue_engine.logs.lines import LineReader
from queue_engine.logs.masking import Secrets
from queue_engine.logs.writer import MAX_PIECE_LINES, LogWriter

SECOND = 1_000_000_000
SECRETS = Secrets(["tiger-4711-canary"])

Entry = tuple[int, bytes]


@dataclass
class Log:
    """A log in a store: its lines, and the id of its last batch."""

    lines: list[str] = field(default_factory=list)
    last: str = ""


@dataclass
class Follower:
    """Follows a platform's entries into a log, until it is killed after a number of batches."""

    log: Log
    lives: int

    def run(self, entries: Sequence[Entry], entries_a_round: int, *, is_since_included: bool) -> bool:
        """Return True when the output has been followed to its end."""
        point = ResumePoint.of(self.log.last, 1)
        output = FollowedOutput(point)
        writer = LogWriter(output, SECRETS, now=0.0, nonce="")
        since = point.since_ns + (0 if is_since_included else 1)
        shown = [entry for entry in entries if entry[0] >= since]
        for index, (stamp, data) in enumerate(shown):
            output.put(stamp, data)
            if index % entries_a_round == 0 and not self._store(output, writer):
                return False
        output.put_end()
        if not self._store(output, writer):
            return False
        writer.end()
        return self._send(writer)

    def _store(self, output: FollowedOutput, writer: LogWriter) -> bool:
        while not output.is_empty:
            writer.read(0.0)
        writer.read(0.0)
        return self._send(writer)

    def _send(self, writer: LogWriter) -> bool:
        while (batch := writer.batch()) is not None:
            if self.lives == 0:
                return False
            self.lives -= 1
            self.log.lines += batch.lines
            self.log.last = batch.batch_id
            writer.accept()
        return True


def lines_of(entries: Sequence[Entry]) -> list[str]:
    reader = LineReader(SECRETS, line_budget(0.0))
    return reader.feed(b"".join(data for _, data in entries), now=0.0, room=10**6) + reader.end(b"")


TEXTS = st.sampled_from(
    [b"a", b"loading", b"\r", b"tiger-", b"4711-canary", b"x" * 5000, b"%\r" * (2 * MAX_PIECE_LINES + 50), b"\xc3"]
)
OUTPUTS = st.tuples(st.lists(TEXTS, max_size=4).map(b"".join), st.sampled_from([b"\n", b"\n", b"\r\n", b""]))


@st.composite
def entries_of_nanoseconds(draw: st.DrawFn) -> list[Entry]:
    """Entries of two streams, which are stored slightly out of order."""
    entries: list[Entry] = []
    now = 5 * SECOND
    for text, end in draw(st.lists(OUTPUTS, max_size=25)):
        now += draw(st.sampled_from([1000, SECOND // 2, 3 * SECOND]))
        late = draw(st.sampled_from([0, 0, 2000, SECOND // 3]))
        entries.append((now - late + len(entries), text + end))
    return [entry for entry in entries if entry[1]]


@st.composite
def entries_of_seconds(draw: st.DrawFn) -> list[Entry]:
    """Entries of podman, whose times are whole seconds."""
    entries: list[Entry] = []
    now = 5
    for text, end in draw(st.lists(OUTPUTS, max_size=25)):
        now += draw(st.sampled_from([0, 0, 0, 1, 4]))
        entries.append((now * SECOND, text + end))
    return [entry for entry in entries if entry[1]]


@given(
    entries=entries_of_nanoseconds() | entries_of_seconds(),
    lives=st.lists(st.integers(0, 4), max_size=12),
    entries_a_round=st.integers(1, 6),
    is_since_included=st.booleans(),
)
def test_killed_followers_lose_and_repeat_no_line(
    entries: list[Entry], lives: list[int], entries_a_round: int, is_since_included: bool
) -> None:
    expected = lines_of(entries)
    # Beyond the limit of the rate, which lines are dropped depends on where the output pauses.
    assume(not any("lines dropped" in line for line in expected))
    log = Log()
    for batches in lives:
        if Follower(log, batches).run(entries, entries_a_round, is_since_included=is_since_included):
            break
    else:
        assert Follower(log, 10**6).run(entries, entries_a_round, is_since_included=is_since_included)
    assert log.lines == expected


def test_a_platform_that_no_longer_has_the_last_entry_is_followed_from_its_first_one() -> None:
    output = FollowedOutput(ResumePoint(1, 5 * SECOND, 3))
    output.put(5 * SECOND + 1, b"first that is left\n")
    assert output.is_empty, "the entry of the point may follow"
    output.put(9 * SECOND, b"second\n")
    assert [output.read(), output.read()] == [b"first that is left\n", b"second\n"]


def test_the_entry_after_the_point_is_read_although_its_time_is_earlier() -> None:
    output = FollowedOutput(ResumePoint(1, 5 * SECOND, 1))
    for stamp, data in ((5 * SECOND + 1, b"stored\n"), (5 * SECOND, b"stored last\n"), (5 * SECOND - 1, b"new\n")):
        output.put(stamp, data)
    assert [output.read(), output.read()] == [b"new\n", b""]


def test_a_source_is_full_at_a_number_of_bytes() -> None:
    output = FollowedOutput(ResumePoint(1))
    for number in range(MAX_UNREAD_BYTES // 1024):
        assert not output.is_full
        output.put(number + 1, b"x" * 1024)
    assert output.is_full
    while output.read():
        pass
    assert not output.is_full


def test_a_batch_has_whole_entries() -> None:
    log, output = Log(), FollowedOutput(ResumePoint(1))
    writer = LogWriter(output, SECRETS, now=0.0, nonce="")
    for number in range(5):
        output.put(number + 1, b"%\r" * MAX_PIECE_LINES)
        writer.read(0.0)
    first = writer.batch()
    assert first is not None
    assert len(first.lines) == 2 * MAX_PIECE_LINES - 1, "the last CR waits for an LF"
    assert ResumePoint.of(first.batch_id, 1) == ResumePoint(1, 2, 0, 2 * MAX_PIECE_LINES - 2)
    assert log.lines == []


@pytest.mark.parametrize(
    ("batch_id", "point"),
    [
        ("", ResumePoint(2)),
        ("none", ResumePoint(2)),
        ("a1b2c3d4-17", ResumePoint(2)),
        ("2:17:3:4-9", ResumePoint(2, 17, 3, 4)),
        ("2:17:3:4-note", ResumePoint(2, 17, 3, 4)),
        ("1:17:3:4-9", ResumePoint(2)),
        ("2:end", ResumePoint(2, is_end=True)),
        ("1:end", ResumePoint(2)),
        ("2:17:3", ResumePoint(2)),
    ],
)
def test_the_point_of_a_run_is_in_the_id_of_the_last_batch(batch_id: str, point: ResumePoint) -> None:
    assert ResumePoint.of(batch_id, 2) == point
    assert ResumePoint.of(str(point), 2) == point


def test_entries_are_asked_for_from_before_the_point() -> None:
    assert ResumePoint(1, 5 * SECOND, 1).since_ns == 5 * SECOND - SLACK_NS
    assert ResumePoint(1).since_ns == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T00:00:01.5Z", SECOND + SECOND // 2),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2026-11-28T14:03:07.123456789Z", 1_795_874_587_123_456_789),
    ],
)
def test_times_of_platforms_are_read_to_the_nanosecond(text: str, expected: int) -> None:
    assert stamp_ns(text) == expected


@pytest.mark.parametrize("text", ["", "2026-11-28", "2026-11-28 14:03:07Z", "2026-13-28T14:03:07Z", "yesterday"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339|month"):
        stamp_ns(text)
