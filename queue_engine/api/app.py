"""The API as an ASGI application. Everything that it works with is passed in."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from hashlib import blake2b
from itertools import product
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from queue_engine import __version__, metrics
from queue_engine.api.alb_exchange import Limits, WorkerClient
from queue_engine.api.alb_routes import AlbRoutes
from queue_engine.api.auth import Authenticator
from queue_engine.api.bodies import BodyReader
from queue_engine.api.destinations import AddressLookup, DestinationGuard
from queue_engine.api.edge import Edge
from queue_engine.api.openapi import TITLE, describe
from queue_engine.api.operations import Operation
from queue_engine.api.patience import RefusedRequests
from queue_engine.api.rate_limit import RateLimiter
from queue_engine.api.routes_credentials import CredentialRoutes
from queue_engine.api.routes_endpoints import EndpointRoutes
from queue_engine.api.routes_logs import LogRoutes
from queue_engine.api.routes_operations import OperationsRoutes
from queue_engine.api.routes_tasks import TaskRoutes
from queue_engine.api.services import Services
from queue_engine.config.engine import ApiSettings
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.webhooks import LOOPBACK, AddressPolicy
from queue_engine.store.store import Store


class Api(FastAPI):
    """FastAPI with our own outermost layer in place of its middleware, none of which our routes need."""

    def __init__(self, refused: RefusedRequests, **options: Any) -> None:
        self._refused = refused
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        return Edge(self.router, self._refused)


def create_app(
    settings: ApiSettings,
    store: Store,
    lookup: AddressLookup,
    worker_client: WorkerClient,
    catalogue: Catalogue,
    *,
    own_ports: frozenset[int] = frozenset(),
    store_ports: frozenset[int] = frozenset(),
    monotonic: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The application. `own_ports` are the engine's on this machine, `store_ports` the store's besides those that are
    configured: no webhook may point back at them. Who passes `worker_client` in closes it.

    Opens no connection and reads no file.
    """
    services = Services(
        store=store,
        authenticator=Authenticator(store.api_keys, monotonic=monotonic),
        limiter=RateLimiter(settings.rate_limit_per_second, monotonic=monotonic),
        bodies=BodyReader(settings.max_body_bytes, settings.read_timeout_seconds),
        destinations=_destination_guard(settings, store, lookup, own_ports, store_ports),
        catalogue=catalogue,
        fingerprint_keys=tuple(_fingerprint_key(key) for key in settings.secret_keys) or (b"",),
    )
    limits = Limits(settings.alb_max_body_bytes, settings.alb_timeout_seconds)
    operations: list[APIRoute] = []
    document = functools.cache(lambda: describe(operations))
    # Routes are tried in this order: the one that is used most comes first.
    operations += TaskRoutes(services).operations()
    operations += EndpointRoutes(services).operations()
    operations += LogRoutes(services).operations()
    operations += CredentialRoutes(services).operations()
    operations += AlbRoutes(services, worker_client, limits).routes()
    operations += OperationsRoutes(store, document, metrics.registry_of(metrics.Role.API)).operations()
    _count_failures_from_zero(operations)
    return _with_routes(operations, RefusedRequests(store.check_ready))


def _destination_guard(
    settings: ApiSettings,
    store: Store,
    lookup: AddressLookup,
    own_ports: frozenset[int],
    store_ports: frozenset[int],
) -> DestinationGuard:
    places = settings.store_places()
    with_loopback = AddressPolicy((*settings.webhook_allow, *LOOPBACK))
    return DestinationGuard(
        lookup,
        AddressPolicy(settings.webhook_allow),
        own_ports=own_ports | places.here,
        store_ports=store_ports | places.ports,
        own_hosts=(*settings.own_hosts, *places.hosts),
        one_tenant=(with_loopback, store.api_keys) if settings.webhook_loopback else None,
    )


def _with_routes(operations: list[APIRoute], refused: RefusedRequests) -> FastAPI:
    off: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None, "redirect_slashes": False}
    telemetry = {"tracing": False, "metrics": False, "logs": False}
    app = Api(refused, title=TITLE, version=__version__, telemetry=telemetry, **off)
    app.router.routes.extend(operations)
    return app


def _count_failures_from_zero(operations: list[APIRoute]) -> None:
    """Begin the counters of our own failures, so that an alert sees the first of them."""
    for operation in operations:
        if isinstance(operation, Operation):
            for method, code in product(operation.methods or (), ("500", "503")):
                metrics.http_requests.labels(route=operation.path_format, method=method, code=code)


def _fingerprint_key(key: bytes) -> bytes:
    return blake2b(b"queue-engine submission fingerprints", key=key, digest_size=32).digest()
