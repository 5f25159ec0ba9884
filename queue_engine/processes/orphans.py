"""Processes whose parent has died: adopted, and ended or reaped.

A process that has left its group, its session and its environment can still not leave its ancestors: with
`become_subreaper`, whatever our children start becomes our child when its parent dies. So a child that we did not start
is an orphan. Only direct children are signalled: their numbers cannot be used again before we have reaped them, and
what they leave behind becomes our child in turn.

Linux only. Elsewhere orphans belong to the system's process 1, and these functions find none.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_GIVE_UP_SECONDS = 10.0
_PASSES_IN_A_ROW = 200
"""Without letting other work of this process run in between: a program that forks and exits without a pause is
caught by being faster."""
_PAUSE_SECONDS = 0.01

logger = logging.getLogger(__name__)

Keep = Callable[[int], bool]
"""Whether a child with this number is left alone: one that was started by us, or one that ends by itself."""


def become_subreaper() -> bool:
    """Adopt the orphans of all our descendants from now on; return whether the system can."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def children() -> list[int]:
    """Return the numbers of this process's children, zombies too; none where the system does not list them."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):
                found += map(int, Path(f"/proc/self/task/{thread}/children").read_bytes().split())
    return found


async def child_ended() -> None:
    """Return when a child of this process has ended and is not reaped yet; at once when there is no child.

    A thread of the loop's executor waits: uvloop keeps SIGCHLD to itself. It ends with the next child that ends. Where
    the system cannot wait without reaping, this waits forever: orphans are not ours there.
    """
    if sys.platform != "linux":
        await asyncio.Event().wait()
    with suppress(ChildProcessError):
        await asyncio.to_thread(os.waitid, os.P_ALL, 0, os.WEXITED | os.WNOWAIT)


def reap_orphans(keep: Keep) -> list[int]:
    """Reap the orphans that have ended; return those that live. Call it from the thread that starts processes."""
    return [pid for pid in children() if not keep(pid) and not _is_reaped(pid)]


async def end_orphans(keep: Keep) -> None:
    """SIGKILL all orphans, and what they leave behind, until none lives; log an error when that takes too long.

    Call it from the event loop that starts processes, so that a child that is just being started is not mistaken.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + _GIVE_UP_SECONDS
    while not (left := _kill_orphans(keep)).none:
        if clock() > deadline:
            logger.error("orphans do not end: %s", sorted(left.alive))
            return
        await asyncio.sleep(_PAUSE_SECONDS)


class _Left(NamedTuple):
    """Orphans after a pass."""

    alive: set[int]
    reaped: bool
    """The pass has reaped an orphan. It may have left a child that was adopted after the pass had listed orphans."""

    @property
    def none(self) -> bool:
        return not self.alive and not self.reaped


def _kill_orphans(keep: Keep) -> _Left:
    """Kill until no new orphan appears; return what the last pass left."""
    killed: set[int] = set()
    left = _Left(set(), reaped=False)
    for _ in range(_PASSES_IN_A_ROW):
        found = {pid for pid in children() if not keep(pid)}
        alive = {pid for pid in found if not _is_reaped(pid)}
        left = _Left(alive, reaped=alive != found)
        if alive <= killed and not left.reaped:
            break
        for pid in alive - killed:
            _kill(pid)
        killed |= alive
    return left


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        group = os.getpgid(pid)
        # Of its own group's members too, at once: but ours may have it as a member.
        if group == pid:
            os.killpg(group, signal.SIGKILL)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
