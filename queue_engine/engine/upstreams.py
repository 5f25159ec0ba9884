"""Find the workers to which an ALB endpoint's requests can be sent."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from queue_engine.domain.endpoints import DesiredState, Endpoint, ServiceMode
from queue_engine.domain.errors import InvalidRequest, NotFound, Resource
from queue_engine.domain.principals import Principal
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.engine.access import check_sees
from queue_engine.engine.patience import from_store
from queue_engine.rules.hosts import bracketed, is_host

CACHE_SECONDS = 1.0
"""How long a stopped worker may still be selected, and how long a new worker may be missing."""
MAX_REMEMBERED = 10_000

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})")


@dataclass(frozen=True)
class Upstream:
    """A running worker, as its agent reported it."""

    worker_id: str
    host: str
    """A name or an address. An IPv6 address has no brackets."""
    port: int
    load: int = 0
    """The worker's number of running tasks, as its agent reported it. Requests through the proxy are not included."""

    @property
    def origin(self) -> str:
        return f"http://{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Listing:
    """An endpoint and its running workers."""

    endpoint: Endpoint
    upstreams: tuple[Upstream, ...]


def upstream_of(worker: Worker) -> Upstream | None:
    """Return the upstream of the worker. None if it is not running or its agent reported no valid `host:port`."""
    match = _ADDRESS.fullmatch(worker.address or "")
    if worker.status is not WorkerStatus.RUNNING or match is None or not 1 <= int(match[3]) <= 65535:
        return None
    host = match[1] or match[2]
    return Upstream(worker.worker_id, host, int(match[3]), worker.running_tasks) if is_host(host) else None


class Endpoints(Protocol):
    """The endpoints in the store."""

    async def get(self, endpoint_id: str, tenant: str | None) -> Endpoint | None: ...


class Workers(Protocol):
    """The workers in the store."""

    async def of_endpoint(self, endpoint_id: str) -> list[Worker]: ...


class Listings:
    """The store's endpoints and workers, cached for a second. Concurrent requests for an endpoint share one read."""

    def __init__(
        self, endpoints: Endpoints, workers: Workers, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._endpoints = endpoints
        self._workers = workers
        self._monotonic = monotonic
        self._known: dict[str, tuple[Listing, float]] = {}
        self._asked: dict[str, asyncio.Task[Listing | None]] = {}

    async def of(self, principal: Principal, endpoint_id: str) -> Listing:
        """Return the endpoint and its running workers. Raises NotFound, InvalidRequest, StoreUnavailable."""
        known = self._known.get(endpoint_id)
        fresh = known is not None and self._monotonic() < known[1]
        listing = known[0] if known is not None and fresh else await asyncio.shield(self._asking(endpoint_id))
        if listing is None or listing.endpoint.desired is DesiredState.DELETED:
            raise NotFound(Resource.ENDPOINT)
        check_sees(principal, listing.endpoint)
        mode = listing.endpoint.config.service_mode
        if mode is not ServiceMode.ALB:
            raise InvalidRequest("serviceMode", f"must be ALB; the endpoint has {mode}")
        return listing

    def _asking(self, endpoint_id: str) -> asyncio.Task[Listing | None]:
        if endpoint_id not in self._asked:
            task = asyncio.create_task(self._ask(endpoint_id))
            self._asked[endpoint_id] = task
            task.add_done_callback(lambda done: self._forget_asking(endpoint_id, done))
        return self._asked[endpoint_id]

    def _forget_asking(self, endpoint_id: str, done: asyncio.Task[Listing | None]) -> None:
        self._asked.pop(endpoint_id, None)
        if not done.cancelled():
            done.exception()  # marked as retrieved: all requests may have ended, and asyncio would log it

    async def _ask(self, endpoint_id: str) -> Listing | None:
        """Read the endpoint and its workers.

        A missing endpoint is not cached, so that an endpoint can be used as soon as it is created.
        """
        expires_at = self._monotonic() + CACHE_SECONDS
        self._known.pop(endpoint_id, None)
        endpoint, workers = await from_store(self._read(endpoint_id))
        if endpoint is None:
            return None
        listing = Listing(endpoint, tuple(one for worker in workers if (one := upstream_of(worker))))
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[endpoint_id] = (listing, expires_at)
        return listing

    async def _read(self, endpoint_id: str) -> tuple[Endpoint | None, list[Worker]]:
        return await self._endpoints.get(endpoint_id, None), await self._workers.of_endpoint(endpoint_id)
