"""The tables at the end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from deploy.demo.jobs import Done
from deploy.demo.screen import Column, Screen, cell

ROWS_SHOWN = 15
NAME_CHARACTERS = 36
TYPES_SHOWN = 25


@dataclass(frozen=True)
class Times:
    """How many tasks were submitted, and when what happened, on the monotonic clock."""

    submitted: int
    first_submit: float
    last_submitted: float
    last_webhook: float

    @property
    def submit_seconds(self) -> float:
        return self.last_submitted - self.first_submit

    @property
    def total_seconds(self) -> float:
        return self.last_webhook - self.first_submit


@dataclass(frozen=True)
class TypeSummary:
    """All files that were found to be of one type."""

    type: str
    group: str
    files: int
    mean_score: float
    median_run_ms: float


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile. Raises ValueError when there are no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def by_type(results: Iterable[Done]) -> list[TypeSummary]:
    """The types that were found, most files first."""
    groups: defaultdict[tuple[str, str], list[Done]] = defaultdict(list)
    for done in results:
        groups[done.task["output"]["type"], done.task["output"]["group"]].append(done)
    summaries = [
        TypeSummary(
            type=kind,
            group=group,
            files=len(members),
            mean_score=fmean(done.task["output"]["score"] for done in members),
            median_run_ms=percentile((done.task["durationMs"] for done in members), 50),
        )
        for (kind, group), members in groups.items()
    ]
    return sorted(summaries, key=lambda summary: (-summary.files, summary.type))


def show_report(screen: Screen, results: Sequence[Done], special: Sequence[Done], times: Times) -> None:
    """Show everything: the files, the receivers that failed, the times."""
    types = by_type(results)
    shown = results[:ROWS_SHOWN]
    screen.show(f"What the model found: {len(types)} types", _types_table(screen, types))
    title = f"The first {len(shown)} of {len(results)} files; milliseconds in the queue, on a worker, in all"
    screen.show(title, _files_table(screen, shown))
    screen.show("The receivers", _receivers_table(screen, results, special))
    screen.show("Times", _times_table(screen, results, times))


def _types_table(screen: Screen, summaries: Sequence[TypeSummary]) -> Table:
    table = screen.table(
        Column("type"),
        Column("group"),
        Column("files", is_number=True),
        Column("mean score", is_number=True),
        Column("median run ms", is_number=True),
    )
    for one in summaries[:TYPES_SHOWN]:
        score, run_ms = f"{one.mean_score:.3f}", f"{one.median_run_ms:.0f}"
        table.add_row(cell(one.type), cell(one.group), str(one.files), score, run_ms)
    rest = summaries[TYPES_SHOWN:]
    if rest:
        table.add_row(f"({len(rest)} more types)", "", str(sum(one.files for one in rest)), "", "")
    return table


def _files_table(screen: Screen, results: Sequence[Done]) -> Table:
    numbers = (Column(name, is_number=True) for name in ("score", "queue", "run", "total", "attempt"))
    table = screen.table(Column("file", may_shrink=True), Column("type"), *numbers, Column("delivery"))
    for done in results:
        task, output = done.task, done.task["output"]
        table.add_row(
            cell(_shortened(done.job.file.name)),
            cell(output["type"]),
            f"{output['score']:.3f}",
            str(task["startedAt"] - task["createdAt"]),
            str(task["durationMs"]),
            f"{done.seconds_to_webhook * 1000:.0f}",
            str(task["attempts"]),
            cell(task["deliveryStatus"]),
        )
    return table


def _receivers_table(screen: Screen, results: Sequence[Done], special: Sequence[Done]) -> Table:
    table = screen.table(
        Column("receiver"),
        Column("what it answered", may_shrink=True),
        Column("status of the task"),
        Column("delivery"),
    )
    attempts = sum(len(done.received) for done in results)
    table.add_row(cell(results[0].job.receiver.name), f"200 ({attempts} times)", "DELIVERED", "SUCCESS")
    for done in special:
        answers = ", ".join(str(received.status) for received in done.received)
        status, delivery = done.task["status"], done.task["deliveryStatus"]
        table.add_row(cell(done.job.receiver.name), answers, cell(status), cell(delivery))
    return table


def _times_table(screen: Screen, results: Sequence[Done], times: Times) -> Table:
    seconds = [done.seconds_to_webhook for done in results]
    table = screen.table(Column("what"), Column("value", is_number=True))
    for what, value in (
        ("tasks submitted a second", f"{times.submitted / times.submit_seconds:.0f}"),
        ("tasks a second, from the first submit to the last webhook", f"{len(results) / times.total_seconds:.1f}"),
        ("submit to webhook, median", f"{percentile(seconds, 50) * 1000:.0f} ms"),
        ("submit to webhook, 99th percentile", f"{percentile(seconds, 99) * 1000:.0f} ms"),
    ):
        table.add_row(what, value)
    return table


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else f"...{name[3 - NAME_CHARACTERS :]}"
