"""Figures, goals and verdicts of the benchmarks. Pure.

A figure is a series of values, one for each round, of one subject: this engine or a peer. A goal compares the engine's
median with a bound, or its ratio to the best peer's median with a bound:

    Goal("tasks", "≥ 1.2 × BullMQ", 1.2, against=("bullmq",))     ratio of medians
    Goal("memory", "≤ 60 MB", 60, at_most=True)                   the median itself
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

OURS = "queue-engine"


@dataclass(frozen=True)
class Figure:
    """Values of one measure of one subject, one for each round."""

    measure: str
    subject: str
    unit: str
    values: tuple[float, ...]
    lower_is_better: bool = False
    note: str = ""
    """Conditions of the last round, such as the cores that each process used."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the distance between the extreme rounds, as a share of the median."""
        return (max(self.values) - min(self.values)) / 2 / self.median if self.median else 0.0


@dataclass(frozen=True)
class Goal:
    """A bound of the engine's median, or of its ratio to the best of the peers in `against`."""

    measure: str
    text: str
    bound: float
    against: tuple[str, ...] = ()
    at_most: bool = False


class Reached(Enum):
    """The result of comparing a goal with the figures."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Verdict:
    """A goal with the figures that decide it."""

    goal: Goal
    reached: Reached
    ours: Figure | None = None
    peer: Figure | None = None
    reason: str = ""
    """Why the goal could not be decided."""

    @property
    def ratio(self) -> float | None:
        return self.ours.median / self.peer.median if self.ours and self.peer and self.peer.median else None


@dataclass(frozen=True)
class Measured:
    """The figures of a row, and what was not measured."""

    figures: tuple[Figure, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the name of the peer that could not be measured."""
    notes: tuple[str, ...] = ()
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Single values by subject, where a plot shows their distribution."""


def verdict(goal: Goal, measured: Measured) -> Verdict:
    """Return whether the figures reach the goal. It is unknown when a figure is missing that the goal names.

    A goal against several peers is about the best of them; those that failed are left out as long as one is there.
    """
    ours = next((one for one in _of(goal, measured.figures) if one.subject == OURS), None)
    if ours is None:
        return Verdict(goal, Reached.UNKNOWN, reason=measured.failures.get(OURS, "no figure"))
    if not goal.against:
        return Verdict(goal, _is_within(goal, ours.median), ours)
    peers = [one for one in _of(goal, measured.figures) if one.subject in goal.against]
    if not peers:
        return Verdict(goal, Reached.UNKNOWN, ours, reason=_reasons(goal, measured.failures))
    best = (min if ours.lower_is_better else max)(peers, key=lambda one: one.median)
    if not best.median:
        return Verdict(goal, Reached.UNKNOWN, ours, best, reason=f"{best.subject} is 0")
    return Verdict(goal, _is_within(goal, ours.median / best.median), ours, best)


def _of(goal: Goal, figures: Iterable[Figure]) -> list[Figure]:
    return [one for one in figures if one.measure == goal.measure and one.values]


def _is_within(goal: Goal, value: float) -> Reached:
    return Reached.YES if (value <= goal.bound if goal.at_most else value >= goal.bound) else Reached.NO


def _reasons(goal: Goal, failures: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {failures.get(name, 'no figure')}" for name in goal.against)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed. Raises ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile needs values")
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
