"""Depth and latency of single endpoints, for a limited number of series."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

OTHER = "other"
"""Label of the sum of all other endpoints. It cannot be the id of an endpoint, because ids are numbers."""


@dataclass(frozen=True)
class EndpointQueue:
    """Depth and oldest task of an endpoint. The time is in epoch milliseconds of the store."""

    endpoint_id: str
    depth: int
    """Number of tasks that are queued or scheduled."""
    oldest_ms: int | None
    """The time when the oldest queued task was queued; None without one, and if the endpoint should not work."""


@dataclass(frozen=True)
class EndpointFigures:
    """Values by endpoint id, and by OTHER for all other endpoints."""

    depth: dict[str, float]
    oldest_seconds: dict[str, float]
    """Epoch seconds; 0 if no task waits."""


def endpoint_figures(queues: Iterable[EndpointQueue], limit: int) -> EndpointFigures:
    """Return the figures of at most `limit` endpoints with waiting tasks, and the sum of the others.

    An alert must name the endpoint whose tasks wait longest, so endpoints with the oldest tasks are chosen first.
    Endpoints that should not work are chosen last, those with the largest depth first.
    """
    waiting = {queue.endpoint_id: queue for queue in queues if queue.depth > 0}
    named = heapq.nsmallest(limit, waiting.values(), key=_rank)
    others = waiting.keys() - {queue.endpoint_id for queue in named}
    rest = [waiting[endpoint_id] for endpoint_id in others]
    oldest = min((queue.oldest_ms for queue in rest if queue.oldest_ms is not None), default=None)
    shown = [*named, EndpointQueue(OTHER, sum(queue.depth for queue in rest), oldest)]
    return EndpointFigures(
        depth={queue.endpoint_id: queue.depth for queue in shown},
        oldest_seconds={queue.endpoint_id: (queue.oldest_ms or 0) / 1000 for queue in shown},
    )


def _rank(queue: EndpointQueue) -> tuple[float, int, int]:
    oldest = float("inf") if queue.oldest_ms is None else queue.oldest_ms
    return oldest, -queue.depth, int(queue.endpoint_id)
