"""Follow the output of one worker's container into its log.

The state is in the store: each batch of lines has the resume point after its lines as its id, and is appended only
after the batch that the follower has read or appended before. So a follower that fails begins again at the log's last
batch, and of two followers of the same container, such as those of a deposed leader and of its successor, only one
appends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from queue_engine.aio import end_tasks, wait_for_event
from queue_engine.backends.container_logs import ContainerLogs
from queue_engine.domain.logs import MAX_BATCH_LINES
from queue_engine.logs.followed import FollowedOutput, ResumePoint
from queue_engine.logs.lines import lag_note
from queue_engine.logs.masking import Secrets
from queue_engine.logs.writer import LogWriter
from queue_engine.observability import metrics
from queue_engine.store.logs import Appended

COLLECT_SECONDS = 0.2
"""Time for which entries are collected before they are stored together. With the limit of unread entries it also limits
the processor time that a container with endless output costs."""
ENTRIES_AT_ONCE = 500
"""Maximum number of entries that are taken without letting other work of the controller run."""
MAX_LAG_SECONDS = 60.0
"""Time by which a follower may fall behind a container that writes faster than it is followed, before it skips output.
A backlog after a change of the leader is read, because its entries are read faster than they were written."""
MAX_SIGN_INTERVAL_SECONDS = 3600.0
LAST_LINES = 20
"""Number of a worker's last lines that are shown with the reason of its end."""
_NS = 1_000_000_000


class Logs(Protocol):
    """The part of the log store that followers use."""

    async def last_batch(self, endpoint_id: str, worker_id: str) -> str: ...
    async def last_lines(self, endpoint_id: str, worker_id: str, count: int) -> list[tuple[str, str]]: ...
    async def append(
        self, endpoint_id: str, worker_id: str, batch_id: str, lines: Sequence[str], *, retention_ms: int
    ) -> bool: ...
    async def append_after(
        self, endpoint_id: str, worker_id: str, after: str, batch_id: str, lines: Sequence[str], *, retention_ms: int
    ) -> Appended: ...


@dataclass(frozen=True)
class Followed:
    """The container of one run of a worker."""

    endpoint_id: str
    worker_id: str
    run: int


class LogMoved(Exception):
    """Another follower appends to the same log. This one must begin again after its lines."""


class EndpointGone(Exception):
    """The endpoint was deleted, so there is no log to append to."""


class WorkerLog:
    """The log of a followed container in the store."""

    def __init__(self, logs: Logs, followed: Followed, *, retention_seconds: float) -> None:
        self._logs = logs
        self._followed = followed
        self._retention_ms = int(retention_seconds * 1000)
        self._last = ""
        self.sign_interval_seconds = min(retention_seconds / 4, MAX_SIGN_INTERVAL_SECONDS)
        """Time without lines after which `keep` must be called, so that the log of a quiet worker is kept."""

    async def read_point(self) -> ResumePoint:
        """Return the point up to which the log is stored."""
        self._last = await self._logs.last_batch(self._followed.endpoint_id, self._followed.worker_id)
        return ResumePoint.of(self._last, self._followed.run)

    async def append(self, batch_id: str, lines: Sequence[str]) -> None:
        """Append the next batch. Raises LogMoved and EndpointGone."""
        one = self._followed
        appended = await self._logs.append_after(
            one.endpoint_id, one.worker_id, self._last, batch_id, lines, retention_ms=self._retention_ms
        )
        if appended is Appended.MOVED:
            raise LogMoved
        if appended is Appended.GONE:
            raise EndpointGone
        self._last = batch_id

    async def keep(self) -> None:
        """Extend the time for which the log is kept. Raises EndpointGone."""
        one = self._followed
        if not await self._logs.append(one.endpoint_id, one.worker_id, "", [], retention_ms=self._retention_ms):
            raise EndpointGone

    async def note(self, text: str) -> None:
        """Append a line of the engine, once as long as no other line follows. The log does not move forward by it."""
        point = await self.read_point()
        note_id = f"{point}-note"
        if self._last != note_id:
            await self.append(note_id, [text])

    async def complete(self, text: str) -> None:
        """Append `text` as the last line of this run, once."""
        if not (await self.read_point()).is_end:
            await self.append(str(ResumePoint(self._followed.run, is_end=True)), [text])

    async def last_lines(self) -> tuple[str, ...]:
        """Return the last LAST_LINES lines of this run, without the one of `complete`."""
        one = self._followed
        found = await self._logs.last_lines(one.endpoint_id, one.worker_id, LAST_LINES + 1)
        if found and ResumePoint.of(found[0][0], one.run).is_end:
            found = found[1:]
        return tuple(_of_run(found, one.run)[-LAST_LINES:])


class LogFollower:
    """Follows one container, from the point up to which its log is stored.

    `note_output` is called when the platform has returned output.
    """

    def __init__(
        self,
        source: ContainerLogs,
        followed: Followed,
        log: WorkerLog,
        masked: Callable[[], Awaitable[Secrets]],
        *,
        note_output: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._followed = followed
        self._log = log
        self._masked = masked
        self._note_output = note_output
        self._monotonic = monotonic
        self._filled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._full_since = monotonic()
        """Monotonic time from which on the output has been full."""
        self._full_stamp_ns = -1
        """Time of the latest entry then; negative if there was none."""
        self._counted = 0

    async def follow(self) -> bool:
        """Follow until the container's output has ended, and return True; or until it must begin again: False.

        Nothing is lost or repeated when it is cancelled, or raises, at any time, and is called again.
        """
        point = await self._log.read_point()
        if point.is_end:
            return True
        output = FollowedOutput(point)
        writer = LogWriter(output, await self._masked(), now=self._monotonic(), nonce="")
        self._counted = 0
        self._full_since, self._full_stamp_ns = self._monotonic(), -1
        pumping = asyncio.create_task(self._pump(point, output), name="container output")
        try:
            while not pumping.done():
                await self._wait(pumping)
                if self._lags(output):
                    await self._skip(output)
                    return False
                await self._store(writer, output)
        finally:
            await end_tasks(pumping)
        if pumping.exception() is None:
            output.put_end()
        await self._store(writer, output)
        pumping.result()
        writer.end()
        await self._send(writer)
        return True

    async def _pump(self, point: ResumePoint, output: FollowedOutput) -> None:
        """Put the platform's entries into `output`, and pause while it is full."""
        one = self._followed
        try:
            async with aclosing(self._source.follow(one.worker_id, one.run, point.since_ns)) as entries:
                read = 0
                async for stamp_ns, data in entries:
                    output.put(stamp_ns, data)
                    self._filled.set()
                    read += 1
                    if read % ENTRIES_AT_ONCE == 0:
                        await asyncio.sleep(0)
                    while output.is_full:
                        self._has_room.clear()
                        await self._has_room.wait()
        finally:
            self._filled.set()

    async def _wait(self, pumping: asyncio.Task[None]) -> None:
        """Wait for entries and collect more of them, or for the end of the output."""
        while not await wait_for_event(self._filled, self._log.sign_interval_seconds):
            await self._log.keep()
        await asyncio.wait({pumping}, timeout=COLLECT_SECONDS)
        self._filled.clear()

    async def _store(self, writer: LogWriter, output: FollowedOutput) -> None:
        """Store the lines of all entries."""
        if not output.is_empty:
            self._note_output()
        while not output.is_empty:
            writer.read(self._monotonic())
            if writer.unsent >= MAX_BATCH_LINES:
                await self._send(writer)
        writer.read(self._monotonic())
        self._has_room.set()
        await self._send(writer)

    async def _send(self, writer: LogWriter) -> None:
        while (batch := writer.batch()) is not None:
            await self._log.append(batch.batch_id, batch.lines)
            writer.accept()
        metrics.log_lines_dropped.inc(writer.dropped - self._counted)
        self._counted = writer.dropped

    def _lags(self, output: FollowedOutput) -> bool:
        """Return True if output must be skipped, because the container has written faster than it is followed.

        Only times of entries are compared with each other, because the platform's clock may differ from this host's.
        """
        if not output.is_full or self._full_stamp_ns < 0:
            self._full_since, self._full_stamp_ns = self._monotonic(), output.stamp_ns
        return self._present_ns() - output.stamp_ns > MAX_LAG_SECONDS * _NS

    def _present_ns(self) -> int:
        """Return the time that the entries would have reached by now if they were followed as fast as they are written,
        since the output is full."""
        return self._full_stamp_ns + int((self._monotonic() - self._full_since) * _NS)

    async def _skip(self, output: FollowedOutput) -> None:
        present_ns = self._present_ns()
        point = ResumePoint(self._followed.run, stamp_ns=present_ns)
        await self._log.append(f"{point}-skip", [lag_note((present_ns - output.stamp_ns) // _NS)])


def _of_run(found: Sequence[tuple[str, str]], run: int) -> list[str]:
    """Return the lines that belong to the run, oldest first. `found` is newest first, with the ids of batches."""
    lines: list[str] = []
    for batch_id, text in found:
        if batch_id and not batch_id.startswith(f"{run}:"):
            break
        lines.append(text)
    return lines[::-1]
