"""Refuses tasks with a priority or a fairness key while a process works that would not serve them.

An agent of an earlier version claims no tasks in lanes, and does not count their ends for the key. An API or controller
process of an earlier version queues a task without its lane. So no such task is accepted before the data's migration,
which begins when no such process runs, or while such an agent works.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from queue_engine.domain.errors import StateConflict
from queue_engine.domain.workers import Worker
from queue_engine.engine.patience import from_store
from queue_engine.engine.refreshed import Refreshed

CACHE_SECONDS = 2.0
"""Time for which a process uses the workers' reports that it has read."""


class Workers(Protocol):
    """The workers in the store."""

    async def of_endpoint(self, endpoint_id: str) -> list[Worker]: ...


class LanesGate:
    """Knows at which endpoints tasks may wait in lanes. `is_migrated` returns True when the data has this format."""

    def __init__(
        self,
        workers: Workers,
        is_migrated: Callable[[], Awaitable[bool]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._is_migrated = is_migrated
        self._was_migrated = False
        self._outdated: Refreshed[bool] = Refreshed(self._is_outdated, CACHE_SECONDS, monotonic=monotonic)

    async def check(self, endpoint_id: str) -> None:
        """Raise StateConflict if a process works that would not serve a task in a lane. Raises StoreUnavailable."""
        self._was_migrated = self._was_migrated or await from_store(self._is_migrated())
        if not self._was_migrated:
            raise StateConflict("workers are being upgraded: a process of an earlier version still works")
        if await from_store(self._outdated.recent(endpoint_id)):
            raise StateConflict("workers are being upgraded: an agent of an earlier version still works")

    async def _is_outdated(self, endpoint_id: str) -> bool:
        return any(one.lacks_lanes for one in await self._workers.of_endpoint(endpoint_id))
