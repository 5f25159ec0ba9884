"""Call the container for a task, and derive the outcome from its response."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, replace

from queue_engine.aio import wait_for_event
from queue_engine.domain.agent_protocol import RELEASE_SECONDS
from queue_engine.domain.tasks import (
    CANCELLED_WHILE_RUNNING,
    NOT_CONNECTED,
    ClaimedTask,
    ContainerResponse,
    Failed,
    Outcome,
    TaskState,
    outcome_of,
)
from queue_engine.net.error_types import RESET
from worker_agent.agent import Duty
from worker_agent.container import ContainerWatch
from worker_agent.forward import Forwarder
from worker_agent.leases import HeldAttempt, StopReason
from worker_agent.requests import cancel_request_for, request_for

log = logging.getLogger(__name__)

LOST = NOT_CONNECTED | {RESET}
"""Error types that may be caused by the end of the container's process."""
BROKEN_OFF = frozenset({"timeout", "too_large"})
"""Error types of a call that the agent aborted: the container may still be working on the task."""
CONTAINER_END_SECONDS = 1.0
"""Maximum time between noticing that a connection to the container broke and noticing that its process has ended."""

CANCELLED = Failed(CANCELLED_WHILE_RUNNING, TaskState.CANCELLED)


@dataclass(frozen=True)
class Executed:
    """Result of a call."""

    outcome: Outcome | None
    """None if the attempt was stopped and this agent no longer holds its task."""
    is_broken_off: bool
    """True if the container may still be working on the task."""


class Execution:
    """Calls one container. With `runs_container` it is a child process, so that the agent notices its end."""

    def __init__(self, forwarder: Forwarder, watch: ContainerWatch, *, runs_container: bool) -> None:
        self._forwarder = forwarder
        self._watch = watch
        self._runs_container = runs_container

    async def run(self, held: HeldAttempt, task: ClaimedTask, duty: Duty) -> Executed:
        """Call the container and return the result. Stopping the attempt aborts the call."""
        try:
            response, is_starting = await self._observed(task, duty)
        except asyncio.CancelledError:
            if held.stop is None:
                raise
            held.runner.uncancel()
            if held.stop is not StopReason.CONTAINER_ENDED:
                return Executed(CANCELLED if held.stop is StopReason.CANCELLED else None, is_broken_off=True)
            response, is_starting = ContainerResponse(error_type=RESET), False
        if response.error_type in LOST and duty.container_ended.is_set():
            response = replace(response, detail=duty.container_end)
        policy, budget = held.attempt.retry_policy, held.attempt.budget
        outcome = outcome_of(response, policy, budget, luck=random.random(), is_starting=is_starting)
        return Executed(outcome, is_broken_off=response.error_type in BROKEN_OFF)

    async def notify_stopped(self, held: HeldAttempt, task: ClaimedTask, duty: Duty) -> None:
        """Call the endpoint's cancelUri, if it has one, after an aborted call."""
        request = cancel_request_for(task, held.attempt.cancel_uri, self._watch.address)
        if request is None or duty.container_ended.is_set():
            return
        if duty.draining.is_set():
            request = replace(request, timeout_seconds=RELEASE_SECONDS)
        response = await self._forwarder.forward(request)
        if response.status is None or response.status >= 300:
            log.warning(
                "the container has not taken the cancellation: %s",
                response.status or response.detail or response.error_type,
                extra=held.attempt.ids,
            )

    async def _observed(self, task: ClaimedTask, duty: Duty) -> tuple[ContainerResponse, bool]:
        """Return the response, and True if the container has not served any task yet."""
        response, is_starting = await self._watch.observed(self._call(task))
        if response.error_type in LOST and self._runs_container:
            # Wait, because the connection breaks some milliseconds before the agent notices the end of the process.
            await wait_for_event(duty.container_ended, CONTAINER_END_SECONDS)
        return response, is_starting

    async def _call(self, task: ClaimedTask) -> ContainerResponse:
        request = request_for(task, self._watch.address)
        if request is None:
            return ContainerResponse(
                error_type="not_exposed", detail=self._watch.address.refusal(task.spec.worker_port)
            )
        return await self._forwarder.forward(request)
