"""Send a container's output to the store, without delaying the container or its tasks."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence

from queue_engine.aio import end_tasks, wait_for_event
from queue_engine.domain.agent_protocol import LOG_FLUSH_SECONDS
from queue_engine.logs.masking import Secrets
from queue_engine.logs.writer import LogWriter
from queue_engine.observability import metrics
from worker_agent.logs.capture import READ_BYTES, Capture
from worker_agent.ports import LogSink, loop, until_available

log = logging.getLogger(__name__)

READ_INTERVAL_SECONDS = 0.2
MAX_ROUND_BYTES = 8 * 1024 * 1024
"""Maximum number of bytes read without a pause, so that endless output does not delay the agent's tasks."""
MAX_SIGN_INTERVAL_SECONDS = 3600.0


class LogShipper:
    """Ships the log of one worker, from `start` to `finish`.

    While the store is unavailable, up to MAX_WAITING_LINES lines wait, and further ones are dropped.
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
        self._writer = LogWriter(capture, masked, now=monotonic(), nonce=secrets.token_hex(4))
        self._sink = sink
        self._retention_seconds = retention_seconds
        self._monotonic = monotonic
        self._round_bytes = 0
        self._filled = asyncio.Event()
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
                self._writer.end()
                self._note_lines()
                while not self._writer.is_empty:
                    await self._ship()
        except TimeoutError:
            self._give_up("the store is away: the last log lines are lost")
        except Exception:
            log.exception("the rest of the log cannot be shipped")
            self._give_up("the last log lines are lost")

    def tail(self) -> list[str]:
        """Return the last lines that the container wrote, with the masking of the log."""
        return self._writer.last_lines()

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
        count = self._writer.read(self._monotonic())
        self._note_lines()
        return count

    def _note_lines(self) -> None:
        if not self._writer.is_empty:
            self._filled.set()
        metrics.agent_log_lines_dropped.inc(self._writer.dropped - self._counted)
        self._counted = self._writer.dropped

    def _give_up(self, why: str) -> None:
        lost = self._writer.unsent
        metrics.agent_log_lines_dropped.inc(lost)
        log.warning(why, extra={"lines": lost})

    async def _ship(self) -> None:
        """Send the oldest lines, until the store has accepted them or discards them because the endpoint is deleted."""
        batch = self._writer.batch()
        if batch is not None:
            await self._append(batch.batch_id, batch.lines)
            self._writer.accept()
        if self._writer.is_empty:
            self._filled.clear()

    async def _append(self, batch_id: str, lines: Sequence[str]) -> None:
        await until_available(lambda: self._sink.append(batch_id, lines), "the log")
