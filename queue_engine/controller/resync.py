"""Put endpoints back into indexes that lack them, all of them in turn and a few at a time.

All work of the controller, and every list, is found by indexes. They may lack entries that a process or an agent of the
data format before has not written, or that a fail-over has lost. This round through all endpoints limits the time for
which such an entry is missing: 10,000 endpoints take about seven minutes. It also makes the leader look at the
workers of each endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

ENDPOINTS = 100
"""Minimum number of endpoints of a step, if there are as many."""
ENDPOINTS_WITHOUT_INDEXES = 1000
"""The same while processes of the format before may still write, so that their changes are noticed soon."""


class Page(Protocol):
    """Some endpoints, and the place after them."""

    @property
    def cursor(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...


class Index(Protocol):
    """The part of the endpoint index that the resync uses."""

    async def page(self, after: str = "") -> Page | None: ...
    async def restore(self, endpoint_ids: Sequence[str]) -> int: ...
    async def is_complete(self) -> bool: ...
    async def place(self) -> str: ...
    async def note_place(self, cursor: str) -> None: ...
    async def begin_round(self) -> None: ...
    async def end_round(self) -> None: ...


class Resync:
    """Goes through all endpoints again and again. Safe beside another one.

    The place is kept in the store, so that a new leader goes on where the former one ended. With leaders that change
    often, the endpoints at the end would otherwise never have a turn.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    async def step(self) -> int:
        """Restore the index entries of the next endpoints. Return 0, because the next step can always wait."""
        left = ENDPOINTS if await self._index.is_complete() else ENDPOINTS_WITHOUT_INDEXES
        cursor = before = await self._index.place()
        if not cursor:
            await self._index.begin_round()
        while left > 0:
            page = await self._index.page(cursor)
            if page is None:
                await self._index.end_round()
                cursor = ""
                break
            await self._index.restore(page.ids)
            cursor = page.cursor
            left -= len(page.ids)
        if cursor != before:
            await self._index.note_place(cursor)
        return 0
