"""What is said about a run."""

from pathlib import Path

from tests.faults.checker import Verdict
from tests.faults.recovery import Recoveries
from tests.faults.report import ended_line, summary, table
from tests.faults.stage import Outcome


def outcome(*violations: str, weaker: str = "") -> Outcome:
    verdict = Verdict(violations, tasks=2, executions=3, lost=len(violations), duplicated=1)
    return Outcome("disk full", 15.0, verdict, Recoveries(), None, 1.0, Path("/nowhere"), weaker=weaker)


def test_a_fault_that_could_not_be_whole_is_not_shown_as_if_it_were() -> None:
    weaker = outcome(weaker="no disk was full")
    assert "weaker than meant: no disk was full" in ended_line(weaker)
    assert table([weaker]).splitlines()[1].endswith("ok, weaker than meant")
    assert "weaker than meant: disk full: no disk was full" in summary([weaker], 1)


def test_one_that_was_whole_is_just_ok() -> None:
    assert table([outcome()]).splitlines()[1].endswith("  ok")
    assert "weaker" not in summary([outcome()], 1) + ended_line(outcome())


def test_one_that_was_weaker_fails_all_the_same() -> None:
    assert table([outcome("gone", weaker="no disk was full")]).splitlines()[1].endswith("FAILED")
