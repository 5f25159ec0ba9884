"""The logs of all workers of an endpoint, merged by the time of arrival.

All streams of an endpoint are on one server, whose clock gives the times of their entries. A page has only lines of
milliseconds that are over, so that no line is added before the place that a reader has reached. An exception is a line
that is written after the clock went back, which is only in the log of its worker.

A round reads a few lines of each worker in one pipeline. Lines are used up to the place where the first of the streams
that have more was cut, because beyond it that stream may have earlier lines than another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from redis.asyncio import Redis

from queue_engine.domain.logs import EndpointLogLine, EndpointLogPage, EndpointPlace, LogQuery, Place
from queue_engine.store.keys import EndpointKeys, Partitions
from queue_engine.store.logs import bounds_of, line_of

MAX_WORKERS = 100
"""Limit of the logs that are merged: those that were written last."""
MAX_ROUNDS = 10
"""Limit of the rounds of a page, which is short if they find too few lines."""
SPARE_LINES = 10
"""Lines that a round reads of each worker beyond its part of the page."""
SEARCHED_LINES = 1000
"""Lines of all workers, besides the spare ones, that a round reads to find a keyword."""
_MAX_OFFSET = 2**64 - 1


class EndpointLogs:
    """The merged logs of endpoints. `now_ms` returns the clock of an endpoint's server."""

    def __init__(self, redis: Redis, partitions: Partitions, now_ms: Callable[[str], Awaitable[int]]) -> None:
        self._redis = redis
        self._partitions = partitions
        self._now_ms = now_ms

    async def page(self, endpoint_id: str, query: LogQuery, after: EndpointPlace | None) -> EndpointLogPage:
        """Return the next page of lines behind `after` that match the query, whose own `after` is not used."""
        keys = self._partitions.of(endpoint_id)
        over_ms = await self._now_ms(endpoint_id) - 1
        query = replace(query, end_ms=over_ms if query.end_ms is None else min(query.end_ms, over_ms))
        names = [one.decode() for one in await self._redis.zrevrange(keys.logs, 0, MAX_WORKERS)]
        workers, is_complete = names[:MAX_WORKERS], len(names) <= MAX_WORKERS
        found: list[EndpointLogLine] = []
        last, is_over = after, not workers or (query.end_ms or 0) < 0
        for _ in range(0 if is_over else MAX_ROUNDS):
            lines, has_more = await self._round(keys, query, workers, last)
            for line in lines:
                if query.wants(line.text):
                    if len(found) == query.size:
                        return EndpointLogPage(tuple(found), True, found[-1].place, is_complete)
                    found.append(line)
                last = line.place
            if not has_more:
                is_over = True
                break
        return EndpointLogPage(tuple(found), not is_over, last, is_complete)

    async def _round(
        self, keys: EndpointKeys, query: LogQuery, workers: Sequence[str], after: EndpointPlace | None
    ) -> tuple[list[EndpointLogLine], bool]:
        """Return the next lines in order, and whether there are more."""
        count = (SEARCHED_LINES if query.keyword else query.size) // len(workers) + SPARE_LINES
        pipeline = self._redis.pipeline(transaction=False)
        for worker_id in workers:
            low, high = bounds_of(query, _place_before(after, worker_id, backward=query.backward))
            if query.backward:
                pipeline.xrevrange(keys.log(worker_id), max=high, min=low, count=count)
            else:
                pipeline.xrange(keys.log(worker_id), min=low, max=high, count=count)
        lines: list[EndpointLogLine] = []
        cuts: list[EndpointPlace] = []
        for worker_id, entries in zip(workers, await pipeline.execute(), strict=True):
            read = [line_of(entry_id, fields) for entry_id, fields in entries]
            lines += [EndpointLogLine(EndpointPlace(*line.place, worker_id), line.text) for line in read]
            if len(read) == count:
                cuts.append(EndpointPlace(*read[-1].place, worker_id))
        lines.sort(key=lambda line: line.place, reverse=query.backward)
        if not cuts:
            return lines, False
        cut = max(cuts) if query.backward else min(cuts)
        return [one for one in lines if (one.place >= cut if query.backward else one.place <= cut)], True


def _place_before(after: EndpointPlace | None, worker_id: str, *, backward: bool) -> Place | None:
    """Return the place in a worker's log behind which the lines behind `after` begin; None for all lines."""
    if after is None:
        return None
    time_ms, offset, last_worker = after
    if backward:
        return Place(time_ms, offset if worker_id >= last_worker else min(offset + 1, _MAX_OFFSET))
    if worker_id <= last_worker:
        return Place(time_ms, offset)
    if offset > 0:
        return Place(time_ms, offset - 1)
    return Place(time_ms - 1, _MAX_OFFSET) if time_ms > 0 else None
