"""The programs of a benchmark: started by one helper, measured with all their descendants, and ended with it.

Every program runs in a session of its own, so that Ctrl-C reaches this process only, which then ends all of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from tests.bench.environments import ROOT

STOP_SECONDS = 10.0
START_SECONDS = 60.0
PAUSE_SECONDS = 0.02
"""Between two looks at a condition. At a thousand tasks a second that is 20 tasks, below a percent of a round."""
OUTPUT_LINES = 5


class ProgramFailed(Exception):
    """A program ended with a failure, or did not become ready; the message has the end of its output."""


class Program:
    """A running program with its descendants."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def pids(self) -> list[int]:
        return tree_of(self.pid)

    def pause(self) -> None:
        """Stop the whole group with SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the group. Safe to call twice."""
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End it in order, by force when that takes too long. Safe to call twice."""
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        await self._process.wait()

    async def wait(self) -> int:
        return await self._process.wait()

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def last_lines(self) -> str:
        return "\n".join(self.output().splitlines()[-OUTPUT_LINES:])

    def check_runs(self) -> None:
        """Raise ProgramFailed when it has ended."""
        if not self.running:
            raise ProgramFailed(f"{self.name} ended with status {self._process.returncode}: {self.last_lines()}")

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class Programs:
    """Starts programs in `folder`, where their output goes, and ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._left: list[Program] = []
        self._number = 0

    async def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Program:
        """Start a program in the repository's folder. Its output goes to a file, as a service's log does."""
        self._number += 1
        log = self.folder / f"{self._number:03}-{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, env=dict(environment), cwd=ROOT, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        program = Program(name, process, log)
        self._left.append(program)
        return program

    @asynccontextmanager
    async def running(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, port: int | None = None
    ) -> AsyncIterator[Program]:
        """Run a program during the block, which begins when `port` accepts connections."""
        program = await self.start(name, command, environment)
        try:
            if port is not None:
                await wait_for_port(port, program)
            yield program
        finally:
            await self.end(program)

    async def run(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, seconds: float = START_SECONDS
    ) -> str:
        """Run a program to its end and return its output. Raises ProgramFailed."""
        program = await self.start(name, command, environment)
        try:
            async with asyncio.timeout(seconds):
                status = await program.wait()
        except TimeoutError:
            raise ProgramFailed(f"{name} did not end within {seconds:g} s: {program.last_lines()}") from None
        finally:
            await self.end(program)
        if status:
            raise ProgramFailed(f"{name} ended with status {status}: {program.last_lines()}")
        return program.output()

    async def end(self, program: Program) -> None:
        await program.stop()
        self._left.remove(program)

    async def close(self) -> None:
        """End all programs that are left, at the same time."""
        await asyncio.gather(*(self.end(program) for program in list(self._left)))

    def kill(self) -> None:
        """Kill all programs that are left."""
        for program in self._left:
            program.kill()


async def wait_for_port(port: int, program: Program) -> None:
    """Wait until the loopback port accepts connections. Raises ProgramFailed when the program ends before."""

    async def accepts() -> bool:
        program.check_runs()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(accepts, f"{program.name} does not listen")


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until the condition is true. Raises ProgramFailed with `what` when it takes too long."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise ProgramFailed(f"{what} (waited {seconds:g} s)")
        await asyncio.sleep(PAUSE_SECONDS)


# Processor time and memory of trees of processes


def tree_of(pid: int) -> list[int]:
    """Return the process and its descendants; none when it has ended."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that these processes have used, in nanosecond steps where /proc has them.

    The kernel's usual figure moves in steps of 10 ms, which is too coarse for an idle process.
    """
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, IndexError, ValueError):
        pass
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def resident_bytes(pids: Iterable[int]) -> dict[int, int]:
    """Return the resident memory by process, without those that have ended."""
    found: dict[int, int] = {}
    for pid in pids:
        with suppress(psutil.Error):
            found[pid] = psutil.Process(pid).memory_info().rss
    return found


class Cores:
    """Measures how many cores named trees of processes use from its creation on."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._before = self._used()
        self._began = time.perf_counter()

    def used(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._began
        return {name: max(0.0, after - self._before[name]) / seconds for name, after in self._used().items()}

    def __str__(self) -> str:
        return "cores: " + ", ".join(f"{name} {used:.2f}" for name, used in self.used().items())

    def _used(self) -> dict[str, float]:
        return {name: cpu_seconds(tree_of(pid)) for name, pid in self._roots.items()}
