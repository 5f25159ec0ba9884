"""`queue-engine up` as a child process, in a folder that is thrown away; and proof that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from queue_engine.runtime.ports import free_port, is_free

STOP_SECONDS = 25.0
"""For an orderly end; the workers get WORKER_GRACE_SECONDS of it."""
WORKER_GRACE_SECONDS = 3.0
FORCE_SECONDS = 5.0
POLL_SECONDS = 0.1
TAIL_LINES = 12
TAIL_CHARACTERS = 500
"""Of one line: the beginning and the end, where a traceback says what happened."""
TAIL_BYTES = 64 * 1024
UP_COMMAND = (sys.executable, "-P", "-m", "queue_engine", "up")
OURS = ("QUEUE_ENGINE_", "WORKER_AGENT_")


class StackEnded(Exception):
    """The engine ended by itself."""


class Stack:
    """One run of the engine with its own store, on a free port. Whatever happens, call `stop` and then `remove`."""

    def __init__(self, settings: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="queue-engine-demo-"))
        self.api_key = secrets.token_urlsafe(24)
        self._settings = settings
        self._environment = environment
        # Every process of the engine and of its workers inherits it: by this they are told from all others.
        self._temporary = self.folder / "tmp"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, without waiting for anything."""
        self._temporary.mkdir()
        with self.log("up").open("ab") as log:
            self._process = subprocess.Popen(
                [*UP_COMMAND, "--port", str(self.port), "--data-dir", str(self.folder / "data")],
                env=self._up_environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C reaches this process only, which then ends it in order
            )

    def check_alive(self) -> None:
        """Raises StackEnded when it runs no more."""
        status = self._process.poll() if self._process is not None else None
        if status is not None:
            raise StackEnded(f"queue-engine up ended with status {status}")

    async def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself within that time."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while self._process is not None and self._process.poll() is None:
            if clock() >= deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    async def stop(self) -> None:
        """End everything: in order, and by force what takes too long. Safe to call twice."""
        if self._process is None:
            return
        # The second signal tells the engine to end everything at once.
        for seconds in (STOP_SECONDS, FORCE_SECONDS):
            self._signal(signal.SIGTERM)
            if await self.ends_within(seconds):
                return
        self._signal(signal.SIGKILL)
        await self.ends_within(FORCE_SECONDS)

    def hurry(self) -> None:
        """End everything at once; `stop`, which may be under way, has little left to wait for then."""
        self._signal(signal.SIGTERM)

    async def leftovers(self) -> list[str]:
        """What is still there although it should be gone, a line each; processes among it are killed."""
        found = [f"process {process.pid}: {' '.join(_command_of(process))}" for process in await self._survivors()]
        if not is_free(self.port):
            found.append(f"port {self.port} is still in use")
        return found

    def remove(self) -> None:
        """Delete the folder. Raises OSError when that does not work."""
        shutil.rmtree(self.folder)

    # Logs

    def log(self, name: str) -> Path:
        """The log of `up` itself, or of one of the engine's processes."""
        return self.folder / "up.log" if name == "up" else self.folder / "data" / "logs" / f"{name}.log"

    def worker_log(self) -> Path | None:
        """The log of the worker that was the last to write something."""
        stats = {path: path.stat() for path in (self.folder / "data" / "workers").glob("*.log")}
        written = [path for path, stat in stats.items() if stat.st_size]
        return max(written, key=lambda path: stats[path].st_mtime_ns, default=None)

    def tail(self, log: Path) -> str:
        """The last lines of a log, without the API key."""
        try:
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError as error:
            return f"({error.strerror})"
        lines = text.replace(self.api_key, "***").splitlines()[-TAIL_LINES:]
        return "\n".join(map(_shortened, lines)) or "(empty)"

    # How it is run and ended

    def _up_environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in self._environment.items() if not name.startswith(OURS)}
        return inherited | {
            "TMPDIR": str(self._temporary),
            "QUEUE_ENGINE_API_KEY": self.api_key,
            "QUEUE_ENGINE_WORKER_GRACE_SECONDS": str(WORKER_GRACE_SECONDS),
            **self._settings,
        }

    def _signal(self, number: signal.Signals) -> None:
        # Not to the process group: the engine ends its children itself, in their order.
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def _survivors(self) -> Sequence[psutil.Process]:
        """The processes of this run that do not end by themselves within a moment. They are killed."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + FORCE_SECONDS
        while alive := self._processes():
            if clock() >= deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, alive, FORCE_SECONDS)
        return alive

    def _processes(self) -> list[psutil.Process]:
        mark = str(self._temporary)
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get("TMPDIR") == mark:
                    found.append(process)
        return found


def _shortened(line: str) -> str:
    half = TAIL_CHARACTERS // 2
    return line if len(line) <= TAIL_CHARACTERS else f"{line[:half]} ... {line[-half:]}"


def _command_of(process: psutil.Process) -> Sequence[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return ("(ended meanwhile)",)
