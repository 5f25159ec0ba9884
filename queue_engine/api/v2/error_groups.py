"""`/v2/serverless/{id}/errors`: the failures of an endpoint in groups with the same error."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.times import epoch_ms
from queue_engine.domain.error_groups import BUCKETS, MAX_GROUPS, MAX_LOOKED_AT, MAX_SAMPLES, ErrorGroup, ErrorGroups
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Right


class ErrorGroupView(View):
    """Failures whose errors have the same signature."""

    signature: str = Field(
        description="The error with `#` for numbers, hexadecimal words, UUIDs and quoted parts. "
        "The filter `errorSignature` finds the tasks"
    )
    count: int = Field(description="Number of failures among those that were looked at")
    first_at: int = Field(description="End of the oldest of them")
    last_at: int = Field(description="End of the newest of them")
    error: str = Field(description="The first 512 bytes of the error of the newest of them")
    states: dict[str, int] = Field(description="Number of failures by state")
    task_ids: list[str] = Field(description=f"Ids of the newest of them, {MAX_SAMPLES} at most")
    over_time: list[int] = Field(description=f"Number of failures in each of {BUCKETS} parts of the period")


class ErrorGroupsView(View):
    """The newest failures of a period, in groups."""

    groups: list[ErrorGroupView] = Field(description=f"The largest groups, {MAX_GROUPS} at most")
    others: int = Field(description="Number of failures in further groups")
    looked_at: int = Field(description=f"Number of failures that were looked at, {MAX_LOOKED_AT} at most")
    failures: int = Field(description="Number of failed tasks that the endpoint has, of any period")
    complete: bool = Field(description="False if the period has older failures that were not looked at")
    from_: int = Field(alias="from", description="Begin of the period of `overTime`")
    to: int = Field(description="End of the period of `overTime`")
    as_of: int = Field(description="Time of the result, which is returned again for 10 seconds")


class ErrorGroupRoutes:
    """Groups of errors."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._groups = services.engine.error_groups

    def operations(self) -> list[Operation]:
        time: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "date-time"}]}
        return [
            Operation(
                "GET", "/v2/serverless/{id}/errors", self.list_errors, right=Right.VIEW,
                summary="Group the newest failures by their errors", tag="tasks", response=Success[ErrorGroupsView],
                parameters=[
                    ENDPOINT_ID,
                    in_query("from", "Only tasks that ended at this time or later", time),
                    in_query("to", "Only tasks that ended before this time", time),
                ],
                failures=(400, 401, 404, 429, 503),
            ),
        ]  # fmt: skip

    async def list_errors(self, request: Request) -> Response:
        """The newest 1,000 failures of the period are looked at. `complete` is false if it has more. Cancelled and
        expired tasks are failures too, each with the text that its `error` has.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        query = Query(request)
        from_ms, to_ms = _time(query, "from"), _time(query, "to")
        if from_ms is not None and to_ms is not None and from_ms >= to_ms:
            raise InvalidRequest("from", "must be before to")
        return success(_view(await self._groups.groups(principal, endpoint, from_ms=from_ms, to_ms=to_ms)))


def _time(query: Query, name: str) -> int | None:
    text = query.one(name)
    return None if text is None else epoch_ms(name, text)


def _view(found: ErrorGroups) -> dict[str, Any]:
    return {
        "groups": [_group_view(one) for one in found.groups],
        "others": found.others,
        "lookedAt": found.looked_at,
        "failures": found.kept,
        "complete": found.is_complete,
        "from": found.from_ms,
        "to": found.to_ms,
        "asOf": found.as_of_ms,
    }


def _group_view(one: ErrorGroup) -> dict[str, Any]:
    return {
        "signature": one.signature,
        "count": one.count,
        "firstAt": one.first_ms,
        "lastAt": one.last_ms,
        "error": one.error,
        "states": one.states,
        "taskIds": one.task_ids,
        "overTime": one.over_time,
    }
