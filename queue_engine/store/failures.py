"""Read the newest failures of an endpoint, in the order of their ends.

The index of failed tasks is in this order. An end before which failures are searched is found by binary search, which
reads one task at each step. Then pieces of the index are read with the signatures of their errors (`failures.lua`).
"""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis

from queue_engine.domain.error_groups import MAX_LOOKED_AT, Failure, Failures
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import EndpointKeys, Partitions
from queue_engine.store.task_scan import CLOCK_STEP_MS

PIECE = 25
"""Number of failures that a script reads, so that no call holds the server for long."""

_Entry = tuple[bytes, Mapping[bytes, bytes]]


class FailureIndex:
    """The failed tasks of all endpoints. Every method raises RedisError, and may be repeated."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions, limit: int = MAX_LOOKED_AT) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._limit = limit

    async def newest(self, endpoint_id: str, *, from_ms: int | None, to_ms: int | None) -> Failures:
        """Return the newest failures of tasks that ended at `from_ms` or later and before `to_ms`."""
        keys = self._partitions.of(endpoint_id)
        kept = await self._redis.xlen(keys.finished_failed)
        last = None if to_ms is None else await self._last_before(keys, to_ms + CLOCK_STEP_MS)
        items: list[Failure] = []
        looked_at, is_complete = 0, last == 0
        while not is_complete and looked_at < self._limit:
            count = min(PIECE, self._limit - looked_at)
            entries = await self._redis.xrevrange(
                keys.finished_failed, "+" if last is None else str(last), "-", count=count
            )
            failures = await self._read(keys, entries)
            looked_at += len(entries)
            items += [one for one in failures if _is_within(one.finished_ms, from_ms, to_ms)]
            is_past = from_ms is not None and any(one.finished_ms < from_ms - CLOCK_STEP_MS for one in failures)
            is_complete = is_past or len(entries) < count
            if entries:
                last = _number(entries[-1]) - 1
                is_complete |= last < 1
        newest_first = tuple(sorted(items, key=lambda one: -one.finished_ms))
        return Failures(newest_first, looked_at, kept, is_complete)

    async def _last_before(self, keys: EndpointKeys, to_ms: int) -> int:
        """Return the number of the newest entry of a task that ended before the time; 0 without one.

        A task that has expired ended before any period that still has failures.
        """
        stream = keys.finished_failed
        oldest = await self._redis.xrange(stream, "-", "+", count=1)
        newest = await self._redis.xrevrange(stream, "+", "-", count=1)
        if not oldest or not newest:
            return 0
        low, high, found = _number(oldest[0]), _number(newest[0]), 0
        while low <= high:
            middle = (low + high) // 2
            entry = await self._redis.xrevrange(stream, str(middle), str(low), count=1)
            if not entry:
                low = middle + 1
                continue
            task_id, _ = _task_of(entry[0])
            finished = await self._redis.hget(keys.task(task_id), "finished")  # type: ignore[misc]
            if finished is None or int(finished) < to_ms:
                found, low = max(found, _number(entry[0])), middle + 1
            else:
                high = _number(entry[0]) - 1
        return found

    async def _read(self, keys: EndpointKeys, entries: list[_Entry]) -> list[Failure]:
        """Return the failures of entries, without those whose task is no longer a failed one."""
        if not entries:
            return []
        tasks = [_task_of(entry) for entry in entries]
        (first_id, _), *others = tasks
        reply = await self._scripts.failures(
            keys.of_task(first_id),
            more=[key for one, _ in others for key in (keys.task(one), keys.body(one), keys.result(one))],
            places=[place for _, place in tasks],
        )
        return [
            Failure(
                task_id=tasks[int(index) - 1][0],
                state=state.decode(),
                finished_ms=int(finished),
                signature=signature.decode(errors="replace"),
                error=error.decode(errors="ignore"),
            )
            for index, state, finished, signature, error in reply.failures
        ]


def _is_within(finished_ms: int, from_ms: int | None, to_ms: int | None) -> bool:
    return (from_ms is None or finished_ms >= from_ms) and (to_ms is None or finished_ms < to_ms)


def _number(entry: _Entry) -> int:
    return int(entry[0].partition(b"-")[0])


def _task_of(entry: _Entry) -> tuple[str, str]:
    """Return the id and the place of an entry's task."""
    fields = entry[1]
    return fields[b"t"].decode(), fields.get(b"n", b"").decode()
