"""Send a container's output to the store, without delaying the container or its tasks."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence

from queue_engine.aio import end_tasks, wait_for_event
from queue_engine.domain.agent_protocol import LOG_FLUSH_SECONDS
from queue_engine.logs.budget import line_budget
from queue_engine.logs.lines import LineReader
from queue_engine.logs.masking import Secrets
from queue_engine.observability import metrics
from worker_agent.logs.capture import READ_BYTES, Capture
from worker_agent.ports import MAX_LOG_BATCH_LINES, LogSink, loop, until_available

log = logging.getLogger(__name__)

READ_INTERVAL_SECONDS = 0.2
MAX_ROUND_BYTES = 8 * 1024 * 1024
"""Maximum number of bytes read without a pause, so that endless output does not delay the agent's tasks."""
MAX_WAITING_LINES = 5000
"""Maximum number of lines that wait for the store. Further lines are dropped."""
MAX_BATCH_CHARACTERS = 256 * 1024
MAX_SIGN_INTERVAL_SECONDS = 3600.0


class LogShipper:
    """Ships the log of one worker, from `start` to `finish`.

    Lines keep their order. Dropped lines are counted, and the log has a note in their place. While the store is
    unavailable, up to MAX_WAITING_LINES lines wait.
    """

    def __init__(
        self,
        capture: Capture,
        sink: LogSink,
        masked: Secrets,
        *,
        retention_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capture = capture
        self._sink = sink
        self._retention_seconds = retention_seconds
        self._monotonic = monotonic
        self._reader = LineReader(masked, line_budget(monotonic()))
        self._round_bytes = 0
        self._waiting: deque[str] = deque()
        self._batch: list[str] = []
        self._filled = asyncio.Event()
        self._nonce = secrets.token_hex(4)
        self._batches = 0
        self._counted = 0
        self._loops: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Read and ship in the background until `finish`."""
        self._loops = (
            asyncio.create_task(loop(self.read_step, idle_seconds=READ_INTERVAL_SECONDS, name="read output")),
            asyncio.create_task(loop(self.ship_step, idle_seconds=0, name="ship logs")),
        )

    async def finish(self, within_seconds: float = LOG_FLUSH_SECONDS) -> None:
        """Ship the remaining output within that time. Call it after the container has ended. Never raises."""
        await end_tasks(*self._loops)
        try:
            async with asyncio.timeout(within_seconds):
                while True:
                    if self._read() < READ_BYTES:
                        break
                    await asyncio.sleep(0)
                self._keep(self._reader.end(self._capture.tail()))
                while self._batch or self._waiting:
                    await self._ship()
        except TimeoutError:
            self._give_up("the store is away: the last log lines are lost")
        except Exception:
            log.exception("the rest of the log cannot be shipped")
            self._give_up("the last log lines are lost")

    def tail(self) -> list[str]:
        """Return the last lines that the container wrote, with the masking of the log."""
        return self._reader.last_lines(self._capture.tail())

    async def read_step(self) -> int:
        """Read a piece of the output; return 0 if a pause is due."""
        count = self._read()
        self._round_bytes += count
        if count == READ_BYTES and self._round_bytes < MAX_ROUND_BYTES:
            return 1
        self._round_bytes = 0
        return 0

    async def ship_step(self) -> int:
        """Wait for lines and ship a batch; if none arrives for some time, only extend the time the log is kept."""
        interval = min(self._retention_seconds / 4, MAX_SIGN_INTERVAL_SECONDS)
        if await wait_for_event(self._filled, interval):
            await self._ship()
            return 1
        await self._append("", [])
        return 0

    def _read(self) -> int:
        """Read a piece of the output; return its size in bytes."""
        skipped = self._capture.skip()
        if skipped:
            self._reader.skip(skipped)
        data = self._capture.read()
        room = MAX_WAITING_LINES - len(self._waiting)
        if data:
            self._keep(self._reader.feed(data, now=self._monotonic(), room=room))
        elif room > 0:
            self._keep(self._reader.pause(self._capture.tail()))
        return len(data)

    def _give_up(self, why: str) -> None:
        lost = len(self._batch) + len(self._waiting)
        metrics.agent_log_lines_dropped.inc(lost)
        log.warning(why, extra={"lines": lost})

    def _keep(self, lines: Sequence[str]) -> None:
        if lines:
            self._waiting.extend(lines)
            self._filled.set()
        metrics.agent_log_lines_dropped.inc(self._reader.dropped - self._counted)
        self._counted = self._reader.dropped

    async def _ship(self) -> None:
        """Send the oldest lines, until the store has accepted them or discards them because the endpoint is deleted.

        The batch does not change until then, because it may have been stored although the reply was lost.
        """
        if not self._batch:
            self._batch = self._next_batch()
            self._batches += 1
        if self._batch:
            await self._append(f"{self._nonce}-{self._batches}", self._batch)
        self._batch = []
        if not self._waiting:
            self._filled.clear()

    def _next_batch(self) -> list[str]:
        batch: list[str] = []
        characters = 0
        while self._waiting and len(batch) < MAX_LOG_BATCH_LINES and characters < MAX_BATCH_CHARACTERS:
            batch.append(self._waiting.popleft())
            characters += len(batch[-1])
        return batch

    async def _append(self, batch_id: str, lines: Sequence[str]) -> None:
        await until_available(lambda: self._sink.append(batch_id, lines), "the log")
