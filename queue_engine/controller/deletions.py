"""Delete endpoints: their workers end, tasks end, deliveries are made, then the data is removed.

A round takes the deletions of a partition that are due. Tenants take turns, and a round has a limited time, so that a
tenant that deletes thousands of endpoints with many tasks does not delay the deletions of others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from queue_engine.observability import metrics
from queue_engine.store.constants import MAX_DELETION_MS
from queue_engine.store.deletions import Deletion
from queue_engine.store.keys import Partition
from queue_engine.store.store import Store

AT_ONCE = 4
"""Number of endpoints of a partition that are deleted at the same time."""
PAGE_TASKS = 250
"""Number of tasks that are ended, or removed, before the time of the round is checked."""
ROUND_SECONDS = 2.0
"""Time after which a round begins no further endpoint and no further page of tasks. Each endpoint that was begun has
one page at least, so that its deletion goes on."""
MIN_WAIT_MS = 2_000
MAX_WAIT_MS = MAX_DELETION_MS
"""Limits of the wait for workers and deliveries of a deleted endpoint. Deliveries may take hours."""
AGE_PER_WAIT = 4
"""An endpoint that has been deleted for a time waits a fraction of this time, so that an attempt that is late is late
by a quarter of the time that the deletion took."""


class Deleter:
    """Advances the deletions of a partition."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock

    async def step(self, partition: Partition) -> int:
        """Run a round; return the number of endpoints whose deletion is complete.

        Another controller may have run the round before. An error of one endpoint does not end the round; it is raised
        at its end.
        """
        taken = await self._store.deletions.take(partition)
        round_ = _Round(self._store, self._clock, self._clock() + ROUND_SECONDS)
        await round_.run([one for one in in_turns(taken.due) if not one.has_workers])
        waits = {one.endpoint_id: wait_ms(one) for one in taken.due if one.endpoint_id not in round_.removed}
        await self._store.deletions.plan(partition, taken, waits | dict.fromkeys(round_.unfinished, 0))
        if round_.errors:
            raise round_.errors[0]
        return len(round_.removed)


class _Round:
    """The deletions of one round, and what became of them."""

    def __init__(self, store: Store, clock: Callable[[], float], ends_at: float) -> None:
        self._store = store
        self._clock = clock
        self._ends_at = ends_at
        self.removed: set[str] = set()
        self.unfinished: set[str] = set()
        """Endpoints with more to do, and those that were not begun."""
        self.errors: list[BaseException] = []

    async def run(self, deletions: Sequence[Deletion]) -> None:
        """Advance deletions in this order, until the time of the round is over."""
        left = iter(deletions)
        await asyncio.gather(*(self._work(left) for _ in range(AT_ONCE)))

    async def _work(self, left: Iterator[Deletion]) -> None:
        for number, deletion in enumerate(left):
            if number > 0 and self._is_over():
                self.unfinished.add(deletion.endpoint_id)
                continue
            (error,) = await asyncio.gather(self._advance(deletion.endpoint_id), return_exceptions=True)
            if error is not None:
                self.errors.append(error)

    async def _advance(self, endpoint_id: str) -> None:
        sweeper = self._store.sweeper
        while count := await sweeper.end_waiting(endpoint_id, "endpoint deleted", limit=PAGE_TASKS):
            metrics.tasks_finished.labels(state="failed").inc(count)
            if self._is_over():
                self.unfinished.add(endpoint_id)
                return
        now_ms = await self._store.now_ms(endpoint_id)
        while await sweeper.purge(endpoint_id, before_ms=now_ms + 1, limit=PAGE_TASKS):
            if self._is_over():
                self.unfinished.add(endpoint_id)
                return
        await self._store.operations.remove_endpoint(endpoint_id)
        if await self._store.endpoints.remove(endpoint_id):
            await self._store.logs.delete_endpoint(endpoint_id)
            self.removed.add(endpoint_id)

    def _is_over(self) -> bool:
        return self._clock() >= self._ends_at


def in_turns(deletions: Sequence[Deletion]) -> list[Deletion]:
    """Return the deletions so that no tenant has its second before each has had its first, and so on."""
    places: Counter[str] = Counter()
    turns: list[tuple[int, Deletion]] = []
    for deletion in deletions:
        turns.append((places[deletion.tenant], deletion))
        places[deletion.tenant] += 1
    return [deletion for _, deletion in sorted(turns, key=lambda turn: turn[0])]


def wait_ms(deletion: Deletion) -> int:
    """Return the time until the next attempt to delete an endpoint that waits for its workers or deliveries."""
    return min(MAX_WAIT_MS, max(MIN_WAIT_MS, deletion.age_ms // AGE_PER_WAIT))
