"""`/v2/serverless/{id}/deliveries` and `…/tasks/{taskId}/deliveries`: deliveries of results to webhooks."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from starlette.requests import Request

from queue_engine.api.http.envelope import Success
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.order_log import note
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services, task_id_in
from queue_engine.api.v2.delivery_views import (
    DeliveryAttemptView,
    DeliveryCursorPageView,
    DeliveryPageView,
    RecoveryView,
    SendOrderView,
    delivery_cursor_page_view,
    delivery_page_view,
    ledger_view,
    recovery_view,
    send_order_view,
)
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.fields import IN_ANY_CASE, RequestModel, names_of, parsed
from queue_engine.api.v2.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, page_in, page_parameters
from queue_engine.api.v2.tasks import TASK_ID
from queue_engine.api.v2.times import epoch_ms
from queue_engine.domain.deliveries import Trigger
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.task_filters import TASK_FILTERS
from queue_engine.domain.tasks import DeliveryStatus, GivenUpPlace

TAG = "deliveries"
MAX_TIME_MS = 10**15 - 1
_CURSOR = "([0-9]{1,19})-([0-9]{1,15})-([A-Za-z0-9_]{1,255})"
(_DESTINATION,) = (one for one in TASK_FILTERS if one.name == "destination")

_EXAMPLE: JsonDict = {"since": 1764000000000, "until": 1764043200000, "status": "MAX_RETRIES_EXCEEDED"}


class ListedStatus(StrEnum):
    """The statuses of deliveries that an endpoint has an index of."""

    MAX_RETRIES_EXCEEDED = DeliveryStatus.MAX_RETRIES_EXCEEDED.value


class Recover(RequestModel):
    """The deliveries that are sent again."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    since: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] = Field(
        description="Send the deliveries again that were given up at this time or later"
    )
    until: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None = Field(
        None, description="The latest time at which they were given up; without it, the time of the request"
    )
    status: Annotated[Literal["MAX_RETRIES_EXCEEDED"], IN_ANY_CASE] = Field(
        "MAX_RETRIES_EXCEEDED",
        description="Status of the deliveries that are sent again, in any case. Deliveries with any other status have "
        "a next attempt, or have succeeded",
    )


class DeliveryRoutes:
    """Read the ledger of a task's result, send it now, and recover given-up deliveries."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._deliveries = services.engine.deliveries

    def operations(self) -> list[Operation]:
        endpoint = "/v2/serverless/{id}/deliveries"
        task = "/v2/serverless/{id}/tasks/{taskId}/deliveries"
        of_task, of_endpoint = [ENDPOINT_ID, TASK_ID], [ENDPOINT_ID]
        return [
            Operation(
                "GET", task, self.list_deliveries, right=Right.VIEW_TASK,
                summary="List the latest attempts to deliver a task's result, oldest first", tag=TAG,
                response=Success[list[DeliveryAttemptView]], parameters=of_task, failures=(401, 404, 429, 503),
            ),
            Operation(
                "POST", f"{task}/retry", self.retry_delivery, right=Right.OPERATE,
                summary="Send the result of a task now", tag=TAG, response=Success[SendOrderView],
                parameters=of_task, failures=(401, 404, 409, 429, 503),
            ),
            Operation(
                "POST", f"{task}/redeliver", self.redeliver_result, right=Right.OPERATE,
                summary="Send the result of a task again, also if it was delivered", tag=TAG,
                response=Success[SendOrderView], parameters=of_task, failures=(401, 404, 409, 429, 503),
            ),
            Operation(
                "GET", endpoint, self.list_given_up, right=Right.VIEW,
                summary="List the deliveries of an endpoint that were given up, newest first", tag=TAG,
                response=Success[DeliveryPageView | DeliveryCursorPageView],
                parameters=[ENDPOINT_ID, *_list_parameters()],
                failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "POST", f"{endpoint}/recover", self.recover_deliveries, right=Right.OPERATE,
                summary="Send given-up deliveries again, in the background", tag=TAG, response=Success[RecoveryView],
                takes=Recover, parameters=of_endpoint, failures=(400, 401, 404, 409, 413, 415, 429, 503),
            ),
            Operation(
                "GET", f"{endpoint}/recover", self.get_recovery, right=Right.VIEW,
                summary="Read the latest recovery of given-up deliveries", tag=TAG, response=Success[RecoveryView],
                parameters=of_endpoint, failures=(401, 404, 429, 503),
            ),
            Operation(
                "DELETE", f"{endpoint}/recover", self.cancel_recovery, right=Right.OPERATE,
                summary="Cancel the recovery of given-up deliveries", tag=TAG, response=Success[RecoveryView],
                parameters=of_endpoint, failures=(401, 404, 429, 503),
            ),
        ]  # fmt: skip

    async def list_deliveries(self, request: Request) -> Response:
        """Returns at most the latest 20 attempts. The task's `nextDeliveryAt` is the time of the next one."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success(ledger_view(await self._deliveries.ledger(principal, endpoint, task_id_in(request))))

    async def retry_delivery(self, request: Request) -> Response:
        """A delivery that waits for its next attempt is sent now, and its later attempts follow the schedule. A
        delivery that was given up begins again with all attempts. A result that is being sent or was delivered is not
        sent again, so the request may be repeated. All attempts have the same `webhook-id`.
        """
        return await self._send(request, Trigger.RETRY)

    async def redeliver_result(self, request: Request) -> Response:
        """Does the same as a retry, and also sends a result that was delivered. The delivery then begins again: the
        status of a DELIVERED task is SUCCESS until the receiver accepts the result. The `webhook-id` stays the same.
        """
        return await self._send(request, Trigger.REDELIVER)

    async def _send(self, request: Request, trigger: Trigger) -> Response:
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        order = await self._deliveries.send(principal, endpoint, task_id_in(request), trigger)
        note(request, result=order.result)
        return success(send_order_view(order))

    async def list_given_up(self, request: Request) -> Response:
        """With `cursor` or `destination`, the list is walked by cursor: the response has `nextCursor` in place of page
        numbers. A walk over all pages has each delivery that stays given up exactly once. A request looks at 2,000
        deliveries at most, so that a page may have few of a destination or none, and others follow.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        query = Query(request)
        query.choice("status", ListedStatus)
        if query.names & {"cursor", "destination"}:
            return await self._part(principal, endpoint, query)
        page = page_in(query)
        found = await self._deliveries.given_up(principal, endpoint, page=page.number, size=page.size)
        return success(delivery_page_view(found, page))

    async def _part(self, principal: Principal, endpoint: Endpoint, query: Query) -> Response:
        if "pageNumber" in query.names:
            rule = "cannot be combined with cursor or destination; the next page is at nextCursor"
            raise InvalidRequest("pageNumber", rule)
        size = query.integer("pageSize", default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        destination, after = _destination_in(query), _place_in(query, endpoint)
        found = await self._deliveries.given_up_part(
            principal, endpoint, destination=destination, after=after, size=size
        )
        return success(delivery_cursor_page_view(found, endpoint))

    async def recover_deliveries(self, request: Request) -> Response:
        """Each delivery begins again with all attempts. At most four of them are due at a time, so that they do not
        delay fresh results. An endpoint has one recovery at a time: the same request again returns its progress, and
        another period gets 409.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        body = await self._services.read_object(request, principal, names_of(Recover))
        asked, errors = parsed(Recover, body.values)
        raise_for(errors)
        since = epoch_ms("since", str(asked.since))
        until = None if asked.until is None else epoch_ms("until", str(asked.until))
        found = await self._deliveries.recover(principal, endpoint, since_ms=since, until_ms=until)
        return success(recovery_view(found))

    async def get_recovery(self, request: Request) -> Response:
        """The result of a recovery can be read for seven days."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success(recovery_view(await self._deliveries.recovery(principal, endpoint)))

    async def cancel_recovery(self, request: Request) -> Response:
        """Deliveries that the recovery has made due are still sent. A recovery that has ended is not changed."""
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        return success(recovery_view(await self._deliveries.cancel_recovery(principal, endpoint)))


def _list_parameters() -> list[dict[str, object]]:
    statuses = [status.value for status in ListedStatus]
    status = {"type": "string", "enum": statuses, "default": ListedStatus.MAX_RETRIES_EXCEEDED.value}
    cursor = {"type": "string", "pattern": f"^({_CURSOR})?$"}
    return [
        in_query("status", "Status of the deliveries, in any case", status),
        in_query("destination", _DESTINATION.definition.text, dict(_DESTINATION.definition.schema or {})),
        in_query("cursor", "`nextCursor` of the page before; empty for the first page", cursor),
        *page_parameters("deliveries"),
    ]


def _destination_in(query: Query) -> str | None:
    text = query.one("destination")
    if text is None:
        return None
    try:
        found: str = _DESTINATION.definition.parse(text)
    except ValueError as error:
        raise InvalidRequest("destination", str(error)) from None
    return found


def _place_in(query: Query, endpoint: Endpoint) -> GivenUpPlace | None:
    """Return the place of the cursor. It names the endpoint, because that of another one would find nothing."""
    text = query.one("cursor")
    if not text:
        return None
    found = re.fullmatch(_CURSOR, text)
    if found is None:
        raise InvalidRequest("cursor", "must be the nextCursor of a page, unchanged; empty for the first page")
    if found[1] != endpoint.endpoint_id:
        raise InvalidRequest("cursor", "is not one of this list; a cursor is only for the endpoint of its page")
    return GivenUpPlace(int(found[2]), found[3])
