"""Groups of failed tasks whose errors have the same signature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_LOOKED_AT = 1000
"""Limit of the failures that a result is made from."""
MAX_GROUPS = 20
"""Limit of the groups in a result. The tasks of the smallest groups beyond it are only counted."""
MAX_SAMPLES = 5
"""Limit of the ids of tasks in a group."""
BUCKETS = 24
"""Number of the parts of a period in which the failures of a group are counted."""


@dataclass(frozen=True)
class Failure:
    """A task that has ended without success."""

    task_id: str
    state: str
    finished_ms: int
    signature: str
    error: str
    """The beginning of the error; empty for a failure that has the same signature as a newer one."""


@dataclass(frozen=True)
class Failures:
    """The newest failures of a period, newest first."""

    items: Sequence[Failure]
    looked_at: int
    """Number of entries of the index that were read."""
    kept: int
    """Number of failed tasks that the endpoint has, of any period."""
    is_complete: bool
    """False if the limit left out older failures of the period."""


@dataclass(frozen=True)
class ErrorGroup:
    """The failures with one signature."""

    signature: str
    count: int
    first_ms: int
    last_ms: int
    error: str
    """The beginning of the newest error."""
    states: dict[str, int]
    task_ids: tuple[str, ...]
    """Ids of the newest failures."""
    over_time: tuple[int, ...]
    """Number of failures in each part of the period, the oldest part first."""


@dataclass(frozen=True)
class ErrorGroups:
    """The groups of a period, the largest first."""

    groups: Sequence[ErrorGroup]
    others: int
    """Number of failures in groups beyond the limit."""
    looked_at: int
    kept: int
    is_complete: bool
    from_ms: int
    to_ms: int
    """The period of `over_time`."""
    as_of_ms: int


def grouped(found: Failures, *, from_ms: int | None, to_ms: int | None, now_ms: int) -> ErrorGroups:
    """Return the groups of failures. The period begins with the first failure and ends now unless it is given."""
    end = to_ms if to_ms is not None else max([now_ms, *(one.finished_ms + 1 for one in found.items)])
    begin = from_ms if from_ms is not None else min((one.finished_ms for one in found.items), default=end)
    if not found.is_complete and found.items:
        begin = max(begin, min(one.finished_ms for one in found.items))
    by_signature: dict[str, list[Failure]] = {}
    for one in found.items:
        by_signature.setdefault(one.signature, []).append(one)
    groups = [_group(signature, failures, begin, end) for signature, failures in by_signature.items()]
    groups.sort(key=lambda one: (-one.count, -one.last_ms, one.signature))
    return ErrorGroups(
        groups=groups[:MAX_GROUPS],
        others=sum(one.count for one in groups[MAX_GROUPS:]),
        looked_at=found.looked_at,
        kept=found.kept,
        is_complete=found.is_complete,
        from_ms=begin,
        to_ms=end,
        as_of_ms=now_ms,
    )


def _group(signature: str, failures: Sequence[Failure], begin: int, end: int) -> ErrorGroup:
    width = max(end - begin, 1)
    parts = Counter(min(max((one.finished_ms - begin) * BUCKETS // width, 0), BUCKETS - 1) for one in failures)
    times = [one.finished_ms for one in failures]
    return ErrorGroup(
        signature=signature,
        count=len(failures),
        first_ms=min(times),
        last_ms=max(times),
        error=next((one.error for one in failures if one.error), ""),
        states=dict(Counter(one.state for one in failures)),
        task_ids=tuple(one.task_id for one in failures[:MAX_SAMPLES]),
        over_time=tuple(parts[part] for part in range(BUCKETS)),
    )
