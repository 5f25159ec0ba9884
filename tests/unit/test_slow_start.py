"""A start that takes long: what `up` says about it, and when it gives the API up."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_engine.domain.errors import EngineError
from queue_engine.local.up import _Loading, _SlowStart
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.progress import Progress
from tests.waiting import wait_until

BUSY = "while True: pass"
IDLE = "import time; time.sleep(600)"


class Start:
    """A start of a real process, with a clock that a test sets."""

    def __init__(self, directory: Path, code: str) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.log = directory / "api.log"
        self._process = subprocess.Popen([sys.executable, "-S", "-c", code])
        self.pid = self._process.pid
        self._slow_start = _SlowStart(BoundedLog(self.log), self.said.append, clock=lambda: self.now)

    def look_at(self, seconds: float) -> None:
        self.now = seconds
        self._slow_start.look(self.pid)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Start]:
    start = Start(tmp_path, IDLE)
    yield start
    start.end()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Start]:
    start = Start(tmp_path, BUSY)
    yield start
    start.end()


def test_a_short_start_says_nothing(idle: Start) -> None:
    for second in range(10):
        idle.look_at(second)
    assert idle.said == []


def test_a_slow_start_says_for_which_process_it_waits_at_growing_intervals(idle: Start) -> None:
    for second in range(55):
        idle.look_at(second)
    assert len(idle.said) == 3
    assert idle.said[0].startswith(f"waiting for the API (process {idle.pid}) for 10 s. It has used ")
    assert idle.said[0].endswith(f" s of processor time, and has written nothing to {idle.log}")
    assert [word.partition(" for ")[2].partition(" for ")[2].partition(".")[0] for word in idle.said] == [
        "10 s", "20 s", "40 s",
    ]  # fmt: skip


def test_a_start_without_progress_is_given_up(idle: Start) -> None:
    idle.look_at(0)
    idle.look_at(59)
    with pytest.raises(
        EngineError, match=rf"the API \(process {idle.pid}\) does not serve after 60 s, and has made no"
    ):
        idle.look_at(60)


def test_a_line_in_the_log_is_progress_and_is_shown(idle: Start) -> None:
    idle.look_at(0)
    idle.log.write_text("first\nthe store is away\n")
    idle.look_at(50)
    assert idle.said[-1].endswith(f"The end of {idle.log}: the store is away")
    idle.look_at(109)
    with pytest.raises(EngineError, match="does not serve after 110 s, and has made no progress for 60 s"):
        idle.look_at(110)


def test_processor_time_is_progress(busy: Start) -> None:
    busy.look_at(0)
    progress = Progress(busy.log)
    progress.look(busy.pid)
    wait_until(lambda: progress.look(busy.pid), message="the process does not run")
    busy.look_at(100)
    busy.look_at(159)


def test_another_process_in_place_of_one_that_died_is_progress(idle: Start, busy: Start) -> None:
    progress = Progress(idle.log)
    assert progress.look(idle.pid)
    assert progress.look(busy.pid)
    assert progress.look(None)
    assert not progress.look(None)
    assert progress.processor_seconds == 0


def test_a_short_loading_of_the_data_is_one_line() -> None:
    assert said_of_loading([(0.02 * look, look) for look in range(50)]) == ["loading the data"]


def test_a_long_loading_of_the_data_shows_its_progress_each_second() -> None:
    looks = [(0.02 * look, look / 2) for look in range(200)]
    assert said_of_loading(looks) == [
        "loading the data",
        "loading the data: 25 %",
        "loading the data: 50 %",
        "loading the data: 75 %",
    ]


def said_of_loading(looks: list[tuple[float, float]]) -> list[str]:
    """Return the lines that `up` prints for these times, each with the percentage that is loaded."""
    said: list[str] = []
    now = 0.0
    loading = _Loading(said.append, clock=lambda: now)
    for now, percent in looks:  # noqa: B007 - read by the clock
        loading.look(percent)
    return said
