"""Keep named child processes running: restart those that die, and stop all in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from queue_engine.aio import Backoff
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.lifeline import LIFELINE_VARIABLE, Lifeline
from queue_engine.processes.orphans import end_orphans, reap_orphans
from queue_engine.processes.process_groups import ProcessGroup, describe_exit, is_leader

ORPHAN_POLL_SECONDS = 0.2
"""Interval at which the supervisor checks if orphans that may continue have ended; only while there are some."""
RESTART_BACKOFF = Backoff(0.2, 10.0)
CALM_SECONDS = 30.0
"""Running time after which the backoff of a program begins again with its shortest delay."""
_PRIVATE_UMASK = 0o077

logger = logging.getLogger(__name__)


class ProgramError(Exception):
    """A program cannot be started. The message has its name and the reason."""


@dataclass(frozen=True)
class Program:
    """A child process.

    It gets exactly `environment` and the lifeline's variable, and inherits `inherited_fds`. Its output is written to
    `log`, or to this process's own output. When stopped, it has `grace_seconds` between SIGTERM and SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    log: BoundedLog | None = None
    grace_seconds: float = 10.0
    inherited_fds: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProgramState:
    """The state of a program. `last_exit` describes its last unexpected exit; None if there was none."""

    pid: int | None
    restarts: int
    last_exit: str | None


@dataclass(frozen=True)
class ProgramExit:
    """A program has exited unexpectedly, or could not be restarted."""

    name: str
    reason: str
    restart_in_seconds: float


def log_exit(end: ProgramExit) -> None:
    """Log the exit. The default `on_exit` of `Supervisor`."""
    logger.warning("%s; restarting it in %g s", end.reason, end.restart_in_seconds)


@dataclass(frozen=True)
class OrphanPolicy:
    """The orphans of a dead program that are not killed at once, and their time limit."""

    may_go_on: Callable[[int], bool]
    """Function that returns True if the process with this id may continue. Must not raise."""
    seconds: float
    """Time after which they are killed."""


class Supervisor:
    """Runs programs, each in its own process group, so that a terminal's Ctrl-C does not reach them.

    A program that has died is restarted after `backoff`, which grows with consecutive deaths. Its group ends with it.
    Every program inherits a lifeline (descriptor in QUEUE_ENGINE_LIFELINE_FD), with which it can notice that this
    process was killed. `on_exit` must not raise.

    With `orphans`, this process must be a subreaper. Orphans of a dead program are killed, even if they have left its
    group, except those that may continue by the policy.
    """

    def __init__(
        self,
        *,
        backoff: Backoff = RESTART_BACKOFF,
        calm_seconds: float = CALM_SECONDS,
        on_exit: Callable[[ProgramExit], None] = log_exit,
        orphans: OrphanPolicy | None = None,
    ) -> None:
        self._backoff = backoff
        self._calm_seconds = calm_seconds
        self._orphans = orphans
        self._killed = False
        self._tending: asyncio.Task[None] | None = None
        self._on_exit = on_exit
        self._lifeline = Lifeline()
        self._kept: dict[str, _Kept] = {}

    def start(self, program: Program) -> None:
        """Start a program and keep it running. Raises ProgramError if it cannot be executed.

        Its name must not be in use by a running program. Needs a running event loop.
        """
        if program.name in self._kept:
            raise ProgramError(f"{program.name} is running")
        try:
            group = self._spawn(program)
        except (OSError, ValueError) as error:
            raise ProgramError(f"{program.name} cannot be started: {error}") from error
        kept = _Kept(program, group)
        kept.task = asyncio.create_task(self._keep(kept), name=f"keep-{program.name}")
        self._kept[program.name] = kept

    def states(self) -> dict[str, ProgramState]:
        """Return the programs that were started and not stopped, in the order of their start."""
        return {name: kept.state() for name, kept in self._kept.items()}

    async def stop(self, names: Iterable[str] | None = None) -> dict[str, int | None]:
        """Stop these programs one by one, in this order; without names all of them, the last started first.

        Each gets SIGTERM, and SIGKILL after its grace period. When all their processes have ended, return the status
        with which each has ended last; a signal is negative, and None a program that never ran. Names of programs that
        are not kept running are ignored. Safe to call twice.
        """
        statuses: dict[str, int | None] = {}
        for name in list(reversed(self._kept) if names is None else names):
            kept = self._kept.get(name)
            if kept is not None:
                await kept.stop()
                self._kept.pop(name, None)
                statuses[name] = kept.last_status
        return statuses

    def kill(self) -> None:
        """Kill all programs, for the second Ctrl-C. A running or later `stop` returns without a grace period."""
        self._killed = True
        for kept in self._kept.values():
            kept.kill()

    async def aclose(self) -> None:
        """Stop all programs and close the lifeline. Safe to call twice."""
        await self.stop()
        self._lifeline.close()
        self._tend_orphans()
        if self._tending is not None:
            await self._tending

    def _tend_orphans(self) -> None:
        if self._orphans is not None and (self._tending is None or self._tending.done()):
            self._tending = asyncio.create_task(self._end_orphans(self._orphans), name="orphans")

    async def _end_orphans(self, policy: OrphanPolicy) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + policy.seconds

        def keep(pid: int) -> bool:
            may_go_on = not self._killed and clock() < deadline
            return is_leader(pid) or (may_go_on and policy.may_go_on(pid))

        while True:
            await end_orphans(keep)
            if not reap_orphans(is_leader):
                return
            await asyncio.sleep(ORPHAN_POLL_SECONDS)

    def _spawn(self, program: Program) -> ProcessGroup:
        return ProcessGroup.start(
            program.command,
            environment={**program.environment, LIFELINE_VARIABLE: str(self._lifeline.fd)},
            log=program.log,
            inherited_fds=(self._lifeline.fd, *program.inherited_fds),
            umask=_PRIVATE_UMASK,
        )

    async def _keep(self, kept: _Kept) -> None:
        clock = asyncio.get_running_loop().time
        deaths = 0
        while True:
            began = clock()
            reason = await kept.run_out()
            self._tend_orphans()
            if kept.stopping.is_set():
                return
            deaths = 1 if clock() - began >= self._calm_seconds else deaths + 1
            delay = self._backoff.delay_after(deaths)
            kept.last_exit = reason
            self._on_exit(ProgramExit(kept.program.name, reason, delay))
            if await kept.is_stopped_within(delay):
                return
            self._start_again(kept)

    def _start_again(self, kept: _Kept) -> None:
        kept.restarts += 1
        try:
            kept.group = self._spawn(kept.program)
        except (OSError, ValueError) as error:
            kept.spawn_error = f"{kept.program.name} cannot be started: {error}"


class _Kept:
    """A program that is kept running."""

    def __init__(self, program: Program, group: ProcessGroup) -> None:
        self.program = program
        self.group: ProcessGroup | None = group
        self.stopping = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.restarts = 0
        self.last_exit: str | None = None
        self.last_status: int | None = None
        self.spawn_error = ""

    def state(self) -> ProgramState:
        return ProgramState(self.group.pid if self.group else None, self.restarts, self.last_exit)

    async def run_out(self) -> str:
        """Wait until the program has ended, and return the reason; if it could not be started, return the error."""
        if self.group is None:
            return self.spawn_error
        self.last_status = status = await self.group.wait()
        self.group = None
        return describe_exit(self.program.name, status)

    async def is_stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self.stopping.wait()
        except TimeoutError:
            return False

    async def stop(self) -> None:
        self.stopping.set()
        if self.group is not None:
            self.group.terminate()
            if not await self.group.ended_within(self.program.grace_seconds):
                logger.warning("%s does not end: killing it", self.program.name)
                self.kill()
        if self.task is not None:
            await asyncio.wait({self.task})

    def kill(self) -> None:
        self.stopping.set()
        if self.group is not None:
            self.group.kill()
