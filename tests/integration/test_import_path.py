"""Code that lies in the current folder is not run: not by the commands, and by no process that they start."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from queue_engine.processes.interpreter import python_path
from tests.integration.test_up import ECHO, Up, create, wait_for_workers

ROOT = Path(__file__).parents[2]
STRAY = ("orjson", "redis", "aiohttp", "pydantic", "typer", "psutil", "select", "json", "asyncio", "logging", "uvloop")
MODULES = [(sys.executable, "-m", module) for module in ("queue_engine", "worker_agent")]
SCRIPTS = [(str(Path(sys.executable).with_name(name)),) for name in ("queue-engine", "worker-agent")]
COMMANDS: list[tuple[Sequence[str], Mapping[str, str]]] = [
    *((command, {}) for command in (*MODULES, *SCRIPTS)),
    *((command, {"PYTHONPATH": f":{ROOT}:"}) for command in MODULES),
]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules that leave a trace when they are imported."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in STRAY:
        trace = f"import os, sys\nopen({str(folder / 'imported')!r}, 'a').write({name!r} + ' in ' + repr(sys.argv))\n"
        (folder / f"{name}.py").write_text(f"{trace}raise ImportError('stray {name}')\n")
    return folder


@pytest.mark.parametrize(("command", "environment"), COMMANDS)
def test_a_command_runs_nothing_from_the_current_folder(
    hostile: Path, command: Sequence[str], environment: Mapping[str, str]
) -> None:
    ended = subprocess.run(
        [*command, "--help"],
        cwd=hostile,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert not (hostile / "imported").exists()


def test_no_process_of_the_engine_runs_code_from_the_current_folder(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    up = Up(tmp_path, PYTHONPATH=f":{ROOT}::")
    try:
        up.wait_until_up()
        wait_for_workers(up, create(up, workers=1, command=f"cd {ROOT} && {ECHO}"), 1)
        running = [process for process in up.processes() if "python" in process.name()]
        assert len(running) >= 5
        assert {process.cwd() for process in running} >= {str(hostile)}
        for name in ("delivery", "controller", "api"):
            assert up.role(name).environ()["PYTHONPATH"] == str(ROOT)
    finally:
        up.end()
    assert not (hostile / "imported").exists(), (hostile / "imported").read_text()


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (None, None), ("", None), (":", None), (":::", None), ("/a", "/a"), (":/a", "/a"), ("/a:", "/a"),
        ("/a::/b", "/a:/b"), (".:/a", ".:/a"),
    ],
)  # fmt: skip
def test_empty_elements_of_pythonpath_are_not_passed_on(given: str | None, passed: str | None) -> None:
    environment = {} if given is None else {"PYTHONPATH": given}
    assert python_path(environment).get("PYTHONPATH") == passed
