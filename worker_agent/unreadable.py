"""Find the files that a container's command names and that its user cannot use, to explain why it has ended."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping

MAX_WORDS = 100
"""Number of words of a command that are looked at, so that a long script is not searched."""
MAX_SHOWN = 3
_SECONDS = 5.0
_NOT_FILES = ("/dev/", "/proc/", "/sys/")
"""Folders whose entries another process sees differently, such as /dev/stdout."""
_CHECK = 'for one do [ -r "$one" ] || [ -x "$one" ] || printf "%s\\0" "$one"; done'


def unreadable_files(command: str, environment: Mapping[str, str], user_id: int) -> list[str]:
    """Return the absolute paths of existing files in a command that a user can neither read nor execute.

    Blocks. Returns none if that cannot be found out. The system decides by trying as that user, so that access lists
    and the folders above a file count too.
    """
    named = list(dict.fromkeys(_existing(command, environment.get("PATH", os.defpath))))
    if not named:
        return []
    try:
        checked = subprocess.run(
            ("/bin/sh", "-c", _CHECK, "sh", *named),
            env={},
            user=user_id,
            group=user_id,
            extra_groups=(user_id,),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [os.fsdecode(path) for path in checked.stdout.split(b"\0") if path]


def explanation(files: list[str], user_id: int) -> str:
    """Return the words about these files that follow the reason of an end; empty without files."""
    if not files:
        return ""
    others = len(files) - MAX_SHOWN
    shown = ", ".join(files[:MAX_SHOWN]) + (f" and {others} more" if others > 0 else "")
    return f": user {user_id}, as which this endpoint's containers run, cannot read {shown}"


def _existing(command: str, path: str) -> Iterator[str]:
    """Yield the absolute paths of files that words of the command name, directly, after a `=`, or on the PATH."""
    for word in _words(command)[:MAX_WORDS]:
        for name in {word, word.rpartition("=")[2]}:
            if name and os.path.lexists(name):
                if not (path_of := os.path.abspath(name)).startswith(_NOT_FILES):
                    yield path_of
            elif "/" not in name and (program := shutil.which(name, path=path)):
                yield program


def _words(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError:  # an unbalanced quote, which the shell reports
        return command.split()
