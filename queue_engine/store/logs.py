"""Logs of workers: the output of their containers, in one stream for each worker.

The place of a line is the id of its stream entry: the time of arrival in milliseconds of the store's clock, and an
offset within that millisecond. Places always increase, also when the clock goes back. A reader that continues after the
last place that it has seen gets every line exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis

from queue_engine.domain.logs import LogLine, LogPage, LogQuery, Place
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partitions

CHUNK_LINES = 500
"""Number of lines that one command reads."""
_MAX_CHUNKS = 30
"""Limit of chunks that are searched for the keyword of a page. A whole log has fewer chunks."""
_DROPPED_AT_ONCE = 100


EMPTY = "none"
"""The id of the last batch of a log without lines."""


class Appended(StrEnum):
    """The result of an append after a certain batch."""

    OK = "OK"
    ALREADY = "ALREADY"
    """The batch was appended before, and the reply was lost."""
    MOVED = "MOVED"
    """The log ends with another batch, so nothing was appended: another process writes the same log."""
    GONE = "GONE"
    """There is no such endpoint, so nothing was appended."""


class LogStore:
    """The logs of all workers."""

    def __init__(
        self, redis: Redis, scripts: Scripts, partitions: Partitions, *, chunk_lines: int = CHUNK_LINES
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._chunk_lines = chunk_lines

    async def append(
        self, endpoint_id: str, worker_id: str, batch_id: str, lines: Sequence[str], *, retention_ms: int
    ) -> bool:
        """Append at most MAX_BATCH_LINES lines. A call without lines extends the retention of the log.

        Every batch of a worker has its own id. A batch that is sent twice in a row is appended once, so a call can be
        repeated after a lost reply. The log is kept until `retention_ms` after the last call. Return False, and append
        nothing, when there is no such endpoint.
        """
        appended = await self._append(endpoint_id, worker_id, batch_id, lines, None, retention_ms)
        return appended is not Appended.GONE

    async def append_after(
        self, endpoint_id: str, worker_id: str, after: str, batch_id: str, lines: Sequence[str], *, retention_ms: int
    ) -> Appended:
        """Append lines as `append` does, if the log ends with the batch `after`, or has no line and `after` is EMPTY.

        So of two processes that continue the same log only one appends the next batch.
        """
        return await self._append(endpoint_id, worker_id, batch_id, lines, after, retention_ms)

    async def last_batch(self, endpoint_id: str, worker_id: str) -> str:
        """Return the id of the log's last batch; EMPTY if it has no line."""
        [last] = await self.last_lines(endpoint_id, worker_id, 1) or [(EMPTY, "")]
        return last[0]

    async def last_lines(self, endpoint_id: str, worker_id: str, count: int) -> list[tuple[str, str]]:
        """Return the last lines, newest first, each after the id of the batch that ends with it or an empty text."""
        key = self._partitions.of(endpoint_id).log(worker_id)
        entries = await self._redis.xrevrange(key, count=count)
        return [(fields.get(b"b", b"").decode(), line_of(place, fields).text) for place, fields in entries]

    async def page(self, endpoint_id: str, worker_id: str, query: LogQuery) -> LogPage | None:
        """Return the next page of lines that match the query; None when the worker is unknown.

        A page may be short or empty although more lines follow, because a call searches a limited number of lines.
        """
        found: list[LogLine] = []
        last = query.after
        for _ in range(_MAX_CHUNKS):
            count = self._chunk_lines if query.keyword else min(self._chunk_lines, query.size + 1 - len(found))
            lines = await self._read(endpoint_id, worker_id, query, last, count)
            for line in lines:
                if query.wants(line.text):
                    if len(found) == query.size:
                        return LogPage(tuple(found), True, found[-1].place)
                    found.append(line)
                last = line.place
            if len(lines) < count:
                break
        else:
            return LogPage(tuple(found), True, last)
        if last == query.after and not await self._is_known(endpoint_id, worker_id):
            return None
        return LogPage(tuple(found), False, last)

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete the logs of all workers of an endpoint. Safe to repeat."""
        key = self._partitions.of(endpoint_id).logs
        while names := await self._redis.zrange(key, 0, _DROPPED_AT_ONCE - 1):
            await self._drop(endpoint_id, [name.decode() for name in names])

    async def _append(
        self,
        endpoint_id: str,
        worker_id: str,
        batch_id: str,
        lines: Sequence[str],
        after: str | None,
        retention_ms: int,
    ) -> Appended:
        keys = self._partitions.of(endpoint_id)
        reply = await self._scripts.append_logs(
            keys.of_worker(worker_id),
            worker_id=worker_id,
            batch_id=batch_id,
            after=after,
            retention_ms=retention_ms,
            lines=lines,
        )
        if reply.word == "OK":
            await self._drop(endpoint_id, reply.surplus)
        return Appended(reply.word)

    async def _drop(self, endpoint_id: str, worker_ids: Sequence[str]) -> None:
        if not worker_ids:
            return
        keys = self._partitions.of(endpoint_id)
        worker_logs = [keys.log(worker_id) for worker_id in worker_ids]
        await self._scripts.drop_logs(keys, worker_logs=worker_logs, worker_ids=worker_ids)

    async def _read(
        self, endpoint_id: str, worker_id: str, query: LogQuery, last: Place | None, count: int
    ) -> list[LogLine]:
        """Return at most `count` lines after `last` within the times of the query."""
        if (query.end_ms is not None and query.end_ms < 0) or (query.backward and last == (0, 0)):
            return []  # there are no places before 0-0, and the store refuses such ranges
        key = self._partitions.of(endpoint_id).log(worker_id)
        low, high = bounds_of(query, last)
        if query.backward:
            entries = await self._redis.xrevrange(key, max=high, min=low, count=count)
        else:
            entries = await self._redis.xrange(key, min=low, max=high, count=count)
        return [line_of(entry_id, fields) for entry_id, fields in entries]

    async def _is_known(self, endpoint_id: str, worker_id: str) -> bool:
        keys = self._partitions.of(endpoint_id)
        return bool(await self._redis.exists(keys.log(worker_id), keys.worker(worker_id)))


def bounds_of(query: LogQuery, last: Place | None) -> tuple[str, str]:
    """Return the range of entry ids for XRANGE; `(` excludes the place itself."""
    low = "-" if query.start_ms is None else str(max(0, query.start_ms))
    high = "+" if query.end_ms is None else str(query.end_ms)
    if last is None:
        return low, high
    beyond = f"({last.time_ms}-{last.offset}"
    if query.backward:
        return low, beyond if query.end_ms is None or last.time_ms <= query.end_ms else high
    return beyond if query.start_ms is None or last.time_ms >= query.start_ms else low, high


def line_of(entry_id: bytes, fields: dict[bytes, Any]) -> LogLine:
    time_ms, _, offset = entry_id.partition(b"-")
    return LogLine(Place(int(time_ms), int(offset)), fields[b"l"].decode("utf-8", "replace"))
