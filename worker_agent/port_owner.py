"""Check that the container, and no program of another user, listens on the container's port.

All workers of a machine share its loopback interface. A program of another endpoint could listen on the port before the
container does, and would get its tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

from worker_agent.probes import Probe
from worker_agent.readiness import Finding, Probed

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"


def users_listening(port: int) -> set[int]:
    """Return the ids of the users whose programs listen on a TCP port of this network. Blocks. Raises OSError."""
    return {user_id for table in _TABLES if table.exists() for user_id in _users_in(table.read_text(), port)}


class OwnedPortProbe:
    """A probe that does not take a program of another user for the container."""

    def __init__(
        self, probe: Probe, port: int, user_id: int, *, listening: Callable[[int], set[int]] = users_listening
    ) -> None:
        self._probe = probe
        self._port = port
        self._user_id = user_id
        self._listening = listening

    @property
    def host(self) -> str:
        return self._probe.host

    async def probe(self, *, was_ready: bool) -> Probed:
        found = await self._probe.probe(was_ready=was_ready)
        if found.finding is not Finding.READY:
            return found
        try:
            others = await asyncio.to_thread(self._listening, self._port) - {self._user_id}
        except OSError as error:
            return Probed(Finding.UNREADY, f"the user who listens on port {self._port} is not known: {error.strerror}")
        if others:
            return Probed(Finding.REFUSED, f"a program of another user listens on port {self._port}")
        return found

    def has_other_connections(self) -> bool:
        return self._probe.has_other_connections()

    async def aclose(self) -> None:
        await self._probe.aclose()


def _users_in(table: str, port: int) -> Iterator[int]:
    """Yield the users of a table as in proc_pid_net(5): the local address is `hex address:hex port`."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            yield int(fields[7])
