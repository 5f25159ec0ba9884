"""Group the newest failures of an endpoint by their errors."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.error_groups import ErrorGroups, grouped
from queue_engine.domain.principals import Principal
from queue_engine.engine.access import check_sees
from queue_engine.engine.patience import from_store
from queue_engine.store.failures import FailureIndex

KEPT_SECONDS = 10.0
"""Time for which groups are returned again, because many clients may look at the same failures after an incident."""
MAX_KEPT = 64
"""Limit of the results that are kept. Each has 20 groups at most."""

_Asked = tuple[str, int | None, int | None]


class ErrorGrouping:
    """Groups of errors. Raises NotFound and StoreUnavailable."""

    def __init__(
        self,
        failures: FailureIndex,
        now_ms: Callable[[], Awaitable[int]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._kept: OrderedDict[_Asked, tuple[float, asyncio.Task[ErrorGroups]]] = OrderedDict()

    async def groups(
        self, principal: Principal, endpoint: Endpoint, *, from_ms: int | None, to_ms: int | None
    ) -> ErrorGroups:
        """Return the groups of the newest failures of a period, as they were in the last seconds."""
        check_sees(principal, endpoint)
        asked = (endpoint.endpoint_id, from_ms, to_ms)
        kept = self._kept.get(asked)
        if kept is None or self._monotonic() >= kept[0] or (kept[1].done() and kept[1].exception() is not None):
            reading = asyncio.ensure_future(self._read(*asked))
            kept = self._kept[asked] = (self._monotonic() + KEPT_SECONDS, reading)
            self._kept.move_to_end(asked)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return await asyncio.shield(kept[1])

    async def _read(self, endpoint_id: str, from_ms: int | None, to_ms: int | None) -> ErrorGroups:
        found = await from_store(self._failures.newest(endpoint_id, from_ms=from_ms, to_ms=to_ms))
        return grouped(found, from_ms=from_ms, to_ms=to_ms, now_ms=await from_store(self._now_ms()))
