"""The output of a real process, which another process records in a file as a container platform does.

`python -m tests.recorded_output PATH RESOLUTION_NS COMMAND…` is the platform: it runs the command as the container, and
stores what it writes in entries with times. `RecordedOutput` follows such files.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from queue_engine.backends.base import BackendError
from queue_engine.backends.container_logs import BeforeRemoval, LogEntry, nothing_before_removal
from tests.environment import inherited

ENTRY_BYTES = 16 * 1024
END = b"end\n"
POLL_SECONDS = 0.02


class RecordedOutput:
    """The outputs of containers in `directory`, each in a file `<worker id>-<run>`."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._environment = dict(environment or {})
        self.before_removal: BeforeRemoval = nothing_before_removal
        self.connections = 0
        self.failure: Exception | None = None
        """Raised by `follow` instead of its next entry."""

    def start(self, worker_id: str, run: int, command: list[str], *, resolution_ns: int = 1) -> subprocess.Popen[bytes]:
        """Start a container. The caller ends it."""
        path = self._directory / f"{worker_id}-{run}"
        path.touch()
        return subprocess.Popen(
            [sys.executable, "-m", "tests.recorded_output", str(path), str(resolution_ns), *command],
            env={**inherited(), "PYTHONPATH": str(Path(__file__).parents[1])},
            start_new_session=True,
        )

    async def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        path = self._directory / f"{worker_id}-{run}"
        if not path.exists():
            raise BackendError("no such container")
        self.connections += 1
        try:
            with path.open("rb") as entries:
                while (line := await self._next_line(entries.fileno())) != END:
                    stamp, data = line.split()
                    if int(stamp) > since_ns:
                        yield LogEntry(int(stamp), base64.b64decode(data))
        finally:
            self.connections -= 1

    async def environment(self, worker_id: str, run: int) -> Mapping[str, str]:
        return self._environment

    async def _next_line(self, fd: int) -> bytes:
        while True:
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            begin = os.lseek(fd, 0, os.SEEK_CUR)
            line, end, _ = os.read(fd, 2 * ENTRY_BYTES).partition(b"\n")
            os.lseek(fd, begin + len(line) + len(end) if end else begin, os.SEEK_SET)
            if end:
                return line + end
            await asyncio.sleep(POLL_SECONDS)


def record(path: str, resolution_ns: int, command: list[str]) -> None:
    """Run the command, and record its output until it ends."""
    container = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert container.stdout is not None
    with open(path, "ab", buffering=0) as file:
        while data := os.read(container.stdout.fileno(), ENTRY_BYTES):
            for piece in re.findall(rb"[^\n]*\n|[^\n]+", data):
                stamp = time.time_ns() // resolution_ns * resolution_ns
                file.write(b"%d %s\n" % (stamp, base64.b64encode(piece)))
        file.write(END)
    container.wait()


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
