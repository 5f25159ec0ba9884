"""`/v2/serverless`: endpoints and their workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import Request

from queue_engine.api.answers import Answer, success
from queue_engine.api.endpoint_requests import CreateEndpoint, UpdateEndpoint
from queue_engine.api.fields import FieldError, raise_for
from queue_engine.api.operations import Operation, in_path, in_query
from queue_engine.api.order_log import note
from queue_engine.api.patience import from_store
from queue_engine.api.queries import Query
from queue_engine.api.services import Services, endpoint_id_in
from queue_engine.api.views import EndpointView, Success, WebhookSecretView, WorkerView, endpoint_view, worker_view
from queue_engine.domain.endpoints import MAX_WORKERS, Endpoint, EndpointConfig, EndpointStatus, Wanted
from queue_engine.domain.errors import InvalidRequest, NotFound, Resource
from queue_engine.domain.workers import WorkerStatus

TAG = "endpoints"
_UNKNOWN_CREDENTIAL: FieldError = ("containerRegistryAuthId", "unknown credential")
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": MAX_WORKERS}
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
                "PATCH", "/v2/serverless/{id}", self.update_endpoint, summary="Change an endpoint", tag=TAG,
                answer=Success[EndpointView], takes=UpdateEndpoint, parameters=[ENDPOINT_ID],
                failures=(400, 401, 404, 413, 415, 429, 503),
            ),
            Operation(
                "DELETE", "/v2/serverless/{id}", self.delete_endpoint, summary="Delete an endpoint and its tasks",
                tag=TAG, answer=Success[bool], parameters=[ENDPOINT_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", "/v2/serverless/{id}/start", self.start_endpoint, summary="Start an endpoint", tag=TAG,
                answer=Success[bool], parameters=[ENDPOINT_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", "/v2/serverless/{id}/stop", self.stop_endpoint, summary="Stop an endpoint", tag=TAG,
                answer=Success[bool], parameters=[ENDPOINT_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "PUT", "/v2/serverless/{id}/workers", self.scale_endpoint, summary="Set the number of workers",
                tag=TAG, answer=Success[bool],
                parameters=[ENDPOINT_ID, in_query("count", "Workers wanted", _COUNT, required=True)],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "PUT", "/v2/serverless/{id}/workers/{count}", self.scale_endpoint_by_path,
                summary="Set the number of workers", tag=TAG, answer=Success[bool],
                parameters=[ENDPOINT_ID, in_path("count", "Workers wanted", _COUNT)],
                failures=(400, 401, 404, 429, 503),
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
        wanted, errors = CreateEndpoint.parse(body.values, self._services.catalogue)
        raise_for(errors + await self._errors_beyond(tenant, wanted))
        endpoint = await from_store(self._create(tenant, wanted.config()))
        note(request, endpoint=endpoint.endpoint_id)
        return success(endpoint_view(endpoint, self._services.catalogue))

    async def _errors_beyond(self, tenant: str, body: CreateEndpoint | UpdateEndpoint) -> list[FieldError]:
        """Return the errors of fields that are well-formed and name what this server cannot keep, reach or find."""
        errors: list[FieldError] = []
        if body.environment_vars:
            errors += self._services.secret_errors("environmentVars")
        if body.webhook is not None:
            errors += await self._services.destinations.errors(body.webhook)
        credential_id = body.container_registry_auth_id
        if credential_id is not None:
            found = await from_store(self._services.store.credentials.get(tenant, credential_id))
            errors += [] if found else [_UNKNOWN_CREDENTIAL]
        return errors

    async def _create(self, tenant: str, config: EndpointConfig) -> Endpoint:
        """The credential is noted as used before the endpoint is there, so that nobody deletes it in between."""
        endpoints, credentials = self._services.store.endpoints, self._services.store.credentials
        credential_id = config.credential_id
        if credential_id is None:
            return await endpoints.create(tenant, config)
        endpoint_id = await endpoints.new_id()
        if not await credentials.use(tenant, credential_id, endpoint_id):
            raise InvalidRequest(*_UNKNOWN_CREDENTIAL)
        try:
            return await endpoints.create(tenant, config, endpoint_id)
        except Exception:
            await credentials.release(credential_id, endpoint_id)
            raise

    async def list_endpoints(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        statuses = Query(request).choices("statusList", EndpointStatus)
        endpoints = await from_store(self._services.store.endpoints.of_tenant(tenant))
        catalogue = self._services.catalogue
        return success([endpoint_view(one, catalogue) for one in endpoints if not statuses or one.status in statuses])

    async def get_endpoint(self, request: Request) -> Answer:
        tenant = await self._services.admit(request)
        return success(endpoint_view(await self._services.endpoint(request, tenant), self._services.catalogue))

    async def update_endpoint(self, request: Request) -> Answer:
        """Workers are replaced one at a time when they would be other ones under the new configuration."""
        tenant = await self._services.admit(request)
        before = await self._services.endpoint(request, tenant)
        body = await self._services.bodies.read_object(request)
        changes, errors = UpdateEndpoint.parse(body.values, self._services.catalogue, before.config)
        raise_for(errors + await self._errors_beyond(tenant, changes))
        endpoints, credentials = self._services.store.endpoints, self._services.store.credentials
        wanted = changes.container_registry_auth_id
        if wanted is not None and not await from_store(credentials.use(tenant, wanted, before.endpoint_id)):
            raise InvalidRequest(*_UNKNOWN_CREDENTIAL)
        endpoint = await from_store(endpoints.update(before.endpoint_id, tenant, changes.edited, changes.environment()))
        if endpoint is None:
            raise NotFound(Resource.ENDPOINT)
        if endpoint.config.credential_id != before.config.credential_id:
            await self._release_credential(before)
        return success(endpoint_view(endpoint, self._services.catalogue))

    async def start_endpoint(self, request: Request) -> Answer:
        """Brings the workers back. Starting one that runs changes nothing."""
        return await self._want(request, await self._services.admit(request), Wanted.RUNNING)

    async def stop_endpoint(self, request: Request) -> Answer:
        """Running tasks finish within a grace time or are handed back; queued tasks stay. Safe to repeat."""
        return await self._want(request, await self._services.admit(request), Wanted.STOPPED)

    async def delete_endpoint(self, request: Request) -> Answer:
        """Stops it, ends what is queued as FAILED, sends the webhooks, then removes it and its data."""
        tenant = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, tenant)
        answer = await self._want(request, tenant, Wanted.DELETED)
        await self._release_credential(endpoint)
        return answer

    async def _release_credential(self, endpoint: Endpoint) -> None:
        credential_id = endpoint.config.credential_id
        if credential_id is not None:
            await from_store(self._services.store.credentials.release(credential_id, endpoint.endpoint_id))

    async def _want(self, request: Request, tenant: str, wanted: Wanted) -> Answer:
        endpoint_id = endpoint_id_in(request)
        if not await from_store(self._services.store.endpoints.want(endpoint_id, tenant, wanted)):
            raise NotFound(Resource.ENDPOINT)
        return success(True)

    async def scale_endpoint(self, request: Request) -> Answer:
        """Idle workers go first; a busy one finishes its tasks within the grace time, or hands them back."""
        tenant = await self._services.admit(request)
        query = Query(request)
        if query.one("count") is None:
            raise InvalidRequest("count", "is required")
        return await self._scale(request, tenant, query.integer("count", default=0, least=0, most=MAX_WORKERS))

    async def scale_endpoint_by_path(self, request: Request) -> Answer:
        """As by the query."""
        tenant = await self._services.admit(request)
        text: str = request.scope["path_params"]["count"]
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= MAX_WORKERS):
            raise InvalidRequest("count", f"must be an integer from 0 to {MAX_WORKERS}")
        return await self._scale(request, tenant, int(text))

    async def _scale(self, request: Request, tenant: str, count: int) -> Answer:
        endpoints = self._services.store.endpoints
        endpoint_id = endpoint_id_in(request)
        scaled = await from_store(endpoints.update(endpoint_id, tenant, lambda config: replace(config, workers=count)))
        if scaled is None:
            raise NotFound(Resource.ENDPOINT)
        note(request, count=count)
        return success(True)

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
        {"type": "array", "minItems": 1, "items": {"type": "string", "enum": [status.value for status in kind]}},
        style="form",
        explode=False,
    )
