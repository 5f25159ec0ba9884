"""Errors of an endpoint that accepts no tasks at the moment."""

from __future__ import annotations

from queue_engine.domain.errors import EndpointClosed, TooManyRequests

FULL_RETRY_SECONDS = 5
"""`Retry-After` of a full queue. An earlier retry would rarely succeed."""


def closed() -> EndpointClosed:
    """Return the error of an endpoint that is stopped, stopping or failed."""
    return EndpointClosed("the endpoint is stopped, stopping or failed and takes no tasks")


def full() -> TooManyRequests:
    """Return the error of an endpoint whose queue has reached its limit."""
    return TooManyRequests("the endpoint's queue is full", scope="queue", retry_after_seconds=FULL_RETRY_SECONDS)
