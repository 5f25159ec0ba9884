"""Compare two results of `make bench`, and name what got slower. Pure.

A figure of the engine is divided by the change of the same row's peers where the row has any: the peers' versions are
locked, so that their change is the machine's. A change counts when it exceeds both MIN_CHANGE and the spread of the
rounds of all figures that it is made of.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import exp, inf, log

from tests.bench.figures import OURS, Figure

MIN_CHANGE = 0.10
"""Smallest change that counts, whatever the spread."""


class Change(Enum):
    """The direction of a change that exceeds the noise."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"


@dataclass(frozen=True)
class Compared:
    """A figure that both results have."""

    row: str
    before: Figure
    after: Figure
    machine: float
    """Factor by which the peers of the row changed for the better; 1 without peers."""
    factor: float
    """Factor by which the engine changed for the better, beyond the machine's."""
    noise: float
    """Share that a change must exceed."""

    @property
    def change(self) -> Change:
        if self.factor < 1 / (1 + self.noise):
            return Change.SLOWER
        return Change.FASTER if self.factor > 1 + self.noise else Change.SAME

    def __str__(self) -> str:
        before, after, unit = self.before.median, self.after.median, self.before.unit
        machine = f", the row's peers {self.machine:.2f} ×" if self.machine != 1 else ""
        values = f"{before:,.4g} → {after:,.4g} {unit}"
        return f"{self.row}, {self.before.measure}: {values} ({self.factor:.2f} ×{machine}; noise ± {self.noise:.0%})"


def compare(before: Mapping[str, Sequence[Figure]], after: Mapping[str, Sequence[Figure]]) -> list[Compared]:
    """Return the engine's figures that both results have, in the order of the first."""
    return [
        _compared(row, one, other, _peers(figures, after[row], one.measure))
        for row, figures in before.items()
        if row in after
        for one in figures
        if one.subject == OURS
        for other in after[row]
        if (other.measure, other.subject) == (one.measure, OURS)
    ]


def _peers(before: Iterable[Figure], after: Iterable[Figure], measure: str) -> list[tuple[Figure, Figure]]:
    later = {one.subject: one for one in after if one.measure == measure and one.subject != OURS}
    return [(one, later[one.subject]) for one in before if one.measure == measure and one.subject in later]


def _compared(row: str, before: Figure, after: Figure, peers: Sequence[tuple[Figure, Figure]]) -> Compared:
    peers = [pair for pair in peers if all(one.median for one in pair)]
    machine = exp(statistics.fmean(log(_better(*pair)) for pair in peers)) if peers else 1.0
    machine_noise = statistics.fmean(one.spread + other.spread for one, other in peers) if peers else 0.0
    noise = max(MIN_CHANGE, before.spread + after.spread + machine_noise)
    return Compared(row, before, after, machine, _better(before, after) / machine, noise)


def _better(before: Figure, after: Figure) -> float:
    """Return the factor by which a figure changed for the better; 1 when both are 0."""
    worse, better = before.median, after.median
    if before.lower_is_better:
        worse, better = better, worse
    if not worse:
        return inf if better else 1.0
    return better / worse


def missing(before: Mapping[str, Sequence[Figure]], after: Mapping[str, Sequence[Figure]]) -> list[str]:
    """Return the engine's figures that only the first result has."""
    there = {(row, one.measure) for row, figures in after.items() for one in figures if one.subject == OURS}
    return [
        f"{row}, {one.measure}"
        for row, figures in before.items()
        for one in figures
        if one.subject == OURS and (row, one.measure) not in there
    ]
