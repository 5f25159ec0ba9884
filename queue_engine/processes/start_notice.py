"""Tell the parent of a process that it works now, and what it has found at its start.

The parent makes a pipe and passes its write end on, as a descriptor that QUEUE_ENGINE_NOTICE_FD names. A process that
works writes one line of JSON, so that the parent neither polls nor needs clients to ask with. A process that is
restarted writes another line; the parent reads the first one.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress

from queue_engine.processes.lifeline import check_is_pipe

NOTICE_VARIABLE = "QUEUE_ENGINE_NOTICE_FD"
"""The environment variable with the descriptor of the write end, for the child."""
MAX_NOTICE_BYTES = 4096
"""Limit of a notice: the kernel writes at least this much to a pipe as a whole (PIPE_BUF of Linux)."""

Facts = Mapping[str, str | bool | None]


class NoticePipe:
    """The parent's side. Pass `fd` to the child, and keep the object as long as the child may be started again."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        # A child must not wait for a parent that has read all that it needs.
        os.set_blocking(self._write_end, False)
        self._closed = False

    @property
    def fd(self) -> int:
        """The descriptor of the write end."""
        return self._write_end

    async def first(self) -> Facts:
        """Wait for the first notice, and return its facts. Call it once."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self._read_end, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(self._read_end)
        line, _, _ = os.read(self._read_end, MAX_NOTICE_BYTES).partition(b"\n")
        facts: Facts = json.loads(line)
        return facts

    def close(self) -> None:
        """Close the pipe. Safe to call twice."""
        if not self._closed:
            self._closed = True
            os.close(self._write_end)
            os.close(self._read_end)


def notice_fd(environment: Mapping[str, str]) -> int | None:
    """Return the descriptor of a parent that waits for a notice; None if none waits. Raises ValueError for no pipe."""
    given = environment.get(NOTICE_VARIABLE)
    if given is None:
        return None
    check_is_pipe(int(given))
    return int(given)


def send_notice(environment: Mapping[str, str], facts: Facts) -> None:
    """Send the facts to the parent, if it waits for them. Does nothing when the parent has stopped to wait."""
    fd = notice_fd(environment)
    if fd is None:
        return
    with suppress(OSError):  # the parent has ended, or has not read the notices of many restarts
        os.write(fd, json.dumps(facts).encode() + b"\n")
