"""The benchmarks' decisions: goals, tables, comparisons, and how rounds treat a peer that fails."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench import growth
from tests.bench.__main__ import until_interrupted
from tests.bench.comparison import Change, compare, missing
from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.figures import OURS, Figure, Goal, Measured, Reached, percentile, verdict
from tests.bench.processes import ProgramFailed, Programs, cpu_seconds, tree_of
from tests.bench.report import (
    GOAL_HEADS,
    Report,
    RowResult,
    figure_rows,
    figures_from_json,
    goal_rows,
    results_page,
    shown,
    text_table,
    to_json,
)
from tests.bench.rows import ROWS, chosen
from tests.environment import inherited
from tests.servers import valkey_binary
from tests.waiting import wait_until_async

TASKS = Measure("tasks", "/s")


def figure(subject: str, *values: float, measure: str = "tasks", lower_is_better: bool = False) -> Figure:
    return Figure(measure, subject, "/s", values, lower_is_better)


# Goals


@pytest.mark.parametrize(
    ("ours", "peers", "goal", "reached"),
    [
        (1200, {"bullmq": 1000}, Goal("tasks", "", 1.2, against=("bullmq",)), Reached.YES),
        (1199, {"bullmq": 1000}, Goal("tasks", "", 1.2, against=("bullmq",)), Reached.NO),
        (900, {"arq": 100, "saq": 200}, Goal("tasks", "", 5, against=("arq", "saq")), Reached.NO),
        (1000, {"arq": 100, "saq": 200}, Goal("tasks", "", 5, against=("arq", "saq")), Reached.YES),
        (3.0, {}, Goal("tasks", "", 3, at_most=True), Reached.YES),
        (3.1, {}, Goal("tasks", "", 3, at_most=True), Reached.NO),
        (12, {"without": 10}, Goal("tasks", "", 1.25, against=("without",), at_most=True), Reached.YES),
        (13, {"without": 10}, Goal("tasks", "", 1.25, against=("without",), at_most=True), Reached.NO),
    ],
)
def test_a_goal_is_decided_by_the_median_and_the_best_peer(
    ours: float, peers: dict[str, float], goal: Goal, reached: Reached
) -> None:
    figures = (figure(OURS, ours), *(figure(name, value) for name, value in peers.items()))
    assert verdict(goal, Measured(figures)).reached is reached


def test_the_best_peer_of_a_figure_that_should_be_low_is_the_lowest() -> None:
    figures = [figure(name, value, lower_is_better=True) for name, value in ((OURS, 4), ("arq", 20), ("bullmq", 5))]
    decided = verdict(Goal("tasks", "", 1, against=("arq", "bullmq"), at_most=True), Measured(tuple(figures)))
    assert decided.peer is not None
    assert (decided.peer.subject, decided.ratio) == ("bullmq", 0.8)


def test_a_goal_without_its_peer_is_not_measured_and_names_the_reason() -> None:
    measured = Measured((figure(OURS, 1000),), failures={"bullmq": "node and npm are not installed"})
    decided = verdict(Goal("tasks", "", 1.2, against=("bullmq",)), measured)
    assert decided.reached is Reached.UNKNOWN
    assert decided.reason == "bullmq: node and npm are not installed"


def test_a_goal_against_several_peers_is_decided_by_those_that_were_measured() -> None:
    measured = Measured((figure(OURS, 1000), figure("saq", 100)), failures={"celery": "no wheel"})
    assert verdict(Goal("tasks", "", 5, against=("saq", "celery")), measured).reached is Reached.YES


def test_a_row_that_failed_reaches_no_goal() -> None:
    decided = verdict(Goal("tasks", "", 1), Measured(failures={OURS: "the API does not listen"}))
    assert (decided.reached, decided.reason) == (Reached.UNKNOWN, "the API does not listen")


def test_the_spread_is_half_the_range_of_the_rounds() -> None:
    assert figure(OURS, 90, 100, 110).spread == pytest.approx(0.1)
    assert figure(OURS, 100).spread == 0


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile(range(100), 0.99) == 99
    assert percentile([5.0], 0.5) == 5.0
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 0.5)


def test_every_goal_of_every_row_names_a_bound_and_rows_have_different_names() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(goal.bound > 0 and goal.text for row in ROWS for goal in row.goals)
    assert sum(row.seconds for row in ROWS) < 600


def test_rows_are_chosen_by_name() -> None:
    assert [row.name for row in chosen(["store", "agent"])] == ["agent", "store"]
    assert chosen([]) == list(ROWS)
    with pytest.raises(ValueError, match="no row nothing; rows are agent, submit"):
        chosen(["nothing"])


# Tables and JSON


def report(*figures: Figure, goals: tuple[Goal, ...] = (), **failures: str) -> Report:
    row = RowResult("agent", "one agent", goals, Measured(figures, failures, notes=("a note",)), 1.0)
    return Report({"CPU": "a processor"}, {"arq": "0.28.0"}, 1.0, 10.0, (row,), {"bullmq": "no npm"})


def test_the_table_has_ours_the_peers_the_ratio_the_goal_and_the_verdict() -> None:
    goals = (Goal("tasks", "≥ 1.2 × BullMQ", 1.2, against=("bullmq",)),)
    [row] = goal_rows(report(figure(OURS, 1500), figure("bullmq", 3000), goals=goals))
    assert row == ("agent", "tasks", "1,500 /s", "bullmq", "3,000 /s", "0.50", "≥ 1.2 × BullMQ", "no")


def test_a_peer_that_was_not_measured_is_named_with_its_reason() -> None:
    rows = figure_rows(report(figure(OURS, 1500), bullmq="no npm"))
    assert rows[-1][2] == "bullmq"
    assert rows[-1][-1] == "not measured: no npm"
    assert "not installed: bullmq: no npm" in results_page(report(figure(OURS, 1500)), [])


def test_a_result_can_be_read_back() -> None:
    figures = (figure(OURS, 90, 100, 110), figure("arq", 50, lower_is_better=True))
    document = json.loads(json.dumps(to_json(report(*figures, goals=(Goal("tasks", "≥ 5", 5, against=("arq",)),)))))
    assert figures_from_json(document) == {"agent": list(figures)}
    [row] = document["rows"]
    assert (row["figures"][0]["median"], row["goals"][0]["reached"]) == (100, "no")


@pytest.mark.parametrize("document", [{}, {"rows": [{"name": "agent"}]}, {"rows": [{"name": "a", "figures": [{}]}]}])
def test_another_document_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a result of `make bench`"):
        figures_from_json(document)


def test_figures_are_shown_in_a_precision_that_fits_them() -> None:
    assert [shown(figure(OURS, value)) for value in (1234.5, 12.34, 1.234)] == ["1,234 /s", "12.3 /s", "1.23 /s"]
    assert shown(None) == "–"


def test_a_text_table_is_aligned() -> None:
    lines = text_table(("a", "bb"), [("ccc", "d")]).splitlines()
    assert lines == ["a    bb", "---  --", "ccc  d"]


def test_the_page_of_results_shows_goals_plots_and_notes() -> None:
    page = results_page(report(figure(OURS, 1)), ["latency.png"])
    assert "![latency](latency.png)" in page
    assert "- agent: a note" in page
    assert page.count("| --- |") >= 2
    assert " | ".join(GOAL_HEADS) in page


# Comparison


def changes(before: list[Figure], after: list[Figure]) -> list[Change]:
    return [one.change for one in compare({"agent": before}, {"agent": after})]


def test_a_change_beyond_the_noise_is_named() -> None:
    assert changes([figure(OURS, 1000)], [figure(OURS, 880)]) == [Change.SLOWER]
    assert changes([figure(OURS, 1000)], [figure(OURS, 950)]) == [Change.SAME]
    assert changes([figure(OURS, 1000)], [figure(OURS, 1200)]) == [Change.FASTER]


def test_a_change_within_the_spread_of_the_rounds_is_noise() -> None:
    assert changes([figure(OURS, 800, 1000, 1200)], [figure(OURS, 880)]) == [Change.SAME]


def test_the_peers_change_is_the_machines() -> None:
    """Half as fast on a machine on which the peers are half as fast too is the same."""
    before = [figure(OURS, 1000), figure("arq", 400), figure("saq", 700)]
    halved = [figure(one.subject, one.median / 2) for one in before]
    assert changes(before, halved) == [Change.SAME]
    assert changes(before, [figure(OURS, 1000), *halved[1:]]) == [Change.FASTER]
    assert changes(before, [figure(OURS, 500), *before[1:]]) == [Change.SLOWER]


def test_less_is_better_where_the_figure_says_so() -> None:
    def low(value: float) -> list[Figure]:
        return [figure(OURS, value, lower_is_better=True)]

    assert changes(low(60), low(80)) == [Change.SLOWER]
    assert changes(low(80), low(60)) == [Change.FASTER]
    assert changes(low(0), low(5)) == [Change.SLOWER]
    assert changes(low(0), low(0)) == [Change.SAME]


def test_a_figure_that_is_not_measured_again_is_named() -> None:
    before = {"agent": [figure(OURS, 1)], "submit": [figure(OURS, 2, measure="submits"), figure("bare", 3)]}
    assert missing(before, {"agent": [figure(OURS, 1)]}) == ["submit, submits"]
    assert missing(before, before) == []


# Rounds


def scripted(*values: float | Exception) -> Callable[[], Awaitable[Round]]:
    left = iter(values)

    async def run() -> Round:
        value = next(left)
        if isinstance(value, Exception):
            raise value
        return Round({"tasks": value}, samples=(value,))

    return run


async def test_rounds_alternate() -> None:
    order: list[str] = []

    def noted(name: str) -> Contestant:
        async def run() -> Round:
            order.append(name)
            return Round({"tasks": float(len(order))})

        return Contestant(name, run)

    measured = await alternate([noted(OURS), noted("arq")], [TASKS], rounds=2)
    assert order == [OURS, "arq", OURS, "arq"]
    assert {one.subject: one.values for one in measured.figures} == {OURS: (1, 3), "arq": (2, 4)}


async def test_a_peer_that_fails_is_left_out_with_its_reason_and_the_others_go_on() -> None:
    measured = await alternate(
        [Contestant(OURS, scripted(1, 2)), Contestant("arq", scripted(3, ProgramFailed("ended with status 1")))],
        [TASKS],
        rounds=2,
        failures={"bullmq": "no npm"},
    )
    assert [one.subject for one in measured.figures] == [OURS]
    assert measured.failures == {"arq": "ended with status 1", "bullmq": "no npm"}
    assert measured.samples == {OURS: (1, 2)}


# Programs

SLEEPER = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import signal; signal.pause()'])"


async def test_a_program_ends_with_all_that_it_started(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    async with programs.running("sleeper", [sys.executable, "-c", SLEEPER], inherited()) as program:
        await wait_until_async(lambda: len(tree_of(program.pid)) == 2)
        pids = program.pids()
        program.pause()
        assert cpu_seconds(pids) > 0
    await wait_until_async(lambda: not any(map(is_alive, pids)))


async def test_programs_that_are_left_end_with_the_rest(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    started = [await programs.start("sleeper", [sys.executable, "-c", SLEEPER], inherited()) for _ in range(2)]
    await programs.close()
    assert not any(one.running for one in started)


async def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match="oops ended with status 3: no such queue"):
        await Programs(tmp_path).run(
            "oops", [sys.executable, "-c", "print('no such queue'); raise SystemExit(3)"], inherited()
        )


async def test_an_interrupt_ends_all_programs_and_removes_the_data(tmp_path: Path) -> None:
    """SIGINT in the middle of a row, as by Ctrl-C."""
    variables = {**inherited(), "TMPDIR": str(tmp_path)}
    words = ("-m", "tests.bench", "--only", "idle-agent", "--result", str(tmp_path / "bench.json"))
    bench = await asyncio.create_subprocess_exec(
        sys.executable, *words, env=variables, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        await wait_until_async(lambda: any("worker_agent" in command for command in commands_below(bench.pid)))
        pids = tree_of(bench.pid)
        bench.send_signal(signal.SIGINT)
        assert await bench.wait() == 130
    finally:
        if bench.returncode is None:
            os.killpg(bench.pid, signal.SIGKILL)
    await wait_until_async(lambda: not any(map(is_alive, pids)))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_that_a_library_swallows_ends_the_work() -> None:
    ended = []

    async def work() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
                break
            ended.append("swallowed")
        return 0

    assert until_interrupted(work()) == 130
    assert ended == ["swallowed", "swallowed"]


def commands_below(pid: int) -> list[str]:
    found = []
    for child in tree_of(pid):
        try:
            found.append(" ".join(psutil.Process(child).cmdline()))
        except psutil.Error:
            continue
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


# Growth


def test_the_change_to_an_earlier_run_of_the_same_sizes_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def document(*sizes: int, whole: float) -> dict[str, Any]:
        return {"sizes": list(sizes), "microseconds": {"submit": {"whole": [1.0, whole]}}}

    growth.print_change(document(1, 2, whole=50.0), document(1, 2, whole=60.0))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["submit", "50.0", "60.0", "1.20"]
    growth.print_change(document(1, 3, whole=50.0), document(1, 2, whole=60.0))
    growth.print_change(None, document(1, 2, whole=60.0))
    assert capsys.readouterr().out == ""


async def test_costs_are_measured_beside_finished_and_waiting_tasks(tmp_path: Path) -> None:
    result = tmp_path / "growth.json"
    await growth.run(valkey_binary(), (200, 400), rounds=2, result=result)
    document = json.loads(result.read_text())
    assert document["sizes"] == [200, 400]
    assert document["waiting"]["sizes"] == [400, 200, 400, 400]
    assert document["waiting"]["lanes"] == [0, 1, 1, 400]
    for costs in (document["microseconds"], document["waiting"]["microseconds"]):
        assert set(costs) >= set(growth.OPERATIONS)
        assert all(value > 0 for cost in costs.values() for value in cost["whole"])
