"""The environments that `make` installs: a small one that runs the engine, and that of the tests."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)
RUNTIME = "requirements/runtime.txt"
DEMO = "requirements/demo.txt"
TESTS = "requirements/all.txt"


def pins(lock: str) -> dict[str, str]:
    return dict(PINNED.findall((ROOT / lock).read_text()))


def needed(extra: str) -> set[str]:
    """Return the names of all packages that an extra of this project needs here, with those of the project itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    left = [(one, "") for one in (*project["dependencies"], *extras[extra])]
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while left:
        text, of_extra = left.pop()
        one = Requirement(text)
        if (text, of_extra) in seen or not (one.marker is None or one.marker.evaluate({"extra": of_extra})):
            continue
        seen.add((text, of_extra))
        if one.name == project["name"]:
            left += [(needs, "") for name in one.extras for needs in extras[name]]
            continue
        found.add(canonicalize_name(one.name))
        requires = distribution(one.name).requires or []
        left += [(needs, name) for needs in requires for name in ("", *one.extras)]
    return found


@pytest.mark.parametrize(("lock", "extras"), [(RUNTIME, ["all"]), (DEMO, ["all", "demo"])])
def test_a_lock_has_what_its_extras_need_and_no_package_of_the_tests(lock: str, extras: list[str]) -> None:
    wanted = set().union(*map(needed, extras))
    assert wanted <= set(pins(lock))
    assert not {"pytest", "hypothesis", "mypy", "ruff", "django"} & set(pins(lock))


@pytest.mark.parametrize("lock", [RUNTIME, DEMO])
def test_a_lock_is_a_part_of_that_of_the_tests_so_that_these_can_be_added(lock: str) -> None:
    assert pins(lock).items() <= pins(TESTS).items()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the files from which `make` decides what to install."""
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def steps(clone: Path, *targets: str) -> str:
    """Return the commands that `make` would run."""
    # Below `make test`, make would print the folder too.
    command = ("make", "--dry-run", "--no-print-directory", *targets, f"PYTHON={sys.executable}")
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    # The line of `check` that compares the console is run even now, because it calls make, and fails outside of git.
    assert done.returncode == 0 or "check" in targets, done.stderr
    return done.stdout


def installed(clone: Path, *stamps: str) -> None:
    """Make it look as if these steps had been done."""
    (clone / ".venv").mkdir(exist_ok=True)
    for stamp in stamps:
        (clone / ".venv" / stamp).touch()


def test_setup_installs_what_runs_the_engine_and_no_more(clone: Path) -> None:
    done = steps(clone, "setup")
    assert f"-r {RUNTIME}" in done
    assert "--editable ." in done
    assert TESTS not in done


def test_setup_does_nothing_a_second_time(clone: Path) -> None:
    installed(clone, ".runtime", ".runtime-installed")
    assert "install" not in steps(clone, "setup")


def test_setup_keeps_the_packages_of_the_tests(clone: Path) -> None:
    installed(clone, ".locked", ".installed", ".tools")
    assert "install" not in steps(clone, "setup")
    os.utime(clone / ".venv" / ".locked", (0, 0))  # the lock has changed
    assert f"-r {TESTS}" in steps(clone, "setup")


@pytest.mark.parametrize("target", ["test", "test-fast", "check", "docs", "faults", "test-clusters", "test-browser"])
@pytest.mark.parametrize("stamps", [(), (".runtime", ".runtime-installed")])
def test_what_tests_or_checks_installs_its_packages_first(clone: Path, target: str, stamps: tuple[str, ...]) -> None:
    installed(clone, *stamps)
    done = steps(clone, target)
    assert f"-r {TESTS}" in done
    assert "-r requirements/deploy.txt" in done
    first = re.search(r"^.venv/bin/(?!python -m pip)", done, re.MULTILINE)
    assert first is not None
    assert done.index("--editable .") < first.start()


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ((), [RUNTIME, DEMO]),
        ((".runtime", ".runtime-installed"), [DEMO]),
        ((".runtime", ".runtime-installed", ".demo"), []),
        ((".locked", ".installed", ".tools"), []),
    ],
)
def test_the_demo_adds_its_model(clone: Path, stamps: tuple[str, ...], expected: list[str]) -> None:
    installed(clone, *stamps)
    done = steps(clone, "demo")
    assert re.findall(r"-r (requirements/(?!build)\S+)", done) == expected
    assert done.rstrip().endswith("deploy/demo/run.py")
