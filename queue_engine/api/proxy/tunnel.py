"""A WebSocket between a client and a worker: bytes are copied both ways until a side ends it.

Bytes are passed on as they come: messages are not assembled, decompressed or limited, and pings and pongs go from end
to end. A side that reads slowly holds back the other, because a chunk is read only when the previous one was taken.
Frames are followed only to their ends, because a Close may be put only between two frames.

    the server stops, or nothing moves   ──►  Close 1001 to both, then their Close is awaited
    the client's key has ended           ──►  Close 1008 to both, which are cut off soon after
    a side breaks the protocol           ──►  Close 1002 to both
    the worker disconnects without Close ──►  Close 1014 to the client
    the client disconnects               ──►  the worker is disconnected
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from queue_engine.aio import end_tasks
from queue_engine.api.http.upgrades import READ_BYTES, ClientStream, Stream
from queue_engine.rules.websocket_frames import BadFrame, FrameCutter, close_frame

CLOSE_SECONDS = 5.0
"""Time for the sides to respond to a Close, and to take what is still to be sent. Then they are cut off."""
KEY_ENDED_SECONDS = 0.4
"""The same time for a client whose key has ended, so that revoking a key ends its WebSockets within
REVOCATION_SECONDS."""

GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
POLICY_VIOLATION = 1008
BAD_GATEWAY = 1014


class _Side:
    """An end of the tunnel, and the frames that come from it."""

    def __init__(self, stream: Stream, *, is_client: bool) -> None:
        self.reader = stream.reader
        self.writer = stream.writer
        self.cutter = FrameCutter(masked=is_client)
        self._is_client = is_client
        self._last = b""
        """The Close to send after the frame that is being sent."""
        self._is_ended = False
        """True after a Close was sent to this side."""

    def send(self, data: bytes, source: FrameCutter) -> None:
        """Send bytes that `source` has cut, unless this side has got a Close."""
        if self._is_ended:
            return
        self.writer.write(data)
        if source.has_closed:
            self._is_ended = True
        elif self._last and source.is_between_frames:
            self._finish()

    def end(self, code: int, reason: str, source: FrameCutter) -> None:
        """Send a Close when the frame from `source` that is being sent is complete."""
        if self._is_ended or self._last:
            return
        self._last = close_frame(code, reason, None if self._is_client else os.urandom(4))
        if source.is_between_frames:
            self._finish()

    def _finish(self) -> None:
        self._is_ended = True
        self.writer.write(self._last)


class Tunnel:
    """Copies bytes between a client and a worker while something moves within `idle_seconds`.

    `key_ended` is set when the client's key has ended.
    """

    def __init__(self, client: ClientStream, worker: Stream, idle_seconds: float, key_ended: asyncio.Event) -> None:
        self._client = _Side(client, is_client=True)
        self._worker = _Side(worker, is_client=False)
        self._stopping = client.stopping
        self._idle_seconds = idle_seconds
        self._key_ended = key_ended
        self._moved_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Return when the WebSocket has ended. Both connections are closed then, also after a cancellation."""
        up = asyncio.create_task(self._copy(self._client, self._worker), name="client to worker")
        down = asyncio.create_task(self._copy(self._worker, self._client), name="worker to client")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        key_ended = asyncio.create_task(self._key_ended.wait(), name="key ended")
        try:
            await self._wait_for_end(up, down, stopping, key_ended)
            if up.done() and up.result() is None and not self._client.cutter.has_closed:
                await self._part()  # the client has disconnected
            else:
                self._say_why(up, down)
                await self._part(up, down)
        finally:
            for side in (self._client, self._worker):
                side.writer.transport.abort()
            await end_tasks(up, down, stopping, key_ended)

    async def _copy(self, source: _Side, sink: _Side) -> str | None:
        """Copy until the source sends a Close or is disconnected. Return the problem of a bad frame."""
        with suppress(OSError):
            while data := await source.reader.read(READ_BYTES):
                self._move()
                try:
                    sink.send(source.cutter.take(data), source.cutter)
                except BadFrame as error:
                    sink.send(error.before, source.cutter)
                    return str(error)
                if source.cutter.has_closed:
                    break
                await sink.writer.drain()
                self._move()
        return None

    def _move(self) -> None:
        self._moved_at = asyncio.get_running_loop().time()

    async def _wait_for_end(self, *ends: asyncio.Task[object]) -> None:
        """Wait until one of the tasks has ended, or nothing has moved for too long."""
        while True:
            left = self._moved_at + self._idle_seconds - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait(ends, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if done or left <= 0:
                return

    def _say_why(self, up: asyncio.Task[str | None], down: asyncio.Task[str | None]) -> None:
        """Send a Close to the sides that have not got one from the other side."""
        problem = next((task.result() for task in (up, down) if task.done() and task.result()), None)
        if problem is not None:
            self._end_both(PROTOCOL_ERROR, problem)
        elif self._key_ended.is_set():
            self._end_both(POLICY_VIOLATION, "the API key was revoked or has expired")
        elif self._stopping.is_set():
            self._end_both(GOING_AWAY, "the server is stopping")
        elif not up.done() and not down.done():
            self._end_both(GOING_AWAY, f"nothing was sent for {self._idle_seconds:g} s")
        elif down.done() and not self._worker.cutter.has_closed:
            self._client.end(BAD_GATEWAY, "the worker has disconnected", self._worker.cutter)

    def _end_both(self, code: int, reason: str) -> None:
        self._client.end(code, reason, self._worker.cutter)
        self._worker.end(code, reason, self._client.cutter)

    async def _part(self, *copies: asyncio.Task[str | None]) -> None:
        """Wait until these copies have ended by a Close or a disconnect, and each side has taken what was sent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(KEY_ENDED_SECONDS if self._key_ended.is_set() else CLOSE_SECONDS):
                if copies:
                    await asyncio.wait(copies)
                for side in (self._client, self._worker):
                    side.writer.close()
                await asyncio.gather(
                    *(side.writer.wait_closed() for side in (self._client, self._worker)), return_exceptions=True
                )
