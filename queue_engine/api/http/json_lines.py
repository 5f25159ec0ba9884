"""Read a body of JSON lines while it arrives: one text after the other, in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from starlette.requests import Request
from starlette.types import Scope

from queue_engine.api.http.bodies import (
    MIN_BYTES_PER_SECOND,
    UNCOUNTED_BYTES,
    BodyReader,
    chunk_of,
    declared_types,
)
from queue_engine.api.http.errors import BodyStalled

MEDIA_TYPE = "application/x-ndjson"
MAX_GROUP_BYTES = 256 * 1024
"""Size from which on a group gets no further line."""
_SPACE = b" \t\r"


def is_json_lines(scope: Scope) -> bool:
    """Return True if the body is declared as JSON lines."""
    types = declared_types(scope)
    return len(types) == 1 and types[0].split(b";")[0].strip().lower() == MEDIA_TYPE.encode()


class JsonLines:
    """The lines of a request's body. A line has at most `bodies.max_bytes`; lines of white space are skipped.

    The bytes that wait, and those of groups that are not released, count for the limit of the tenant.
    """

    def __init__(self, request: Request, bodies: BodyReader, tenant: str) -> None:
        self._receive = request.receive
        self._bodies = bodies
        self._tenant = tenant
        self._lines: deque[bytes | None] = deque()
        self._rest = bytearray()
        """The beginning of the line that arrives now."""
        self._is_skipping = False
        """True in a line that is too long."""
        self._began = time.monotonic()
        """The time at which it began."""
        self._held = 0
        self._counted = 0
        self._has_more = True

    async def next_group(self, limit: int) -> list[bytes | None]:
        """Return the lines that have arrived, at least one and at most `limit`; none at the end of the body.

        A line that is too long is None. Raises BodyStalled if a line does not arrive in time, ClientGone, and
        TooManyRequests.
        """
        while not self._lines and self._has_more:
            await self._read()
        group: list[bytes | None] = []
        size = 0
        while self._lines and len(group) < limit and size < MAX_GROUP_BYTES:
            line = self._lines.popleft()
            size += len(line or b"")
            group.append(line)
        return group

    def release(self, group: list[bytes | None]) -> None:
        """Stop counting a group."""
        self._hold(-sum(len(line or b"") for line in group))

    def close(self) -> None:
        """Stop counting all bytes."""
        self._hold(-self._held)

    async def _read(self) -> None:
        """Take the next part of the body."""
        limit = self._bodies.silence_seconds
        patience = self._began + limit + len(self._rest) / MIN_BYTES_PER_SECOND - time.monotonic()
        try:
            async with asyncio.timeout(min(limit, patience)):
                message = await self._receive()
        except TimeoutError:
            raise BodyStalled from None
        before, *others = chunk_of(message).split(b"\n")
        self._add(before)
        for part in others:
            self._end_line()
            self._add(part)
        self._has_more = message.get("more_body", False)
        if not self._has_more:
            self._end_line()

    def _add(self, part: bytes) -> None:
        """Add a part of a line. A line that is too long is not kept."""
        if self._is_skipping:
            return
        if len(self._rest) + len(part) > self._bodies.max_bytes:
            self._is_skipping = True
            self._hold(-len(self._rest))
            self._rest.clear()
        else:
            self._rest += part
            self._hold(len(part))

    def _end_line(self) -> None:
        line = None if self._is_skipping else bytes(self._rest).strip(_SPACE)
        self._hold(len(line or b"") - len(self._rest))
        if line != b"":
            self._lines.append(line)
        self._rest.clear()
        self._is_skipping = False
        self._began = time.monotonic()

    def _hold(self, more: int) -> None:
        self._held += more
        change = max(0, self._held - UNCOUNTED_BYTES) - self._counted
        if change > 0:
            self._bodies.of_tenants.add(self._tenant, change)
        elif change < 0:
            self._bodies.of_tenants.remove(self._tenant, -change)
        self._counted += change
