"""Series of figures: rings, gaps, counts since the sample before, and records of longer steps."""

import pytest

from queue_engine.domain.series import (
    MAX_COVERED_SECONDS,
    RINGS,
    STEP_SECONDS,
    Metric,
    Record,
    Totals,
    counted,
    merged,
    period_of,
    quantile,
    series_of,
    timed,
    together,
)
from queue_engine.store.series import RECORD_BYTES, SERIES_BYTES, packed

SHORT, MIDDLE, LONG = RINGS
NOW = 1_800_000_000  # the begin of an interval of each ring
NOW_MS = NOW * 1000


def test_a_series_has_48_kb() -> None:
    assert (RECORD_BYTES, SERIES_BYTES) == (64, 744 * 64)
    assert [(ring.step_seconds, ring.span_seconds // 3600) for ring in RINGS] == [(30, 1), (300, 24), (3600, 336)]


def test_the_largest_numbers_have_room_in_a_record() -> None:
    record = Record(
        at=2**32 - 1, samples=120, timed=120, covered=MAX_COVERED_SECONDS, submitted=2**40, queued=1e9,
        workers=1e6, slots=1e9, oldest=1e12, wait_p95=1e12,
    )  # fmt: skip
    assert len(packed(record)) == RECORD_BYTES


@pytest.mark.parametrize(
    ("from_ms", "to_ms", "ring", "begin", "end"),
    [
        (None, None, SHORT, NOW - 3570, NOW + 6),
        (NOW_MS - 3_600_000, None, SHORT, NOW - 3570, NOW + 6),
        (NOW_MS - 600_000, NOW_MS - 300_000, SHORT, NOW - 600, NOW - 299),
        (NOW_MS - 3_630_000, None, SHORT, NOW - 3570, NOW + 6),
        (NOW_MS - 3_661_000, None, MIDDLE, NOW - 3900, NOW + 6),
        (NOW_MS - 86_400_000, None, MIDDLE, NOW - 86_100, NOW + 6),
        (NOW_MS - 86_500_000, None, LONG, NOW - 90_000, NOW + 6),
        (0, None, LONG, NOW - 335 * 3600, NOW + 6),
        (None, NOW_MS + 3_600_000, SHORT, NOW - 3570, NOW + 6),
        (None, NOW_MS - 7_200_000, MIDDLE, NOW - 10_800, NOW - 7199),
    ],
)
def test_the_shortest_step_that_has_the_begin_is_shown(
    from_ms: int | None, to_ms: int | None, ring: object, begin: int, end: int
) -> None:
    period = period_of(from_ms, to_ms, NOW_MS)
    assert (period.ring, period.begin, period.end) == (ring, begin, end)
    assert len(period.places) <= period.ring.count


def test_intervals_without_a_record_are_gaps_and_not_zero() -> None:
    records = [Record(NOW - 60, queued=3, covered=30, submitted=2), Record(NOW, queued=0), Record(NOW - 7200, queued=9)]
    found = series_of(records, period_of(NOW_MS - 90_000, None, NOW_MS), [Metric.QUEUED, Metric.SUBMITTED], NOW_MS)
    assert found.values == {Metric.QUEUED: [None, 3, None, 0], Metric.SUBMITTED: [None, 2, None, None]}
    assert (found.from_ms, found.to_ms, found.step_seconds) == (NOW_MS - 90_000, NOW_MS + 30_000, 30)


def test_a_period_in_the_future_has_no_intervals() -> None:
    found = series_of([], period_of(NOW_MS + 60_000, NOW_MS + 90_000, NOW_MS), [Metric.QUEUED], NOW_MS)
    assert found.values == {Metric.QUEUED: []}


def test_counts_are_those_since_the_sample_before() -> None:
    before, now = Totals(NOW - 30, 10, 5, 1, 2), Totals(NOW, 14, 8, 1, 3)
    one = counted(Record(NOW), before, now, since=0)
    assert (one.covered, one.submitted, one.succeeded, one.failed, one.delivered) == (30, 4, 3, 0, 1)


def test_counts_after_a_gap_say_how_long_it_was() -> None:
    before, now = Totals(NOW - 3000, 10, 5, 1, 2), Totals(NOW, 14, 8, 1, 3)
    assert counted(Record(NOW), before, now, since=NOW - 3000).covered == 3000
    # The endpoint had no tasks until the latest round, in which it was not sampled.
    assert counted(Record(NOW), before, now, since=NOW - 30).covered == 30


@pytest.mark.parametrize(
    ("before", "since"), [(None, 0), (Totals(NOW + 60, 0, 0, 0, 0), 0), (Totals(0, 0, 0, 0, 0), NOW)]
)
def test_counts_are_unknown_without_a_time_to_which_they_belong(before: Totals | None, since: int) -> None:
    one = counted(Record(NOW), before, Totals(NOW, 14, 8, 1, 3), since=since)
    assert [one.value(name) for name in (Metric.COVERED, Metric.SUBMITTED, Metric.FAILED)] == [None, None, None]


def test_a_record_of_a_longer_step_has_sums_means_and_the_largest_p95() -> None:
    first = timed(Record(NOW, queued=4, workers=1, oldest=900, covered=30, submitted=2), [10, 20], [1, 3])
    second = timed(Record(NOW + 30, queued=0, workers=3, oldest=100, covered=30, submitted=5), [30, 70], [5, 7])
    third = Record(NOW + 60, queued=8, workers=2, oldest=0)
    kept = None
    for one in (first, second, third):
        kept = merged(kept, one, MIDDLE)
    assert kept is not None
    assert (kept.at, kept.samples, kept.timed, kept.covered, kept.submitted) == (NOW, 3, 2, 60, 7)
    assert (kept.queued, kept.workers, kept.oldest) == (4, 2, 900)
    assert (kept.wait_p50, kept.wait_p95, kept.run_p50, kept.run_p95) == (20, 70, 3, 7)
    assert merged(kept, Record(NOW + 300, queued=1), MIDDLE) == Record(NOW + 300, queued=1)


def test_times_are_unknown_without_tasks_that_ended() -> None:
    assert timed(Record(NOW), [], []).value(Metric.WAIT_P50) is None
    assert timed(Record(NOW), [0], [0]).value(Metric.RUN_P95) == 0


def test_endpoints_are_added_and_the_oldest_task_is_the_oldest_of_all() -> None:
    both = together([Record(NOW, queued=1, oldest=5, covered=30, failed=1), Record(NOW, queued=2, oldest=9)], NOW)
    assert (both.queued, both.oldest, both.failed, both.covered) == (3, 9, 1, 30)


@pytest.mark.parametrize(("values", "median", "p95"), [([5], 5, 5), ([1, 2], 1, 2), (list(range(1, 101)), 50, 95)])
def test_a_quantile_is_a_value_that_occurred(values: list[int], median: int, p95: int) -> None:
    assert (quantile(values, 0.5), quantile(values, 0.95)) == (median, p95)


def test_samples_have_the_shortest_step() -> None:
    assert SHORT.step_seconds == STEP_SECONDS
