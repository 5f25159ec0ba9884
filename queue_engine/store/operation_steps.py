"""The steps of an operation, for the leading controller: see `store/operations.py`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.domain.task_filters import TaskFilters, UnknownFilter
from queue_engine.domain.task_operations import TaskAction
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import EndpointKeys, Partitions
from queue_engine.store.recoveries import RECOVERED_AT_ONCE
from queue_engine.store.resends import Resends, words_to_match
from queue_engine.store.scripts import Call
from queue_engine.store.task_scan import TaskScan

STEP_TASKS = 250
"""Maximum number of tasks that a step changes."""
CHANGED_AT_ONCE = 32
"""Number of tasks that are changed in one round trip. While the queue is full, a step ends after a refused one."""
CHANGED = ("OK", "CANCELLED", "REQUESTED")
"""Results for tasks that were changed, as in library.lua."""


@dataclass(frozen=True)
class OperationStep:
    """The result of a step."""

    action: TaskAction
    changed: int = 0
    """Number of tasks that were changed."""
    ended: int = 0
    """Number of tasks that have ended by the step, as cancelled."""
    is_closed: bool = False
    """True if the endpoint takes no tasks now, so that none can be retried."""
    is_waiting: bool = False
    """True if the queue has no room for the tasks that are left, or enough results are being sent again."""
    is_complete: bool = False
    """True if no task is left, so that the operation can end as done."""
    refusal: str = ""
    """Reason why this version must not advance the operation; empty if it does."""


class OperationSteps:
    """Advances operations. Every method raises RedisError. A step that was cut off is repeated by the next one."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions, scan: TaskScan) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._scan = scan
        self._resends = Resends(redis, scripts, partitions)

    async def step(self, endpoint_id: str, operation_id: str, *, limit: int = STEP_TASKS) -> OperationStep | None:
        """Find up to `limit` tasks, unless some are left of the step before, and change them.

        Return None if the operation has ended, or another process has made the step.
        """
        keys = self._partitions.of(endpoint_id)
        names = ["state", "action", "filters", "upto", "after", "step", "complete", "dry"]
        found = await self._redis.hmget(keys.operation(operation_id), names)  # type: ignore[misc]
        state, action, filters_text, upto, after, step, complete, dry = (value and value.decode() for value in found)
        if state != "running":
            return None
        try:
            filters = TaskFilters.from_dict(json.loads(filters_text)) if filters_text else None
        except UnknownFilter as error:
            return OperationStep(TaskAction(action), refusal=str(error))
        is_complete, todo = complete == "1", await self._todo(keys, operation_id, limit)
        if not todo and not is_complete:
            place = int(after) if after else None
            planned = await self._plan(keys, operation_id, int(step), filters, int(upto), place, limit)
            if planned is None:
                return None
            is_complete, todo = planned, await self._todo(keys, operation_id, limit)
        results = await self._changed(keys, operation_id, TaskAction(action), todo, filters, is_dry=dry == "1")
        left = results.pop("FULL", 0), results.pop("CLOSED", 0)
        return OperationStep(
            TaskAction(action),
            changed=0 if dry == "1" else sum(results[word] for word in CHANGED),
            ended=results["CANCELLED"],
            is_waiting=left[0] > 0,
            is_closed=left[1] > 0,
            is_complete=is_complete and not any(left) and len(todo) < limit,
        )

    async def _changed(
        self,
        keys: EndpointKeys,
        operation_id: str,
        action: TaskAction,
        todo: Sequence[str],
        filters: TaskFilters | None,
        *,
        is_dry: bool,
    ) -> Counter[str]:
        """Change tasks, and return the number of them by result. A task that must wait ends the work on the others."""
        if action is TaskAction.REDELIVER:
            # A dry operation makes nothing due, so the limit of what is due does not end it.
            at_once = CHANGED_AT_ONCE if is_dry else RECOVERED_AT_ONCE
            return await self._resends.send(keys, operation_id, todo, filters, at_once=at_once)
        change, results = self._change(action), Counter[str]()
        states, delivery_statuses = words_to_match(filters)
        for first in range(0, len(todo), CHANGED_AT_ONCE):
            calls = (
                change(
                    keys.of_task(task_id),
                    operation=keys.operation(operation_id),
                    todo=keys.todo(operation_id),
                    states=states,
                    delivery_statuses=delivery_statuses,
                )
                for task_id in todo[first : first + CHANGED_AT_ONCE]
            )
            results.update(reply.result for reply in await asyncio.gather(*calls) if reply.word == "OK")
            if "FULL" in results or "CLOSED" in results:
                break
        return results

    async def _todo(self, keys: EndpointKeys, operation_id: str, limit: int) -> list[str]:
        return [name.decode() for name in await self._redis.zrange(keys.todo(operation_id), 0, limit - 1)]

    async def _plan(
        self,
        keys: EndpointKeys,
        operation_id: str,
        step: int,
        filters: TaskFilters | None,
        upto: int,
        after: int | None,
        limit: int,
    ) -> bool | None:
        """Note the tasks of the next step. Return True if none follow, None if another process has made the step."""
        found: list[str] = []
        scanned, next_place = 0, None
        if filters is not None:
            page = await self._scan.page(keys.endpoint_id, filters, after=after, limit=limit, upto=upto)
            found = [part for task in page.items for part in (task.task_id, str(task.finished_at_ms or 0))]
            scanned, next_place = page.scanned, page.next
        reply = await self._scripts.plan_operation(
            operation=keys.operation(operation_id),
            todo=keys.todo(operation_id),
            given_tasks=keys.given_tasks(operation_id),
            step=step,
            limit=limit,
            scanned=scanned,
            from_place=next_place,
            found=found,
        )
        return bool(reply.is_complete) if reply.word == "OK" else None

    def _change(self, action: TaskAction) -> Call:
        match action:
            case TaskAction.CANCEL:
                return self._scripts.cancel_in_operation
            case TaskAction.RETRY:
                return self._scripts.rerun_in_operation
            case TaskAction.DELETE:
                return self._scripts.delete_in_operation
            case TaskAction.REDELIVER:
                raise ValueError("results are sent again by Resends")
