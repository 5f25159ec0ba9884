"""The table of cases at the end of `make test-clusters`: the reason that was seen, and the recovery.

A test that shows a case to an operator records it with the fixture `record_case`. The rows travel with the reports of
their tests, so that they also arrive from other processes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import pytest

PROPERTY = "case"
HEADINGS = ("platform", "case", "seen reason", "recovery")
WIDTHS = (10, 36, 52, 44)
"""Columns of text in each column of the table. Longer texts take several lines."""


class RecordCase(Protocol):
    """Adds a row to the table, for the platform of the test."""

    def __call__(self, case: str, *, seen: str, recovery: str) -> None:
        """`seen` is the reason as a user reads it, `recovery` what followed without help."""
        ...


@dataclass(frozen=True)
class Row:
    platform: str
    case: str
    seen: str
    recovery: str

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.platform, self.case, self.seen, self.recovery)


def platform_of(module: str) -> str:
    """Return the platform of a module of tests: `docker` for `tests.clusters.test_docker_backend`."""
    return module.rpartition(".")[2].removeprefix("test_").partition("_")[0]


def rows_of(reports: Iterable[pytest.TestReport]) -> list[Row]:
    """Return the recorded rows by platform. A row of a test that has failed says so in place of the recovery."""
    found = []
    for report in reports:
        if report.when != "call":
            continue
        for name, cells in report.user_properties:
            if name == PROPERTY:
                platform, case, seen, recovery = map(str, cells)  # type: ignore[call-overload]
                found.append(Row(platform, case, seen, recovery if report.passed else f"FAILED: {report.nodeid}"))
    return sorted(found, key=lambda row: row.platform)


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield _line(HEADINGS)
    yield _line(tuple("-" * width for width in WIDTHS))
    for row in rows:
        cells = [textwrap.wrap(" ".join(cell.split()), width) for cell, width in zip(row.cells, WIDTHS, strict=True)]
        for line in zip_longest(*cells, fillvalue=""):
            yield _line(line)


def _line(cells: tuple[str, ...]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
