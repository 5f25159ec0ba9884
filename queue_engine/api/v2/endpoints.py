"""`/v2/serverless`: endpoints and their workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from queue_engine.api.http.envelope import Success
from queue_engine.api.http.operations import Operation, in_path, in_query
from queue_engine.api.http.order_log import note
from queue_engine.api.http.preconditions import IF_MATCH, etag, versions_in
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services, endpoint_id_in
from queue_engine.api.v2.endpoint_requests import CreateEndpoint, UpdateEndpoint, environment_of
from queue_engine.api.v2.endpoint_views import (
    EndpointDetailView,
    EndpointView,
    NewEndpointView,
    RotatedSecretView,
    WebhookSecretView,
    WorkerView,
    endpoint_detail_view,
    endpoint_view,
    worker_view,
)
from queue_engine.api.v2.fields import names_of
from queue_engine.api.v2.pages import optional_page_in, page_parameters
from queue_engine.domain.endpoints import MAX_WORKERS, EndpointName, EndpointStatus
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.workers import WorkerStatus
from queue_engine.engine.endpoints import References

TAG = "endpoints"
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": MAX_WORKERS}
ENDPOINT_ID = in_path("id", "Id of an endpoint", {"type": "string", "pattern": "^[1-9][0-9]{0,15}$"})


_NAME_FIELD: TypeAdapter[str] = TypeAdapter(EndpointName)
_NAME = in_query("name", "Return only endpoints with exactly this name", _NAME_FIELD.json_schema())


class EndpointRoutes:
    """Create and read endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._endpoints = services.engine.endpoints

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/v2/serverless", self.create_endpoint, right=Right.MANAGE_TENANT,
                summary="Create an endpoint", tag=TAG,
                response=Success[NewEndpointView], takes=CreateEndpoint, failures=(400, 401, 409, 413, 415, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless", self.list_endpoints, right=Right.VIEW,
                summary="List endpoints, newest first", tag=TAG, response=Success[list[EndpointView]],
                parameters=[_status_list(EndpointStatus), _NAME, *page_parameters("endpoints", optional=True)],
                failures=(400, 401, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless/{id}", self.get_endpoint, right=Right.VIEW, summary="Read an endpoint", tag=TAG,
                response=Success[EndpointDetailView], parameters=[ENDPOINT_ID], failures=(401, 404, 429, 503),
            ),
            Operation(
                "PATCH", "/v2/serverless/{id}", self.update_endpoint, right=Right.MANAGE,
                summary="Change an endpoint", tag=TAG,
                response=Success[EndpointView], takes=UpdateEndpoint, parameters=[ENDPOINT_ID, IF_MATCH],
                failures=(400, 401, 404, 409, 412, 413, 415, 429, 503),
            ),
            Operation(
                "DELETE", "/v2/serverless/{id}", self.delete_endpoint, right=Right.MANAGE,
                summary="Delete an endpoint and its tasks",
                tag=TAG, response=Success[bool], parameters=[ENDPOINT_ID, IF_MATCH],
                failures=(400, 401, 404, 412, 429, 503),
            ),
            Operation(
                "POST", "/v2/serverless/{id}/start", self.start_endpoint, right=Right.OPERATE,
                summary="Start an endpoint", tag=TAG,
                response=Success[bool], parameters=[ENDPOINT_ID, IF_MATCH],
                failures=(400, 401, 404, 412, 429, 503),
            ),
            Operation(
                "POST", "/v2/serverless/{id}/stop", self.stop_endpoint, right=Right.OPERATE,
                summary="Stop an endpoint", tag=TAG,
                response=Success[bool], parameters=[ENDPOINT_ID, IF_MATCH],
                failures=(400, 401, 404, 412, 429, 503),
            ),
            Operation(
                "POST", "/v2/serverless/{id}/pause", self.pause_endpoint, right=Right.OPERATE,
                summary="Pause the queue of an endpoint", tag=TAG,
                response=Success[bool], parameters=[ENDPOINT_ID, IF_MATCH],
                failures=(400, 401, 404, 409, 412, 429, 503),
            ),
            Operation(
                "POST", "/v2/serverless/{id}/resume", self.resume_endpoint, right=Right.OPERATE,
                summary="Resume the queue of an endpoint", tag=TAG,
                response=Success[bool], parameters=[ENDPOINT_ID, IF_MATCH],
                failures=(400, 401, 404, 412, 429, 503),
            ),
            Operation(
                "PUT", "/v2/serverless/{id}/workers", self.scale_endpoint, right=Right.OPERATE,
                summary="Set the number of workers",
                tag=TAG, response=Success[bool],
                parameters=[ENDPOINT_ID, in_query("count", "Desired workers", _COUNT, required=True)],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "PUT", "/v2/serverless/{id}/workers/{count}", self.scale_endpoint_by_path, right=Right.OPERATE,
                summary="Set the number of workers", tag=TAG, response=Success[bool],
                parameters=[ENDPOINT_ID, in_path("count", "Desired workers", _COUNT)],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless/{id}/workers", self.list_workers, right=Right.VIEW,
                summary="List workers, oldest first", tag=TAG,
                response=Success[list[WorkerView]], parameters=[ENDPOINT_ID, _status_list(WorkerStatus)],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", "/v2/serverless/{id}/webhook-secret", self.get_webhook_secret, right=Right.MANAGE,
                summary="Read the signing secret of an endpoint's webhooks", tag=TAG,
                response=Success[WebhookSecretView], parameters=[ENDPOINT_ID], failures=(401, 404, 409, 429, 503),
            ),
            Operation(
                "POST", "/v2/serverless/{id}/webhook-secret/rotate", self.rotate_webhook_secret, right=Right.MANAGE,
                summary="Replace the signing secret of an endpoint's webhooks", tag=TAG,
                response=Success[RotatedSecretView], parameters=[ENDPOINT_ID], failures=(401, 404, 409, 429, 503),
            ),
        ]  # fmt: skip

    async def create_endpoint(self, request: Request) -> Response:
        principal = await self._services.admit(request)
        body = await self._services.read_object(request, principal, names_of(CreateEndpoint))
        requested, errors = CreateEndpoint.parse(body.values, self._services.catalogue)
        if errors:
            raise_for(errors + await self._endpoints.field_errors(principal, _references(requested)))
        created = await self._endpoints.create(principal, requested.config())
        note(request, endpoint=created.endpoint.endpoint_id)
        view = endpoint_view(created.endpoint, self._services.catalogue)
        return success({**view, "webhookSecret": created.signing_secret})

    async def list_endpoints(self, request: Request) -> Response:
        principal = await self._services.admit(request)
        query = Query(request)
        statuses, page = query.choices("statusList", EndpointStatus), optional_page_in(query)
        endpoints = await self._endpoints.all(principal, statuses, page, name=_name_in(query))
        return success([endpoint_view(one, self._services.catalogue) for one in endpoints])

    async def get_endpoint(self, request: Request) -> Response:
        """The header `ETag` of the response names the version of the endpoint, for `If-Match` of a change."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        error = await self._services.engine.waiting.of_endpoint(principal, endpoint)
        return success(endpoint_detail_view(endpoint, self._services.catalogue, error), etag(endpoint.version))

    async def update_endpoint(self, request: Request) -> Response:
        """Workers are replaced one at a time if the change affects how they run.

        `environmentVars` are all variables. A variable without `value` keeps its stored value. With `If-Match` the
        change is made only if nothing else has changed, started, stopped or paused the endpoint since it was read: else
        412, unless the change is made already. Without it, the last change of a setting wins.
        """
        principal = await self._services.admit(request)
        versions = versions_in(request)
        before = await self._services.endpoint(request, principal)
        body = await self._services.read_object(request, principal, names_of(UpdateEndpoint))
        changes, errors = UpdateEndpoint.parse(
            body.values, self._services.catalogue, before.config, before.environment_names
        )
        references = _references(changes)
        if errors:
            raise_for(errors + await self._endpoints.field_errors(principal, references, before))
        endpoint = await self._endpoints.update(principal, before, changes.edited, references, versions)
        return success(endpoint_view(endpoint, self._services.catalogue), etag(endpoint.version))

    async def start_endpoint(self, request: Request) -> Response:
        """Starts the endpoint's workers. Does nothing if the endpoint is already started."""
        principal = await self._services.admit(request)
        await self._endpoints.start(principal, endpoint_id_in(request), versions_in(request))
        return success(True)

    async def stop_endpoint(self, request: Request) -> Response:
        """Stops the workers. Running tasks finish within the grace period or are requeued. Queued tasks are kept. Safe
        to repeat.
        """
        principal = await self._services.admit(request)
        await self._endpoints.stop(principal, endpoint_id_in(request), versions_in(request))
        return success(True)

    async def pause_endpoint(self, request: Request) -> Response:
        """Workers begin no further tasks after the response, except those that they have claimed before. Running tasks
        go on, and workers stay. Tasks are accepted up to `maxQueuedTasks`; waits and time limits go on. Safe to repeat.
        409 while an agent of an earlier version works.
        """
        principal = await self._services.admit(request)
        await self._endpoints.pause(principal, endpoint_id_in(request), versions_in(request))
        return success(True)

    async def resume_endpoint(self, request: Request) -> Response:
        """Workers begin tasks again, at once. Safe to repeat."""
        principal = await self._services.admit(request)
        await self._endpoints.resume(principal, endpoint_id_in(request), versions_in(request))
        return success(True)

    async def delete_endpoint(self, request: Request) -> Response:
        """Stops the workers, ends queued tasks as FAILED and sends their webhooks. Then removes the endpoint with its
        data. With `If-Match` it does so only if nothing has changed, started, stopped or paused the endpoint since it
        was read.
        """
        principal = await self._services.admit(request)
        await self._endpoints.delete(principal, endpoint_id_in(request), versions_in(request))
        return success(True)

    async def scale_endpoint(self, request: Request) -> Response:
        """When the number falls, idle workers are stopped first. A busy worker finishes its tasks within the grace
        period. Unfinished tasks are requeued.
        """
        principal = await self._services.admit(request)
        query = Query(request)
        if query.one("count") is None:
            raise InvalidRequest("count", "is required")
        return await self._scale(request, principal, query.integer("count", default=0, minimum=0, maximum=MAX_WORKERS))

    async def scale_endpoint_by_path(self, request: Request) -> Response:
        """The same operation with the number in the path."""
        principal = await self._services.admit(request)
        text: str = request.scope["path_params"]["count"]
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= MAX_WORKERS):
            raise InvalidRequest("count", f"must be an integer from 0 to {MAX_WORKERS}")
        return await self._scale(request, principal, int(text))

    async def _scale(self, request: Request, principal: Principal, count: int) -> Response:
        await self._endpoints.scale(principal, endpoint_id_in(request), count)
        note(request, count=count)
        return success(True)

    async def list_workers(self, request: Request) -> Response:
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        statuses = Query(request).choices("statusList", WorkerStatus)
        workers = await self._services.engine.queries.workers(principal, endpoint, statuses)
        return success([worker_view(one, endpoint) for one in workers])

    async def get_webhook_secret(self, request: Request) -> Response:
        """Receivers verify `webhook-signature` with this secret, with any library for Standard Webhooks. 409 once the
        secret has been rotated.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success({"secret": await self._endpoints.webhook_secret(principal, endpoint)})

    async def rotate_webhook_secret(self, request: Request) -> Response:
        """The response has the new secret, which is shown only once. For 24 hours, webhooks have two values in
        `webhook-signature`, separated by a space: one of the new secret and one of the replaced secret. 409 while four
        replaced secrets still sign.
        """
        principal = await self._services.admit(request)
        rotated = await self._endpoints.rotate_webhook_secret(principal, endpoint_id_in(request))
        return success({"secret": rotated.secret, "replacedSecretEndsAt": rotated.replaced_until_ms})


def _references(body: CreateEndpoint | UpdateEndpoint) -> References:
    environment: Mapping[str, str | None] | None = (
        body.environment() if isinstance(body, UpdateEndpoint) else {**environment_of(body.environment_vars or ())}
    )
    return References(environment, body.webhook, body.container_registry_auth_id)


def _name_in(query: Query) -> str | None:
    """Return the name that the query asks for. Raises InvalidRequest for one that no endpoint can have."""
    name = query.one("name")
    try:
        return name if name is None else _NAME_FIELD.validate_python(name)
    except ValidationError:
        raise InvalidRequest("name", "must be 1–20 of letters, digits and @._-, and begin with a letter") from None


def _status_list(kind: type[EndpointStatus] | type[WorkerStatus]) -> dict[str, object]:
    return in_query(
        "statusList",
        "Return only entries with one of these statuses; repeated or separated by commas, in any case",
        {"type": "array", "minItems": 1, "items": {"type": "string", "enum": [status.value for status in kind]}},
        style="form",
        explode=False,
    )
