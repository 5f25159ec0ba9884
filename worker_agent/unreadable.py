"""Find the files that a container's command names and that its user cannot use, to explain why it has ended.

All is tried as that user, so that an explanation tells nothing about closed folders: a path below one is named whether
or not the file exists.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping

MAX_WORDS = 100
"""Number of words of a command that are looked at, so that a long script is not searched."""
MAX_SHOWN = 3
_SECONDS = 5.0
_NOT_FILES = ("/dev/", "/proc/", "/sys/")
"""Folders whose entries another process sees differently, such as /dev/stdout."""
_CHECK = """
set -f
check() {
  if [ -e "$1" ]; then
    [ -r "$1" ] || [ -x "$1" ] || printf '%s\\0' "$1"
    return
  fi
  above=${1%/*}
  until [ -z "$above" ] || [ -e "$above" ]; do above=${above%/*}; done
  if [ -d "${above:-/}" ] && ! [ -x "${above:-/}" ]; then printf '%s\\0' "$1"; fi
}
for one do
  case $one in
    /*) check "$one" ;;
    *)
      command -v -- "$one" >/dev/null 2>&1 && continue
      IFS=:
      for folder in $PATH; do
        case $folder in /*) check "${folder%/}/$one" ;; esac
      done
      unset IFS ;;
  esac
done
"""
"""Prints those of its arguments, absolute paths and names of programs, that exist and cannot be used, or may exist in a
folder that is closed."""
_BEFORE_A_PROGRAM = frozenset({"exec", "&&", "||", ";", "|", "&", "("})


def unreadable_files(command: str, environment: Mapping[str, str], user_id: int) -> list[str]:
    """Return the absolute paths in a command that a user can neither read nor execute, or that are in closed folders.

    Blocks. Returns none if that cannot be found out. The system decides by trying as that user, so that access lists
    and the folders above a file count too.
    """
    named = list(dict.fromkeys(_named(command)))
    if not named:
        return []
    try:
        checked = subprocess.run(
            ("/bin/sh", "-c", _CHECK, "sh", *named),
            env={"PATH": environment.get("PATH", os.defpath)},
            cwd="/",
            user=user_id,
            group=user_id,
            extra_groups=(user_id,),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return list(dict.fromkeys(os.fsdecode(path) for path in checked.stdout.split(b"\0") if path))


def explanation(files: list[str], user_id: int) -> str:
    """Return the words about these files that follow the reason of an end; empty without files."""
    if not files:
        return ""
    others = len(files) - MAX_SHOWN
    shown = ", ".join(files[:MAX_SHOWN]) + (f" and {others} more" if others > 0 else "")
    return f": user {user_id}, as which this endpoint's containers run, cannot read {shown}"


def _named(command: str) -> Iterator[str]:
    """Yield the absolute paths in a command, also those after a `=`, and the names of its programs."""
    before = ";"
    for word in _words(command)[:MAX_WORDS]:
        for name in (word, word.rpartition("=")[2]):
            if name.startswith("/") and not (path := os.path.normpath(name)).startswith(_NOT_FILES):
                yield path
        if before in _BEFORE_A_PROGRAM and word not in _BEFORE_A_PROGRAM and "/" not in word and "=" not in word:
            yield word
        before = word


def _words(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError:  # an unbalanced quote, which the shell reports
        return command.split()
