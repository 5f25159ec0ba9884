"""Find endpoints by their names, and tasks by their ids over all endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from queue_engine.domain.endpoints import Endpoint, ServiceMode
from queue_engine.domain.errors import NotFound
from queue_engine.domain.ids import is_task_id
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.tasks import Task
from queue_engine.engine.endpoints import Endpoints
from queue_engine.engine.queries import Queries

MAX_ENDPOINTS = 1000
"""Limit of the endpoints in which a task is searched. Each costs a read."""
MAX_FOUND = 50
"""Limit of the endpoints, and of the tasks, in a response."""
READ_TOGETHER = 50


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    endpoints: Sequence[Endpoint]
    tasks: Sequence[tuple[Task, Endpoint]]
    searched: int
    """Number of endpoints in which the task was searched."""
    is_complete: bool
    """False if a limit left out endpoints, or results."""


class Search:
    """Searches what a principal sees. Raises StoreUnavailable."""

    def __init__(self, endpoints: Endpoints, queries: Queries) -> None:
        self._endpoints = endpoints
        self._queries = queries

    async def find(self, principal: Principal, text: str) -> Found:
        """Return the endpoints whose id is the text or whose name contains it, and the tasks with this id.

        A key that sees only its own tasks finds no endpoints.
        """
        known = await self._endpoints.all(principal, frozenset())
        named = [one for one in known if Right.VIEW in principal.rights and _is_meant(one, text)]
        queues = [one for one in known if one.config.service_mode is ServiceMode.QUEUE] if is_task_id(text) else []
        searched = queues[:MAX_ENDPOINTS]
        tasks: list[tuple[Task, Endpoint]] = []
        for first in range(0, len(searched), READ_TOGETHER):
            together = searched[first : first + READ_TOGETHER]
            found = await asyncio.gather(*(self._task(principal, endpoint, text) for endpoint in together))
            tasks += [(task, one) for task, one in zip(found, together, strict=True) if task is not None]
        is_complete = len(searched) == len(queues) and max(len(named), len(tasks)) <= MAX_FOUND
        return Found(named[:MAX_FOUND], tasks[:MAX_FOUND], len(searched), is_complete)

    async def _task(self, principal: Principal, endpoint: Endpoint, task_id: str) -> Task | None:
        try:
            return await self._queries.brief(principal, endpoint, task_id)
        except NotFound:
            return None


def _is_meant(endpoint: Endpoint, text: str) -> bool:
    return endpoint.endpoint_id == text or text.casefold() in endpoint.config.name.casefold()
