"""`/v2/destinations`: receivers of webhooks with which something is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_path
from queue_engine.api.http.order_log import note
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.domain.destinations import (
    MAX_ORIGIN_CHARACTERS,
    DestinationNote,
    Standing,
    destination_in,
    origin_of,
)
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Right

TAG = "deliveries"
ORIGIN_PATTERN = r"^https?:(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$"
ORIGIN = in_path(
    "origin", "Scheme, host and port of webhooks, separated by colons: `https:hooks.example.net:443`",
    {"type": "string", "maxLength": MAX_ORIGIN_CHARACTERS, "pattern": ORIGIN_PATTERN},
)  # fmt: skip


class DestinationView(View):
    """A destination: the scheme, the host and the port of webhooks."""

    destination: str = Field(description="The destination", examples=["https://hooks.example.net:443"])
    origin: str = Field(description="The destination in a path", examples=["https:hooks.example.net:443"])
    standing: Standing = Field(
        description="PARKED: attempts are paused, and one at a time is made as a probe. DEGRADED: few attempts at a "
        "time, because attempts have failed or are slow. GOOD: nothing wrong was noted"
    )
    since: int | None = Field(description="Time since which something is wrong; null: nothing is")
    waiting: int = Field(
        description="Number of deliveries that are held back: those in delivery processes, and those deferred since "
        "the pause began. Deliveries that wait for their own next attempt are not counted"
    )
    in_flight: int = Field(description="Number of attempts in flight")
    errors: int = Field(description="Number of consecutive attempts without a response, or with 410")
    next_attempt_at: int | None = Field(
        description="Time of the next probe; null while the destination is not parked, or a probe is in flight"
    )
    last_error: str | None = Field(description="Error type of the latest attempt that has failed; null: none is known")
    last_error_at: int | None = Field(description="Time of that attempt")


class ResumeView(View):
    """The result of an order to end a pause."""

    processes: int = Field(description="Number of delivery processes that got the order; 0: none has noted anything")


class DestinationRoutes:
    """Read the standing of destinations, and end a pause."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._destinations = services.engine.destinations

    def operations(self) -> list[Operation]:
        one = "/v2/destinations/{origin}"
        return [
            Operation(
                "GET", "/v2/destinations", self.list_destinations, right=Right.VIEW_TENANT,
                summary="List destinations of webhooks with which something is wrong, the worst first", tag=TAG,
                response=Success[list[DestinationView]], failures=(401, 429, 503),
            ),
            Operation(
                "GET", one, self.get_destination, right=Right.VIEW_TENANT, summary="Read the standing of a destination",
                tag=TAG, response=Success[DestinationView], parameters=[ORIGIN], failures=(400, 401, 429, 503),
            ),
            Operation(
                "POST", f"{one}/resume", self.resume_destination, right=Right.OPERATE,
                summary="End the pause of a destination", tag=TAG, response=Success[ResumeView], parameters=[ORIGIN],
                failures=(400, 401, 429, 503),
            ),
        ]  # fmt: skip

    async def list_destinations(self, request: Request) -> Response:
        """Each delivery process notes at most 200 destinations, every 5 seconds while something is wrong. A
        destination that is not listed has a good standing.
        """
        principal = await self._services.admit(request)
        return success([destination_view(one) for one in await self._destinations.all(principal)])

    async def get_destination(self, request: Request) -> Response:
        principal = await self._services.admit(request)
        return success(destination_view(await self._destinations.get(principal, _destination_in(request))))

    async def resume_destination(self, request: Request) -> Response:
        """Within 5 seconds, delivery processes make the next attempt as a probe. If a response arrives, the pause is
        over, and deliveries that wait are sent: some at once, and the rest when they are due, at most 5 minutes later.
        Safe to repeat.
        """
        principal = await self._services.admit(request)
        processes = await self._destinations.resume(principal, _destination_in(request))
        note(request, processes=processes)
        return success({"processes": processes})


def destination_view(one: DestinationNote) -> dict[str, Any]:
    """Return a DestinationView."""
    return {
        "destination": one.destination,
        "origin": origin_of(one.destination),
        "standing": one.standing.value,
        "since": one.since_ms,
        "waiting": one.waiting,
        "inFlight": one.in_flight,
        "errors": one.errors,
        "nextAttemptAt": one.next_attempt_at_ms,
        "lastError": one.error_type,
        "lastErrorAt": one.failed_at_ms,
    }


def _destination_in(request: Request) -> str:
    try:
        return destination_in(request.scope["path_params"]["origin"])
    except ValueError as error:
        raise InvalidRequest("origin", str(error)) from None
