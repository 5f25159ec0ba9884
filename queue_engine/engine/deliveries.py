"""Deliveries of results: the ledger of a task, orders to send a result, and recoveries of what was given up."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from queue_engine.domain.audit import Action, endpoint_target, task_target
from queue_engine.domain.deliveries import DeliveryAttempt, Recovery, Trigger
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest, NotFound, Resource, StateConflict
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import GivenUpPage, GivenUpPart, GivenUpPlace, Task
from queue_engine.engine.access import check_sees, check_sees_task
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.store.deliveries import DeliveryStore, Resend
from queue_engine.store.given_up import GivenUpIndex
from queue_engine.store.recoveries import RecoveryStore, Start
from queue_engine.store.tasks import TaskStore


@dataclass(frozen=True)
class SendOrder:
    """The result of an order to send the result of a task."""

    task: Task
    """The task after the order, without input and output."""
    result: str
    """`queued`: the delivery is due now. `due`: it was due before, or is being sent. `delivered`: the result was
    delivered before and is not sent again.
    """


class Deliveries:
    """Use cases for one endpoint. Each raises NotFound and StoreUnavailable. `task_id` has the form of an id."""

    def __init__(
        self,
        tasks: TaskStore,
        deliveries: DeliveryStore,
        given_up: GivenUpIndex,
        recoveries: RecoveryStore,
        audit: Audit,
    ) -> None:
        self._tasks = tasks
        self._deliveries = deliveries
        self._given_up = given_up
        self._recoveries = recoveries
        self._audit = audit

    async def ledger(self, principal: Principal, endpoint: Endpoint, task_id: str) -> list[DeliveryAttempt]:
        """Return the latest attempts to deliver the task's result, oldest first."""
        check_sees(principal, endpoint)
        check_sees_task(principal, await self._task(endpoint, task_id))
        return await from_store(self._deliveries.ledger(endpoint.endpoint_id, task_id))

    async def given_up(self, principal: Principal, endpoint: Endpoint, *, page: int, size: int) -> GivenUpPage:
        """Return page number `page` of the deliveries that were given up, newest first. The first page is 1."""
        check_sees(principal, endpoint)
        return await from_store(self._given_up.page(endpoint.endpoint_id, page=page, size=size))

    async def given_up_part(
        self,
        principal: Principal,
        endpoint: Endpoint,
        *,
        destination: str | None,
        after: GivenUpPlace | None,
        size: int,
    ) -> GivenUpPart:
        """Return the next deliveries that were given up, newest first: those to a destination, or all.

        The part may have fewer than `size` although others follow, because a call looks at a limited number.
        """
        check_sees(principal, endpoint)
        call = self._given_up.walk(endpoint.endpoint_id, destination=destination, after=after, limit=size)
        return await from_store(call)

    async def send(self, principal: Principal, endpoint: Endpoint, task_id: str, trigger: Trigger) -> SendOrder:
        """Send the result of an ended task now. Raises StateConflict.

        A repeated order has no further effect while the delivery is due or being sent, nor, unless `trigger` is
        REDELIVER, after the result was delivered.
        """
        check_sees(principal, endpoint)
        action = Action.REDELIVER_RESULT if trigger is Trigger.REDELIVER else Action.RETRY_DELIVERY
        target = task_target(endpoint.endpoint_id, task_id)
        call = self._deliveries.send_now(endpoint.endpoint_id, task_id, uuid4().hex, trigger)
        result = _result_of(await self._audit.change(principal, action, target, call))
        if result == "queued":
            await self._audit.note(principal, action, target)
        return SendOrder(await self._task(endpoint, task_id), result)

    async def recover(
        self, principal: Principal, endpoint: Endpoint, *, since_ms: int, until_ms: int | None
    ) -> Recovery:
        """Begin to send the deliveries again that were given up in a period. None means until now.

        Repeating the order while its recovery runs has no further effect. Raises InvalidRequest, and StateConflict
        while a recovery of another period runs.
        """
        check_sees(principal, endpoint)
        if until_ms is not None and until_ms < since_ms:
            raise InvalidRequest("until", "must not be before since")
        endpoint_id, target = endpoint.endpoint_id, endpoint_target(endpoint.endpoint_id)
        call = self._recoveries.start(endpoint_id, uuid4().hex, since_ms=since_ms, until_ms=until_ms)
        start = await self._audit.change(principal, Action.RECOVER_DELIVERIES, target, call)
        if start is Start.NOT_FOUND:
            raise NotFound(Resource.ENDPOINT)
        if start is Start.OTHER:
            raise StateConflict("since: a recovery of another period runs; cancel it or wait until it has ended")
        if start is Start.STARTED:
            await self._audit.note(principal, Action.RECOVER_DELIVERIES, target)
        await from_store(self._recoveries.advance(endpoint_id))
        return await self.recovery(principal, endpoint)

    async def recovery(self, principal: Principal, endpoint: Endpoint) -> Recovery:
        """Return the endpoint's latest recovery."""
        check_sees(principal, endpoint)
        return await found_in_store(self._recoveries.get(endpoint.endpoint_id), Resource.RECOVERY)

    async def cancel_recovery(self, principal: Principal, endpoint: Endpoint) -> Recovery:
        """Cancel the endpoint's recovery. A recovery that has ended is not changed."""
        check_sees(principal, endpoint)
        target, call = endpoint_target(endpoint.endpoint_id), self._recoveries.cancel(endpoint.endpoint_id)
        if await self._audit.change(principal, Action.CANCEL_RECOVERY, target, call):
            await self._audit.note(principal, Action.CANCEL_RECOVERY, target)
        return await self.recovery(principal, endpoint)

    async def _task(self, endpoint: Endpoint, task_id: str) -> Task:
        return await found_in_store(self._tasks.brief(endpoint.endpoint_id, task_id), Resource.TASK)


def _result_of(resend: Resend) -> str:
    """Return the result in the words of SendOrder."""
    match resend:
        case Resend.SENT | Resend.DUPLICATE:
            return "queued"
        case Resend.DUE:
            return "due"
        case Resend.DELIVERED:
            return "delivered"
        case Resend.NOT_FOUND:
            raise NotFound(Resource.TASK)
        case Resend.NOT_ENDED:
            raise StateConflict("taskId: the task has not ended")
        case Resend.NO_WEBHOOK:
            raise StateConflict("taskId: the task has no webhook")
