"""The install without extras has the client and its command line, and they work without any other package."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv[0] = 'queue-engine'; "


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project, the packages that its metadata requires without an extra, and what these require."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("queue_engine", "worker_agent"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in closure(required):
        copy(name, folder)
    return folder


def closure(required: Iterable[str]) -> set[str]:
    """Return the names of all packages that these requirements need here."""
    found: set[str] = set()
    left = list(required)
    while left:
        one = Requirement(left.pop())
        if one.name in found or not (one.marker is None or one.marker.evaluate({"extra": ""})):
            continue
        found.add(one.name)
        left += distribution(one.name).requires or []
    return found


def copy(name: str, folder: Path) -> None:
    for file in distribution(name).files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), folder / file)


def run(environment: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script with these packages only: without the folder of installed packages and without variables."""
    command = (sys.executable, "-I", "-S", "-B", "-c", RUN + script, str(environment), *arguments)
    variables = {"PATH": os.environ["PATH"], "QUEUE_ENGINE_API_KEY": "key"}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def test_the_base_requires_four_packages() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {Requirement(one).name for one in required} == {"httpx", "pydantic", "typer", "rich"}


def test_the_client_loads_nothing_of_the_engine(environment: Path) -> None:
    ended = run(environment, "import queue_engine.client; print(*sys.modules)")
    assert ended.returncode == 0, ended.stderr
    ours = {name for name in ended.stdout.split() if name.startswith(("queue_engine", "worker_agent"))}
    assert {name for name in ours if not name.startswith("queue_engine.client")} == {"queue_engine"}


@pytest.mark.parametrize("arguments", [("tasks", "list", "7"), ("endpoints", "list")])
def test_commands_of_the_client_work(environment: Path, arguments: tuple[str, ...]) -> None:
    ended = run(
        environment, "from queue_engine.__main__ import main; main()", *arguments, "--url", "http://127.0.0.1:9"
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("error: http://127.0.0.1:9: ")


def test_the_help_lists_all_commands(environment: Path) -> None:
    ended = run(environment, "from queue_engine.__main__ import main; main()", "--help")
    assert ended.returncode == 0, ended.stderr
    assert "needs the extra `server`" in ended.stdout
    assert "Submit, show, copy, cancel, retry and delete tasks." in ended.stdout


@pytest.mark.parametrize("arguments", [("up", "--port", "1"), ("api",), ("keys", "create", "x")])
def test_commands_of_the_engine_name_the_extra(environment: Path, arguments: tuple[str, ...]) -> None:
    ended = run(environment, "from queue_engine.__main__ import main; main()", *arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: queue-engine {arguments[0]} needs packages that are not installed (")
    assert ended.stderr.endswith("): pip install '/path/to/clone[server]'\n")


def test_the_agent_names_its_extra(environment: Path) -> None:
    ended = run(environment, "from worker_agent.__main__ import main; main()", "--help")
    assert ended.returncode == 2
    assert ended.stderr.endswith("): pip install '/path/to/clone[agent]'\n")
