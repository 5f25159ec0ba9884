"""The rule of access: a principal sees the endpoints of its tenant, and their tasks, workers and logs."""

from __future__ import annotations

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.principals import Principal


def check_sees(principal: Principal, endpoint: Endpoint) -> None:
    """Raise NotFound for another tenant's endpoint.

    Use cases that take an endpoint call this first, because the caller may not have used `Endpoints.get` to read it.
    """
    if endpoint.tenant != principal.tenant:
        raise NotFound(Resource.ENDPOINT)
