"""The container beside the agent: its address, a watch of its readiness, and, for a local process, how it is run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from queue_engine.aio import run_forever, wait_for_event
from queue_engine.domain.agent_protocol import container_end
from queue_engine.domain.tasks import NOT_CONNECTED, ContainerResponse
from queue_engine.domain.workers import WorkerStatus
from queue_engine.net.ports import IPV6_LOOPBACK, LOOPBACK
from queue_engine.observability import metrics
from queue_engine.processes.orphans import child_ended, end_orphans, reap_orphans
from queue_engine.processes.process_groups import exit_of
from queue_engine.processes.users import forbid_new_privileges
from queue_engine.rules.hosts import bracketed
from worker_agent.port_owner import OwnedPortProbe
from worker_agent.probes import PortProbe, Probe, ReadyPathProbe, SettledProbe, Target, where_children_listen
from worker_agent.readiness import READY_PATH_FAILURES, Clocks, Finding, Probed, Readiness
from worker_agent.unreadable import explanation, unreadable_files

log = logging.getLogger(__name__)

LOOPBACKS = (LOOPBACK, IPV6_LOOPBACK)
PROBE_INTERVAL_SECONDS = 0.1
READY_PATH_INTERVAL_SECONDS = 0.5
"""Interval of probes of the ready path while the container is not ready."""
STOP_POLL_SECONDS = 0.05
"""Interval at which a stop checks if the container's processes have ended."""
RECHECK_SECONDS = 5.0
TRY_INTERVAL_SECONDS = 1.0
"""Interval at which tasks begin while the container responds 503: short, so that the first result follows soon after
the container is ready, and long enough not to flood it before."""
_PRIVATE_UMASK = 0o077
_IN_HOME = 'unset CDPATH; cd -- "${HOME:-/}" 2>/dev/null || cd /; unset OLDPWD; exec "$0" -c "$1"'
"""Shell command that goes to the home folder as the container's user. The agent itself could enter closed folders, and
the container would inherit such a folder with access to the files in it."""
EXPLAIN_INTERVAL_SECONDS = 5.0
"""Interval at which the ports are listed on which the container listens instead."""


@dataclass(frozen=True)
class ContainerAddress:
    """The host of the container, and the rule that maps a task's workerPort to a port.

    With `port`, the container listens there, and `port` replaces `exposed_port`, or every workerPort if that is None.
    With `exposed_port` only, tasks are sent to that port only. An agent that shares a network with other programs must
    have one of the two, because a task could otherwise name a port of another program. With `own_network`, a task is
    sent to its workerPort, except to `refused_ports` (the agent's own).
    """

    host: str
    port: int | None = None
    exposed_port: int | None = None
    refused_ports: frozenset[int] = frozenset()
    own_network: bool = False

    @classmethod
    def parse(
        cls, url: str, *, exposed_port: int | None, refused_ports: frozenset[int], own_network: bool = False
    ) -> ContainerAddress:
        """Return the address for `http://host[:port]`, which must have been validated before."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port, exposed_port, refused_ports, own_network)

    @property
    def probed_port(self) -> int | None:
        """The port that probes connect to; None if no port is known."""
        return self.port or self.exposed_port

    def port_for(self, worker_port: int) -> int | None:
        """Return the port to connect to for a task, or None if it must not be sent; `refusal` has the reason."""
        if self.own_network:
            return None if worker_port in self.refused_ports else worker_port
        if self.exposed_port is not None and worker_port != self.exposed_port:
            return None
        return self.port or self.exposed_port

    def refusal(self, worker_port: int) -> str:
        """Return a text with the reason why no task is sent to `worker_port`, and the ports that are allowed."""
        if self.own_network:
            return f"workerPort {worker_port} is the agent's own port; a task may name every other one"
        if self.exposed_port is None:
            return f"workerPort {worker_port}: the endpoint exposes no port, so its tasks cannot be sent"
        return f"workerPort {worker_port} is not exposed by the worker: tasks may name {self.exposed_port} only"

    def __str__(self) -> str:
        host = bracketed(self.host)
        return f"{host}:{self.probed_port}" if self.probed_port else host


@dataclass(frozen=True)
class ProbePolicy:
    """The target and the intervals of a watch's probes."""

    target: Target | None
    """None if no port is known."""
    ready_path: str | None
    sees_calls: bool
    """True if all requests to the container pass through this agent, as tasks do."""
    recheck_seconds: float = RECHECK_SECONDS
    """Interval of probes while the container is ready, and after the last call."""

    @property
    def interval_seconds(self) -> float:
        """Interval of probes while the container is not ready."""
        return PROBE_INTERVAL_SECONDS if self.ready_path is None else READY_PATH_INTERVAL_SECONDS


def watch_over(
    address: ContainerAddress,
    *,
    ready_path: str | None,
    start_timeout_seconds: float,
    sees_calls: bool,
    port_name: str = "",
    settle_seconds: float = 0.0,
    user_id: int | None = None,
) -> ContainerWatch:
    """Return the watch of the container at `address`, whose start begins now.

    `port_name` is set if the agent starts the container and passes the port in a variable of that name. Then no other
    program listens on that port, so that `::1` is tried too. If no port is known, the container is ready after it has
    been watched for `settle_seconds`. With `user_id`, a program of another user at the port is not the container.
    """
    clocks = Clocks(time.monotonic, lambda: datetime.now(UTC))
    allowed = READY_PATH_FAILURES - 1 if ready_path is not None else 0
    readiness = Readiness(clocks, start_timeout_seconds=start_timeout_seconds, failures_allowed=allowed)
    if address.probed_port is None:
        policy = ProbePolicy(None, None, sees_calls)
        return ContainerWatch(address, readiness, SettledProbe(address.host, settle_seconds), policy)
    hosts = LOOPBACKS if port_name and address.host in LOOPBACKS else (address.host,)
    target = Target(hosts, address.probed_port, port_name)
    probe: Probe = PortProbe(target) if ready_path is None else ReadyPathProbe(target, ready_path)
    if user_id is not None:
        probe = OwnedPortProbe(probe, target.port, user_id)
    return ContainerWatch(address, readiness, probe, ProbePolicy(target, ready_path, sees_calls))


class ContainerWatch:
    """Finds out if the container is ready, and decides when tasks may begin.

    It does not probe during a call, because a server that handles one call at a time is then busy, not down.
    """

    def __init__(self, address: ContainerAddress, readiness: Readiness, probe: Probe, policy: ProbePolicy) -> None:
        self._address = address
        self._readiness = readiness
        self._probe = probe
        self._policy = policy
        self._explanation = ""
        self._explain_at = 0.0
        self._in_flight = 0
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._wake = asyncio.Event()
        self._is_doubted = False
        self._open = asyncio.Event()
        self._unpaced = asyncio.Event()
        self._probe_after = 0.0
        self._try_after = 0.0
        self._published: WorkerStatus | None = None
        self.changed = asyncio.Event()

    @property
    def address(self) -> ContainerAddress:
        """The address on which the container was found to listen."""
        if self._address.host != self._probe.host:
            self._address = replace(self._address, host=self._probe.host)
        return self._address

    @property
    def status(self) -> WorkerStatus:
        """INITIALIZING, RUNNING or FAILED."""
        return self._readiness.status

    @property
    def reason(self) -> str:
        """The reason for the status, for the endpoint's owner."""
        return self._explained(self._readiness.reason)

    @property
    def error(self) -> str:
        """The reason why the worker is not ready; empty while it runs, and in the first seconds of a start."""
        return self._explained(self._readiness.error)

    def _explained(self, text: str) -> str:
        return text if not text or self._readiness.is_open else text + self._explanation

    # Calls

    async def wait_for_turn(self) -> None:
        """Wait until a task may begin."""
        while True:
            await self._open.wait()
            pause = self._try_after - _now()
            if pause <= 0 or not self._readiness.is_paced or await wait_for_event(self._unpaced, pause):
                return

    @property
    def is_open(self) -> bool:
        """True if the last probes and calls show that tasks can be sent."""
        return self._open.is_set()

    def take_turn(self) -> bool:
        """Return True if a task may begin now. While the container responds 503, one per TRY_INTERVAL_SECONDS may."""
        if not self._open.is_set():
            return False
        if self._readiness.is_paced:
            if _now() < self._try_after:
                return False
            self._try_after = _now() + TRY_INTERVAL_SECONDS
        return True

    @property
    def is_busy(self) -> bool:
        """True if a call is running."""
        return self._in_flight > 0

    async def observed(self, call: Awaitable[ContainerResponse]) -> tuple[ContainerResponse, bool]:
        """Make a task's call; return its response, and True if it does not count as an attempt of the task.

        Until the first 2xx since the container's start, 503 and failures to connect do not count, for at most the start
        timeout.
        """
        began = _now()
        self._calls += 1
        self._in_flight += 1
        self._idle.clear()
        watching = self._watch_for_long_call()
        try:
            response = await call
        finally:
            if watching is not None:
                watching.cancel()
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
                self._probe_after = _now() + self._interval()
        is_free = self._readiness.note_response(response, seconds=_now() - began, alone=not self._in_flight)
        if self._readiness.is_paced:
            self._try_after = max(self._try_after, began + TRY_INTERVAL_SECONDS)
        if response.error_type in NOT_CONNECTED:
            self._is_doubted = True
            self._wake.set()
        self._publish()
        return response, is_free

    def _watch_for_long_call(self) -> asyncio.TimerHandle | None:
        """Have a long call noted. It changes nothing unless the container is loading: only a response that arrives
        while no other call is running begins that."""
        if not self._readiness.is_loading:
            return None
        return asyncio.get_running_loop().call_later(self._readiness.patience_seconds, self._note_long_call)

    def _note_long_call(self) -> None:
        self._readiness.note_long_call()
        self._publish()

    # Probes

    async def run(self) -> None:
        """Probe until cancelled."""
        await run_forever(self.step, idle_seconds=0, name="watch")

    async def step(self) -> int:
        """Wait until a probe is due, and probe once."""
        await self._until_due()
        calls = self._calls
        probed = await self._probe.probe(was_ready=self._readiness.is_open)
        if not await self._is_explained(probed, calls):
            self._readiness.note_probe(probed)
        if probed.finding is Finding.READY:
            self._is_doubted = False
        self._wake.clear()
        self._probe_after = _now() + self._interval()
        await self._explain()
        self._publish()
        return 1

    async def aclose(self) -> None:
        """Close the connections of the probes."""
        await self._probe.aclose()

    async def _until_due(self) -> None:
        while True:
            await self._idle.wait()
            pause = self._probe_after - _now()
            if pause > 0 and not await wait_for_event(self._wake, pause):
                continue
            if self._idle.is_set():
                return

    def _interval(self) -> float:
        settled = self._readiness.is_open and not self._is_doubted
        return self._policy.recheck_seconds if settled else self._policy.interval_seconds

    async def _is_explained(self, probed: Probed, calls: int) -> bool:
        """Return True if a failed probe may mean only that the container is busy with a call or a request."""
        if probed.finding is Finding.READY or not self._readiness.is_open:
            return False
        if self._in_flight or self._calls != calls:
            return True
        if probed.finding is not Finding.SILENT:
            return False
        if self._policy.ready_path is None:
            return True
        return not self._policy.sees_calls and await asyncio.to_thread(self._probe.has_other_connections)

    async def _explain(self) -> None:
        """If the container does not come up, list from time to time the ports on which it listens instead."""
        target = self._policy.target
        if target is None or not (self._readiness.is_refused and self._readiness.needs_explanation):
            self._explanation = ""
        elif _now() >= self._explain_at:
            self._explanation = await asyncio.to_thread(where_children_listen, target)
            self._explain_at = _now() + EXPLAIN_INTERVAL_SECONDS

    def _publish(self) -> None:
        """Allow tasks to begin, or not, and have a change of the status reported at once."""
        may_begin = self._readiness.is_open and not self._is_doubted
        (self._open.set if may_begin else self._open.clear)()
        (self._unpaced.clear if self._readiness.is_paced else self._unpaced.set)()
        status = self.status
        if status is self._published:
            return
        if status is WorkerStatus.RUNNING or self._published is not None:
            up = "up" if status is WorkerStatus.RUNNING else "down"
            log.info("the container is %s", up, extra={"address": str(self.address), "why": self.reason})
        self._published = status
        metrics.agent_container_up.set(1 if status is WorkerStatus.RUNNING else 0)
        self.changed.set()


def _now() -> float:
    """Return the time on the event loop's clock, which is this one. Asking for the loop costs more than the time."""
    return time.monotonic()


class ContainerProcess:
    """A command that runs as the container, in the agent's process group.

    The agent starts no other process, so all its other children are orphans that the command has started.
    """

    def __init__(self, process: subprocess.Popen[bytes], explain: Callable[[], str] | None = None) -> None:
        """`explain` returns words about a failure of the command. It may block."""
        self._process = process
        self._explain = explain
        self._exited = exit_of(process)

    @classmethod
    def start(
        cls, command: str, environment: Mapping[str, str], output_fd: int, *, user_id: int | None = None
    ) -> ContainerProcess:
        """Start `command` in a shell with exactly this environment; write its standard output and error to a file.

        The command inherits no other descriptor, so that it can neither accept the agent's scrapes nor write the
        worker's end report. (A child that uvloop starts would inherit all inheritable descriptors.) Raises OSError.

        With `user_id`, the command runs as this user and group, in no other group, and cannot gain other rights. The
        files that it creates are private to it. It starts in its HOME, or in `/` if it cannot enter that.
        """
        if user_id is not None:
            forbid_new_privileges()
            os.fchown(output_fd, user_id, user_id)  # because a shell opens /dev/stdout again
        process = subprocess.Popen(
            ("/bin/sh", "-c", command) if user_id is None else ("/bin/sh", "-c", _IN_HOME, "/bin/sh", command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            close_fds=True,
            cwd=None if user_id is None else "/",
            user=user_id,
            group=user_id,
            extra_groups=None if user_id is None else (user_id,),
            umask=-1 if user_id is None else _PRIVATE_UMASK,
        )
        if user_id is None:
            return cls(process)
        return cls(process, lambda: explanation(unreadable_files(command, environment, user_id), user_id))

    async def wait(self) -> str:
        """Wait until the process has ended; return a description of its end, in a few words."""
        status = await self._status()
        unreadable = await asyncio.to_thread(self._explain) if status and self._explain is not None else ""
        return container_end(status) + unreadable

    async def reap_step(self) -> int:
        """Wait until a child has ended, and reap the command's orphans. Always return 0, so that a pause follows."""
        await child_ended()
        reap_orphans(self._is_main)
        return 0

    async def stop(self, grace_seconds: float) -> None:
        """Send SIGTERM to the command and its processes, and SIGKILL after the grace period to those that still run.

        If the command has ended already, its processes get SIGKILL at once.
        """
        if self._process.returncode is None:
            self._terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._status()
                    await self._group_ends()
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._status()
        await end_orphans(self._is_main)

    async def _status(self) -> int:
        await asyncio.shield(self._exited)
        return self._process.wait()

    def _terminate(self) -> None:
        """Send SIGTERM to the agent's process group if it leads one, because a shell does not forward the signal."""
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGTERM)  # the agent itself drains already
        else:
            self._process.terminate()

    async def _group_ends(self) -> None:
        """Wait until the agent is the only process of its group."""
        while any(_is_in_own_group(pid) for pid in reap_orphans(self._is_main)):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(STOP_POLL_SECONDS)

    def _is_main(self, pid: int) -> bool:
        return pid == self._process.pid and self._process.returncode is None


def _is_in_own_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except OSError:
        return False
