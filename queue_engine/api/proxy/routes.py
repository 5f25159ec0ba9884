"""`/e/{id}/…`: requests to the workers of ALB endpoints."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from queue_engine.api.http.errors import BodyTooLarge, ResponseCutOff, WorkerUnavailable
from queue_engine.api.http.operations import DescribedRoute, described_failure, failures_of, in_path
from queue_engine.api.http.services import Services
from queue_engine.api.http.slots import TenantSlots
from queue_engine.api.proxy import rules
from queue_engine.api.proxy.access import Limits, WorkerAccess
from queue_engine.api.proxy.handshake import SWITCHING_PROTOCOLS
from queue_engine.api.proxy.websocket import Visit, visit_in
from queue_engine.api.proxy.workers import MAX_REMEMBERED, Balancer
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.principals import Right
from queue_engine.engine.upstreams import Listing, Upstream

if TYPE_CHECKING:
    from queue_engine.api.proxy.exchange import AddressRefused, Exchange, Outgoing, WorkerClient

log = logging.getLogger(__name__)

TAG = "requests"
PATH = "/e/{id}/{path:path}"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_PARAMETERS = [
    in_path("id", "Id of an ALB endpoint", {"type": "string", "pattern": "^[1-9][0-9]{0,15}$"}),
    in_path("path", "The path on the worker. Query, headers and body are passed on", {"type": "string"}),
]
_ANSWER = {"description": "The worker's response"}


class AlbRoutes:
    """Sends each request to the least busy running worker of its endpoint."""

    def __init__(
        self,
        services: Services,
        access: WorkerAccess,
        limits: Limits,
        slots: TenantSlots,
        websocket_slots: TenantSlots,
    ) -> None:
        self._services = services
        self._access = access
        self._limits = limits
        self._slots = slots
        self._websocket_slots = websocket_slots
        self._balancer = Balancer()
        self._refused: set[tuple[str, str]] = set()

    def routes(self) -> list[DescribedRoute]:
        """Return a route for each method, so that each has a description of its own."""
        return [ForwardRoute(method, self.forward) for method in METHODS]

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams the request to the worker and the response to the client. The API key is not passed on;
        `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Request-Id` are added.

        The response is also 503 if the worker closes the connection or exceeds the timeout before it responds.
        A GET that asks for WebSocket becomes one when the worker responds 101.
        """
        headers: rules.RawHeaders = scope["headers"]
        principal = await self._services.admit_to(scope)
        endpoint_id, path = _target(scope)
        length = rules.declared_length(headers)
        if length is not None and length > self._limits.max_body_bytes:
            raise BodyTooLarge(self._limits.max_body_bytes)
        listing = await self._services.engine.listings.of(principal, endpoint_id)
        caller, visit = _caller(scope), visit_in(scope, send)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (path + query).decode("ascii")
        client = await self._access.client()
        from queue_engine.api.proxy.exchange import Exchange, Outgoing  # here, because `client` has loaded it

        sent = rules.headers_for_worker(headers, caller) + (
            [] if visit is None else visit.handshake.headers_for_worker()
        )
        outgoing = Outgoing(scope["method"], target, sent, caller.request_id, endpoint_id)
        exchange = Exchange(receive, send, self._limits, length=length)
        try:
            with ExitStack() as taken:
                taken.enter_context(self._slots.taken(principal.tenant))
                if visit is not None:
                    taken.enter_context(self._websocket_slots.taken(principal.tenant))
                    key_ended = taken.enter_context(self._services.engine.key_watch.watched(principal))
                    visit = replace(visit, key_ended=key_ended)
                async with exchange:
                    await self._send_to_one(client, listing, outgoing, exchange, visit)
        except (WorkerUnavailable, ResponseCutOff) as error:
            _log(error, listing, outgoing)
            raise

    async def _send_to_one(
        self, client: WorkerClient, listing: Listing, outgoing: Outgoing, exchange: Exchange, visit: Visit | None
    ) -> None:
        """Try the workers in turn until one accepts the request. Raises WorkerUnavailable when none does."""
        from queue_engine.api.proxy.exchange import AddressRefused, NotConnected

        for upstream in self._balancer.candidates(listing):
            with self._balancer.using(upstream):
                try:
                    response = await client.send(upstream, outgoing, exchange.body())
                except AddressRefused as error:
                    self._note_refused(upstream, error)
                    continue
                except NotConnected as error:
                    log.warning("a worker cannot be reached: %s", error, extra={"worker": upstream.worker_id})
                    self._balancer.leave_out(upstream)
                    continue
                with closing(response):
                    if visit is None or response.status != SWITCHING_PROTOCOLS:
                        await exchange.relay(response, outgoing.request_id)
                    else:
                        await visit.run(response, exchange, outgoing.request_id, self._limits)
                return
        raise WorkerUnavailable(_why_none(listing, self._refused))

    def _note_refused(self, upstream: Upstream, error: AddressRefused) -> None:
        """Log a refused address once. The client gets the same response as without this worker."""
        self._balancer.leave_out(upstream)
        place = (upstream.worker_id, upstream.origin)
        if place in self._refused:
            return
        if len(self._refused) >= MAX_REMEMBERED:
            self._refused.clear()
        self._refused.add(place)
        log.warning("a worker's address is refused: %s", error, extra={"worker": upstream.worker_id})


class ForwardRoute(DescribedRoute):
    """A method of `/e/{id}/…`. Matches the path as sent, because a decoded path may look like another endpoint's."""

    def __init__(self, method: str, forward: ASGIApp) -> None:
        super().__init__(
            method,
            PATH,
            forward,
            right=Right.SUBMIT,
            name=f"forward_{method.lower()}",
            summary="Send a request to a worker",
            text=forward.__doc__,
            tag=TAG,
            responses={
                **{status: described_failure(status) for status in sorted({400, *failures_of(Right.SUBMIT), 404, 413})},
                "default": _ANSWER,
            },
            described={"parameters": _PARAMETERS},
            success=_ANSWER["description"],
        )

    def parameters_in(self, scope: Scope) -> dict[str, str] | None:
        return {} if scope["raw_path"].startswith(b"/e/") else None


def _target(scope: Scope) -> tuple[str, bytes]:
    """Return the endpoint id and the path on the worker. Raises NotFound and InvalidRequest."""
    target = rules.split_target(scope["raw_path"])
    if target is None or not is_endpoint_id(target[0]):
        raise NotFound(Resource.ENDPOINT)
    rules.check_path(target[1])
    return target


def _caller(scope: Scope) -> rules.Caller:
    headers: rules.RawHeaders = scope["headers"]
    client: tuple[str, int] | None = scope["client"]
    return rules.Caller(
        address=client[0] if client else "unknown",
        scheme=scope["scheme"],
        host=next((value for name, value in headers if name == b"host"), b""),
        request_id=rules.request_id_of(headers) or uuid.uuid4().hex,
    )


def _log(error: WorkerUnavailable | ResponseCutOff, listing: Listing, outgoing: Outgoing) -> None:
    """Log a failed request, unless the endpoint has no worker: the endpoint's status says that."""
    if listing.upstreams:
        ids = {"endpoint": listing.endpoint.endpoint_id, "request": outgoing.request_id}
        log.warning("a request failed: %s", error, extra={**ids, "cause": repr(error.__cause__)})


def _why_none(listing: Listing, refused: AbstractSet[tuple[str, str]]) -> str:
    if listing.endpoint.desired is not DesiredState.RUNNING:
        return "the endpoint is stopped"
    reachable = any((one.worker_id, one.origin) not in refused for one in listing.upstreams)
    return "no worker can be reached" if reachable else "no worker runs"
