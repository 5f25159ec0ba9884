"""Series of figures: samples of an endpoint or a tenant in rings of three steps, as charts show them.

The leading controller takes a sample every 30 seconds. The first ring keeps each sample for an hour, the second one
record for 5 minutes for a day, the third one record for an hour for 14 days. A record of a longer step has the sums of
counts, the means of gauges, and the largest age and p95 of its samples. An interval without a record, in which no
controller sampled, is a gap: its values are None, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

STEP_SECONDS = 30
"""Interval of samples."""
EARLY_SECONDS = 5
"""Time by which a sample may be early for its interval, because the store's clock is behind that of a controller."""
SLACK_SECONDS = 60
"""Time by which the begin of a period may be older than a ring has, because a client computes it before it asks."""
MAX_TIMED = 32
"""Limit of the ended tasks whose times of waiting and running are read for a sample of an endpoint."""
IDLE_MS = 48 * 3_600_000
"""Time without tasks after which the samples of an endpoint or a tenant are dropped."""
MAX_COVERED_SECONDS = 65_535
"""Limit of the time whose counts a record has."""


@dataclass(frozen=True)
class Ring:
    """Records of one step. Each has its place by the time of its begin, so that it replaces one that is too old."""

    step_seconds: int
    count: int

    @property
    def span_seconds(self) -> int:
        """The time that the ring keeps."""
        return self.step_seconds * self.count

    def begin_of(self, at: int) -> int:
        """Return the begin of the interval that has this time, in epoch seconds."""
        return at - at % self.step_seconds

    def place_of(self, at: int) -> int:
        """Return the place of the interval that has this time."""
        return at // self.step_seconds % self.count


RINGS = (Ring(STEP_SECONDS, 120), Ring(300, 288), Ring(3600, 336))


class Metric(StrEnum):
    """A figure of a series."""

    QUEUED = "queued"
    """Tasks that wait for a worker."""
    RUNNING = "running"
    SCHEDULED = "scheduled"
    """Tasks that wait for their next attempt, or for the time before which they do not begin."""
    UNDELIVERED = "undelivered"
    """Results whose delivery has not ended."""
    OLDEST = "oldest"
    """Age of the task that has been queued for the longest time, in milliseconds; 0 without one."""
    WORKERS = "workers"
    """Workers with the status RUNNING."""
    SLOTS = "slots"
    """Tasks that these workers can run at the same time."""
    SUBMITTED = "submitted"
    """Tasks that were submitted since the sample before. The following three are counted in the same way."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Tasks that ended without success."""
    DELIVERED = "delivered"
    """Deliveries of results of tasks that succeeded. A result that was sent again counts again."""
    COVERED = "covered"
    """Time in which these were counted, in seconds: longer than the step after a gap."""
    WAIT_P50 = "waitP50"
    """Median of the waits of tasks that ended, up to the begin of their latest attempt, in milliseconds. These four are
    those of at most MAX_TIMED tasks of an endpoint in a sample."""
    WAIT_P95 = "waitP95"
    RUN_P50 = "runP50"
    """Median of the durations of their latest attempts, in milliseconds."""
    RUN_P95 = "runP95"


@dataclass(frozen=True)
class Record:
    """The figures of an interval. Times are in milliseconds."""

    at: int
    """Begin of the interval in epoch seconds; for the shortest step, the time of the sample."""
    samples: int = 1
    timed: int = 0
    """Number of samples with times of tasks."""
    covered: int = 0
    """Time in which tasks were counted, in seconds; 0 if their counts are not known."""
    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    delivered: int = 0
    queued: float = 0
    running: float = 0
    scheduled: float = 0
    undelivered: float = 0
    wait_p50: float = 0
    wait_p95: float = 0
    run_p50: float = 0
    run_p95: float = 0
    slots: float = 0
    workers: float = 0
    oldest: float = 0

    def value(self, metric: Metric) -> float | None:
        """Return a figure; None if it is not known."""
        known = _NEEDS.get(metric)
        if known is not None and not getattr(self, known):
            return None
        value: float = getattr(self, _FIELDS[metric])
        return value


_COUNTS = ("submitted", "succeeded", "failed", "delivered")
_GAUGES = ("queued", "running", "scheduled", "undelivered", "slots", "workers")
_TIMES = ("wait_p50", "wait_p95", "run_p50", "run_p95")
_FIELDS: Mapping[Metric, str] = {
    **{metric: metric.value for metric in Metric},
    Metric.WAIT_P50: "wait_p50",
    Metric.WAIT_P95: "wait_p95",
    Metric.RUN_P50: "run_p50",
    Metric.RUN_P95: "run_p95",
}
_NEEDS: Mapping[Metric, str] = {
    **{Metric(name): "covered" for name in (*_COUNTS, "covered")},
    **dict.fromkeys((Metric.WAIT_P50, Metric.WAIT_P95, Metric.RUN_P50, Metric.RUN_P95), "timed"),
}
"""Fields that are zero in a record that does not know a figure."""


@dataclass(frozen=True)
class Totals:
    """Counts of tasks that only grow, at the time of a sample. `at` is that time in epoch seconds, 0 for none."""

    at: int
    submitted: int
    succeeded: int
    failed: int
    delivered: int


def counted(record: Record, before: Totals | None, now: Totals, *, since: int) -> Record:
    """Return a record with the tasks that were counted since the totals `before`; without them, its counts are unknown.

    Nothing was counted from the time of `before` to `since`, in epoch seconds, if that is later.
    """
    if before is None:
        return record
    covered = now.at - max(before.at, since)
    if covered <= 0:  # after a step back of the clock
        return record
    found = {name: max(0, getattr(now, name) - getattr(before, name)) for name in _COUNTS}
    return replace(record, covered=min(covered, MAX_COVERED_SECONDS), **found)


def timed(record: Record, waits: Sequence[int], runs: Sequence[int]) -> Record:
    """Return a record with the quantiles of these times of tasks, in milliseconds."""
    if not waits:
        return record
    return replace(
        record,
        timed=1,
        wait_p50=quantile(waits, 0.5),
        wait_p95=quantile(waits, 0.95),
        run_p50=quantile(runs, 0.5),
        run_p95=quantile(runs, 0.95),
    )


def quantile(values: Sequence[int], part: float) -> int:
    """Return the smallest value that is not less than this part of the values."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def merged(kept: Record | None, sample: Record, ring: Ring) -> Record:
    """Return the record of the sample's interval in a ring. `kept` is what is at its place, maybe of a former interval.

    The counts are sums, the gauges and medians are means, and the age and the p95 are the largest.
    """
    at = ring.begin_of(sample.at)
    if kept is None or kept.at != at:
        return replace(sample, at=at)
    samples = kept.samples + sample.samples
    of_times = kept.timed + sample.timed
    fields = {
        **{name: getattr(kept, name) + getattr(sample, name) for name in _COUNTS},
        **{name: _mean(kept, sample, name, kept.samples, samples) for name in _GAUGES},
        **{name: _mean(kept, sample, name, kept.timed, of_times) for name in ("wait_p50", "run_p50")},
        **{name: max(getattr(kept, name), getattr(sample, name)) for name in ("oldest", "wait_p95", "run_p95")},
    }
    covered = min(kept.covered + sample.covered, MAX_COVERED_SECONDS)
    return replace(sample, at=at, samples=samples, timed=of_times, covered=covered, **fields)


def _mean(kept: Record, sample: Record, name: str, kept_number: int, number: int) -> float:
    if number == 0:
        return 0
    kept_value, value = getattr(kept, name), getattr(sample, name)
    return float((kept_value * kept_number + value * (number - kept_number)) / number)


def together(records: Iterable[Record], at: int) -> Record:
    """Return the record of several endpoints in the same interval, without times of tasks."""
    found = list(records)
    summed = {name: sum(getattr(one, name) for one in found) for name in (*_COUNTS, *_GAUGES)}
    return Record(
        at=at,
        samples=max(one.samples for one in found),
        covered=max(one.covered for one in found),
        oldest=max(one.oldest for one in found),
        **summed,
    )


@dataclass(frozen=True)
class Period:
    """The period that a series shows, with the ring that has it. `begin` and `end` are epoch seconds."""

    ring: Ring
    begin: int
    end: int

    @property
    def places(self) -> range:
        """The begins of its intervals."""
        return range(self.begin, self.end, self.ring.step_seconds)


def period_of(from_ms: int | None, to_ms: int | None, now_ms: int) -> Period:
    """Return the period: the latest hour by default. It ends about now at the latest, and begins with what is kept.

    The ring is the one with the shortest step that has the begin.
    """
    now = now_ms // 1000
    end = now + EARLY_SECONDS if to_ms is None else min(now + EARLY_SECONDS, math.ceil(to_ms / 1000))
    begin = min(end, now) - RINGS[0].span_seconds if from_ms is None else from_ms // 1000
    ring = next((one for one in RINGS if begin >= now - one.span_seconds - SLACK_SECONDS), RINGS[-1])
    oldest = ring.begin_of(now) - ring.span_seconds + ring.step_seconds
    return Period(ring, ring.begin_of(max(begin, oldest)), end + 1)


@dataclass(frozen=True)
class Series:
    """Figures in equal intervals, the oldest first. None is a gap."""

    from_ms: int
    """Begin of the first interval."""
    to_ms: int
    """End of the last interval."""
    step_seconds: int
    values: Mapping[Metric, Sequence[float | None]]
    as_of_ms: int


def series_of(records: Iterable[Record], period: Period, metrics: Iterable[Metric], now_ms: int) -> Series:
    """Return the series of records, of which those outside the period are left out."""
    by_begin = {one.at: one for one in records}
    found = [by_begin.get(at) for at in period.places]
    step = period.ring.step_seconds
    return Series(
        from_ms=period.begin * 1000,
        to_ms=(period.begin + len(found) * step) * 1000,
        step_seconds=step,
        values={metric: [None if one is None else one.value(metric) for one in found] for metric in metrics},
        as_of_ms=now_ms,
    )
