"""The work of a QUEUE endpoint's agent: claim tasks, execute each in the container, settle its outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from functools import partial

from queue_engine.aio import end_tasks
from queue_engine.domain.attempts import StartedAttempt, Unreadable
from queue_engine.domain.tasks import ClaimedTask, Failed
from queue_engine.domain.workers import Pace
from queue_engine.observability import metrics
from worker_agent.agent import AgentConfig, Duty
from worker_agent.claim_pause import ClaimPause
from worker_agent.container import ContainerWatch
from worker_agent.drain import Drain
from worker_agent.execution import CANCELLED, Execution
from worker_agent.forward import Forwarder
from worker_agent.isolation import PASSED_ON_SECONDS, Isolation
from worker_agent.leases import HeldAttempt, Leases, StopReason
from worker_agent.ports import Claim, TaskSource, loop, until_available
from worker_agent.settlement import Settlement
from worker_agent.slots import Slot, Slots

log = logging.getLogger(__name__)

MAX_CLAIMS = 64
"""Maximum number of tasks in one claim."""
SEALING_SECONDS = 2.0
"""Pause after a task whose headers the engine encrypts for this agent now, which takes it a second."""
MAX_UNSTARTED_SECONDS = 10.0
"""Maximum time for which a task may be claimed without being started, if the lease is not shorter. After it, another
agent may claim the task: an agent starts a task right after claiming it, so the first agent has probably died. If it
lives, the agent that starts the task first runs it, and the claim of the other one is stale."""


class TaskWork:
    """Runs tasks until the agent drains. Running tasks then finish within the grace period, or are released.

    Guarantees: a task is executed only while this agent holds its lease, as far as the agent can know; an outcome is
    kept and sent to the engine again until the engine accepts or rejects it.
    """

    def __init__(
        self,
        config: AgentConfig,
        source: TaskSource,
        forwarder: Forwarder,
        watch: ContainerWatch,
        pause: ClaimPause | None = None,
        slots: Slots | None = None,
    ) -> None:
        self._config = config
        self._source = source
        self._watch = watch
        self._pause = pause or ClaimPause()
        self._slots = slots or Slots(config.concurrency)
        self._isolation = Isolation()
        self._leases = Leases(source, lease_seconds=config.lease_seconds)
        self._execution = Execution(forwarder, watch, runs_container=config.runs_container)
        self._settlement = Settlement(source)
        self._unstarted_seconds = min(config.lease_seconds, MAX_UNSTARTED_SECONDS)
        self.problem = ""
        metrics.agent_running_tasks.set_function(lambda: self.running_tasks)

    @property
    def running_tasks(self) -> int:
        return self._slots.taken

    @property
    def pace(self) -> Pace:
        return self._slots.pace

    async def run(self, duty: Duty) -> None:
        renewing = asyncio.create_task(self._leases.renew_forever(), name="heartbeats")
        noting = asyncio.create_task(self._leases.note_calls_forever(), name="begun calls")
        stopping = asyncio.create_task(self._leases.stop_cancelled_forever(), name="cancellations")
        claiming = self._start_claiming(duty)
        try:
            await duty.draining.wait()
            await end_tasks(*claiming)
            await Drain(self._config, self._source, self._leases, self._settlement, self._slots).run(duty)
        finally:
            await end_tasks(renewing, noting, stopping, *claiming)

    # Claim

    def _start_claiming(self, duty: Duty) -> tuple[asyncio.Task[None], ...]:
        new = loop(partial(self._claim_step, duty), idle_seconds=0, name="claim")
        interval = self._unstarted_seconds / 4
        abandoned = loop(partial(self._claim_abandoned_step, duty), idle_seconds=interval, name="take over")
        return asyncio.create_task(new, name="claim"), asyncio.create_task(abandoned, name="take over")

    async def _claim_step(self, duty: Duty) -> int:
        """Wait for the container and for room, claim tasks, and begin them."""
        await duty.open.wait()
        await self._watch.wait_for_turn()
        if pause_seconds := self._pause.seconds_left:
            await asyncio.sleep(pause_seconds)
            return 1
        await self._isolation.wait_until_open()
        room = await self._slots.wait_for_room()
        claims = await self._source.claim(min(room, MAX_CLAIMS))
        if not claims:
            self._clear_problem()
        await self._begin(claims, duty)
        return len(claims)

    async def _claim_abandoned_step(self, duty: Duty) -> int:
        """Claim tasks that another agent claimed before it died.

        This needs no free slot: a task that cannot begin here is put back, and an agent with a free slot claims it
        before all new tasks.
        """
        if self._pause.seconds_left:
            return 0
        limit = min(self._config.concurrency, MAX_CLAIMS)
        claims = await self._source.claim_abandoned(limit, unstarted_seconds=self._unstarted_seconds)
        await self._begin(claims, duty)
        return len(claims)

    async def _begin(self, claims: Sequence[Claim], duty: Duty) -> None:
        """Run the claims for which there is room and put the others back: a source may return more than requested."""
        others: list[Claim] = []
        for claim in claims:
            if self._has_room(duty) and self._watch.take_turn():
                self._slots.run(self._run_claim(claim, duty, is_ahead=self._slots.is_full))
            else:
                others.append(claim)
        await asyncio.gather(*(until_available(claim.put_back, "put back") for claim in others))

    def _has_room(self, duty: Duty) -> bool:
        is_working = duty.open.is_set() and not duty.draining.is_set() and not self._pause.seconds_left
        return is_working and self._slots.room > 0 and self._isolation.is_open

    # Execute

    async def _run_claim(self, claim: Claim, duty: Duty, *, is_ahead: bool) -> None:
        """Start an attempt, execute it, and settle its outcome."""
        address = str(self._watch.address)
        attempt = await until_available(partial(claim.start, address=address, is_ahead=is_ahead), "start")
        if attempt is None:
            return
        if self._leaves_to_others(attempt, duty):
            await self._settlement.release(attempt, called=False)
        elif isinstance(attempt.task, Unreadable):
            await self._refuse(attempt, attempt.task)
        else:
            self._pause.note_readable()
            self._clear_problem()
            with self._leases.holding(attempt, is_ahead=is_ahead) as held:
                await self._run_attempt(held, attempt.task, duty)

    def _leaves_to_others(self, attempt: StartedAttempt, duty: Duty) -> bool:
        """Return True if this agent should release the attempt.

        While a suspect (a task that may crash its worker) runs alone, other attempts are released and do not wait here:
        if the suspect crashed this worker, they would be lost with it and become suspects too.
        """
        if duty.draining.is_set() or not self._isolation.is_open:
            return True
        if not self._isolation.passes_on(attempt):
            return False
        self._pause.wait(PASSED_ON_SECONDS)
        return True

    async def _run_attempt(self, held: HeldAttempt, task: ClaimedTask, duty: Duty) -> None:
        """Wait for a slot and for the attempt's turn, execute it, and settle its outcome.

        An attempt that gets no slot in time is released, so that an idle agent can run its task. So is one that must
        not begin when it gets its slot.
        """
        slot = self._slots.slot()
        try:
            async with slot as has_slot:
                if not has_slot or duty.draining.is_set() or not (self._isolation.is_open and self._watch.is_open):
                    held.settling = True
                    await self._settlement.release(held.attempt, called=False)
                    return
                async with self._isolation.turn(held.attempt):
                    self._leases.begin_call(held)
                    await self._execute(held, task, slot, duty)
        except asyncio.CancelledError:
            if held.calling or held.stop is None:
                raise
            held.runner.uncancel()
            if held.stop is StopReason.CANCELLED:
                held.settling = True
                await self._settlement.settle(held.attempt, CANCELLED, run_seconds=held.run_seconds)

    async def _execute(self, held: HeldAttempt, task: ClaimedTask, slot: Slot, duty: Duty) -> None:
        """Call the container and settle the outcome; at the same time notify the container of an aborted call.

        The slot of an aborted call stays occupied until the container is notified, so that the next task does not run
        beside this one. The slot of any other call is left while the outcome is recorded.
        """
        if held.attempt.is_first:
            metrics.task_queue_wait.observe((held.attempt.started_at_ms - held.attempt.queued_at_ms) / 1000)
        executed = await self._execution.run(held, task, duty)
        ends: list[Awaitable[None]] = []
        if executed.outcome is not None:
            held.settling = True  # now: the coroutine begins later, and the attempt must not be stopped before that
            ends.append(self._settlement.settle(held.attempt, executed.outcome, run_seconds=held.run_seconds))
        if executed.is_broken_off:
            ends.append(self._execution.notify_stopped(held, task, duty))
        else:
            slot.leave()
        if len(ends) == 1:  # the usual end needs no further asyncio task
            await ends[0]
        else:
            await asyncio.gather(*ends)

    # Unreadable tasks

    async def _refuse(self, attempt: StartedAttempt, unreadable: Unreadable) -> None:
        """Release a task whose headers need a key that other agents may have; fail it if no key can open them."""
        if unreadable.is_being_sealed:
            self._pause.wait(SEALING_SECONDS)
            log.info("a task is released until the engine has sealed its headers for this agent", extra=attempt.ids)
            await self._settlement.release(attempt, called=False)
            return
        if not unreadable.is_key_missing:
            failed = Failed(f"the worker's agent cannot read the task's headers: {unreadable.reason}")
            await self._settlement.settle(attempt, failed, run_seconds=0.0)
            return
        self._pause.begin()
        reason = unreadable.reason
        self.problem = f"the agent leaves tasks to other agents, because it cannot open their headers: {reason}"
        metrics.agent_tasks_unreadable.inc()
        log.error("the agent leaves tasks to other agents", extra={**attempt.ids, "error": reason})
        await self._settlement.release(attempt, called=False)

    def _clear_problem(self) -> None:
        """Clear the problem after a readable task or an empty queue; during a pause, keep it.

        The end of the pause alone does not clear the problem, so that a worker whose next task is unreadable too does
        not become RUNNING in between.
        """
        if not self._pause.seconds_left:
            self.problem = ""
