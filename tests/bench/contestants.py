"""Rounds that alternate between the engine and its peers, so that a busy moment of the machine meets all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.figures import Figure, Measured
from tests.bench.processes import Program, ProgramFailed

ROUNDS = 3


@dataclass(frozen=True)
class Round:
    """The values of one round by measure, and the conditions, such as the cores used."""

    values: dict[str, float]
    note: str = ""
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measure:
    """A kind of figure that the rounds of a row have."""

    name: str
    unit: str
    lower_is_better: bool = False


@dataclass(frozen=True)
class Contestant:
    """The engine or a peer. Its programs run during its own rounds only, and are paused during the others'."""

    name: str
    run: Callable[[], Awaitable[Round]]
    programs: tuple[Program, ...] = ()

    @contextmanager
    def awake(self) -> Iterator[None]:
        for program in self.programs:
            program.resume()
        try:
            yield
        finally:
            for program in self.programs:
                program.pause()


async def alternate(
    contestants: Sequence[Contestant],
    measures: Sequence[Measure],
    *,
    rounds: int = ROUNDS,
    failures: dict[str, str] | None = None,
) -> Measured:
    """Run all contestants in turn, `rounds` times. A failed contestant is left out from then on, with its reason."""
    found: dict[str, list[Round]] = {one.name: [] for one in contestants}
    failures = dict(failures or {})
    for one in contestants:
        for program in one.programs:
            program.pause()
    for _ in range(rounds):
        for one in contestants:
            if one.name in failures:
                continue
            try:
                with one.awake():
                    found[one.name].append(await one.run())
            except ProgramFailed as error:
                failures[one.name] = str(error)
                found[one.name].clear()
    return _measured(found, measures, failures)


def _measured(found: dict[str, list[Round]], measures: Sequence[Measure], failures: dict[str, str]) -> Measured:
    figures = [
        Figure(
            measure.name, name, measure.unit, tuple(one.values[measure.name] for one in rounds),
            measure.lower_is_better, rounds[-1].note,
        )
        for measure in measures
        for name, rounds in found.items()
        if rounds and measure.name in rounds[-1].values
    ]  # fmt: skip
    samples = {name: tuple(value for one in rounds for value in one.samples) for name, rounds in found.items()}
    return Measured(tuple(figures), failures, samples={name: values for name, values in samples.items() if values})
