"""The end of an agent's work: running calls may finish within the grace period, and other tasks are queued again."""

from __future__ import annotations

import asyncio
import logging

from queue_engine.aio import end_tasks, wait_for_event
from queue_engine.domain.agent_protocol import RELEASE_SECONDS
from worker_agent.agent import AgentConfig, Duty
from worker_agent.execution import CONTAINER_END_SECONDS
from worker_agent.leases import HeldAttempt, Leases, StopReason
from worker_agent.ports import ClaimSource, until_available
from worker_agent.settlement import Settlement
from worker_agent.slots import Slots

log = logging.getLogger(__name__)


class Drain:
    """Ends the attempts of an agent that has stopped claiming."""

    def __init__(
        self, config: AgentConfig, source: ClaimSource, leases: Leases, settlement: Settlement, slots: Slots
    ) -> None:
        self._grace_seconds = config.grace_seconds
        self._source = source
        self._leases = leases
        self._settlement = settlement
        self._slots = slots
        # A backend kills a worker soon after its grace period. Without a backend the agent may wait longer.
        self._end_seconds = RELEASE_SECONDS if config.managed else config.lease_seconds

    async def run(self, duty: Duty) -> None:
        """Let running calls finish within the grace period, then release the attempts that remain.

        Attempts that wait for a slot or to run alone, and unstarted claims, are released at once. A released attempt
        does not count against its task. If the engine refuses the agent, the calls are stopped at once: the leases
        expire, and other agents run the tasks. A call that went on would run its task beside them.
        """
        waiting = [held for held in self._leases.unfinished() if not held.calling]
        early = asyncio.create_task(self._release(waiting, called=False))
        try:
            await self._let_calls_finish(duty)
            if duty.refused.is_set():
                await self._stop_calls()
                return
            await self._release(self._leases.unfinished(), called=True)
            await early
        finally:
            await end_tasks(early, *self._slots.runners)

    async def _let_calls_finish(self, duty: Duty) -> None:
        """Wait for the running calls, at most for the grace period; stop them if the container has ended.

        Do not wait for calls whose results the engine would not accept.
        """
        runners = self._slots.runners
        if not runners:
            return
        finishing = asyncio.create_task(_all_ended(runners))
        ending = asyncio.create_task(_ended_within(duty.container_ended, self._grace_seconds))
        refusing = asyncio.create_task(_ended_within(duty.refused, None))
        await asyncio.wait({finishing, ending, refusing}, return_when=asyncio.FIRST_COMPLETED)
        if duty.container_ended.is_set():
            await asyncio.wait({finishing}, timeout=CONTAINER_END_SECONDS)
            for held in self._leases.unfinished():
                self._leases.stop(held, StopReason.CONTAINER_ENDED)
            await asyncio.wait({finishing}, timeout=self._end_seconds)
        await end_tasks(finishing, ending, refusing)

    async def _stop_calls(self) -> None:
        """Stop the running calls without releasing their tasks, and wait for RELEASE_SECONDS until they have ended."""
        for held in self._leases.unfinished():
            self._leases.stop(held, StopReason.REFUSED)
        if runners := self._slots.runners:
            await asyncio.wait(runners, timeout=RELEASE_SECONDS)

    async def _release(self, attempts: list[HeldAttempt], *, called: bool) -> None:
        """Release these attempts and the unstarted claims at the same time, and wait until their calls are stopped.

        The store is called before the container has stopped, because the container may be slow. The wait is bounded:
        while the store is unavailable, the tasks are queued again when their leases expire.
        """
        writes: list[asyncio.Task[None]] = [
            asyncio.create_task(self._settlement.release(held.attempt, called=called)) for held in attempts
        ]
        writes.append(asyncio.create_task(self._put_back_unstarted()))
        for held in attempts:
            self._leases.stop(held, StopReason.RELEASED)
        stopped = {held.runner for held in attempts}
        if called:
            stopped |= self._slots.runners
        try:
            _, late = await asyncio.wait({*writes, *stopped}, timeout=self._end_seconds)
            if not late.isdisjoint(writes):
                log.warning("the engine is away: the tasks are queued again when their leases expire")
            await end_tasks(*late)
        finally:
            await end_tasks(*writes)  # of a drain that the engine's refusal cuts short
        _log_failures(writes)

    async def _put_back_unstarted(self) -> None:
        """Put back the claims that the store made for this agent just when it stopped claiming."""
        claims = await until_available(self._source.unstarted_claims, "read back")
        await asyncio.gather(*(until_available(claim.put_back, "put back") for claim in claims))


def _log_failures(writes: list[asyncio.Task[None]]) -> None:
    for write in writes:
        if not write.cancelled() and (error := write.exception()) is not None:
            log.error("an attempt was not released; its lease will expire", exc_info=error)


async def _all_ended(runners: set[asyncio.Task[None]]) -> None:
    await asyncio.wait(runners)


async def _ended_within(event: asyncio.Event, seconds: float | None) -> None:
    await wait_for_event(event, seconds)
