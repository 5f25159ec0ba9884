"""The lines of an export, which are made while they are sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from enum import StrEnum
from typing import Any

import orjson
from starlette.requests import Request

from queue_engine.api.http.errors import ResponseCutOff
from queue_engine.api.http.responses import pieces_of
from queue_engine.api.http.services import Services
from queue_engine.api.v2.long_texts import sent_texts
from queue_engine.api.v2.task_views import task_view
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import Forbidden, StoreUnavailable, Unauthorized
from queue_engine.domain.tasks import Task
from queue_engine.engine.task_lists import Export

QUIET_SECONDS = 10.0
"""Time without a line after which an empty line is sent, because proxies close connections without data."""
STOPS = "the server is shutting down"
_CUT_OFF = "the input or output of a task could not be read to its end"

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""In JSON text, line ends are only between values, so they can be replaced by spaces."""


class Include(StrEnum):
    """Texts of a task that an export has on request."""

    INPUT = "input"
    OUTPUT = "output"


class ExportLines:
    """Makes a line for each task of an export, and the last line, which tells how the export has ended."""

    def __init__(
        self, services: Services, request: Request, endpoint: Endpoint, export: Export, include: AbstractSet[Include]
    ) -> None:
        self._lists = services.engine.task_lists
        self._monotonic = services.monotonic
        self._key = services.key_of(request)
        self._endpoint = endpoint
        self._export = export
        self._include = include
        self._cursor = export.cursor
        """Continues after the latest complete line."""
        self._reason: str | None = None
        """Why the export has ended early."""
        self._sent_at = services.monotonic()

    async def made(self) -> AsyncGenerator[bytes, None]:
        """Yield the parts of all lines."""
        try:
            async with aclosing(self._tasks()) as parts:
                async for part in parts:
                    yield part
        except ResponseCutOff:
            self._reason = _CUT_OFF
            yield b"\n"
        except (StoreUnavailable, Unauthorized, Forbidden) as error:
            self._reason = str(error)
        yield _line(self._last())

    async def _tasks(self) -> AsyncGenerator[bytes, None]:
        """Yield the parts of the lines of tasks, until the server stops."""
        async with aclosing(aiter(self._export)) as tasks:
            async for task in tasks:
                cursor = self._export.cursor
                async for part in self._step(task, cursor):
                    yield part
                self._cursor = cursor
                if self._lists.is_draining:
                    self._reason = STOPS
                    return
                await self._key.check_if_due()

    async def _step(self, task: Task | None, cursor: str) -> AsyncGenerator[bytes, None]:
        """Yield the parts of a task's line. Without a task, yield an empty line in a quiet time."""
        if task is not None:
            async for part in self._line_of(task, cursor):
                yield part
        elif self._monotonic() - self._sent_at > QUIET_SECONDS:
            yield b"\n"
        else:
            return
        self._sent_at = self._monotonic()

    async def _line_of(self, task: Task, cursor: str) -> AsyncGenerator[bytes, None]:
        view = task_view(task, self._endpoint)
        if not self._include:
            yield _line({**view, "cursor": cursor})
            return
        yield orjson.dumps(view).removesuffix(b"}")
        texts = sent_texts(task)
        for name in sorted(self._include):
            yield b',"%b":' % name.encode()
            async for piece in pieces_of(texts[name] or b"null"):
                yield bytes(piece).translate(_ONE_LINE)
        yield b",%b\n" % orjson.dumps({"cursor": cursor}).removeprefix(b"{")

    def _last(self) -> Mapping[str, Any]:
        if self._reason is None:
            return {"end": True, "nextCursor": None}
        return {"end": False, "nextCursor": self._cursor, "reason": self._reason}


def _line(members: Mapping[str, Any]) -> bytes:
    return orjson.dumps(members) + b"\n"
