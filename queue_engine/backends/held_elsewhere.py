"""The GPUs that processes of other controllers hold: agents of a killed controller that still drain, for example.

They are found by QUEUE_ENGINE_CARDS in their environment. The kernel tells when one of them ends, by a descriptor of
the process, so that a worker that waits for its cards is started at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import psutil

from queue_engine.domain import agent_protocol as protocol
from queue_engine.processes.process_groups import processes_with

_WITHOUT_DESCRIPTORS_SECONDS = 1.0
"""Interval at which processes are listed again on systems without descriptors of processes (Linux before 5.3)."""


class HeldElsewhere:
    """The cards that are held by this user's processes which do not have all of the marks `own`.

    Containers that run as a user of their own are not asked, because they could claim to hold all cards. Their agents
    run as this user, and live longer. `freed` is called after a look that has found a card free which was held before.
    """

    def __init__(self, own: Mapping[str, str], freed: Callable[[], None]) -> None:
        self._own = own
        self._freed = freed
        self._holders: dict[str, psutil.Process] = {}
        self._watched: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._looking = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None

    def uuids(self) -> Collection[str]:
        """Return the UUIDs of the cards, as of the last look."""
        return self._holders.keys()

    async def look(self) -> None:
        """List the processes of this machine, and watch one holder of each card until it ends.

        Workers that wait for a card which has become free get it before the return, so before the caller asks.
        """
        async with self._looking:
            held = set(self._holders)
            while True:
                holders = await asyncio.to_thread(self._found)
                # Watched until here, so that a cancelled look does not miss the end of a holder.
                self._unwatch()
                self._holders = holders
                if all(self._watch(process) for process in set(holders.values())):
                    break
        if held - self._holders.keys():
            self._freed()

    def close(self) -> None:
        """Stop watching. Safe to call twice, and before another look."""
        self._unwatch()
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _found(self) -> dict[str, psutil.Process]:
        return {
            uuid: process
            for process, environment in processes_with({})
            if not self._own.items() <= environment.items()
            for uuid in environment.get(protocol.CARDS, "").split(",")
            if uuid
        }

    def _watch(self, process: psutil.Process) -> bool:
        """Watch a process until it ends. Return False if it has ended already."""
        loop = asyncio.get_running_loop()
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        except (OSError, AttributeError):
            if self._timer is None:
                self._timer = loop.call_later(_WITHOUT_DESCRIPTORS_SECONDS, self._look_again)
            return True
        self._watched.append(fd)
        loop.add_reader(fd, self._look_again)
        return process.is_running()  # else its id belongs to another process by now

    def _look_again(self) -> None:
        self._unwatch()
        if self._again is None or self._again.done():
            self._again = asyncio.create_task(self.look(), name="held-elsewhere")

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for fd in self._watched:
            asyncio.get_running_loop().remove_reader(fd)
            with suppress(OSError):
                os.close(fd)
        self._watched.clear()
