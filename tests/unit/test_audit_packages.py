"""`make audit` fails for known vulnerabilities, and names a database that cannot be reached."""

import json
from pathlib import Path

import pytest

from tests.audit_packages import LOCKS, ROOT, main

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
BROKEN = {"name": "broken", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "local", "skip_reason": "not on PyPI"}


def program(folder: Path, text: str) -> str:
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def reporting(folder: Path, *packages: object, status: int = 0) -> str:
    return program(folder, f"echo '{json.dumps({'dependencies': packages})}'\nexit {status}")


def test_packages_without_vulnerabilities_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([reporting(tmp_path, SOUND, SOUND)]) == 0
    assert "requirements/all.txt: 2 packages checked\n" in capsys.readouterr().out


def test_packages_that_the_database_does_not_know_are_not_called_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([reporting(tmp_path, SOUND, SKIPPED)]) == 0
    written = capsys.readouterr().out
    assert "requirements/all.txt: 1 packages checked\n" in written
    assert "requirements/all.txt: 1 packages not checked: not on PyPI\n" in written


def test_a_vulnerability_fails_and_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([reporting(tmp_path, SOUND, BROKEN, status=1)]) == 1
    assert capsys.readouterr().out.count("broken 2.0: PYSEC-1, fixed in 2.1\n") == 1


@pytest.mark.parametrize(("text", "reason"), [("echo no route >&2; exit 1", "no route"), ("exit 1", "no report")])
def test_a_database_that_cannot_be_reached_is_named_and_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    assert main([program(tmp_path, text)]) == 0
    assert capsys.readouterr().out.count(reason) == len(LOCKS)


def test_the_locks_exist() -> None:
    assert all((ROOT / lock).is_file() for lock in LOCKS)
