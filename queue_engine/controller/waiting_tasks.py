"""Waiting tasks of each endpoint, for the metrics, read as rarely as they change.

An endpoint that works is read each time. A stopped one takes no tasks, so what waits there hardly changes: thousands of
them must not cost a call each every few seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from queue_engine.store.sweeper import Waiting

STOPPED_SECONDS = 60.0
"""Time for which the figures of an endpoint that should not work are kept."""


@dataclass(frozen=True)
class _Kept:
    waiting: Waiting
    until: float


class WaitingTasks:
    """Reads what waits by `read_all`, which skips the endpoints whose figures it is given."""

    def __init__(
        self,
        read_all: Callable[[Mapping[str, Waiting]], AsyncIterator[Waiting]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_all = read_all
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def read(self) -> dict[str, Waiting]:
        """Return what waits by endpoint. Figures of endpoints that should not work are up to a minute old."""
        now = self._clock()
        known = {endpoint_id: kept.waiting for endpoint_id, kept in self._kept.items() if now < kept.until}
        found = {one.endpoint_id: one async for one in self._read_all(known)}
        self._kept = {
            endpoint_id: self._kept[endpoint_id] if endpoint_id in known else _Kept(one, now + STOPPED_SECONDS)
            for endpoint_id, one in found.items()
            if not one.should_work
        }
        return found
