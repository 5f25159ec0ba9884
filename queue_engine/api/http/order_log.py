"""Log lines of requests that changed something: tenant, operation, object and result."""

from __future__ import annotations

import logging
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from queue_engine.observability.logs import log_soon

log = logging.getLogger(__name__)

_FACTS = "queue_engine.order"
_FIELDS = {
    "taskId": "task",
    "workerId": "worker",
    "count": "count",
    "keyId": "key",
    "tokenId": "agent_token",
    "tenantName": "of_tenant",
}
"""Log fields of the parts of a path."""


def note(request: Request, **facts: str | int) -> None:
    """Add fields to the log line of this request. Never pass a secret or a part of a task's content."""
    request.scope.setdefault(_FACTS, {}).update(facts)


def log_order(order: str, scope: Scope) -> None:
    """Log an order that was carried out. `order` is the name of the operation."""
    if log.isEnabledFor(logging.INFO):
        facts = {"order": order, **_ids_in_path(scope), **scope.get(_FACTS, {})}
        log_soon(log, logging.INFO, "order carried out", facts)


def _ids_in_path(scope: Scope) -> dict[str, Any]:
    thing = "credential" if scope["path"].startswith("/v2/container-registry-auths") else "endpoint"
    return {_FIELDS.get(name, thing): value for name, value in scope["path_params"].items()}
