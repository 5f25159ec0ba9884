"""Responses with lines that are made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Receive, Send

from queue_engine.aio import end_tasks
from queue_engine.api.http.errors import ClientGone
from queue_engine.api.http.long_poll import LongPoll
from queue_engine.api.http.middleware import WITHOUT_BODY
from queue_engine.api.http.responses import COMMON_HEADERS, Headers, Response

NDJSON = "application/x-ndjson"
MAX_SECONDS = 30 * 86_400.0
"""Time after which a disconnected client is no longer noticed before a write fails."""

Lines = AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class LineStream(Response):
    """A response without a length. `lines` yields parts of its body, and none once the client has disconnected.

    The next part is made when the client has taken enough of those before, so a slow client needs no memory.
    """

    lines: Callable[[], Lines] | None = None
    receive: Receive | None = None
    at_end: Callable[[], None] = lambda: None
    """Function that is called once, however the response ends."""

    @classmethod
    def to(
        cls,
        request: Request,
        content_type: bytes,
        lines: Callable[[], Lines],
        *,
        headers: Headers = (),
        at_end: Callable[[], None],
    ) -> LineStream:
        """Return the response to a request. The one to a `HEAD` has no lines."""
        made = None if WITHOUT_BODY in request.scope else lines
        return cls(200, b"", content_type, headers, lines=made, receive=request.receive, at_end=at_end)

    async def send(self, send: Send) -> None:
        try:
            headers = [(b"content-type", self.content_type), *COMMON_HEADERS, *self.headers]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            if self.lines is not None and self.receive is not None:
                await self._send_lines(self.lines(), self.receive, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.at_end()

    async def _send_lines(self, lines: Lines, receive: Receive, send: Send) -> None:
        # A write to a connection that the client has closed does nothing, so the client is watched, also while the next
        # part is made.
        poll = LongPoll(receive, MAX_SECONDS)
        async with poll as ended, aclosing(lines):
            while True:
                making = asyncio.create_task(_next_of(lines), name="part of a response")
                try:
                    await asyncio.wait((making, ended), return_when=asyncio.FIRST_COMPLETED)
                    if poll.is_gone:
                        raise ClientGone
                    part = await making
                finally:
                    await end_tasks(making)
                if part is None:
                    return
                await send({"type": "http.response.body", "body": part, "more_body": True})


async def _next_of(lines: Lines) -> bytes | None:
    return await anext(lines, None)
