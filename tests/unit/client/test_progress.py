"""The progress bar of `map`: shown on a terminal when it is asked for, and nowhere else."""

import json
from typing import Any

import httpx
import pytest

from queue_engine.client import Client
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


def shown(capsys: pytest.CaptureFixture[str], *, progress: bool) -> str:
    """Map three inputs, and return what was printed."""
    with Client("http://api:1", "key", transport=httpx.MockTransport(handle)) as client:
        mapped = client.endpoint("7").map(range(3), path="/run", batch_id="b", progress=progress)
        assert len(list(mapped)) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_a_bar_on_a_terminal_counts_ended_and_failed_tasks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bar = shown(capsys, progress=True)
    assert "3/3" in bar
    assert "1 failed" in bar
    assert shown(capsys, progress=False) == ""


def test_there_is_no_bar_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert shown(capsys, progress=True) == ""
