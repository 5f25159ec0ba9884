"""Find tasks by filters, in the order of creation.

A call looks at a limited number of tasks for a limited time, and returns the place from which the next call continues.
The place of a task never changes, so a walk in the order of places finds each task that was there throughout once,
while others come and go.

The tasks are read from the index that has the fewest of those that can match (`scan.lua`), a piece at a time, and each
piece is compared with the filters (`match_tasks.lua`). No script reads more than a piece. A period is found by binary
search (`find_time.lua`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from redis.asyncio import Redis

from queue_engine.domain.task_filters import STATES_BY_STATUS, TaskFilters
from queue_engine.domain.tasks import Task, TaskStatus
from queue_engine.store.calls import Scripts
from queue_engine.store.codec import TaskSpecs, task_from
from queue_engine.store.keys import EndpointKeys, Partitions
from queue_engine.store.redis.client import pairs

if TYPE_CHECKING:
    from queue_engine.store.calls import ScanOk

MAX_SCANNED = 2000
"""Limit of the tasks that one call looks at."""
MAX_SECONDS = 0.05
"""Time after which a call reads no further piece."""
FIRST_PIECE, MAX_PIECE = 32, 250
"""Numbers of tasks that scripts look at. The first piece of a call is small, because a page is often full after it."""
MAX_SHOWN = 50
"""Limit of the records that one script returns."""
MAX_PLACE = 10**12 - 2
"""Limit of places: they have twelve digits in the index of tags, also the place after the last."""
MAX_SORTED = 1000
"""Limit of the ended tasks with a status up to which their index is read, which is in the order of their ends. A longer
one has a match among few entries of the index of all tasks."""
CLOCK_STEP_MS = 2000
"""Steps back of the store's clock up to which no task of a period is missed: a search begins that long before it."""


@dataclass(frozen=True)
class ScanLimits:
    """Limits of a call."""

    scanned: int = MAX_SCANNED
    seconds: float = MAX_SECONDS
    first_piece: int = FIRST_PIECE
    piece: int = MAX_PIECE
    shown: int = MAX_SHOWN
    sorted: int = MAX_SORTED


DEFAULT_LIMITS = ScanLimits()


@dataclass(frozen=True)
class ScannedIds:
    """The ids of tasks that match, in the order of the walk."""

    task_ids: tuple[str, ...]
    next: int | None
    """The place behind which the next call goes on; None if the walk has ended."""
    scanned: int
    """Number of tasks that were looked at."""


@dataclass(frozen=True)
class ScannedPage:
    """Tasks that match, without input and output, in the order of the walk."""

    items: tuple[Task, ...]
    places: tuple[int, ...]
    """The places of the items."""
    next: int | None
    """The place behind which the next call goes on; None if the walk has ended."""
    scanned: int
    """Number of tasks that were looked at."""


@dataclass
class _Walk:
    """The progress of a call."""

    limit: int
    shows: bool
    low: int
    high: int
    scanned: int = 0
    next: int | None = None

    def __post_init__(self) -> None:
        self.found: list[tuple[int, str, Sequence[bytes]]] = []
        """Place, id and record of each task that matches."""


class TaskScan:
    """Finds the tasks of an endpoint by filters. Every method raises RedisError, and may be repeated."""

    def __init__(
        self,
        redis: Redis,
        scripts: Scripts,
        partitions: Partitions,
        specs: TaskSpecs,
        limits: ScanLimits = DEFAULT_LIMITS,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._specs = specs
        self._limits = limits
        self._monotonic = monotonic

    async def latest_place(self, endpoint_id: str) -> int:
        """Return the place of the newest task, for a walk over the tasks that are there now; 0 without one."""
        return int(await self._redis.hget(self._partitions.of(endpoint_id).counts, "seq:all") or 0)  # type: ignore[misc]

    async def page(
        self,
        endpoint_id: str,
        filters: TaskFilters,
        *,
        after: int | None,
        limit: int,
        upto: int | None = None,
        oldest_first: bool = False,
    ) -> ScannedPage:
        """Return the next tasks that match, at most `limit`: newest first, or oldest first.

        `after` is the `next` of the page before, and None for the first. Tasks that are newer than that at the place
        `upto` are left out.
        """
        walk = await self._walked(endpoint_id, filters, after, limit, upto, oldest_first=oldest_first, shows=True)
        items = tuple(self._task(endpoint_id, task_id, record) for _, task_id, record in walk.found)
        return ScannedPage(items, tuple(place for place, _, _ in walk.found), walk.next, walk.scanned)

    async def ids(
        self,
        endpoint_id: str,
        filters: TaskFilters,
        *,
        after: int | None,
        limit: int,
        upto: int | None = None,
        oldest_first: bool = False,
    ) -> ScannedIds:
        """Return the ids of the next tasks that match, as `page` does."""
        walk = await self._walked(endpoint_id, filters, after, limit, upto, oldest_first=oldest_first, shows=False)
        return ScannedIds(tuple(task_id for _, task_id, _ in walk.found), walk.next, walk.scanned)

    async def _walked(
        self,
        endpoint_id: str,
        filters: TaskFilters,
        after: int | None,
        limit: int,
        upto: int | None,
        *,
        oldest_first: bool,
        shows: bool,
    ) -> _Walk:
        keys, began = self._partitions.of(endpoint_id), self._monotonic()
        low, high = await self._period(keys, filters)
        if upto is not None:
            high = min(high, upto)
        if after is not None:
            low, high = (max(low, after + 1), high) if oldest_first else (low, min(high, after - 1))
        walk = _Walk(limit, shows, low, high)
        if not filters.states:
            return walk
        limits, stored = self._limits, orjson.dumps(filters.to_dict()).decode()
        piece = min(max(limit, limits.first_piece), limits.piece)
        while walk.low <= walk.high:
            if walk.scanned >= limits.scanned or (walk.scanned and self._monotonic() - began > limits.seconds):
                return walk
            scanned = await self._scan(keys, filters, walk, min(piece, limits.scanned - walk.scanned), oldest_first)
            place, is_through = await self._match(keys, stored, walk, scanned)
            if scanned.is_end and is_through:
                walk.next = None
                return walk
            walk.next = place
            if len(walk.found) >= limit:
                return walk
            walk.low, walk.high = (place + 1, walk.high) if oldest_first else (walk.low, place - 1)
            piece = min(2 * piece, limits.piece)
        walk.next = None
        return walk

    async def _period(self, keys: EndpointKeys, filters: TaskFilters) -> tuple[int, int]:
        """Return the first and the last place of the tasks in the period that the filters name."""
        low, high = 1, MAX_PLACE
        if filters.created_after is not None:
            low = await self._place_of(keys, filters.created_after - CLOCK_STEP_MS)
        ends = [end for end in (filters.created_before, filters.finished_before) if end is not None]
        if ends:  # a task ends after its creation
            high = await self._place_of(keys, min(ends) + CLOCK_STEP_MS) - 1
        return low, high

    async def _place_of(self, keys: EndpointKeys, time_ms: int) -> int:
        """Return the place of the first task that was created at this time or later."""
        reply = await self._scripts.find_time(keys, time_ms=time_ms, low=None, high=None)
        while reply.word == "ASK":
            created = await self._redis.hget(keys.task(reply.task_id), "created")  # type: ignore[misc]
            # A task without data has expired, so it is older than those of any period that still has tasks.
            is_before = created is None or int(created) < time_ms
            low, high = (reply.place + 1, reply.high) if is_before else (reply.low, reply.place)
            reply = await self._scripts.find_time(keys, time_ms=time_ms, low=low, high=high)
        return reply.place

    async def _scan(
        self, keys: EndpointKeys, filters: TaskFilters, walk: _Walk, limit: int, oldest_first: bool
    ) -> ScanOk:
        source, statuses = _source_of(filters)
        return await self._scripts.scan(
            keys,
            source=source,
            success=TaskStatus.SUCCESS in statuses,
            delivered=TaskStatus.DELIVERED in statuses,
            failed=TaskStatus.FAILED in statuses,
            low=walk.low,
            high=walk.high,
            is_oldest_first=oldest_first,
            limit=limit,
            max_sorted=self._limits.sorted,
            prefix=filters.id_prefix or "",
            tag=filters.tag or "",
        )

    async def _match(self, keys: EndpointKeys, stored: str, walk: _Walk, scanned: ScanOk) -> tuple[int, bool]:
        """Compare tasks with the filters. Return the place of the last one compared, and True if none is left."""
        candidates = list(zip(scanned.found[::2], scanned.found[1::2], strict=True))
        begin = 0
        while begin < len(candidates) and len(walk.found) < walk.limit:
            left = candidates[begin:]
            (_, first_id), *others = left
            reply = await self._scripts.match_tasks(
                keys.of_task(first_id),
                more=[key for _, task_id in others for key in _keys_of(keys, task_id)],
                filters=stored,
                limit=min(walk.limit - len(walk.found), self._limits.shown if walk.shows else walk.limit),
                shows=walk.shows,
                places=[place for place, _ in left],
            )
            for index, *record in reply.matches:
                place, task_id = left[int(index) - 1]
                walk.found.append((int(place), task_id, record))
            begin += reply.looked
        if begin < len(candidates):
            walk.scanned += begin
            return int(candidates[begin - 1][0]), False
        walk.scanned += scanned.looked
        return scanned.last, True

    def _task(self, endpoint_id: str, task_id: str, record: Sequence[bytes]) -> Task:
        spec, error, *flat = record
        return task_from(endpoint_id, task_id, pairs(flat), self._specs.decode_public(spec), None, error)


def _keys_of(keys: EndpointKeys, task_id: str) -> tuple[str, str, str]:
    """Return the keys of a further task, in the order of match_tasks.lua."""
    return keys.task(task_id), keys.body(task_id), keys.result(task_id)


def _source_of(filters: TaskFilters) -> tuple[str, frozenset[TaskStatus]]:
    """Return the name of the index to read, and the statuses of tasks that can match."""
    if filters.tag is not None:
        return "tag", frozenset()
    asked = TaskStatus if filters.status is None else (filters.status,)
    statuses = frozenset(status for status in asked if STATES_BY_STATUS[status] & filters.states)
    if TaskStatus.PROCESSING not in statuses:
        return "ended", statuses
    return "live" if len(statuses) == 1 else "all", statuses
