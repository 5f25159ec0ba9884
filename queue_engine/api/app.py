"""The API as an ASGI application. The caller passes in every object that it works with."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from starlette.applications import Starlette
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from queue_engine.api.agent.routes import AgentRoute, AgentRoutes
from queue_engine.api.http.auth import AgentAuthenticator, Authenticator
from queue_engine.api.http.bodies import BodyReader, TenantBodies
from queue_engine.api.http.failed_keys import FailedKeys
from queue_engine.api.http.middleware import Edge
from queue_engine.api.http.operations import DescribedRoute, Operation
from queue_engine.api.http.rate_limit import RateLimiter
from queue_engine.api.http.refused_requests import RefusedRequests
from queue_engine.api.http.routes import Routes
from queue_engine.api.http.services import Installation, Services
from queue_engine.api.http.slots import TenantSlots
from queue_engine.api.http.turns import Turns
from queue_engine.api.proxy.access import Limits, WorkerAccess
from queue_engine.api.proxy.routes import AlbRoutes
from queue_engine.api.public.openapi import describe
from queue_engine.api.public.routes import OperationsRoutes
from queue_engine.api.v2.agent_tokens import AgentTokenRoutes
from queue_engine.api.v2.audit import AuditRoutes
from queue_engine.api.v2.batches import BatchRoutes
from queue_engine.api.v2.catalogue import CatalogueRoutes
from queue_engine.api.v2.clones import CloneRoutes
from queue_engine.api.v2.console_links import ConsoleLinkRoutes
from queue_engine.api.v2.credentials import CredentialRoutes
from queue_engine.api.v2.deliveries import DeliveryRoutes
from queue_engine.api.v2.destinations import DestinationRoutes
from queue_engine.api.v2.endpoints import EndpointRoutes
from queue_engine.api.v2.error_groups import ErrorGroupRoutes
from queue_engine.api.v2.events import EventRoutes
from queue_engine.api.v2.keys import KeyRoutes
from queue_engine.api.v2.logs import LogRoutes
from queue_engine.api.v2.raw_values import RawValueRoutes
from queue_engine.api.v2.search import SearchRoutes
from queue_engine.api.v2.series import SeriesRoutes
from queue_engine.api.v2.system import SystemRoutes
from queue_engine.api.v2.task_operations import TaskOperationRoutes
from queue_engine.api.v2.tasks import TaskRoutes
from queue_engine.api.v2.templates import TemplateRoutes
from queue_engine.api.v2.tenants import TenantRoutes
from queue_engine.api.v2.webhook_tests import WebhookTestRoutes
from queue_engine.api.v2.workers import WorkerRoutes
from queue_engine.config.engine import ApiSettings
from queue_engine.domain.catalogue import Catalogue
from queue_engine.engine.engine import Engine
from queue_engine.observability import metrics
from queue_engine.observability.exporter import Page, own_metrics
from queue_engine.rules.hosts import is_loopback
from queue_engine.web.console import Console
from queue_engine.web.files import Files
from queue_engine.web.origins import Origins
from queue_engine.web.sessions import SessionAuthenticator, SessionRoutes

AGENT_PATHS = "/agent/v1/"
"""Beginning of the paths that only agents use."""


class Api(Starlette):
    """Starlette with our own outermost layer and search for the route, instead of its middleware and its router."""

    def __init__(
        self, routes: Sequence[DescribedRoute], refused: RefusedRequests, console: Console | None = None
    ) -> None:
        super().__init__()
        self._console = console
        self.router = Router(routes, redirect_slashes=False)  # lists the routes; nothing is sent through it
        self._edge = Edge(Routes(routes), refused)
        self.for_agents = Edge(Routes([one for one in routes if one.path.startswith(AGENT_PATHS)]), refused)
        """The part of the API for agents, without which no other path exists."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._console is not None:
            scope = self._console.scope_of(scope)
        await self._edge(scope, receive, send)


def create_app(
    settings: ApiSettings,
    engine: Engine,
    worker_access: WorkerAccess,
    catalogue: Catalogue,
    metrics_page: Page | None = None,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Api:
    """Return the application. The caller closes `worker_access`.

    `metrics_page` makes the page `/metrics`; by default it has the metrics of this process. Opens no connection, and
    reads no file but those of the console.
    """
    turns = Turns()
    of_tenants = _tenant_bodies(settings)
    bodies = BodyReader(settings.max_body_bytes, settings.read_timeout_seconds, of_tenants, turns)
    origins = Origins(settings.public_origin, only_loopback=is_loopback(settings.host))
    failed_sessions = FailedKeys(settings.unknown_keys_per_minute, monotonic=monotonic)
    own_sessions = SessionAuthenticator(engine.sessions.principals, failed_sessions, origins)
    has_console = settings.console == "on"
    services = Services(
        engine=engine,
        authenticator=Authenticator(
            engine.principals, FailedKeys(settings.unknown_keys_per_minute, monotonic=monotonic)
        ),
        limiter=RateLimiter(settings.rate_limit_per_second, monotonic=monotonic),
        bodies=bodies,
        batch_bodies=replace(bodies, max_bytes=of_tenants.at_most(settings.max_batch_bytes)),
        catalogue=catalogue,
        console=own_sessions if has_console else None,
        console_has_payloads=settings.console_payloads != "never",
        installation=Installation(settings.environment, settings.trace_url),
        monotonic=monotonic,
    )
    prefix = settings.public_prefix
    files = Files.read(prefix, settings.console_payloads) if has_console else None
    console = (
        Console(files, origins, SessionRoutes(services, engine.sessions, own_sessions, origins, prefix))
        if files is not None
        else None
    )
    limits = Limits(settings.alb_max_body_bytes, settings.alb_timeout_seconds, settings.alb_websocket_idle_seconds)
    alb_slots = TenantSlots(
        settings.alb_max_requests_per_tenant, "ALB requests", "QUEUE_ENGINE_ALB_MAX_REQUESTS_PER_TENANT"
    )
    websocket_slots = TenantSlots(
        settings.alb_max_websockets_per_tenant, "WebSockets", "QUEUE_ENGINE_ALB_MAX_WEBSOCKETS_PER_TENANT"
    )
    operations: list[DescribedRoute] = []
    document = functools.cache(lambda: describe(operations))
    # Routes are tried in this order, so the most frequent ones come first.
    operations += TaskRoutes(services).operations()
    operations += RawValueRoutes(services).operations()
    operations += CloneRoutes(services).operations()
    operations += TaskOperationRoutes(services).operations()
    operations += BatchRoutes(services).operations()
    operations += DeliveryRoutes(services).operations()
    operations += EndpointRoutes(services).operations()
    operations += LogRoutes(services).operations()
    operations += WorkerRoutes(services).operations()
    operations += CredentialRoutes(services).operations()
    operations += KeyRoutes(services).operations()
    operations += AgentTokenRoutes(services).operations()
    if has_console:
        operations += ConsoleLinkRoutes(services, lambda scope: f"{origins.of(scope)}{prefix}/console").operations()
    operations += AuditRoutes(services).operations()
    operations += DestinationRoutes(services).operations()
    operations += WebhookTestRoutes(services).operations()
    operations += SearchRoutes(services).operations()
    operations += ErrorGroupRoutes(services).operations()
    operations += SeriesRoutes(services).operations()
    operations += EventRoutes(services, catalogue).operations()
    operations += CatalogueRoutes(services, settings.ceilings()).operations()
    operations += TemplateRoutes(services, settings.example_worker).operations()
    operations += SystemRoutes(services).operations()
    operations += TenantRoutes(services).operations()
    agent_routes = AgentRoutes(
        engine.agent_work,
        AgentAuthenticator(engine.agent_principals, FailedKeys(settings.unknown_keys_per_minute, monotonic=monotonic)),
        BodyReader(settings.agent_max_body_bytes, settings.read_timeout_seconds, _agent_bodies(settings), turns),
        max_input_bytes=settings.max_body_bytes,
        limiter=RateLimiter(settings.rate_limit_per_second, monotonic=monotonic),  # not shared with clients
        monotonic=monotonic,
    ).routes()
    operations += AlbRoutes(services, worker_access, limits, alb_slots, websocket_slots).routes()
    page = metrics_page or own_metrics(metrics.registry_of(metrics.Role.API))["/metrics"]
    shows_metrics = settings.api_metrics == "public"
    operations += OperationsRoutes(
        engine, document, page, shows_metrics=shows_metrics, has_console=has_console
    ).operations()
    _count_failures_from_zero([*operations, *agent_routes])
    console_routes = [] if console is None else console.routes()
    # The document describes the operations only.
    return Api([*operations, *agent_routes, *console_routes], RefusedRequests(engine.check_ready), console)


def _tenant_bodies(settings: ApiSettings) -> TenantBodies:
    """Return the limit of bytes per tenant, which is never below the maximum size of a body."""
    limit = settings.max_body_bytes_per_tenant
    return TenantBodies(limit and max(limit, settings.max_body_bytes))


def _agent_bodies(settings: ApiSettings) -> TenantBodies:
    """Return the limit of bytes per tenant for agents, so that outputs and submissions do not delay each other."""
    limit = settings.max_body_bytes_per_tenant
    return TenantBodies(limit and max(limit, settings.agent_max_body_bytes))


def _count_failures_from_zero(operations: Sequence[DescribedRoute]) -> None:
    """Start the counters of internal errors at zero, so that an alert sees the first error."""
    for operation in operations:
        if isinstance(operation, Operation | AgentRoute):
            for method, code in product(operation.methods or (), ("500", "503")):
                metrics.http_requests.labels(route=operation.path_format, method=method, code=code)
