"""End the processes that workers have left behind: those that have left the process group of their agent.

A process that the kernel does not let go, because it waits for a device, survives SIGKILL for as long. It may still use
the worker's GPUs and files, so the end of the worker is not reported before.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Protocol

from queue_engine.processes.orphans import GIVE_UP_SECONDS, end_orphans
from queue_engine.processes.process_groups import is_leader, kill_processes_with


class Leftovers(Protocol):
    """Ends what workers have left behind."""

    async def end(self, marks: Mapping[str, str]) -> None:
        """Kill the left processes of the worker with these marks in its environment.

        Returns when they have ended, without a limit; an error is logged every GIVE_UP_SECONDS.
        """
        ...


class AdoptedOrphans:
    """All children of this process that lead no process group of it. For a subreaper, on Linux.

    The worker of an orphan is not known. An orphan that does not end delays only the end of the workers that were
    ending when it was found, so that it does not block later ones.
    """

    def __init__(self, give_up_seconds: float = GIVE_UP_SECONDS) -> None:
        self._give_up_seconds = give_up_seconds
        self._stuck: set[int] = set()

    async def end(self, marks: Mapping[str, str]) -> None:  # noqa: ARG002 - the marks could have been removed
        own: set[int] = set()

        def keep(pid: int) -> bool:
            return is_leader(pid) or (pid in self._stuck and pid not in own)

        try:
            while not (left := await end_orphans(keep, self._give_up_seconds)).none:
                own |= left.alive
                self._stuck |= left.alive
        finally:
            self._stuck -= own


class MarkedProcesses:
    """The processes of this user and of `users` that have the worker's marks in their environment."""

    def __init__(self, users: Container[int]) -> None:
        self._users = users

    async def end(self, marks: Mapping[str, str]) -> None:
        while not await kill_processes_with(marks, self._users):
            pass
