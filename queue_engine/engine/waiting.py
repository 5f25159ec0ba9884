"""Why tasks wait, and why endpoints have no running worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.tasks import Task, TaskState
from queue_engine.domain.waiting import SILENCE_SECONDS, Crew, WaitFacts, Waiting, problem_of, waiting_of
from queue_engine.domain.workers import Worker
from queue_engine.engine.access import check_sees, check_sees_task
from queue_engine.engine.patience import from_store
from queue_engine.engine.refreshed import Refreshed

CACHE_SECONDS = 2.0
"""Time for which a process uses the workers' reports, and the store's response to a write, that it has read."""

_PLATFORM = "platform"
_WAITS = frozenset({TaskState.QUEUED, TaskState.SCHEDULED})


class Tasks(Protocol):
    """The tasks in the store."""

    async def wait_facts(self, endpoint_id: str, task_id: str) -> WaitFacts | None: ...


class Workers(Protocol):
    """The workers in the store."""

    async def of_endpoint(self, endpoint_id: str) -> list[Worker]: ...


class PlatformNote(Protocol):
    """The note of the leading controller."""

    async def read(self) -> str: ...


class WaitingReasons:
    """Tells why tasks wait, and why endpoints have no running worker.

    `check_records` raises StoreUnavailable while the server of an endpoint does not take the writes that begin tasks.
    `lease` is the agents' time without a renewal; agents report four times as often.
    """

    def __init__(
        self,
        tasks: Tasks,
        workers: Workers,
        platform_note: PlatformNote,
        check_records: Callable[[str], Awaitable[None]],
        lease: timedelta,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tasks = tasks
        self._check_records = check_records
        self._silence_seconds = max(SILENCE_SECONDS, lease.total_seconds())
        self._workers: Refreshed[list[Worker]] = Refreshed(workers.of_endpoint, CACHE_SECONDS, monotonic=monotonic)
        self._problems: Refreshed[str] = Refreshed(self._problem, CACHE_SECONDS, monotonic=monotonic)
        self._platform: Refreshed[str] = Refreshed(lambda _: platform_note.read(), CACHE_SECONDS, monotonic=monotonic)

    async def of(self, principal: Principal, endpoint: Endpoint, task: Task) -> Waiting | None:
        """Return the reason for which the task waits; None if it runs, has ended or no longer exists.

        Raises NotFound and StoreUnavailable.
        """
        check_sees(principal, endpoint)
        check_sees_task(principal, task)
        if task.state not in _WAITS:
            return None
        name = endpoint.endpoint_id
        facts, workers, problem, platform = await asyncio.gather(
            from_store(self._tasks.wait_facts(name, task.task_id)),
            from_store(self._workers.recent(name)),
            self._problems.recent(name),
            from_store(self._platform.recent(_PLATFORM)),
        )
        if facts is None:
            return None
        crew = Crew(workers, self._silence_seconds)
        shows_workers = Right.VIEW in principal.rights
        return waiting_of(facts, crew, store_problem=problem, platform_problem=platform, shows_workers=shows_workers)

    async def of_endpoint(self, principal: Principal, endpoint: Endpoint) -> str | None:
        """Return why the endpoint has no running worker; None if it has one, should have none, or it is not known.

        Raises NotFound and StoreUnavailable.
        """
        check_sees(principal, endpoint)
        if endpoint.running_workers:
            return None
        workers, platform = await asyncio.gather(
            from_store(self._workers.recent(endpoint.endpoint_id)), from_store(self._platform.recent(_PLATFORM))
        )
        return problem_of(endpoint, Crew(workers, self._silence_seconds), platform_problem=platform)

    async def _problem(self, endpoint_id: str) -> str:
        """Return the reason for which the endpoint's server refuses writes; empty if it takes them."""
        try:
            await from_store(self._check_records(endpoint_id))
        except StoreUnavailable as error:
            return error.reason
        return ""
