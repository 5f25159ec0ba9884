"""Rule of what a principal sees: the endpoints of its tenant, and what belongs to them."""

from __future__ import annotations

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.principals import Principal


def check_sees(principal: Principal, endpoint: Endpoint) -> None:
    """Raise NotFound for another tenant's endpoint. Use cases that are passed an endpoint call this first, because a
    caller may have it from somewhere else than `Endpoints.get`.
    """
    if endpoint.tenant != principal.tenant:
        raise NotFound(Resource.ENDPOINT)
