"""`/v2/serverless`: endpoints and their workers."""

from __future__ import annotations

from starlette.requests import Request

from queue_engine.api.answers import Answer, success
from queue_engine.api.endpoint_requests import CreateEndpoint
from queue_engine.api.fields import validated
from queue_engine.api.operations import Operation, in_path, in_query
from queue_engine.api.patience import from_store
from queue_engine.api.queries import Query
from queue_engine.api.services import Services
from queue_engine.api.views import EndpointView, Success, WebhookSecretView, WorkerView, endpoint_view, worker_view
from queue_engine.domain.endpoints import EndpointStatus
from queue_engine.domain.errors import NotFound, Resource
from queue_engine.domain.workers import WorkerStatus

TAG = "endpoints"
ENDPOINT_ID = in_path("id", "Id of an endpoint", {"type": "string", "pattern": "^[1-9][0-9]{0,15}$"})


class EndpointRoutes:
    """Create and read endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/v2/serverless", self.create_endpoint, summary="Create an endpoint", tag=TAG,
                answer=Success[EndpointView], takes=CreateEndpoint, failures=(400, 401, 413, 415, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless", self.list_endpoints, summary="List endpoints, newest first", tag=TAG,
                answer=Success[list[EndpointView]], parameters=[_status_list(EndpointStatus)],
                failures=(400, 401, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless/{id}", self.get_endpoint, summary="Read an endpoint", tag=TAG,
                answer=Success[EndpointView], parameters=[ENDPOINT_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless/{id}/workers", self.list_workers, summary="List workers, oldest first", tag=TAG,
                answer=Success[list[WorkerView]], parameters=[ENDPOINT_ID, _status_list(WorkerStatus)],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless/{id}/webhook-secret", self.get_webhook_secret,
                summary="Read the secret that an endpoint's webhooks are signed with", tag=TAG,
                answer=Success[WebhookSecretView], parameters=[ENDPOINT_ID], failures=(401, 404, 429, 503),
            ),
        ]  # fmt: skip

    async def create_endpoint(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        body = await self._services.bodies.read_object(request)
        wanted = validated(CreateEndpoint, body.values)
        config = wanted.config(self._services.catalogue)
        if config.environment:
            self._services.must_keep_secret("environmentVars")
        if wanted.webhook is not None:
            await self._services.destinations.check(wanted.webhook)
        endpoint = await from_store(self._services.store.endpoints.create(tenant, config))
        return success(endpoint_view(endpoint))

    async def list_endpoints(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        statuses = Query(request).choices("statusList", EndpointStatus)
        endpoints = await from_store(self._services.store.endpoints.of_tenant(tenant))
        return success([endpoint_view(one) for one in endpoints if not statuses or one.status in statuses])

    async def get_endpoint(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        return success(endpoint_view(await self._services.endpoint(request, tenant)))

    async def list_workers(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        statuses = Query(request).choices("statusList", WorkerStatus)
        workers = await from_store(self._services.store.workers.of_endpoint(endpoint.endpoint_id))
        return success([worker_view(one, endpoint) for one in workers if not statuses or one.status in statuses])

    async def get_webhook_secret(self, request: Request) -> Answer:
        """Receivers verify `webhook-signature` with it, by any library for Standard Webhooks."""
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        secret = await from_store(self._services.store.endpoints.signing_secret(endpoint.endpoint_id))
        if secret is None:
            raise NotFound(Resource.ENDPOINT)
        return success({"secret": secret})


def _status_list(kind: type[EndpointStatus] | type[WorkerStatus]) -> dict[str, object]:
    return in_query(
        "statusList",
        "Only those with one of these statuses; repeated or separated by commas, in any case",
        {"type": "array", "items": {"type": "string", "enum": [status.value for status in kind]}},
        style="form",
        explode=False,
    )
