"""The container beside the agent: where it listens, whether it is up, and, for a local process, running it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from queue_engine import metrics
from queue_engine.domain.agent_protocol import container_end
from queue_engine.runtime.loops import occurs_within

log = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 1.0
PROBE_INTERVAL_SECONDS = 0.1
"""Between probes while the container is not up: a start is noticed this soon."""
RECHECK_SECONDS = 5.0
"""Between probes while it is up."""


@dataclass(frozen=True)
class ContainerAddress:
    """How a task's workerPort becomes an address.

    With `port`, the container listens there and stands for `exposed_port`, or for every workerPort when that is None.
    Without, each task goes to its own workerPort on `host`, except to `refused_ports` (the agent's own).
    """

    host: str
    port: int | None = None
    exposed_port: int | None = None
    refused_ports: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, url: str, *, exposed_port: int | None, refused_ports: frozenset[int]) -> ContainerAddress:
        """From `http://host[:port]`, which must have been checked before."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port, exposed_port, refused_ports)

    @property
    def probed_port(self) -> int | None:
        """The port by which to tell that the container is up; None when there is none to tell by."""
        return self.port or self.exposed_port

    def port_for(self, worker_port: int) -> int | None:
        """The port to connect to for a task, or None when the worker does not expose `worker_port`."""
        if self.exposed_port is not None and worker_port != self.exposed_port:
            return None
        if self.port is not None:
            return self.port
        return None if worker_port in self.refused_ports else worker_port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.probed_port}" if self.probed_port else host


class ContainerWatch:
    """Knows whether the container's port accepts connections, whatever is spoken over them.

    Without a port to tell by, the container is up when it has been watched for `settle_seconds`.
    """

    def __init__(self, address: ContainerAddress, *, settle_seconds: float = 0.0) -> None:
        self._address = address
        self._settle_seconds = settle_seconds
        self._watched_since: float | None = None
        self._up = asyncio.Event()
        self._suspect = asyncio.Event()
        self.changed = asyncio.Event()

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def reason(self) -> str:
        """Why it is taken to be up, or not, for the endpoint's owner."""
        if self._address.probed_port is None:
            return "the container runs" if self.is_up else "the container has just started"
        return "the container accepts connections" if self.is_up else "the container does not answer yet"

    async def wait_until_up(self) -> None:
        """Return when the container accepts connections."""
        await self._up.wait()

    def suspect(self) -> None:
        """A call found nobody at the port: probe now."""
        self._suspect.set()

    async def step(self) -> None:
        """Probe once, and wait until it is time for the next probe."""
        self._note(await self._probe())
        pause = RECHECK_SECONDS if self.is_up else PROBE_INTERVAL_SECONDS
        if await occurs_within(self._suspect, pause):
            self._suspect.clear()

    def _note(self, up: bool) -> None:
        if up == self.is_up:
            return
        (self._up.set if up else self._up.clear)()
        metrics.agent_container_up.set(1 if up else 0)
        self.changed.set()
        log.info("the container is %s", "up" if up else "down", extra={"address": str(self._address)})

    async def _probe(self) -> bool:
        port = self._address.probed_port
        if port is None:
            return self._has_settled()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                _, writer = await asyncio.open_connection(self._address.host, port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    def _has_settled(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._watched_since is None:
            self._watched_since = now
        return now - self._watched_since >= self._settle_seconds


class ContainerProcess:
    """A command that runs as the container, in the agent's process group."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: str, environment: Mapping[str, str], output_fd: int) -> ContainerProcess:
        """Start `command` with a shell and exactly this environment; its standard output and error go to a file.

        Raises OSError.
        """
        process = await asyncio.create_subprocess_shell(
            command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            start_new_session=False,
        )
        return cls(process)

    async def wait(self) -> str:
        """Wait until it has ended; says how in a few words."""
        return container_end(await self._process.wait())

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL after the grace. What the command itself started is left to who started the agent."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is not None:
                return
            os.kill(self._process.pid, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._process.wait()
