"""The fault suite as a command."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.engine import ROOT
from tests.faults.over_https import ALWAYS, over_https
from tests.waiting import wait_until

COMMAND = (sys.executable, "-m", "tests.faults")
IN_THE_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$0" "$@"')
"""A shell's background job ignores Ctrl-C."""


def test_it_lists_its_faults_with_what_they_do() -> None:
    shown = subprocess.run([*COMMAND, "--list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(shown.splitlines()) == len(SCENARIOS)
    for scenario in SCENARIOS.values():
        assert scenario.name in shown
        assert scenario.description.splitlines()[0] in shown


def test_every_fault_is_described_and_has_a_name_of_its_own() -> None:
    assert all(scenario.description for scenario in SCENARIOS.values())
    assert len({(scenario.play, scenario.over_api) for scenario in SCENARIOS.values()}) == len(SCENARIOS)


def test_faults_of_agents_are_played_with_agents_over_https_too() -> None:
    assert {f"{name} over https" for name in ALWAYS} <= SCENARIOS.keys()
    asked = over_https(SCENARIOS.values())
    assert all(scenario.over_api for scenario in asked)
    named = {"late results", "cancel", "random mix", "kill agent between take and start"}
    assert {f"{name} over https" for name in named} <= {one.name for one in asked}


def test_a_run_in_which_everything_is_skipped_shows_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [*COMMAND, "--seed", "1", "--only", "store clock an hour ahead"],
        cwd=ROOT,
        env={**os.environ, "PATH": "/nonexistent", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "store clock an hour ahead: skipped, no redis-server" in run.stdout
    assert "nothing is known of them: store clock an hour ahead" in run.stdout
    assert "nothing was lost" not in run.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "shell"), [(signal.SIGINT, ()), (signal.SIGTERM, IN_THE_BACKGROUND)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_run_that_is_interrupted_leaves_no_process(
    tmp_path: Path, number: signal.Signals, shell: tuple[str, ...]
) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        run = subprocess.Popen(
            [*shell, *COMMAND, "--seed", "1", "--only", "kill agent"],
            cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        wait_until(lambda: len(_processes_of(tmp_path)) >= 12, 120, "it does not start")
        run.send_signal(number)
        assert run.wait(120) == 130, output.read_text()
        assert "seed 1;" in output.read_text()
        wait_until(lambda: not _processes_of(tmp_path), message="processes are left")
    finally:
        run.kill()
        run.wait()


def _processes_of(directory: Path) -> list[psutil.Process]:
    """Those that were started with this directory for temporary files; the store's environment is not to be seen."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            of_run = process.environ().get("TMPDIR") == str(directory) or Path(process.cwd()).is_relative_to(directory)
            if of_run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
