"""The response to a batch of JSON lines, which is sent while the lines arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Send

from queue_engine.aio import end_tasks
from queue_engine.api.http.cycle import abort
from queue_engine.api.http.errors import ClientGone, failure_of
from queue_engine.api.http.json_lines import MEDIA_TYPE, JsonLines
from queue_engine.api.http.middleware import WAITED
from queue_engine.api.http.responses import COMMON_HEADERS
from queue_engine.api.http.services import Services
from queue_engine.api.v2.batch_items import Batch
from queue_engine.domain.errors import EngineError, StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.engine.batches import GROUPS_UNDER_WAY, MAX_GROUP

Items = list[dict[str, Any]]
Groups = asyncio.Queue["asyncio.Task[Items] | Exception | None"]
"""Groups of lines that are being submitted. The last item is None, or the error that ended the reading."""
_STOPPING = "the API is stopping"


class BatchStream:
    """A response with a line for each line of the request. Create it with `begun`."""

    status = 200

    def __init__(self, services: Services, request: Request, principal: Principal, batch: Batch) -> None:
        self._services = services
        self._request = request
        self._batch = batch
        self._lines = JsonLines(request, services.bodies, principal.tenant)
        self._first: list[bytes | None] = []
        self._key = services.key_of(request)
        self._batches = services.engine.batches
        self._must_end: asyncio.Future[None]

    @classmethod
    async def begun(cls, services: Services, request: Request, principal: Principal, batch: Batch) -> BatchStream:
        """Return the response when the first lines have arrived.

        Raises InvalidRequest if the first task lacks the id that it needs, BodyStalled, ClientGone, TooManyRequests.
        """
        stream = cls(services, request, principal, batch)
        try:
            stream._first = await stream._lines.next_group(MAX_GROUP)
            if stream._first:
                await batch.check_first(stream._first[0])
        except BaseException:
            stream._lines.close()
            raise
        return stream

    async def send(self, send: Send) -> None:
        """Send the response. Raises ClientGone if the client disconnects, or reads nothing for too long."""
        self._request.scope[WAITED] = True
        self._must_end = self._batches.open_stream()
        groups: Groups = asyncio.Queue()
        slots = asyncio.Semaphore(GROUPS_UNDER_WAY)
        reading = asyncio.create_task(self._read(groups, slots), name="lines of a batch")
        try:
            headers = [(b"content-type", MEDIA_TYPE.encode()), *COMMON_HEADERS]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            while isinstance(group := await groups.get(), asyncio.Task):
                await self._write(send, await group)
                slots.release()
                if self._batch.store_error is not None:
                    self._batches.end_stream(self._must_end)
            if isinstance(group, ClientGone):
                raise group
            await self._write(send, [self._last_line(group)], is_last=True)
        finally:
            unsent = [groups.get_nowait() for _ in range(groups.qsize())]
            await end_tasks(reading, *(one for one in unsent if isinstance(one, asyncio.Task)))
            self._batches.close_stream(self._must_end)
            self._lines.close()
            self._batch.log(self._request)

    async def _read(self, groups: Groups, slots: asyncio.Semaphore) -> None:
        """Submit the lines in groups, of which a few are under way."""
        end: Exception | None = None
        try:
            while group := await self._next_group():
                await slots.acquire()
                await self._key.check_if_due()
                groups.put_nowait(asyncio.create_task(self._submit(group), name="group of a batch"))
        except Exception as error:  # noqa: BLE001 - `send` handles it, after the groups before it
            end = error
        groups.put_nowait(end)

    async def _next_group(self) -> list[bytes | None]:
        """Return the next lines, none at their end. Raises StoreUnavailable when the stream must end."""
        if self._first:
            group, self._first = self._first, []
            return group
        reading = asyncio.create_task(self._lines.next_group(MAX_GROUP))
        try:
            if not self._must_end.done():
                waited: list[asyncio.Future[Any]] = [reading, self._must_end]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not self._must_end.done():
                return reading.result()
        finally:
            await end_tasks(reading)
        raise self._batch.store_error or StoreUnavailable(_STOPPING)

    async def _submit(self, group: list[bytes | None]) -> Items:
        items = await self._batch.submit(group)
        self._lines.release(group)
        return items

    async def _write(self, send: Send, items: Items, *, is_last: bool = False) -> None:
        """Send lines. A client that reads none of them for too long is disconnected."""
        text = b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in items)
        try:
            async with asyncio.timeout(self._services.bodies.silence_seconds):
                await send({"type": "http.response.body", "body": text, "more_body": not is_last})
        except TimeoutError:
            abort(send)
            raise ClientGone from None

    def _last_line(self, error: Exception | None) -> dict[str, Any]:
        if error is None:
            return {"done": True, **self._batch.sums()}
        if not isinstance(error, EngineError):
            raise error
        _, code, message = failure_of(error, self._request.scope)
        return {"done": False, **self._batch.sums(), "code": code, "message": message}
