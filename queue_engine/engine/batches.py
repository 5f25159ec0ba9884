"""Submit many tasks of one request. Each is accepted or refused without an effect on the others.

The tasks of a batch are submitted in groups. The submissions of a group share the store's round trips, and reach the
store in their order. A tenant has at most GROUPS_UNDER_WAY groups under way in this process, over all of its requests,
so that a batch delays the single submissions of other tenants by some milliseconds at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

from queue_engine.domain.errors import EngineError
from queue_engine.domain.principals import Principal
from queue_engine.engine.submissions import Prepared, Submissions, Submitted, TaskRequest, counted_rejections

MAX_GROUP = 128
"""Limit of the tasks of a group."""
GROUPS_UNDER_WAY = 2

Outcome = Submitted | Exception
"""An accepted task, or the error that its own request would have had."""


class Batches:
    """The batches of this process."""

    def __init__(self, submissions: Submissions) -> None:
        self._submissions = submissions
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self.streams: set[asyncio.Future[None]] = set()
        """The endless batches. Each is a future that is done when it must end."""
        self.is_draining = False
        """True from the call of `drain` on."""

    def drain(self) -> None:
        """End all endless batches, after the tasks that have arrived. Safe to call from a signal handler."""
        self.is_draining = True
        for ended in self.streams:
            _end(ended)

    def open_stream(self) -> asyncio.Future[None]:
        """Return a future that is done when an endless batch must end. The caller calls `close_stream` with it."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.streams.add(ended)
        if self.is_draining:
            _end(ended)
        return ended

    def end_stream(self, ended: asyncio.Future[None]) -> None:
        """End one endless batch, after the tasks that have arrived."""
        _end(ended)

    def close_stream(self, ended: asyncio.Future[None]) -> None:
        """Forget an endless batch."""
        self.streams.discard(ended)

    async def submit(
        self, principal: Principal, endpoint_id: str, requests: Sequence[TaskRequest | EngineError]
    ) -> list[Outcome]:
        """Submit a group of at most MAX_GROUP tasks. Return a result for each, in their order.

        A request that is an error already, because it broke a rule, is counted as rejected and returned.
        """
        gate = self._gates.get(principal.tenant)
        if gate is None:
            gate = self._gates[principal.tenant] = asyncio.Semaphore(GROUPS_UNDER_WAY)
        async with gate:
            # All tasks take their limits before the first one is enqueued, so that their order in the queue is theirs.
            tasks = await self._prepared(principal, endpoint_id, requests)
            group = [one for one in tasks if isinstance(one, Prepared)]
            accepted = iter(await self._submissions.all_accepted(group))
        return [_counted(next(accepted) if isinstance(one, Prepared) else one) for one in tasks]

    async def _prepared(
        self, principal: Principal, endpoint_id: str, requests: Sequence[TaskRequest | EngineError]
    ) -> list[Prepared | Exception]:
        """Return the checked tasks, or their errors. Only checks of webhooks may wait long, so only these overlap."""
        checks = (self._checked(principal, endpoint_id, one) for one in requests)
        if any(isinstance(one, TaskRequest) and one.webhook is not None for one in requests):
            return await asyncio.gather(*checks)
        return [await one for one in checks]

    async def _checked(
        self, principal: Principal, endpoint_id: str, request: TaskRequest | EngineError
    ) -> Prepared | Exception:
        if not isinstance(request, TaskRequest):
            return request
        try:
            return await self._submissions.prepared(principal, endpoint_id, request)
        except Exception as error:  # noqa: BLE001 - it is the result of the task
            return error


def _counted(outcome: Outcome) -> Outcome:
    """Return the outcome of a task, and count it if it was rejected."""
    if isinstance(outcome, Submitted):
        return outcome
    try:
        with counted_rejections():
            raise outcome
    except Exception as error:  # noqa: BLE001 - it is the result of the task
        return error


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
