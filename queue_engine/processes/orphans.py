"""Adopt processes whose parent has died, and end or reap them.

A process can leave its group and session and change its environment, but it cannot leave its ancestors: after
`become_subreaper`, each descendant becomes a child of this process when its parent dies. So a child that this process
did not start is an orphan. Only direct children are signalled, because a process id cannot be reused before the child
is reaped. The children of an ended orphan become orphans in turn.

Linux only. On other systems orphans become children of process 1, and these functions find none.
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
GIVE_UP_SECONDS = 10.0
"""Maximum time for orphans to end after SIGKILL, before an error is logged."""
_PASSES_IN_A_ROW = 200
"""Number of consecutive passes without running other work of this process. They must be faster than a program that
forks and exits in a loop."""
_PAUSE_SECONDS = 0.01

logger = logging.getLogger(__name__)

Keep = Callable[[int], bool]
"""Function that returns True if the child with this process id is not touched: this process has started it, or it may
end without being killed."""


def become_subreaper() -> bool:
    """Adopt the orphans of all descendants from now on; return True if the system supports it."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def children() -> list[int]:
    """Return the ids of this process's children, including zombies; none if the system does not list them."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):
                found += map(int, Path(f"/proc/self/task/{thread}/children").read_bytes().split())
    return found


async def child_ended() -> None:
    """Wait until a child of this process has ended and is not reaped yet. Return at once if there is no child.

    A thread of the loop's executor waits, because uvloop handles SIGCHLD itself. The thread continues after a
    cancellation, until the next child ends. On systems other than Linux this waits forever, because orphans are not
    adopted there.
    """
    if sys.platform != "linux":
        await asyncio.Event().wait()
    with suppress(ChildProcessError):
        await asyncio.to_thread(os.waitid, os.P_ALL, 0, os.WEXITED | os.WNOWAIT)


def reap_orphans(keep: Keep) -> list[int]:
    """Reap the orphans that have ended; return those that run. Call it from the thread that starts processes."""
    return [pid for pid in children() if not keep(pid) and not _is_reaped(pid)]


async def end_orphans(keep: Keep, give_up_seconds: float = GIVE_UP_SECONDS) -> Left:
    """Kill all orphans, and the orphans that they leave, until none lives; return what is left.

    If that takes too long, log an error and return the orphans that still live.

    Call it from the event loop that starts processes, so that a child which is just being started is not treated as an
    orphan.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + give_up_seconds
    while not (left := _kill_orphans(keep)).none:
        if clock() > deadline:
            logger.error("orphans do not end: %s", sorted(left.alive))
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    return left


class Left(NamedTuple):
    """The orphans that remain after a pass."""

    alive: set[int]
    reaped: bool
    """True if the pass has reaped an orphan. Its children may have been adopted after the pass had listed orphans."""

    @property
    def none(self) -> bool:
        """True if no orphan is left."""
        return not self.alive and not self.reaped


def _kill_orphans(keep: Keep) -> Left:
    """Kill orphans until no new one appears; return the result of the last pass."""
    killed: set[int] = set()
    left = Left(set(), reaped=False)
    for _ in range(_PASSES_IN_A_ROW):
        found = {pid for pid in children() if not keep(pid)}
        alive = {pid for pid in found if not _is_reaped(pid)}
        left = Left(alive, reaped=alive != found)
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
        # Kill its group at once too, but only if it is the leader, because it may be a member of this process's group.
        if group == pid:
            os.killpg(group, signal.SIGKILL)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
