"""The files of a command that its user cannot read are found as the system sees them."""

import os
from pathlib import Path

import pytest

from tests.integration.other_users import PYTHON
from worker_agent.unreadable import explanation, unreadable_files

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to try as another user")

OTHER = 1_950_000_101
PATH = {"PATH": os.environ["PATH"]}


@pytest.mark.parametrize(
    "command", ["{python} {file}", "{python} --config={file}", "cd {folder} && {python} 'x", "cat <{file}", ". {file}"]
)
def test_an_unreadable_file_is_named(tmp_path: Path, command: str) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "app.py"
    file.touch()
    given = command.format(python=PYTHON, file=file, folder=tmp_path)
    assert unreadable_files(given, PATH, OTHER) in ([str(file)], [str(tmp_path)])


def test_readable_and_missing_files_and_other_words_are_not_named() -> None:
    command = f"{PYTHON} -m http.server $PORT --directory /tmp; cat /etc/no-such-file /etc/passwd ok >/dev/stdout"
    assert unreadable_files(command, PATH, OTHER) == []


def test_a_program_on_the_path_counts(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert unreadable_files("serve --fast", {"PATH": f"{tmp_path}:/bin"}, OTHER) == [str(program)]


def test_an_explanation_does_not_tell_if_a_file_in_a_closed_folder_exists(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "there").touch()
    for name in ("there", "missing"):
        assert unreadable_files(f"cat {tmp_path}/{name}", PATH, OTHER) == [f"{tmp_path}/{name}"]
        assert unreadable_files(name, {"PATH": f"{tmp_path}:/bin"}, OTHER) == [f"{tmp_path}/{name}"]


def test_few_files_are_shown() -> None:
    assert explanation([], OTHER) == ""
    shown = explanation(["/a", "/b", "/c", "/d", "/e"], OTHER)
    assert shown == f": user {OTHER}, as which this endpoint's containers run, cannot read /a, /b, /c and 2 more"
