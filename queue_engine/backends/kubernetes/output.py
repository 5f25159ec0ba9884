"""The output of a worker's container, as the controller's log followers read it.

A cluster sends each line with its time. Runtimes store a long line in parts. Kubelets before 1.27 put the time of each
part before it, in the middle of the line; later ones send the line as a whole.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

from queue_engine.backends.base import BackendError
from queue_engine.backends.container_logs import LogEntry, stamp_ns
from queue_engine.backends.kubernetes.cluster import Cluster
from queue_engine.backends.kubernetes.names import MAIN
from queue_engine.backends.kubernetes.pod_view import PodView, State

SECOND_NS = 1_000_000_000
PART_BYTES = 16 * 1024
"""Size of the parts of a long line in containerd. Longer entries are cut to it, so that a line has no limit."""
MAX_STAMP_BYTES = 64
END_SECONDS = 5.0
"""Maximum time until the watch shows the end of a container whose output has ended."""
MAX_PART_NS = 60 * SECOND_NS
"""Maximum time between two parts of a line. A part whose time is later keeps that time as a part of its data."""
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)) ")


async def follow(cluster: Cluster, pod: PodView, since_ns: int) -> AsyncGenerator[LogEntry, None]:
    """Yield the output from `since_ns` on, until the container has ended. Raises BackendError.

    The cluster is asked from the second of that time on, because times in requests have no fractions.
    """
    since = datetime.fromtimestamp(since_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if since_ns > 0 else None
    entries = Entries()
    async with aclosing(cluster.api.read_log(pod.name, MAIN, since)) as chunks:
        async for chunk in chunks:
            for entry in entries.feed(chunk):
                yield entry
    if not await _has_ended(cluster, pod):
        raise BackendError("the cluster has ended the stream of the container's output")
    for entry in entries.end():
        yield entry


class Entries:
    """Takes the entries out of a stream of lines."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._stamp_ns: int | None = None
        """Time of the entry whose beginning was read; None at the beginning of a line."""

    def feed(self, chunk: bytes) -> Iterator[LogEntry]:
        """Yield the entries that are complete with this chunk. Raises BackendError."""
        self._unread += chunk
        while (entry := self._next()) is not None:
            yield entry

    def end(self) -> Iterator[LogEntry]:
        """Yield the rest of the output of a container that has ended: its last line may be unfinished."""
        while self._unread:
            yield self._cut()

    def _next(self) -> LogEntry | None:
        if b"\n" not in self._unread and len(self._unread) < PART_BYTES + 2 * MAX_STAMP_BYTES:
            return None  # because the time of the next part must be there as a whole
        return self._cut()

    def _cut(self) -> LogEntry:
        """Take the next part of a line."""
        self._read_stamp()
        data = self._take(self._unread.find(b"\n", 0, PART_BYTES) + 1 or PART_BYTES)
        entry = LogEntry(self._stamp_ns or 0, data)
        if data.endswith(b"\n"):
            self._stamp_ns = None
        return entry

    def _read_stamp(self) -> None:
        """Read the time at the beginning of a line, or of a part of one.

        In the middle of a line, the container may have written what looks like a time. It is a part's time only if it
        fits that of the line.
        """
        found = _STAMP.match(self._unread, 0, MAX_STAMP_BYTES)
        stamp = None if found is None else _time_in(found[1])
        if found is not None and stamp is not None and self._fits(stamp):
            self._stamp_ns = stamp
            self._take(found.end())
        elif self._stamp_ns is None:
            raise BackendError("the cluster sent output without its time")

    def _fits(self, stamp: int) -> bool:
        return self._stamp_ns is None or 0 <= stamp - self._stamp_ns <= MAX_PART_NS

    def _take(self, size: int) -> bytes:
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data


def _time_in(stamp: bytes) -> int | None:
    """Return the time in nanoseconds; None if there is no such time."""
    try:
        return stamp_ns(stamp.decode("ascii"))
    except ValueError:
        return None


async def environment(cluster: Cluster, pod: PodView) -> Mapping[str, str]:
    """Return the endpoint's variables with which a pod was made. Raises BackendError."""
    found: dict[str, str] = {}
    for name in pod.variables:
        secret = await cluster.api.read_secret(name)
        if secret is None:
            raise BackendError(f"the Secret {name} does not exist")
        found |= {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
    return found


async def _has_ended(cluster: Cluster, pod: PodView) -> bool:
    """Return True if the container has ended, so that its output is complete. The watch may be a little later."""

    def ended() -> bool:
        found = cluster.watch.pods.get(pod.name)
        return found is None or found.uid != pod.uid or found.main.state is State.TERMINATED

    return await cluster.watch.until(ended, END_SECONDS)
