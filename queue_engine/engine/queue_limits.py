"""Errors of an endpoint that accepts no tasks at the moment."""

from __future__ import annotations

from queue_engine.domain.endpoints import Endpoint, refusal_of_tasks
from queue_engine.domain.errors import EndpointClosed, NotFound, Resource, TooManyRequests

FULL_RETRY_SECONDS = 5
"""`Retry-After` of a full queue. An earlier retry would rarely succeed."""


def closed(endpoint: Endpoint | None) -> EndpointClosed | NotFound:
    """Return the error of an endpoint that is stopped, stopping or failed. Its message says which.

    The scripts that refuse tasks do not read workers, so the endpoint is read after them. None if it no longer exists.
    """
    return NotFound(Resource.ENDPOINT) if endpoint is None else EndpointClosed(refusal_of_tasks(endpoint))


def full() -> TooManyRequests:
    """Return the error of an endpoint whose queue has reached its limit."""
    return TooManyRequests("the endpoint's queue is full", scope="queue", retry_after_seconds=FULL_RETRY_SECONDS)
