"""The phases of a delivery attempt, by a clock that the test sets."""

from dataclasses import dataclass
from typing import cast

from queue_engine.delivery.phases import Stopwatch
from queue_engine.domain.deliveries import Phases
from queue_engine.net.connection import Connection


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Line:
    """The part of a connection that is measured."""

    tls_seconds: float | None = None
    sent_at: float | None = None
    is_kept: bool = False


def connected(watch: Stopwatch, line: Line) -> None:
    watch.connected(cast(Connection, line))


def test_each_phase_ends_where_the_next_begins() -> None:
    clock = Clock()
    watch, line = Stopwatch(clock), Line(tls_seconds=0.25)
    clock.now = 100.75
    connected(watch, line)
    line.sent_at = 101.0
    clock.now = 103.0
    watch.got_head()
    clock.now = 110.0
    assert watch.phases() == Phases(connect_ms=500, tls_ms=250, send_ms=250, wait_ms=2000)


def test_a_failed_attempt_ends_in_its_phase() -> None:
    clock = Clock()
    watch, line = Stopwatch(clock), Line()
    clock.now = 101.0
    assert watch.phases() == Phases(connect_ms=1000)
    connected(watch, line)
    clock.now = 103.0
    assert watch.phases() == Phases(connect_ms=1000, send_ms=2000)
    line.sent_at = 102.5
    assert watch.phases() == Phases(connect_ms=1000, send_ms=1500, wait_ms=500)


def test_a_kept_connection_has_no_opening_and_its_earlier_request_does_not_count() -> None:
    clock = Clock()
    watch, line = Stopwatch(clock), Line(tls_seconds=0.25, sent_at=42.0, is_kept=True)
    connected(watch, line)
    clock.now = 101.0
    assert watch.phases() == Phases(send_ms=1000)


def test_an_attempt_that_is_repeated_is_measured_from_its_last_connection() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    connected(watch, Line(sent_at=100.0, is_kept=True))
    clock.now = 105.0
    watch.connecting()
    clock.now = 106.0
    connected(watch, Line(sent_at=106.0))
    watch.got_head()
    assert watch.phases() == Phases(connect_ms=1000, send_ms=0, wait_ms=0)
