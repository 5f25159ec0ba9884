"""When a destination is paused and tried again. Times are plain numbers; nothing waits."""

import pytest

from queue_engine.delivery.breaker import DESTINATION_ERRORS, NEUTRAL_ERRORS, Breaker, BreakerLimits
from queue_engine.delivery.lanes import Kind, LaneLimits, Lanes
from queue_engine.delivery.responses import ERROR_TYPES
from tests.unit.filled_lanes import LIMITS, fail, filled, make_trusted, start, start_all

# Trust


@pytest.mark.parametrize("error_type", ["http_4xx", "http_5xx", "redirect", "rate_limited"])
def test_an_http_error_makes_no_destination_trusted_or_degraded(error_type: str) -> None:
    lanes = filled({"a": 20})
    for _ in range(10):
        lanes.finished(start(lanes), 0.0, error_type)
    assert lanes.kind_of("a") is Kind.FRESH


@pytest.mark.parametrize("error_type", sorted(DESTINATION_ERRORS))
def test_a_timeout_or_a_connection_error_makes_a_trusted_destination_degraded(error_type: str) -> None:
    lanes = filled({})
    make_trusted(lanes, "a")
    fail(lanes, "a", 1, error_type=error_type)
    assert lanes.kind_of("a") is Kind.DEGRADED


def test_trust_comes_back_after_a_row_of_responses() -> None:
    lanes = filled({})
    make_trusted(lanes, "a")
    fail(lanes, "a", 1)
    kinds = []
    for _ in range(LIMITS.breaker.responses_to_recover):
        lanes.add("a", 1)
        lanes.finished(start(lanes), 0.0, None)
        kinds.append(lanes.kind_of("a"))
    assert kinds == [Kind.DEGRADED] * (LIMITS.breaker.responses_to_recover - 1) + [Kind.TRUSTED]


def test_every_error_type_is_either_the_destinations_or_neutral_or_a_response() -> None:
    assert DESTINATION_ERRORS.isdisjoint(NEUTRAL_ERRORS)
    responses = ERROR_TYPES - DESTINATION_ERRORS - NEUTRAL_ERRORS
    assert responses == {"redirect", "gone", "rate_limited", "http_4xx", "http_5xx"}


@pytest.mark.parametrize("error_type", sorted(NEUTRAL_ERRORS))
def test_a_neutral_error_changes_nothing(error_type: str) -> None:
    lanes = filled({})
    make_trusted(lanes, "a")
    fail(lanes, "a", 4)
    fail(lanes, "a", 20, error_type=error_type)
    assert lanes.kind_of("a") is Kind.DEGRADED
    fail(lanes, "a", 1)
    assert lanes.kind_of("a") is Kind.PARKED


# Pauses and probes


def test_five_errors_in_a_row_park_a_destination() -> None:
    lanes = filled({})
    fail(lanes, "a", 4)
    assert lanes.kind_of("a") is Kind.DEGRADED
    fail(lanes, "a", 1)
    assert lanes.kind_of("a") is Kind.PARKED


def test_a_response_in_between_restarts_the_row() -> None:
    lanes = filled({})
    fail(lanes, "a", 4)
    fail(lanes, "a", 1, error_type="http_5xx")
    fail(lanes, "a", 4)
    assert lanes.kind_of("a") is Kind.DEGRADED


def test_the_items_of_a_parked_destination_are_deferred_until_the_probe() -> None:
    lanes = filled({"a": 3})
    for turn in [start(lanes) for _ in range(3)]:
        lanes.finished(turn, 0.0, "reset")
    fail(lanes, "a", 2)
    for number in range(3):
        lanes.add("a", number)
    lanes.add("b", 9)
    assert start(lanes, 4.0).destination == "b"
    assert lanes.next(4.0) is None
    deferred = lanes.take_deferred(4.0)
    assert [(one.destination, one.item) for one in deferred] == [("a", 0), ("a", 1), ("a", 2)]
    assert [one.delay_seconds for one in deferred] == pytest.approx([6.0, 6.001, 6.002])
    assert (lanes.waiting, lanes.take_deferred(4.0)) == (0, [])


def parked_lanes() -> Lanes[int]:
    lanes = filled({})
    fail(lanes, "a", 5)
    return lanes


def test_one_probe_is_sent_when_the_parking_time_is_over() -> None:
    lanes = parked_lanes()
    for number in range(3):
        lanes.add("a", number)
    assert lanes.next(9.9) is None
    turn = start(lanes, 10.0)
    assert turn.kind is Kind.PARKED
    assert lanes.next(10.0) is None
    assert lanes.take_deferred(10.0) == [], "the others wait for what comes of the probe"


def test_a_probe_that_fails_doubles_the_parking_time_up_to_five_minutes() -> None:
    lanes, now = parked_lanes(), 0.0
    pauses = []
    for _ in range(7):
        lanes.add("a", 1)
        [deferred] = lanes.take_deferred(now)
        pauses.append(deferred.delay_seconds)
        now += deferred.delay_seconds
        lanes.add("a", 1)
        lanes.finished(start(lanes, now), now, "connect_timeout")
    assert pauses == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


@pytest.mark.parametrize("error_type", [None, "http_5xx", "redirect"])
def test_a_response_to_the_probe_closes_the_breaker(error_type: str | None) -> None:
    lanes = parked_lanes()
    for number in range(20):
        lanes.add("a", number)
    lanes.finished(start(lanes, 10.0), 10.0, error_type)
    assert lanes.kind_of("a") is Kind.DEGRADED
    assert len(start_all(lanes, 10.0)) == 8


def test_a_closed_breaker_parks_for_ten_seconds_again() -> None:
    lanes = parked_lanes()
    for now in (10.0, 30.0):
        lanes.add("a", 1)
        lanes.finished(start(lanes, now), now, "reset" if now == 10.0 else None)
    fail(lanes, "a", 5, now=30.0)
    lanes.add("a", 1)
    assert [(deferred.delay_seconds, deferred.parked) for deferred in lanes.take_deferred(30.0)] == [(10.0, True)]


def test_a_probe_with_a_neutral_error_is_followed_by_another() -> None:
    lanes = parked_lanes()
    lanes.add("a", 1)
    lanes.add("a", 2)
    lanes.finished(start(lanes, 10.0), 10.0, "blocked_address")
    assert start(lanes, 10.0).kind is Kind.PARKED


def test_attempts_that_began_before_the_breaker_opened_do_not_lengthen_the_parking() -> None:
    lanes = filled({"a": 8})
    for turn in start_all(lanes):
        lanes.finished(turn, 1.0, "read_timeout")
    lanes.add("a", 1)
    assert [deferred.delay_seconds for deferred in lanes.take_deferred(1.0)] == [10.0]


def test_an_attempt_that_began_before_the_breaker_opened_can_close_it() -> None:
    lanes = filled({"a": 8})
    *turns, last = start_all(lanes)
    for turn in turns:
        lanes.finished(turn, 1.0, "read_timeout")
    assert lanes.kind_of("a") is Kind.PARKED
    lanes.finished(last, 1.0, None)
    assert lanes.kind_of("a") is Kind.DEGRADED


def test_the_time_of_the_probe_is_reported() -> None:
    lanes = parked_lanes()
    assert lanes.changes_at() is None
    lanes.add("a", 1)
    assert lanes.changes_at() == 10.0


def test_a_probe_that_is_due_but_finds_no_slot_waits_for_an_attempt_to_end() -> None:
    lanes = filled({}, LaneLimits(degraded_slots=1))
    fail(lanes, "busy", 1)
    fail(lanes, "a", 5)
    lanes.add("busy", 1)
    start(lanes, 1.0)
    assert lanes.next(5.0) is None
    lanes.add("a", 1)
    assert lanes.next(10.0) is None
    assert lanes.changes_at() is None, "no time will help: looking again and again would only burn the processor"


def test_a_probe_that_fails_after_a_late_response_does_not_open_the_breaker_again() -> None:
    breaker = Breaker(BreakerLimits(opens_after=2))
    for _ in range(2):
        breaker.record("read_timeout", 0.0, is_probe=False)
    breaker.start_probe()
    breaker.record(None, 10.0, is_probe=False)
    breaker.record("read_timeout", 10.0, is_probe=True)
    assert not breaker.is_open
    assert breaker.is_recovering


# Pauses that the receiver asks for


def test_a_destination_that_asks_for_a_pause_gets_no_request_until_it_is_over() -> None:
    breaker = Breaker(BreakerLimits())
    breaker.record("rate_limited", 0.0, is_probe=False, hold_seconds=30.0)
    assert breaker.is_open
    assert not breaker.may_probe(29.9)
    assert breaker.may_probe(30.0)
    breaker.start_probe()
    breaker.record(None, 30.1, is_probe=True)
    assert (breaker.is_open, breaker.is_recovering) == (False, False)


def test_a_pause_ends_after_five_minutes_even_if_the_receiver_asks_for_hours() -> None:
    breaker = Breaker(BreakerLimits())
    breaker.record("http_5xx", 0.0, is_probe=False, hold_seconds=6 * 3600.0)
    assert breaker.next_probe_at == 300.0


def test_a_response_to_an_earlier_request_does_not_end_the_pause_that_a_receiver_asks_for() -> None:
    breaker = Breaker(BreakerLimits())
    breaker.record("rate_limited", 0.0, is_probe=False, hold_seconds=30.0)
    breaker.record(None, 1.0, is_probe=False)
    breaker.record("rate_limited", 1.0, is_probe=False, hold_seconds=10.0)
    assert breaker.next_probe_at == 30.0


def test_a_probe_that_is_rate_limited_prolongs_the_pause() -> None:
    breaker = Breaker(BreakerLimits())
    breaker.record("rate_limited", 0.0, is_probe=False, hold_seconds=1.0)
    breaker.start_probe()
    breaker.record("rate_limited", 1.0, is_probe=True, hold_seconds=5.0)
    assert breaker.next_probe_at == 6.0


def test_a_destination_that_is_gone_is_paused_and_probed_less_and_less_often() -> None:
    limits = BreakerLimits()
    breaker = Breaker(limits)
    for _ in range(limits.opens_after):
        assert not breaker.is_open
        breaker.record("gone", 0.0, is_probe=False)
    first = breaker.next_probe_at
    assert first == limits.parking.delay_after(1)
    breaker.record("gone", 0.0, is_probe=False)
    assert breaker.next_probe_at == first, "requests that were on their way do not prolong the pause"
    breaker.start_probe()
    breaker.record("gone", first, is_probe=True)
    assert breaker.next_probe_at == first + limits.parking.delay_after(2)


@pytest.mark.parametrize("error_type", [None, "http_5xx", "http_4xx"])
def test_a_410_among_other_responses_pauses_nothing(error_type: str | None) -> None:
    """A destination has several URLs, and only a few of them respond with 410."""
    breaker = Breaker(BreakerLimits())
    for _ in range(20):
        for _ in range(4):
            breaker.record("gone", 0.0, is_probe=False)
        breaker.record(error_type, 0.0, is_probe=False)
    assert (breaker.is_open, breaker.is_recovering) == (False, False)


def test_a_response_other_than_410_ends_the_pause_of_a_destination_that_was_gone() -> None:
    breaker = Breaker(BreakerLimits())
    for _ in range(5):
        breaker.record("gone", 0.0, is_probe=False)
    breaker.start_probe()
    breaker.record(None, 10.0, is_probe=True)
    assert not breaker.is_open


def test_a_paused_destination_is_not_forgotten() -> None:
    lanes = filled({"a": 1})
    lanes.finished(start(lanes), 0.0, "rate_limited", hold_seconds=30.0)
    assert lanes.kind_of("a") is Kind.PARKED
    lanes.add("a", 1)
    assert lanes.next(1.0) is None
    [deferred] = lanes.take_deferred(1.0)
    assert (deferred.parked, deferred.delay_seconds) == (True, 29.0)
