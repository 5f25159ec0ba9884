"""`/v2/search`: endpoints by their names, and tasks by their ids over all endpoints."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.endpoint_views import EndpointView, endpoint_view
from queue_engine.api.v2.task_views import TaskView, task_view
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Right
from queue_engine.engine.search import Found

MAX_CHARACTERS = 255


class FoundView(View):
    """The result of a search."""

    endpoints: list[EndpointView] = Field(
        description="Endpoints whose id is the text, or whose name contains it in any case; at most 50"
    )
    tasks: list[TaskView] = Field(description="Tasks with this id, without input and output; at most 50")
    searched: int = Field(description="Number of endpoints in which the task was searched, the newest 1,000 at most")
    complete: bool = Field(description="False if a limit left out endpoints, or results")


class SearchRoutes:
    """Search endpoints and tasks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._search = services.engine.search

    def operations(self) -> list[Operation]:
        text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
        return [
            Operation(
                "GET", "/v2/search", self.search, right=Right.VIEW_TASK,
                summary="Find endpoints by name, and tasks by id over all endpoints", tag="tasks",
                response=Success[FoundView],
                parameters=[
                    in_query("q", "Id of a task, or id or part of the name of an endpoint", text, required=True)
                ],
                failures=(400,),
            ),
        ]  # fmt: skip

    async def search(self, request: Request) -> Response:
        """A key that sees only the tasks that it has submitted finds only those, and no endpoints."""
        principal = await self._services.admit(request)
        text = Query(request).one("q") or ""
        if not 1 <= len(text) <= MAX_CHARACTERS:
            raise InvalidRequest("q", f"must be 1 to {MAX_CHARACTERS} characters long")
        found = await self._search.find(principal, text)
        return success(_found_view(found, self._services.catalogue))


def _found_view(found: Found, catalogue: Catalogue) -> dict[str, Any]:
    return {
        "endpoints": [endpoint_view(one, catalogue) for one in found.endpoints],
        "tasks": [task_view(task, endpoint) for task, endpoint in found.tasks],
        "searched": found.searched,
        "complete": found.is_complete,
    }
