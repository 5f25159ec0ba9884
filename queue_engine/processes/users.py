"""The users of this machine, and the rights of this process to run others as them. Linux only."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import sys
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38


def account_ids() -> frozenset[int]:
    """Return the ids of all users and groups that this machine lists."""
    return frozenset({one.pw_uid for one in pwd.getpwall()} | {one.gr_gid for one in grp.getgrall()})


def subordinate_ids() -> list[tuple[int, int]]:
    """Return the ranges of ids that are reserved for users' own containers: pairs of first id and number."""
    found: list[tuple[int, int]] = []
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        for line in _lines(path):
            _, _, numbers = line.partition(":")
            first, _, count = numbers.partition(":")
            if first.isdecimal() and count.isdecimal():
                found.append((int(first), int(count)))
    return found


def mapped_ids() -> list[tuple[int, int]]:
    """Return the ranges of user ids that exist in this process's user namespace: pairs of first id and number."""
    rows = [line.split() for line in _lines(Path("/proc/self/uid_map"))]
    return [(int(row[0]), int(row[2])) for row in rows if len(row) == 3]


def effective_capabilities() -> int:
    """Return the capabilities of this process as bits; 0 on other systems than Linux."""
    for line in _lines(Path("/proc/self/status")):
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16)
    return 0


def forbid_new_privileges() -> None:
    """Let no program that this thread starts from now on gain rights by set-user-ID files. Raises OSError."""
    if sys.platform != "linux":
        raise OSError("not on this system")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
