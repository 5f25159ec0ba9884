"""The agent: maintains its worker's record and watches the container, while its `Work` runs the endpoint's tasks."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Protocol

from queue_engine.aio import end_tasks, wait_for_event
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.workers import Pace, WorkerStatus
from queue_engine.observability import metrics
from worker_agent.container import ContainerAddress, ContainerWatch
from worker_agent.ports import WorkerRecord, loop, until_available

log = logging.getLogger(__name__)

MAX_REPORT_INTERVAL_SECONDS = 1.0
"""Maximum time between two reports while tasks run, and while the worker is not RUNNING."""


@dataclass(frozen=True)
class AgentConfig:
    """Identity and limits of an agent. Times in seconds."""

    endpoint_id: str
    worker_id: str
    concurrency: int
    lease_seconds: float
    grace_seconds: float
    managed: bool
    idle_report_seconds: float = MAX_REPORT_INTERVAL_SECONDS
    """Maximum time between two reports while the worker waits for tasks."""
    runs_container: bool = False
    """True if the container is a child process of the agent, so that the agent notices its end."""
    advertise_host: str | None = None
    """Host of the container in reports, in place of the one to which the agent connects."""


class Duty:
    """The signals of an agent to its work: pause, drain, the end of the container, and a refusal by the engine."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        """Set when the agent must end, and never cleared."""
        self.container_ended = asyncio.Event()
        """Set when the container has ended unexpectedly, so that there is no response to wait for."""
        self.container_end = ""
        """Description of the container's end, in a few words."""
        self.refused = asyncio.Event()
        """Set when the engine refuses the agent for good, so that no result can be recorded."""
        self.open = asyncio.Event()
        """Set while the desired state of the endpoint is RUNNING."""
        self.open.set()


class Work(Protocol):
    """The part of an agent that depends on the endpoint's mode."""

    @property
    def running_tasks(self) -> int:
        """Number of tasks that are being executed."""
        ...

    @property
    def pace(self) -> Pace | None:
        """How fast tasks run; None if the work has no tasks."""
        ...

    @property
    def problem(self) -> str:
        """The reason why the agent leaves tasks to other agents; empty if it does not."""
        ...

    async def run(self, duty: Duty) -> None:
        """Work until `duty.draining`, finish or release the running work, and return. No work runs afterwards."""
        ...


class Agent:
    """An agent. `run` works until `drain` is called; the running work is then finished or released."""

    def __init__(self, config: AgentConfig, record: WorkerRecord, watch: ContainerWatch, work: Work) -> None:
        self._config = config
        self._record = record
        self._watch = watch
        self._work = work
        self._duty = Duty()
        self._drain_reason = ""

    def drain(self, reason: str) -> None:
        """Start no further work, and end. Safe to call from a signal handler and more than once."""
        if not self._duty.draining.is_set():
            log.info("draining: %s", reason, extra={"running": self._work.running_tasks})
            self._drain_reason = reason
            self._duty.draining.set()

    def note_container_end(self, how: str) -> None:
        """Note that the container has ended unexpectedly: drain, without waiting for its responses."""
        self._duty.container_end = how
        self._duty.container_ended.set()
        self.drain(how)

    def note_refusal(self, reason: str) -> None:
        """Note that the engine refuses this agent for good: drain, without waiting for results."""
        self._duty.refused.set()
        self.drain(reason)

    async def run(self) -> None:
        """Work until drained. Afterwards no part of this agent runs and it holds no task."""
        if not await self._registers_before_drain():
            await self._watch.aclose()
            await self._leave()
            return
        background = [
            asyncio.create_task(self._watch_container(), name="watch"),
            asyncio.create_task(self._reports(), name="reports"),
        ]
        try:
            await self._work.run(self._duty)
        finally:
            await end_tasks(*background)
            await self._leave()

    # The worker's own record

    async def _registers_before_drain(self) -> bool:
        """Register; return False if the agent must end first, because a refused agent would retry forever."""
        registering = asyncio.create_task(until_available(self._register, "register"), name="register")
        draining = asyncio.create_task(self._duty.draining.wait(), name="draining")
        try:
            await asyncio.wait({registering, draining}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(registering, draining)
        if registering.cancelled():
            return False
        registering.result()  # raises its error
        return True

    async def _register(self) -> None:
        """Create the record of a worker that no controller manages: a sweep may have removed it during an outage."""
        if not self._config.managed:
            await self._record.register()
        self._follow(await self._report_status())

    async def _reports(self) -> None:
        await loop(self._report_and_wait, idle_seconds=0, name="reports")

    async def _report_and_wait(self) -> int:
        interval = self._report_interval
        if self._duty.draining.is_set() and self._config.managed:
            # The controller sets the status, because it knows whether it stopped the worker or the container crashed.
            await asyncio.sleep(interval)
            return 0
        self._watch.changed.clear()
        desired = await self._report_status()
        if desired is None and not self._config.managed:
            await self._register()
        else:
            self._follow(desired)
        await wait_for_event(self._watch.changed, interval)
        return 0

    @property
    def _report_interval(self) -> float:
        """Seconds until the next report."""
        is_idle = self._status() is WorkerStatus.RUNNING and not self._work.running_tasks
        limit = self._config.idle_report_seconds if is_idle else MAX_REPORT_INTERVAL_SECONDS
        return min(self._config.lease_seconds / 4, limit)

    def _follow(self, desired: DesiredState | None) -> None:
        """Follow the desired state: pause while the endpoint is stopped, drain if it is deleted.

        Workers that a controller manages are drained by it.
        """
        if desired is None:
            self.drain("the worker or its endpoint no longer exists, or the worker was started again")
        elif desired is DesiredState.DELETED and not self._config.managed:
            self.drain("the endpoint is deleted")
        elif desired is DesiredState.RUNNING:
            self._duty.open.set()
        else:
            self._duty.open.clear()

    async def _report_status(self) -> DesiredState | None:
        desired = await self._record.report(
            self._status(),
            running_tasks=self._work.running_tasks,
            address=str(self._advertised()),
            reason=self._work.problem or self._watch.reason,
            error=self._work.problem or self._watch.error,
            pace=self._work.pace,
        )
        metrics.agent_last_heartbeat_timestamp.set_to_current_time()
        return desired

    def _advertised(self) -> ContainerAddress:
        """Return the address at which the API reaches the container."""
        address, host = self._watch.address, self._config.advertise_host
        return address if host is None else replace(address, host=host)

    def _status(self) -> WorkerStatus:
        if self._duty.draining.is_set():
            return WorkerStatus.STOPPING
        if not self._duty.open.is_set() and not self._config.managed:  # the controller decides about managed workers
            return WorkerStatus.STOPPING if self._work.running_tasks else WorkerStatus.STOPPED
        return WorkerStatus.INITIALIZING if self._work.problem else self._watch.status

    async def _watch_container(self) -> None:
        """Watch until the agent drains. Then no task begins, and `ServiceWork` would count a probe as a request."""
        watching = asyncio.create_task(self._watch.run(), name="watch steps")
        try:
            await self._duty.draining.wait()
        finally:
            await end_tasks(watching)
            await self._watch.aclose()

    async def _leave(self) -> None:
        try:
            if not self._config.managed and not self._duty.refused.is_set():
                await self._record.remove()
        except StoreUnavailable:
            log.warning("the engine is away: the worker's record stays")
        log.info("ended", extra={"reason": self._drain_reason})
