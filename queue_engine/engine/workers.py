"""List the workers of all endpoints of a tenant, and replace or remove one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from queue_engine.domain.audit import Action, worker_target
from queue_engine.domain.endpoints import DesiredState, Endpoint
from queue_engine.domain.errors import NotFound, Resource, StateConflict
from queue_engine.domain.principals import Principal
from queue_engine.domain.workers import Worker
from queue_engine.engine.access import check_sees
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import from_store
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.workers import Stop, WorkerStore


@dataclass(frozen=True)
class WorkersPage:
    """The workers of some endpoints, those of the newest endpoint first."""

    workers: Sequence[tuple[Worker, Endpoint]]
    next_below: str | None
    """The id of the last endpoint, below which the next page begins; None if there is none."""


class Workers:
    """Use cases for workers. Each raises StoreUnavailable."""

    def __init__(self, endpoints: EndpointStore, workers: WorkerStore, audit: Audit) -> None:
        self._endpoints = endpoints
        self._workers = workers
        self._audit = audit

    async def page(self, principal: Principal, *, below: str | None, size: int) -> WorkersPage:
        """Return the workers of endpoints that are older than `below`, until there are at least `size` of them.

        The workers of an endpoint are on one page.
        """
        return await from_store(self._page(principal, below, size))

    async def _page(self, principal: Principal, below: str | None, size: int) -> WorkersPage:
        found: list[tuple[Worker, Endpoint]] = []
        async for endpoints in self._pages_of(principal, below):
            by_endpoint = await self._workers.of_endpoints([one.endpoint_id for one in endpoints])
            for endpoint in endpoints:
                found += [(worker, endpoint) for worker in by_endpoint.get(endpoint.endpoint_id, ())]
                if len(found) >= size:
                    return WorkersPage(found, endpoint.endpoint_id)
        return WorkersPage(found, None)

    async def _pages_of(self, principal: Principal, below: str | None) -> AsyncIterator[list[Endpoint]]:
        if principal.endpoints is None:
            async for page in self._endpoints.pages_of(principal.tenant, below=below):
                yield page
            return
        ids = [one for one in principal.endpoints if below is None or int(one) < int(below)]
        found = await self._endpoints.read(sorted(ids, key=int, reverse=True))
        yield [
            one for one in found.values() if one.tenant == principal.tenant and one.desired is not DesiredState.DELETED
        ]

    async def restart(self, principal: Principal, endpoint: Endpoint, worker_id: str) -> None:
        """Replace a worker: it finishes or releases its tasks and ends, and a controller starts another one.

        A repeated order has no further effect on the worker. Raises NotFound, and StateConflict for a worker that was
        started by hand.
        """
        stop = self._workers.stop
        await self._stop(principal, endpoint, worker_id, Action.RESTART_WORKER, stop, "restarted by request")

    async def drain(self, principal: Principal, endpoint: Endpoint, worker_id: str) -> None:
        """Remove a worker, which finishes or releases its tasks first. The endpoint then has one worker less.

        A repeated order has no further effect. Raises as `restart`.
        """
        stop = self._endpoints.drain_worker
        await self._stop(principal, endpoint, worker_id, Action.DRAIN_WORKER, stop, "drained by request")

    async def _stop(
        self,
        principal: Principal,
        endpoint: Endpoint,
        worker_id: str,
        action: Action,
        stop: Callable[..., Awaitable[Stop]],
        reason: str,
    ) -> None:
        check_sees(principal, endpoint)
        target = worker_target(endpoint.endpoint_id, worker_id)
        call = stop(endpoint.endpoint_id, worker_id, principal.tenant, reason=reason, call_id=uuid4().hex)
        match await self._audit.change(principal, action, target, call):
            case Stop.NOT_FOUND:
                raise NotFound(Resource.WORKER)
            case Stop.BY_HAND:
                raise StateConflict("workerId: the worker was started by hand: stop its agent instead")
            case Stop.UNCHANGED:
                return
        await self._audit.note(principal, action, target)
