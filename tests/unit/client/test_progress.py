"""The progress bar of `map`: shown on a terminal when it is asked for, and nowhere else."""

import json
import os
import sys
from contextlib import suppress
from typing import Any

import httpx
import pytest

from queue_engine.client import Client
from queue_engine.client.progress import OperationProgress
from tests.unit.client.scripted_api import batch_body, task


def handle(request: httpx.Request) -> httpx.Response:
    """Respond as an API whose tasks have ended when they are waited for; the first of them has failed."""
    if request.url.path.endswith("/batch"):
        return httpx.Response(200, content=batch_body(*[{"result": "accepted"}] * len(request.content.splitlines())))
    data: Any = {
        "id": "7",
        "name": "echo",
        "image": "i",
        "status": "RUNNING",
        "totalWorkers": 1,
        "runningWorkers": 1,
        "serviceMode": "QUEUE",
        "expose": {"port": 9000, "protocol": "http"},
    }
    if request.url.path.endswith("/wait"):
        names = json.loads(request.content)["taskIds"]
        ended = [task(name, output=1) for name in names if name != "b_1"]
        failed = [task(name, "FAILED", "failed", error="boom") for name in names if name == "b_1"]
        data = {"ended": ended + failed, "pending": [], "unknown": []}
    return httpx.Response(200, json={"message": "success", "code": 10000, "data": data})


def map_inputs(*, progress: bool) -> None:
    """Map three inputs."""
    with Client("http://api:1", "key", transport=httpx.MockTransport(handle)) as client:
        mapped = client.endpoint("7").map(range(3), path="/run", batch_id="b", progress=progress)
        assert len(list(mapped)) == 3


def follow_operation() -> None:
    with OperationProgress(shown=True) as bar:
        bar.show(0.5, 12)


class Terminal:
    """A terminal that is standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._controlling, terminal = os.openpty()
        self._stream = open(terminal, "w", encoding="utf-8")  # noqa: SIM115 - `shown` closes it
        monkeypatch.setattr(sys, "stderr", self._stream)

    def shown(self) -> str:
        """Return what was printed, and close the terminal."""
        self._stream.close()
        printed = b""
        with suppress(OSError), open(self._controlling, "rb", buffering=0) as source:  # which ends with EIO
            while piece := source.read(65536):
                printed += piece
        return printed.decode()


def test_a_bar_on_a_terminal_counts_ended_and_failed_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(monkeypatch)
    map_inputs(progress=True)
    bar = terminal.shown()
    assert "3/3" in bar
    assert "1 failed" in bar


def test_a_bar_on_a_terminal_shows_the_progress_of_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(monkeypatch)
    follow_operation()
    bar = terminal.shown()
    assert "50%" in bar
    assert "12 done" in bar


def test_there_is_no_bar_on_a_terminal_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    map_inputs(progress=False)
    assert terminal.shown() == ""


@pytest.mark.parametrize("name", ["", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_there_is_no_bar_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A variable that asks for colours does not make a pipe a terminal."""
    for one in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(one, raising=False)
    if name:
        monkeypatch.setenv(name, "1")
    map_inputs(progress=True)
    follow_operation()
    assert capsys.readouterr() == ("", "")
