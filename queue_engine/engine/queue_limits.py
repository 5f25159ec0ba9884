"""Errors of an endpoint that takes no further task now."""

from __future__ import annotations

from queue_engine.domain.errors import EndpointClosed, TooManyRequests

FULL_RETRY_SECONDS = 5
"""A full queue is not worth asking about sooner."""


def closed() -> EndpointClosed:
    """Return the error of an endpoint that is stopped, stopping or failed."""
    return EndpointClosed("the endpoint is stopped, stopping or failed and takes no tasks")


def full() -> TooManyRequests:
    """Return the error of an endpoint in whose queue as many tasks wait as may."""
    return TooManyRequests("the endpoint's queue is full", scope="queue", retry_after_seconds=FULL_RETRY_SECONDS)
