"""Results of a run as JSON, and as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.figures import OURS, Figure, Goal, Measured, Reached, Verdict, verdict

NO_FIGURE = "–"


@dataclass(frozen=True)
class RowResult:
    """A row that was run. `error` is the reason when it failed as a whole."""

    name: str
    title: str
    goals: tuple[Goal, ...]
    measured: Measured
    seconds: float
    error: str = ""

    def verdicts(self) -> list[Verdict]:
        return [verdict(goal, self.measured) for goal in self.goals]


@dataclass(frozen=True)
class Report:
    """A run: the machine, the versions of all that was measured, and the rows."""

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    scale: float
    seconds: float
    rows: tuple[RowResult, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the name of the peer that could not be installed."""

    @property
    def failed(self) -> bool:
        """True when a row failed. A goal that is not reached is no failure."""
        return any(row.error for row in self.rows)


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values. Medians, spreads and verdicts are in it too, for readers without this code."""
    return {
        "machine": dict(report.machine),
        "versions": dict(report.versions),
        "scale": report.scale,
        "seconds": round(report.seconds, 1),
        "missing": dict(report.missing),
        "rows": [_row_to_json(row) for row in report.rows],
    }


def _row_to_json(row: RowResult) -> dict[str, Any]:
    measured = row.measured
    return {
        "name": row.name,
        "title": row.title,
        "seconds": round(row.seconds, 1),
        "error": row.error,
        "figures": [asdict(one) | {"median": one.median, "spread": one.spread} for one in measured.figures],
        "goals": [asdict(one.goal) | _verdict_to_json(one) for one in row.verdicts()],
        "failures": dict(measured.failures),
        "notes": list(measured.notes),
        "samples": {name: list(values) for name, values in measured.samples.items()},
    }


def _verdict_to_json(one: Verdict) -> dict[str, Any]:
    return {
        "ours": one.ours.median if one.ours else None,
        "peer": one.peer.subject if one.peer else None,
        "peer_median": one.peer.median if one.peer else None,
        "ratio": one.ratio,
        "reached": one.reached.value,
        "reason": one.reason,
    }


def write_json(report: Report, path: Path) -> None:
    """Write the report, making the folder when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(report), indent=1, ensure_ascii=False) + "\n")


def figures_from_json(document: Mapping[str, Any]) -> dict[str, list[Figure]]:
    """Return the figures by row of a document that `to_json` made. Raises ValueError for another document."""
    try:
        return {row["name"]: [_figure_from_json(one) for one in row["figures"]] for row in document["rows"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a result of `make bench`: {error!r}") from error


def _figure_from_json(one: Mapping[str, Any]) -> Figure:
    values = tuple(float(value) for value in one["values"])
    return Figure(one["measure"], one["subject"], one["unit"], values, one["lower_is_better"], one["note"])


# Tables

GOAL_HEADS = ("row", "measure", "ours", "peer", "peer's", "ratio", "goal", "reached")
FIGURE_HEADS = ("row", "measure", "of", "median", "± %", "rounds", "conditions")


def goal_rows(report: Report) -> list[Sequence[str]]:
    """Return a row of text for each goal."""
    return [_goal_row(row.name, one) for row in report.rows for one in row.verdicts()]


def _goal_row(name: str, one: Verdict) -> Sequence[str]:
    ratio = NO_FIGURE if one.ratio is None else f"{one.ratio:.2f}"
    peer = one.peer.subject if one.peer else NO_FIGURE
    reached = one.reached.value + (f" ({one.reason})" if one.reached is Reached.UNKNOWN else "")
    return name, one.goal.measure, shown(one.ours), peer, shown(one.peer), ratio, one.goal.text, reached


def figure_rows(report: Report) -> list[Sequence[str]]:
    """Return a row of text for each figure, and one for each peer without a figure."""
    rows: list[Sequence[str]] = []
    for row in report.rows:
        for one in row.measured.figures:
            spread = f"{one.spread:.0%}".rstrip("%") if len(one.values) > 1 else NO_FIGURE
            rows.append((row.name, one.measure, one.subject, shown(one), spread, str(len(one.values)), one.note))
        rows += [
            (row.name, "", name, NO_FIGURE, NO_FIGURE, "0", f"not measured: {reason}")
            for name, reason in row.measured.failures.items()
        ]
        if row.error:
            rows.append((row.name, "", OURS, NO_FIGURE, NO_FIGURE, "0", f"failed: {row.error}"))
    return rows


def shown(figure: Figure | None) -> str:
    """Return a median with its unit, in a precision that fits its size."""
    if figure is None:
        return NO_FIGURE
    value = figure.median
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {figure.unit}".rstrip()


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal."""
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a page."""
    cells = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells
    )


def machine_lines(report: Report) -> list[str]:
    """Return the machine and the versions, a line each."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    return [machine, versions, *(f"not installed: {name}: {reason}" for name, reason in report.missing.items())]


def results_page(report: Report, plots: Sequence[str]) -> str:
    """Return the page of results that `make bench` writes beside its plots."""
    return (
        "\n\n".join(
            [
                "# Results",
                "Written by `make bench`; [Benchmarks](index.md) says what each row measures.",
                "\n".join(f"- {line}" for line in machine_lines(report)),
                "## Goals",
                markdown_table(GOAL_HEADS, goal_rows(report)),
                *(f"![{name.removesuffix('.png')}]({name})" for name in plots),
                "## All figures",
                markdown_table(FIGURE_HEADS, figure_rows(report)),
                *([_notes(report)] if any(row.measured.notes for row in report.rows) else []),
            ]
        )
        + "\n"
    )


def _notes(report: Report) -> str:
    return "\n".join(f"- {row.name}: {note}" for row in report.rows for note in row.measured.notes)
