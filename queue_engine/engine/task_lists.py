"""Lists of tasks by filters: pages by cursor, and exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import orjson

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import NotFound, TooManyRequests
from queue_engine.domain.principals import Principal
from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.tasks import Task
from queue_engine.engine.access import check_sees
from queue_engine.engine.cursors import Cursors, Position
from queue_engine.engine.patience import from_store
from queue_engine.engine.queries import Queries
from queue_engine.store.task_scan import ScannedPage, TaskScan

EXPORT_PAGE = 50
"""Number of tasks that an export holds at most."""
MAX_EXPORTS = 4
"""Limit of the exports of a tenant that a process makes at the same time."""
EXPORT_RETRY_SECONDS = 5

_ReadPart = Callable[[Position], Awaitable[ScannedPage]]
_ReadWhole = Callable[[str], Awaitable[Task | None]]


@dataclass(frozen=True)
class CursorPage:
    """A page of a list that is walked by cursor."""

    items: tuple[Task, ...]
    next_cursor: str | None
    """The cursor of the next page; None after the last."""
    scanned: int
    """Number of tasks that were looked at."""


class Export:
    """The tasks that match and were there when the export began, oldest first. Get it from `TaskLists.export`.

    Iterating yields a task, or None after a part in which none matches. `cursor` continues after what was yielded, also
    after an exception of the iteration, which raises StoreUnavailable.
    """

    def __init__(
        self, read: _ReadPart, whole: _ReadWhole | None, made: Callable[[Position], str], at: Position
    ) -> None:
        self._read = read
        self._whole = whole
        self._made = made
        self._at = at

    @property
    def cursor(self) -> str:
        return self._made(self._at)

    async def __aiter__(self) -> AsyncGenerator[Task | None, None]:
        while True:
            part = await self._read(self._at)
            for task, place in zip(part.items, part.places, strict=True):
                shown = task if self._whole is None else await self._whole(task.task_id)
                self._at = replace(self._at, after=place)
                if shown is not None:  # it still exists
                    yield shown
            if part.next is None:
                return
            self._at = replace(self._at, after=part.next)
            if not part.items:
                yield None


class TaskLists:
    """Lists of an endpoint's tasks. Every method raises NotFound, InvalidRequest and StoreUnavailable."""

    def __init__(self, scan: TaskScan, queries: Queries, cursors: Cursors) -> None:
        self._scan = scan
        self._queries = queries
        self._cursors = cursors
        self._exports: Counter[str] = Counter()
        self.is_draining = False
        """True from the call of `drain` on. Exports end then."""

    @property
    def exports(self) -> int:
        """Number of exports in progress."""
        return self._exports.total()

    def drain(self) -> None:
        """End the exports. Safe to call from a signal handler."""
        self.is_draining = True

    async def page(
        self, principal: Principal, endpoint: Endpoint, filters: TaskFilters, *, cursor: str, size: int
    ) -> CursorPage:
        """Return the next tasks that match, newest first. An empty `cursor` begins the list.

        The page may have fewer tasks than `size` although others follow, because a call looks at a limited number.
        """
        check_sees(principal, endpoint)
        walk = _walk("list", endpoint, filters)
        after = self._cursors.read(walk, cursor).after if cursor else None
        page = await from_store(self._scan.page(endpoint.endpoint_id, filters, after=after, limit=size))
        following = None if page.next is None else self._cursors.made(walk, Position(page.next))
        return CursorPage(page.items, following, page.scanned)

    async def export(
        self, principal: Principal, endpoint: Endpoint, filters: TaskFilters, *, cursor: str, whole: bool
    ) -> Export:
        """Return an export, which begins with an empty `cursor`. Its tasks have their input and output if `whole`.

        Whole tasks are read one at a time, as they are then.
        """
        check_sees(principal, endpoint)
        endpoint_id, walk = endpoint.endpoint_id, _walk("export", endpoint, filters)
        begin = self._cursors.read(walk, cursor) if cursor else Position(0)
        if not cursor:
            begin = Position(0, await from_store(self._scan.latest_place(endpoint_id)))

        async def read(at: Position) -> ScannedPage:
            limits = {"after": at.after, "upto": at.upto, "limit": EXPORT_PAGE}
            return await from_store(self._scan.page(endpoint_id, filters, **limits, oldest_first=True))

        async def read_whole(task_id: str) -> Task | None:
            try:
                return await self._queries.task(principal, endpoint, task_id)
            except NotFound:
                return None

        return Export(read, read_whole if whole else None, partial(self._cursors.made, walk), begin)

    @contextmanager
    def counted(self, tenant: str) -> Iterator[None]:
        """Count an export of the tenant. Raises TooManyRequests at the limit."""
        if self._exports[tenant] >= MAX_EXPORTS:
            message = f"the tenant has {MAX_EXPORTS} exports in progress at this server"
            raise TooManyRequests(message, scope="exports", retry_after_seconds=EXPORT_RETRY_SECONDS)
        self._exports[tenant] += 1
        try:
            yield
        finally:
            self._exports[tenant] -= 1
            if not self._exports[tenant]:
                del self._exports[tenant]


def _walk(kind: str, endpoint: Endpoint, filters: TaskFilters) -> bytes:
    """Return the text that identifies a list, which its cursors are bound to."""
    return orjson.dumps([kind, endpoint.tenant, endpoint.endpoint_id, filters.to_dict()])
