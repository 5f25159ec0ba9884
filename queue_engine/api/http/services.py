"""The objects that the routes work with, created once for each process."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Protocol

from starlette.requests import Request
from starlette.types import Scope

from queue_engine.api.http.auth import Authenticator
from queue_engine.api.http.bodies import BodyReader
from queue_engine.api.http.connections import CONNECTION, Connection
from queue_engine.api.http.operations import SAFE_METHODS
from queue_engine.api.http.order_log import note
from queue_engine.api.http.rate_limit import RateLimiter
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import Forbidden, NotFound, Resource
from queue_engine.domain.ids import is_endpoint_id, is_task_id, is_worker_id
from queue_engine.domain.principals import Principal, Right
from queue_engine.engine.access import check_may
from queue_engine.engine.engine import Engine
from queue_engine.engine.principals import REVOCATION_SECONDS
from queue_engine.rules.strict_json import JsonObject

CONSOLE = "queue_engine.console"
"""Set in the scope of a request to `/console/api`, which has a session in place of an API key."""


class ConsoleAuthenticator(Protocol):
    """Finds the principal of a request of the console."""

    async def principal_of_request(self, scope: Scope, address: str) -> Principal: ...


@dataclass(frozen=True)
class Installation:
    """Facts about the installation for its users."""

    environment: str | None = None
    """Its name."""
    trace_url: str | None = None
    """URL of a trace, with `{traceId}`."""


@dataclass(frozen=True)
class Services:
    """The objects that every group of routes gets."""

    engine: Engine
    authenticator: Authenticator
    limiter: RateLimiter
    bodies: BodyReader
    batch_bodies: BodyReader
    """Reads bodies with many tasks."""
    catalogue: Catalogue
    console: ConsoleAuthenticator | None = None
    """None if the console is off."""
    console_has_payloads: bool = True
    """False if inputs, outputs, headers and logs are kept out of the console."""
    installation: Installation = Installation()
    monotonic: Callable[[], float] = time.monotonic

    def hides_payloads(self, scope: Scope) -> bool:
        """Return True if the response to a request must have no input, output, header or log of a task."""
        return not self.console_has_payloads and CONSOLE in scope

    def check_shows_payloads(self, scope: Scope) -> None:
        """Raise Forbidden if the response to a request must have no input, output, header or log of a task."""
        if self.hides_payloads(scope):
            raise Forbidden("QUEUE_ENGINE_CONSOLE_PAYLOADS=never keeps inputs, outputs and logs out of the console")

    async def admit(self, request: Request) -> Principal:
        """Return the principal of the request, if its role allows the operation.

        Raises Unauthorized, Forbidden, TooManyRequests, StoreUnavailable.
        """
        principal = await self.admit_to(request.scope)
        note(request, tenant=principal.tenant)
        return principal

    async def admit_to(self, scope: Scope) -> Principal:
        """Return the principal of a request by its scope: see `admit`.

        This is the only place that checks the right that the route declares. Use cases check what depends on an object.
        """
        address = _address_of(scope)
        principal = await self._principal_of(scope, address)
        connection: Connection | None = scope.get(CONNECTION)
        if connection is not None:
            connection.admit(principal.tenant)
        self.limiter.take(principal.tenant)
        right: Right = scope["route"].right
        check_may(principal, right)
        # Submissions are not audited, and most requests are submissions.
        is_audited = scope["method"] not in SAFE_METHODS and right is not Right.SUBMIT
        return replace(principal, address=address) if is_audited else principal

    async def _principal_of(self, scope: Scope, address: str) -> Principal:
        """Return the principal by the session of a request of the console, and by the API key of any other request."""
        if self.console is not None and CONSOLE in scope:
            return await self.console.principal_of_request(scope, address)
        return await self.authenticator.principal_of(scope["headers"], address)

    async def read_object(
        self, request: Request, principal: Principal, known: AbstractSet[str], keep_raw: AbstractSet[str] = frozenset()
    ) -> JsonObject:
        """Return the members of the body: see `BodyReader.read_object`.

        The key is checked again after a body that has arrived slowly, because it may have been revoked long before.
        Also raises Unauthorized, Forbidden, StoreUnavailable.
        """
        key = self.key_of(request)
        body = await self.bodies.read_object(request, principal.tenant, known, keep_raw)
        await key.check_if_due()
        return body

    def key_of(self, request: Request) -> RequestKey:
        """Return the key of a request that was checked just now, for the checks while the request takes long."""
        return RequestKey(self, request)

    async def check_again(self, request: Request) -> None:
        """Check the key of a request again that has waited. Raises Unauthorized, Forbidden, StoreUnavailable."""
        scope = request.scope
        check_may(await self._principal_of(scope, _address_of(scope)), scope["route"].right)

    async def endpoint(self, request: Request, principal: Principal) -> Endpoint:
        """Return the endpoint in the path. Raises NotFound, StoreUnavailable."""
        return await self.engine.endpoints.get(principal, endpoint_id_in(request))


class RequestKey:
    """The key, or the session, of a request that takes long: it may be revoked before the response has ended."""

    def __init__(self, services: Services, request: Request) -> None:
        self._services = services
        self._request = request
        self._checked_at = services.monotonic()

    async def check_if_due(self) -> None:
        """Check the key if REVOCATION_SECONDS have passed since the latest check.

        Raises Unauthorized, Forbidden, StoreUnavailable.
        """
        now = self._services.monotonic()
        if now - self._checked_at >= REVOCATION_SECONDS:
            self._checked_at = now
            await self._services.check_again(self._request)


def with_address(principal: Principal, request: Request) -> Principal:
    """Return the principal with the client's address, for the audit log."""
    return replace(principal, address=_address_of(request.scope))


def _address_of(scope: Scope) -> str:
    client: tuple[str, int] | None = scope["client"]
    return client[0] if client else ""


def endpoint_id_in(request: Request) -> str:
    """Return the endpoint id in the path. Raises NotFound for text that cannot be an id."""
    endpoint_id: str = request.scope["path_params"]["id"]
    if not is_endpoint_id(endpoint_id):
        raise NotFound(Resource.ENDPOINT)
    return endpoint_id


def task_id_in(request: Request) -> str:
    """Return the task id in the path. Raises NotFound for text that cannot be an id."""
    task_id: str = request.scope["path_params"]["taskId"]
    if not is_task_id(task_id):
        raise NotFound(Resource.TASK)
    return task_id


def worker_id_in(request: Request) -> str:
    """Return the worker id in the path. Raises NotFound for text that cannot be an id."""
    worker_id: str = request.scope["path_params"]["workerId"]
    if not is_worker_id(worker_id):
        raise NotFound(Resource.WORKER)
    return worker_id
