"""The measurements of the console's tests, beside the goals. The run prints them as a table, and writes a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "build" / "console" / "figures.md"


@dataclass(frozen=True)
class Figure:
    """A measurement of the console."""

    what: str
    measured: str
    goal: str


_found: dict[str, Figure] = {}


def note(what: str, measured: str, goal: str) -> None:
    """Keep a measurement for the table. A later one of the same name replaces it."""
    _found[what] = Figure(what, measured, goal)


def table() -> list[str]:
    """Return the table in Markdown; nothing without a measurement."""
    if not _found:
        return []
    rows = [f"| {one.what} | {one.measured} | {one.goal} |" for one in _found.values()]
    return ["| figure | measured | goal |", "| --- | --- | --- |", *rows]


def write() -> None:
    """Write the table to its file, if there is one."""
    if lines := table():
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text("\n".join(lines) + "\n")
