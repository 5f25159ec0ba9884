"""Tell a process that starts slowly, because the machine is loaded, from one that hangs or waits for another one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

STEP_SECONDS = 0.25
"""Processor time that counts as progress. A process that waits, and asks now and then, uses less within a minute."""


class Progress:
    """The progress of a process that writes to `log`: the processor time that it uses, and what it writes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._pid: int | None = None
        self._log_bytes = 0
        self._counted_seconds = 0.0
        self.processor_seconds = 0.0
        """Processor time that the process and its descendants have used, as of the last look."""

    def look(self, pid: int | None) -> bool:
        """Return True if the process has made progress since the last look that returned True, or is another one.

        Its descendants count too. None means that the process does not exist.
        """
        self.processor_seconds = 0.0 if pid is None else _processor_seconds(pid)
        size = _size(self._log)
        is_same = pid == self._pid and size == self._log_bytes
        if is_same and self.processor_seconds - self._counted_seconds < STEP_SECONDS:
            return False
        self._pid, self._log_bytes, self._counted_seconds = pid, size, self.processor_seconds
        return True


def _processor_seconds(pid: int) -> float:
    total = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system
    return total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
