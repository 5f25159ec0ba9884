"""Operations: cancel, retry, delete or send again many tasks of an endpoint, in the background."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from queue_engine.domain.audit import Action, operation_target
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest, NotFound, QuotaReached, Resource, StateConflict
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.task_operations import (
    Author,
    NewOperation,
    OperationPage,
    OperationStatus,
    TaskAction,
    TaskOperation,
    end_of,
    order_of,
)
from queue_engine.engine.access import check_may, check_sees
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.engine.queue_limits import closed
from queue_engine.engine.tenant_limits import TenantLimits
from queue_engine.store.constants import MAX_RUNNING_OPERATIONS
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.operations import OperationStore, Start

RIGHTS = {
    TaskAction.CANCEL: Right.OPERATE,
    TaskAction.RETRY: Right.OPERATE,
    TaskAction.DELETE: Right.MANAGE,
    TaskAction.REDELIVER: Right.OPERATE,
}
"""The right that an operation needs: that of the same order for a single task, and at least `operate`."""


@dataclass(frozen=True)
class OperationOrder:
    """A request to begin an operation. It has either filters or the ids of tasks."""

    action: TaskAction
    filters: TaskFilters | None
    task_ids: Sequence[str]
    is_dry: bool
    operation_id: str | None
    """None: the engine makes an id, so that a repeated request begins another operation."""


class TaskOperations:
    """Use cases for operations. Each raises NotFound and StoreUnavailable."""

    def __init__(
        self, operations: OperationStore, endpoints: EndpointStore, limits: TenantLimits, audit: Audit
    ) -> None:
        self._operations = operations
        self._endpoints = endpoints
        self._limits = limits
        self._audit = audit

    async def start(self, principal: Principal, endpoint: Endpoint, order: OperationOrder) -> TaskOperation:
        """Begin an operation. A repeated order with the same id returns the operation that it has begun.

        Raises InvalidRequest, Forbidden, EndpointClosed, StateConflict for an id of another order and for too many
        operations, and QuotaReached for ids of tasks that the tenant has no room for.
        """
        check_sees(principal, endpoint)
        check_may(principal, RIGHTS[order.action])
        new = _new_operation(principal, order)
        if new.task_ids:
            await self._check_room(principal, endpoint, order)
        facts = order_of(new.action, new.filters, new.task_ids)
        target = operation_target(endpoint.endpoint_id, new.operation_id, facts)
        call = self._operations.start(principal.tenant, endpoint.endpoint_id, new)
        if new.is_dry:
            start = await from_store(call)
        else:
            start = await self._audit.change(principal, Action.START_OPERATION, target, call)
        if start is Start.CLOSED:
            raise closed(await from_store(self._endpoints.get(endpoint.endpoint_id, principal.tenant)))
        _check_start(start)
        if start is Start.STARTED and not new.is_dry:
            await self._audit.note(principal, Action.START_OPERATION, target)
        return await self.get(principal, endpoint, new.operation_id)

    async def _check_room(self, principal: Principal, endpoint: Endpoint, order: OperationOrder) -> None:
        """Raise QuotaReached if the tenant must not store the ids of tasks, unless the order was carried out before."""
        try:
            await self._limits.check_room(principal.tenant)
        except QuotaReached:
            name = order.operation_id
            if name is None or await from_store(self._operations.get(endpoint.endpoint_id, name)) is None:
                raise

    async def get(self, principal: Principal, endpoint: Endpoint, operation_id: str) -> TaskOperation:
        """Return an operation of the endpoint. `operation_id` has the form of an id."""
        check_sees(principal, endpoint)
        return await found_in_store(self._operations.get(endpoint.endpoint_id, operation_id), Resource.OPERATION)

    async def page(self, principal: Principal, endpoint: Endpoint, *, page: int, size: int) -> OperationPage:
        """Return page number `page` of the endpoint's operations, newest first. The first page is 1."""
        check_sees(principal, endpoint)
        return await from_store(self._operations.page(endpoint.endpoint_id, page=page, size=size))

    async def all(self, principal: Principal, *, page: int, size: int) -> OperationPage:
        """Return page number `page` of the operations of all endpoints that the principal sees, newest first."""
        tenant, endpoints = principal.tenant, principal.endpoints
        if endpoints is None:
            return await from_store(self._operations.tenants_page(tenant, page=page, size=size))
        return await from_store(self._operations.page_of_endpoints(tenant, endpoints, page=page, size=size))

    async def cancel(self, principal: Principal, endpoint: Endpoint, operation_id: str) -> TaskOperation:
        """Cancel an operation: no further task is changed. An ended operation is not changed. Raises Forbidden."""
        found = await self.get(principal, endpoint, operation_id)
        check_may(principal, RIGHTS[found.action])
        endpoint_id = endpoint.endpoint_id
        target = operation_target(endpoint_id, operation_id, end_of(found))
        call = self._operations.end(endpoint_id, operation_id, OperationStatus.CANCELLED)
        is_cancelled = await self._audit.change(principal, Action.CANCEL_OPERATION, target, call)
        after = await self.get(principal, endpoint, operation_id)
        if is_cancelled and not after.is_dry:
            target = operation_target(endpoint_id, operation_id, end_of(after))
            await self._audit.note(principal, Action.CANCEL_OPERATION, target)
        return after


def _new_operation(principal: Principal, order: OperationOrder) -> NewOperation:
    if order.filters is not None and order.filters.is_empty:
        raise InvalidRequest("filter", "must have at least one filter")
    task_ids = tuple(dict.fromkeys(order.task_ids))
    filters = None if order.filters is None else order.filters.to_dict()
    facts = json.dumps([order.action, filters, task_ids, order.is_dry])
    return NewOperation(
        operation_id=order.operation_id or uuid4().hex,
        action=order.action,
        filters=order.filters,
        task_ids=task_ids,
        is_dry=order.is_dry,
        fingerprint=hashlib.sha256(facts.encode()).hexdigest()[:32],
        author=Author(principal.key_id, principal.key_name, principal.address),
    )


def _check_start(start: Start) -> None:
    match start:
        case Start.STARTED | Start.SAME:
            return
        case Start.NOT_FOUND:
            raise NotFound(Resource.ENDPOINT)
        case Start.CONFLICT:
            raise StateConflict("operationId: another operation has this id")
        case Start.TOO_MANY:
            raise StateConflict(
                f"action: {MAX_RUNNING_OPERATIONS} operations of the endpoint run; cancel one or wait for its end"
            )
        case Start.CLOSED:
            raise ValueError("the error of a closed endpoint needs the endpoint")
