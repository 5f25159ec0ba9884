"""The interface of the controller's log followers to a backend whose containers' output is kept by their platform.

Docker, podman and Kubernetes store each piece of a container's output with the time at which they received it:

    2026-11-28T14:03:07.123456789Z loading the model

A platform returns the same entries, in the same order and with the same times, each time that it is asked. So a
follower can continue after the entries that it has stored. Docker and Kubernetes return nanoseconds, podman whole
seconds.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol, runtime_checkable

BeforeRemoval = Callable[[str, int], Awaitable[None]]
"""Function that is called with a worker's id and run. It reads the container's output to its end. It is bounded by
LOG_END_SECONDS, never raises, and may be called more than once."""

LOG_END_SECONDS = 5.0
"""Time to read the output of an ended container to its end. Afterwards the container may be removed."""

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_NS = 1_000_000_000
_ONE_SECOND = timedelta(seconds=1)


class LogEntry(NamedTuple):
    """A piece of a container's output, as its platform stores it."""

    stamp_ns: int
    """Time at which the platform received it, in nanoseconds since the epoch; `stamp_ns` parses it."""
    data: bytes
    """The output without the time, including the line end. If a long line has several entries, only the last has it."""


@runtime_checkable
class ContainerLogs(Protocol):
    """The part of a backend that log followers use. A backend whose agents ship the logs does not have it."""

    before_removal: BeforeRemoval
    """Set by the controller. A backend calls it after a worker's container has ended and before it removes the
    container, in `stop`, in `kill` and when it sweeps."""

    def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        """Yield the output of the worker's container, standard output and error, and wait for more until it has ended.

        It begins with the first entry stamped `since_ns` or later. It may begin earlier, because platforms differ in
        whether that time is included, and in its resolution. Returns only after the last entry of a container that has
        ended. Raises BackendError if there is no such container, or the connection fails before. There is one
        connection per call, which ends when the generator is closed.
        """
        ...

    async def environment(self, worker_id: str, run: int) -> Mapping[str, str]:
        """Return `WorkerSpec.environment` as the worker's container was created with it. Raises BackendError.

        Its values are masked in the log. The store has only the endpoint's current values, and a worker that was
        adopted from another controller may have older ones. The image's own variables are not included, because their
        values are no secrets and are in many lines.
        """
        ...


async def nothing_before_removal(_worker_id: str, _run: int) -> None:
    """Do nothing: the value of `before_removal` until the controller sets it."""


def stamp_ns(text: str) -> int:
    """Return the time of an entry, in RFC 3339 with up to nine digits of a second. Raises ValueError."""
    found = _STAMP.fullmatch(text)
    if found is None:
        raise ValueError(f"not a time in RFC 3339: {text[:40]!r}")
    seconds = datetime.fromisoformat(found[1] + ("+00:00" if found[3] == "Z" else found[3]))
    whole = (seconds - datetime(1970, 1, 1, tzinfo=UTC)) // _ONE_SECOND
    return whole * _NS + int((found[2] or "0").ljust(9, "0"))
