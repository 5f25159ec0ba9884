"""`/e/{id}/…`: requests to the workers of ALB endpoints."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from queue_engine.api.http.errors import BodyTooLarge
from queue_engine.api.http.operations import DescribedRoute, described_failure, failures_of, in_path
from queue_engine.api.http.services import Services
from queue_engine.api.http.slots import TenantSlots
from queue_engine.api.proxy import rules
from queue_engine.api.proxy.access import Limits, WorkerAccess
from queue_engine.api.proxy.forwarding import Forwarding
from queue_engine.api.proxy.websocket import Visit, visit_in
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.principals import Right

if TYPE_CHECKING:
    from queue_engine.api.proxy.exchange import Outgoing

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
        self._forwarding = Forwarding(limits, slots, websocket_slots, services.engine.key_watch)

    def routes(self) -> list[DescribedRoute]:
        """Return a route for each method, so that each has a description of its own."""
        return [ForwardRoute(method, self.forward) for method in METHODS]

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams the request to the worker and the response to the client. The API key is not passed on;
        `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Request-Id` are added.

        The response is also 503 if the worker closes the connection or exceeds the timeout before it responds.
        A GET that asks for WebSocket becomes one when the worker responds 101.
        """
        principal = await self._services.admit_to(scope)
        endpoint_id, path = _target(scope)
        length = self._length_of(scope)
        listing = await self._services.engine.listings.of(principal, endpoint_id)
        visit = visit_in(scope, send)
        client = await self._access.client()
        from queue_engine.api.proxy.exchange import Exchange  # here, because `client` has loaded it

        outgoing = _outgoing(scope, endpoint_id, path, visit)
        exchange = Exchange(receive, send, self._limits, length=length)
        await self._forwarding.run(principal, listing, client, outgoing, exchange, visit)

    def _length_of(self, scope: Scope) -> int | None:
        """Return the declared length of the body. Raises BodyTooLarge."""
        length = rules.declared_length(scope["headers"])
        if length is not None and length > self._limits.max_body_bytes:
            raise BodyTooLarge(self._limits.max_body_bytes)
        return length


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


def _outgoing(scope: Scope, endpoint_id: str, path: bytes, visit: Visit | None) -> Outgoing:
    """Return the request as a worker gets it. Raises InvalidRequest."""
    from queue_engine.api.proxy.exchange import Outgoing

    caller = _caller(scope)
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    headers = rules.headers_for_worker(scope["headers"], caller)
    headers += [] if visit is None else visit.handshake.headers_for_worker()
    target = (path + query).decode("ascii")
    return Outgoing(scope["method"], target, headers, caller.request_id, endpoint_id)


def _caller(scope: Scope) -> rules.Caller:
    headers: rules.RawHeaders = scope["headers"]
    client: tuple[str, int] | None = scope["client"]
    return rules.Caller(
        address=client[0] if client else "unknown",
        scheme=scope["scheme"],
        host=next((value for name, value in headers if name == b"host"), b""),
        request_id=rules.request_id_of(headers) or uuid.uuid4().hex,
    )
