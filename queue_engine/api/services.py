"""What the routes work with, put together once for each process."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from queue_engine.api.auth import Authenticator
from queue_engine.api.bodies import BodyReader
from queue_engine.api.destinations import DestinationGuard
from queue_engine.api.fields import FieldError
from queue_engine.api.order_log import note
from queue_engine.api.patience import from_store
from queue_engine.api.rate_limit import RateLimiter
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.ids import is_endpoint_id, is_task_id
from queue_engine.store.store import Store


@dataclass(frozen=True)
class Services:
    """Passed to every group of routes."""

    store: Store
    authenticator: Authenticator
    limiter: RateLimiter
    bodies: BodyReader
    destinations: DestinationGuard
    catalogue: Catalogue
    fingerprint_keys: tuple[bytes, ...]
    """Key the fingerprints of submissions: the first one new ones, the others those made before the secret key was
    changed. One that is empty without a secret key."""

    async def admit(self, request: Request) -> str:
        """The tenant that sends the request. Raises Unauthorized, TooManyRequests, StoreUnavailable."""
        tenant = await self.authenticator.tenant_of(request.scope["headers"])
        self.limiter.take(tenant)
        note(request, tenant=tenant)
        return tenant

    async def endpoint(self, request: Request, tenant: str) -> Endpoint:
        """The endpoint in the path. Raises NotFound when the tenant has none such."""
        endpoint = await from_store(self.store.endpoints.get(endpoint_id_in(request), tenant))
        if endpoint is None:
            raise NotFound(Resource.ENDPOINT)
        return endpoint

    def secret_errors(self, field: str) -> list[FieldError]:
        """Return an error of `field`, which holds a secret, when this server cannot encrypt it."""
        if self.store.sealer.has_key:
            return []
        return [(field, "the server has no QUEUE_ENGINE_SECRET_KEY, so it cannot keep it")]


def endpoint_id_in(request: Request) -> str:
    """The endpoint id in the path. What cannot be one is not found."""
    endpoint_id: str = request.scope["path_params"]["id"]
    if not is_endpoint_id(endpoint_id):
        raise NotFound(Resource.ENDPOINT)
    return endpoint_id


def task_id_in(request: Request) -> str:
    """The task id in the path. What cannot be one is not found."""
    task_id: str = request.scope["path_params"]["taskId"]
    if not is_task_id(task_id):
        raise NotFound(Resource.TASK)
    return task_id
