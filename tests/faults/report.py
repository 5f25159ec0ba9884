"""What the suite says on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.recovery import quantile
from tests.faults.stage import Outcome

MOST_VIOLATIONS = 20
HEAD = (
    "fault", "load/s", "tasks", "executions", "lost", "duplicated", "recovery p50/p99 s", "alone p50/p99 s", "verdict",
)  # fmt: skip


def ended_line(outcome: Outcome) -> str:
    """One scenario is over."""
    notes = (*outcome.notes, f"weaker than meant: {outcome.weaker}") if outcome.weaker else outcome.notes
    lines = [f"    {_verdict(outcome)} after {outcome.seconds:.0f} s", *(f"    {note}" for note in notes)]
    shown = outcome.verdict.violations[:MOST_VIOLATIONS]
    lines += [f"      {violation}" for violation in shown]
    if more := len(outcome.verdict.violations) - len(shown):
        lines.append(f"      and {more} more")
    return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each scenario, and one for all of them."""
    rows = [HEAD, *(_row(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(_line(row, widths) for row in rows)


def summary(outcomes: Sequence[Outcome], seed: int) -> str:
    """The counts of all, and the overall verdict."""
    verdicts = [outcome.verdict for outcome in outcomes]
    late = [outcome.name for outcome in outcomes if met_goal(outcome) is False]
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    lines = [
        f"{len(outcomes)} faults, seed {seed}: {sum(one.tasks for one in verdicts)} tasks acknowledged, "
        f"{sum(one.executions for one in verdicts)} executions, {sum(one.lost for one in verdicts)} lost, "
        f"{sum(one.duplicated for one in verdicts)} duplicated",
        f"recovery goals missed: {', '.join(late)}" if late else "recovery goals met",
        f"FAILED: {', '.join(failed)}" if failed else "ok: nothing was lost",
        *(f"weaker than meant: {outcome.name}: {outcome.weaker}" for outcome in outcomes if outcome.weaker),
    ]
    return "\n".join(lines)


def met_goal(outcome: Outcome) -> bool | None:
    """Whether recovery was as quick as it should be; None when there is no goal or nothing was measured."""
    late = quantile(outcome.recoveries.usual, 0.99)
    return None if late is None or outcome.goal_seconds is None else late <= outcome.goal_seconds


def _row(outcome: Outcome) -> tuple[str, ...]:
    verdict = outcome.verdict
    return (
        outcome.name,
        f"{outcome.rate:g}",
        str(verdict.tasks),
        str(verdict.executions),
        str(verdict.lost),
        str(verdict.duplicated),
        _recovery(outcome),
        _recovery_alone(outcome),
        _verdict(outcome),
    )


def _recovery(outcome: Outcome) -> str:
    met = met_goal(outcome)
    goal = "" if met is None else f" (goal {outcome.goal_seconds:g} {'met' if met else 'MISSED'})"
    return _half_and_late(outcome.recoveries.usual) + goal


def _recovery_alone(outcome: Outcome) -> str:
    """There is no goal for them: how long the calls beside them take is not the engine's doing."""
    alone = outcome.recoveries.alone
    return f"{_half_and_late(alone)} of {len(alone)}" if alone else "–"


def _half_and_late(seconds: Sequence[float]) -> str:
    half, late = quantile(seconds, 0.5), quantile(seconds, 0.99)
    return "–" if half is None or late is None else f"{half:.1f} / {late:.1f}"


def _verdict(outcome: Outcome) -> str:
    if not outcome.passed:
        return "FAILED"
    return "ok, weaker than meant" if outcome.weaker else "ok"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (_aligned(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
    return "  ".join(cells).rstrip()


def _aligned(cell: str, width: int, column: int) -> str:
    return f"{cell:<{width}}" if column in (0, 6, 7, 8) else f"{cell:>{width}}"
