"""Long polls: requests whose response waits for an event."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


class LongPoll:
    """The wait of a request whose body was read. It ends after `seconds`, and when the client disconnects.

    Costs a timer and an asyncio task, so that a process can hold thousands of them.
    """

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self.is_gone = False
        """True if the client has disconnected."""

    async def __aenter__(self) -> asyncio.Future[None]:
        """Return a future that is done when the wait must end."""
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        if self._seconds > 0:
            self._timer = loop.call_later(self._seconds, self._end)
            self._watching = asyncio.create_task(self._watch(), name="disconnect")
        else:
            self._end()
        return self._ended

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._seconds > 0:
            self._timer.cancel()
            self._watching.cancel()
        self._end()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
