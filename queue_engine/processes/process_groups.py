"""Child processes that lead their own process group, so that they end together with the processes they start."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from queue_engine.processes.bounded_log import BoundedLog

PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE"),
    *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
)
"""The variables that children get from this process's environment: locations and locale, but no secrets."""

_HAS_PROC: bool = sys.platform == "linux"
_TRIM_SECONDS = 1.0
_POLL_SECONDS = 0.01
_GIVE_UP_SECONDS = 10.0

_leaders: set[int] = set()
"""Process ids of the leaders that were started and not reaped yet."""

logger = logging.getLogger(__name__)


def is_leader(pid: int) -> bool:
    """Return True if this process has started `pid` as the leader of a group."""
    return pid in _leaders


class ProcessGroup:
    """A child process, the leader, and all processes that it starts in its group.

    When the leader ends for any reason, the rest of the group is killed. The group has no terminal, so a terminal's
    Ctrl-C does not reach it. Use it in the event loop in which it was started.
    """

    def __init__(self, leader: subprocess.Popen[bytes], log: BoundedLog | None) -> None:
        self._leader = leader
        self._has_members = True
        _leaders.add(leader.pid)
        self._end = asyncio.create_task(self._see_the_end(log), name=f"process-group-{leader.pid}")

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: BoundedLog | None = None,
        inherited_fds: Collection[int] = (),
        umask: int = -1,
    ) -> Self:
        """Start `command` with exactly `environment`, and with no open files except `inherited_fds` and its output.

        Its output is written to `log`, which is kept under its limit, or to this process's own output. Raises OSError
        if the command cannot be executed, and ValueError if an argument or a variable has invalid characters.
        """
        output = log.open() if log is not None else None
        try:
            leader = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=tuple(inherited_fds),
                start_new_session=True,
                umask=umask,
            )
        finally:
            if output is not None:
                os.close(output)
        return cls(leader, log)

    @property
    def pid(self) -> int:
        """The process id of the leader, which is also the id of the group."""
        return self._leader.pid

    def terminate(self) -> None:
        """Send SIGTERM to the leader only. Does nothing after it has ended."""
        if self._leader.returncode is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the whole group. Does nothing after the leader has ended."""
        if self._leader.returncode is None:
            _signal_group(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until the whole group has ended; return the leader's exit status, negative if a signal ended it.

        Does not wait longer than ten seconds after the leader's end for members that do not end.
        """
        return await asyncio.shield(self._end)

    async def wait_for_members(self) -> None:
        """Wait, without a limit, until no member is left. Call it after `wait`."""
        # Not after the end of the last member, because another group could have the same id then.
        while self._has_members:
            self._has_members = not await wait_for_group(self.pid)

    async def ended_within(self, seconds: float) -> bool:
        """Wait at most that time, and return True if the whole group has ended."""
        done, _ = await asyncio.wait({self._end}, timeout=seconds)
        return bool(done)

    async def _see_the_end(self, log: BoundedLog | None) -> int:
        exited = exit_of(self._leader)
        while not (await asyncio.wait({exited}, timeout=_TRIM_SECONDS))[0]:
            if log is not None:
                log.trim()
        # The leader is not reaped yet, so its id cannot belong to another group. A single signal is enough, because
        # the kernel does not let a member fork while a signal is pending.
        _signal_group(self.pid, signal.SIGKILL)
        status = self._leader.wait()
        _leaders.discard(self.pid)
        self._has_members = not await wait_for_group(self.pid)
        if log is not None:
            log.trim()
        return status


def exit_of(process: subprocess.Popen[bytes]) -> asyncio.Future[None]:
    """Return a future that is resolved when the process has exited; on Linux before it is reaped."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[None] = loop.create_future()

    def resolve() -> None:
        if not exited.done():
            exited.set_result(None)

    def wait() -> None:
        _wait_without_reaping(process)
        with suppress(RuntimeError):  # the loop is closed, so no task waits
            loop.call_soon_threadsafe(resolve)

    threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()
    return exited


def describe_exit(what: str, status: int) -> str:
    """Return, for example, `agent exited with status 3`, or `agent killed by signal 9` for a negative status."""
    return f"{what} exited with status {status}" if status >= 0 else f"{what} killed by signal {-status}"


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `environment` that children get: those in PASSED_ON."""
    return {name: environment[name] for name in PASSED_ON if name in environment}


def birth_of(pid: int) -> str | None:
    """Return the start time of the process, which distinguishes it from others with the same id since boot.

    Return None if there is no such process, or it is a zombie.
    """
    if _HAS_PROC:
        # Ticks since boot, because a time of day would change when the clock is set. See proc_pid_stat(5).
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return None


def own_processes(users: Container[int] = ()) -> Iterator[psutil.Process]:
    """Yield the processes of this user and of `users`, except this process."""
    for pid in psutil.pids():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            user = process.uids().real
            if pid != os.getpid() and (user == os.getuid() or user in users):
                yield process


def processes_with(
    marks: Mapping[str, str], users: Container[int] = ()
) -> list[tuple[psutil.Process, Mapping[str, str]]]:
    """Return this user's processes that were started with all `marks` in their environment, with that environment.

    `users` are further users whose processes are included.
    """
    found: list[tuple[psutil.Process, Mapping[str, str]]] = []
    for process in own_processes(users):
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            if marks.items() <= environment.items():
                found.append((process, environment))
    return found


async def kill_processes_with(
    marks: Mapping[str, str], users: Container[int] = (), give_up_seconds: float = _GIVE_UP_SECONDS
) -> bool:
    """Kill this user's processes with `marks`, even those that have left their group; wait until they have ended.

    `users` are further users whose processes are included. The processes must be orphans, not children that this
    process has started. If it takes too long, logs an error and returns False.
    """
    deadline = asyncio.get_running_loop().time() + give_up_seconds
    # Remembered, because an ending process loses its environment before its open files.
    killed: dict[int, str | None] = {}
    while (found := await asyncio.to_thread(processes_with, marks, users)) or _any_lives(killed):
        for process, _ in found:
            killed[process.pid] = birth_of(process.pid)
            with suppress(psutil.Error):
                process.kill()
        if asyncio.get_running_loop().time() > deadline:
            logger.error("processes do not end: %s", sorted(killed))
            return False
        await asyncio.sleep(_POLL_SECONDS)
    for pid in killed:
        _reap_adopted(pid)
    return True


async def end_processes(processes: Collection[psutil.Process], grace_seconds: float) -> None:
    """Send SIGTERM to processes that are not children, and SIGKILL after the grace period; wait until they end."""
    births = {process.pid: birth_of(process.pid) for process in processes}
    for end, patience in ((psutil.Process.terminate, grace_seconds), (psutil.Process.kill, _GIVE_UP_SECONDS)):
        for process in processes:
            with suppress(psutil.Error):
                end(process)
        deadline = asyncio.get_running_loop().time() + patience
        while _any_lives(births) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - no child of ours
            await asyncio.sleep(_POLL_SECONDS)


def kill_group_of(process: psutil.Process) -> int | None:
    """Kill the process group of `process`, which is not a child of this process; return the group's id.

    Does nothing and returns None if the process has ended or is in this process's own group.
    """
    group = _group_of(process.pid)
    if group is None or group == os.getpgrp() or not process.is_running():
        return None
    _signal_group(group, signal.SIGKILL)
    return group


async def wait_for_group(group: int, give_up_seconds: float = _GIVE_UP_SECONDS) -> bool:
    """Wait until a killed group has no members except zombies. If it takes too long, log an error and return False."""
    deadline = asyncio.get_running_loop().time() + give_up_seconds
    while _group_lives(group):
        if asyncio.get_running_loop().time() > deadline:
            logger.error("process group %d does not end", group)
            return False
        await asyncio.sleep(_POLL_SECONDS)
    _reap_adopted(-group)
    return True


def end_own_group() -> None:
    """Kill this process's whole group, including itself.

    Does nothing if this process does not lead its group, because the other members are then not its own.
    """
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)


def _any_lives(births: Mapping[int, str | None]) -> bool:
    return any(birth is not None and birth_of(pid) == birth for pid, birth in births.items())


def _wait_without_reaping(leader: subprocess.Popen[bytes]) -> None:
    if sys.platform == "linux":
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    else:
        leader.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    # On macOS it fails with EPERM if there are only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    # Ignore zombies, because process 1 may reap orphans late.
    return any(_group_of(pid) == group and birth_of(pid) is not None for pid in psutil.pids())


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _reap_adopted(pid_or_group: int) -> None:
    """Reap orphans that became children of this process, as happens if it is process 1 of a container.

    A negative number means a group, as in waitpid(2). They must not be children that this process has started.
    """
    with suppress(ChildProcessError):
        while os.waitpid(pid_or_group, os.WNOHANG)[0]:
            pass
