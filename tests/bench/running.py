"""Run rows one after the other, with progress, and write their results."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import machine
from tests.bench.environments import NODE, PROGRAMS, PYTHON, ROOT
from tests.bench.figures import Measured
from tests.bench.peer_workers import PEERS_PYTHON, WORKERS
from tests.bench.processes import ProgramFailed, Programs
from tests.bench.report import (
    FIGURE_HEADS,
    GOAL_HEADS,
    Report,
    RowResult,
    figure_rows,
    goal_rows,
    machine_lines,
    results_page,
    text_table,
    write_json,
)
from tests.bench.rows import ROWS, Row
from tests.bench.stage import Stage, echo_name, open_stage
from tests.environment import inherited

RESULT = ROOT / "build" / "bench.json"
PUBLISHED = ROOT / "docs" / "benchmarks"
GROWTH_RESULT = ROOT / "build" / "bench-growth.json"
ROW_SECONDS = 300.0
"""Limit for one row; what hangs must not hold up the others."""

log = logging.getLogger("bench")


async def run_rows(folder: Path, rows: Sequence[Row], *, scale: float, binary: Path, result: Path) -> int:
    """Measure the rows and write everything; returns the exit status: 1 when a row failed.

    The page of results in docs/ is for a full run only; others get theirs beside the JSON.
    """
    programs, began = Programs(folder), time.monotonic()
    facts = None
    try:
        async with open_stage(programs, binary, scale) as stage:
            facts = machine.facts(str(await stage.store.server()), echo_name())
            results = [await _run(stage, row, rows[index:], index) for index, row in enumerate(rows)]
    finally:
        programs.kill()
    report = Report(facts, machine.versions(), scale, time.monotonic() - began, tuple(results), _missing())
    write_json(report, result)
    plots = await _plots(folder, result, PUBLISHED if _is_full(rows, scale) else result.parent / "benchmarks", report)
    _print(report, result, plots)
    return int(report.failed)


def _is_full(rows: Sequence[Row], scale: float) -> bool:
    return len(rows) == len(ROWS) and scale == 1


def _missing() -> dict[str, str]:
    """Return the reasons by name of the peers that are not installed."""
    return {one.name: one.environment.reason for one in WORKERS if one.environment.reason}


async def _run(stage: Stage, row: Row, left: Sequence[Row], done: int) -> RowResult:
    """Measure a row. A row that fails does not stop the others."""
    total, seconds = done + len(left), sum(one.seconds for one in left)
    say(
        f"[{done + 1}/{total}] {row.name}: {row.title}; about {row.seconds:.0f} s, {seconds / 60:.1f} min with the rest"
    )
    began, measured, error = time.monotonic(), Measured(), ""
    try:
        async with asyncio.timeout(ROW_SECONDS):
            measured = await row.measure(stage)
    except TimeoutError:
        error = f"did not end within {ROW_SECONDS:.0f} s"
    except ProgramFailed as failure:
        error = str(failure)
    except Exception as failure:
        log.exception("row %s failed", row.name)
        error = repr(failure)
    took = time.monotonic() - began
    say(f"      took {took:.0f} s{f', failed: {error}' if error else ''}")
    return RowResult(row.name, row.title, row.goals, measured, took, error)


async def _plots(folder: Path, result: Path, target: Path, report: Report) -> list[str]:
    """Draw the plots and write the page of results; returns the names of the files, none without matplotlib."""
    target.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    if PYTHON.is_up_to_date:
        command = [str(PEERS_PYTHON), str(PROGRAMS / "plots.py"), str(result), str(GROWTH_RESULT), str(target)]
        try:
            names = (await Programs(folder).run("plots", command, inherited())).split()
        except ProgramFailed as error:
            say(f"no plots: {error}")
    (target / "results.md").write_text(results_page(report, names))
    return [str(target / name) for name in names]


def _print(report: Report, result: Path, plots: Sequence[str]) -> None:
    say("\n" + text_table(FIGURE_HEADS, figure_rows(report)))
    say("\n" + text_table(GOAL_HEADS, goal_rows(report)))
    say("\n" + "\n".join(machine_lines(report)))
    if NODE.reason or PYTHON.reason:
        say("some peers are not installed: `python -m tests.bench.environments`")
    say(f"\n{report.seconds:.0f} s in all; {result}" + "".join(f", {plot}" for plot in plots))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
