"""The leases of running attempts. All are renewed together; an attempt that has lost its lease is stopped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from enum import Enum

from queue_engine.domain.attempts import Renewal, StartedAttempt
from queue_engine.observability import metrics
from worker_agent.ports import LeaseSource, loop, until_available

log = logging.getLogger(__name__)

MAX_RENEWED = 500
"""Maximum number of leases that one call renews."""
EARLY_SECONDS = 0.1
"""Time after which cancelled tasks are looked up again that had no attempt: one may have been about to begin."""
NOTE_SECONDS = 0.05
"""Minimum time between two calls that note which calls have begun. Most calls of a busy agent end earlier, and are not
noted."""


class StopReason(Enum):
    """The reason why an attempt is stopped."""

    CANCELLED = (logging.INFO, "the task is cancelled: its call is stopped")
    FENCED = (logging.WARNING, "the attempt is fenced: its call is stopped")
    RELEASED = (logging.INFO, "the agent drains: its call is stopped")
    REFUSED = (logging.WARNING, "the engine refuses the agent: its call is stopped")
    CONTAINER_ENDED = (logging.WARNING, "the container has ended: its call is stopped")

    def __init__(self, level: int, text: str) -> None:
        self.level = level
        self.text = text


@dataclass(eq=False)
class HeldAttempt:
    """A running attempt, whose lease is renewed."""

    attempt: StartedAttempt
    runner: asyncio.Task[None]
    is_ahead: bool = False
    """True if the engine does not count the attempt yet: it was started ahead of a free slot, and the beginning of its
    call is not noted."""
    stop: StopReason | None = None
    calling: bool = False
    """True if the container may have received the request."""
    settling: bool = False
    """True if the outcome is being sent to the store."""
    began: float = field(default_factory=time.monotonic)

    @property
    def run_seconds(self) -> float:
        return time.monotonic() - self.began

    def begin_call(self) -> None:
        """Note that the container may receive the request from now on. A wait before it does not count as running."""
        self.calling = True
        self.began = time.monotonic()


class Leases:
    """The attempts that this agent runs."""

    def __init__(self, source: LeaseSource, *, lease_seconds: float) -> None:
        self._source = source
        self._interval_seconds = lease_seconds / 4
        self._held: dict[str, HeldAttempt] = {}
        self._has_begun = asyncio.Event()
        """Set when the engine should learn of a call that has begun."""
        self._holds_any = asyncio.Event()
        """Set while attempts are held."""

    def holding(self, attempt: StartedAttempt, *, is_ahead: bool = False) -> _Holding:
        """Hold an attempt that runs in the current asyncio task: its lease is renewed within this context."""
        return _Holding(self._held, self._holds_any, attempt, is_ahead=is_ahead)

    def begin_call(self, held: HeldAttempt) -> None:
        """Note that the container may receive the request from now on. The engine learns of it soon."""
        held.begin_call()
        if held.is_ahead:
            self._has_begun.set()

    def unfinished(self) -> list[HeldAttempt]:
        """Return the attempts that are not being stopped and whose outcome is not being sent to the store."""
        return [held for held in self._held.values() if not held.settling and held.stop is None]

    def stop(self, held: HeldAttempt, reason: StopReason) -> None:
        """Stop an attempt, unless its outcome is being sent to the store or it is already being stopped."""
        if held.settling or held.stop is not None or held.attempt.lease.token not in self._held:
            return
        log.log(reason.level, reason.text, extra=held.attempt.ids)
        if reason is StopReason.FENCED:
            metrics.task_attempts.labels(outcome="fenced").inc()
        held.stop = reason
        held.runner.cancel()

    async def renew_forever(self) -> None:
        """Renew all leases four times per lease duration, until cancelled."""
        await loop(self.renew_step, idle_seconds=self._interval_seconds, name="heartbeats")

    async def renew_step(self) -> int:
        """Renew all leases once. Always return 0, so that the loop waits for the interval before the next renewal."""
        held = list(self._held.values())
        for first in range(0, len(held), MAX_RENEWED):
            await self._renew(held[first : first + MAX_RENEWED])
            metrics.agent_last_heartbeat_timestamp.set_to_current_time()
        return 0

    async def stop_cancelled_forever(self) -> None:
        """Stop the attempts of cancelled tasks as soon as the engine tells of them, until cancelled."""
        await loop(self.stop_cancelled_step, idle_seconds=0, name="cancellations")

    async def stop_cancelled_step(self) -> int:
        """Wait for cancelled tasks and renew the leases of their attempts, which stops these. Always return 1.

        Without attempts, wait for the next one, so that an idle agent asks nothing. An outage is over before that wait:
        otherwise it would seem to last until the next task.
        """
        await until_available(self._stop_cancelled, "cancellations")
        await self._holds_any.wait()
        return 1

    async def _stop_cancelled(self) -> None:
        cancelled = set(await self._source.cancelled())
        if unknown := cancelled - await self._renew_attempts_of(cancelled):
            await asyncio.sleep(EARLY_SECONDS)
            await self._renew_attempts_of(unknown)

    async def _renew_attempts_of(self, task_ids: Set[str]) -> set[str]:
        """Renew the leases of the attempts of these tasks; return the ids of those tasks that have one."""
        held = [one for one in self.unfinished() if one.attempt.lease.task_id in task_ids]
        for first in range(0, len(held), MAX_RENEWED):
            await self._renew(held[first : first + MAX_RENEWED])
        return {one.attempt.lease.task_id for one in held}

    async def note_calls_forever(self) -> None:
        """Tell the engine which calls have begun that were started ahead of a free slot, until cancelled."""
        await loop(self.note_calls_step, idle_seconds=NOTE_SECONDS, name="begun calls")

    async def note_calls_step(self) -> int:
        """Wait for such calls, and renew their leases. Always return 0, so that the loop waits before the next ones."""
        await self._has_begun.wait()
        self._has_begun.clear()
        begun = [held for held in self._held.values() if held.is_ahead and held.calling and not held.settling]
        try:
            for first in range(0, len(begun), MAX_RENEWED):
                await self._renew(begun[first : first + MAX_RENEWED])
        except Exception:
            self._has_begun.set()
            raise
        return 0

    async def _renew(self, held: Sequence[HeldAttempt]) -> None:
        """Renew these leases. Sort them now, because calls begin while other leases are renewed."""
        batch = sorted(held, key=lambda one: not one.calling)
        begun = sum(one.calling for one in batch)
        renewals = await self._source.renew([one.attempt.lease for one in batch], begun=begun)
        for one, renewal in zip(batch, renewals, strict=True):
            self._note(one, renewal)
        for one in batch[:begun]:
            one.is_ahead = False

    def _note(self, held: HeldAttempt, renewal: Renewal) -> None:
        if renewal is Renewal.CANCEL:
            self.stop(held, StopReason.CANCELLED)
        elif renewal is Renewal.READOPTED:
            log.warning("a lease had run out and is held again", extra=held.attempt.ids)
        elif renewal is not Renewal.OK:
            self.stop(held, StopReason.FENCED)


class _Holding:
    """A context that holds an attempt. A class, because a contextmanager costs several times as much."""

    def __init__(
        self, held: dict[str, HeldAttempt], holds_any: asyncio.Event, attempt: StartedAttempt, *, is_ahead: bool
    ) -> None:
        self._all = held
        self._holds_any = holds_any
        self._attempt = attempt
        self._is_ahead = is_ahead

    def __enter__(self) -> HeldAttempt:
        held = HeldAttempt(self._attempt, _current_task(), self._is_ahead)
        self._all[self._attempt.lease.token] = held
        self._holds_any.set()
        return held

    def __exit__(self, *_: object) -> None:
        self._all.pop(self._attempt.lease.token, None)
        if not self._all:
            self._holds_any.clear()


def _current_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("must be called inside a task")
    return task
