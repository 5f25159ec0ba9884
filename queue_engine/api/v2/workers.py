"""`/v2/workers`: workers of all endpoints, and orders that replace or remove one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.order_log import note
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services, worker_id_in
from queue_engine.api.v2.endpoint_views import WorkerView, worker_view
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.logs import WORKER_ID
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.principals import Principal, Right

TAG = "endpoints"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class ListedWorkerView(WorkerView):
    """A worker in a list over endpoints."""

    endpoint_id: str = Field(description="Id of its endpoint")
    endpoint_name: str = Field(description="Name of its endpoint")


class WorkersPageView(View):
    """Workers of some endpoints."""

    items: list[ListedWorkerView] = Field(description="The workers, those of the newest endpoint first")
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last page")


class WorkerRoutes:
    """List, replace and remove workers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._workers = services.engine.workers

    def operations(self) -> list[Operation]:
        one = "/v2/serverless/{id}/workers/{workerId}"
        size = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE}
        return [
            Operation(
                "GET", "/v2/workers", self.list_all_workers, right=Right.VIEW,
                summary="List workers of all endpoints", tag=TAG, response=Success[WorkersPageView],
                parameters=[
                    in_query("pageSize", "Number of workers after which no further endpoint is listed", size),
                    in_query("cursor", "`nextCursor` of the previous page", {"type": "string"}),
                ],
                failures=(400, 401, 429, 503),
            ),
            Operation(
                "POST", f"{one}/restart", self.restart_worker, right=Right.OPERATE, summary="Replace a worker",
                tag=TAG, response=Success[bool], parameters=[ENDPOINT_ID, WORKER_ID],
                failures=(401, 404, 409, 429, 503),
            ),
            Operation(
                "POST", f"{one}/drain", self.drain_worker, right=Right.OPERATE,
                summary="Remove a worker, and lower the number of workers by one", tag=TAG, response=Success[bool],
                parameters=[ENDPOINT_ID, WORKER_ID], failures=(401, 404, 409, 429, 503),
            ),
        ]  # fmt: skip

    async def list_all_workers(self, request: Request) -> Response:
        """The workers of an endpoint are on one page, so a page may have more workers than `pageSize`."""
        principal = await self._services.admit(request)
        query = Query(request)
        below = query.one("cursor")
        if below is not None and not is_endpoint_id(below):
            raise InvalidRequest("cursor", "must be the nextCursor of a page")
        size = query.integer("pageSize", default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        page = await self._workers.page(principal, below=below, size=size)
        items = [
            {**worker_view(worker, endpoint), "endpointId": endpoint.endpoint_id, "endpointName": endpoint.config.name}
            for worker, endpoint in page.workers
        ]
        return success({"items": items, "nextCursor": page.next_below})

    async def restart_worker(self, request: Request) -> Response:
        """The worker claims no further tasks. Its running tasks finish within the grace period or are requeued. Then
        it ends, and another worker with a new id starts in its place. Safe to repeat. 409 for a worker whose agent was
        started by hand.
        """
        return await self._order(request, self._workers.restart)

    async def drain_worker(self, request: Request) -> Response:
        """Does the same as a restart, but no worker starts in its place: the endpoint's number of workers is one less.
        Safe to repeat.
        """
        return await self._order(request, self._workers.drain)

    async def _order(self, request: Request, order: Callable[[Principal, Endpoint, str], Awaitable[None]]) -> Response:
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        worker_id = worker_id_in(request)
        await order(principal, endpoint, worker_id)
        note(request, worker=worker_id)
        return success(True)
