"""The work of an agent of a QUEUE endpoint: claim tasks, have the container run them, record what comes of them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from queue_engine import metrics
from queue_engine.aio import end_tasks, retry_while_unavailable, run_forever, wait_for_event
from queue_engine.domain.agent_protocol import RELEASE_SECONDS
from queue_engine.domain.tasks import (
    NOT_CONNECTED_FAULTS,
    ClaimedTask,
    ContainerAnswer,
    Failed,
    Outcome,
    Succeeded,
    TaskState,
    TryAgain,
    judge,
    loggable_error,
)
from queue_engine.runtime.gate import Gate
from queue_engine.runtime.http_faults import RESET
from queue_engine.runtime.sealing import SealBroken, SealKeyUnknown, SecretKeyMissing
from queue_engine.store.claims import ClaimStore, Entry, Renewal, Settled, Started
from queue_engine.store.client import unavailability
from queue_engine.store.constants import CANCELLED_WHILE_RUNNING
from worker_agent.agent import AgentConfig, Duty
from worker_agent.claim_pause import ClaimPause
from worker_agent.container import ContainerWatch
from worker_agent.forward import Forwarder, cancel_request_for, request_for

log = logging.getLogger(__name__)
T = TypeVar("T")

BLOCK_MS = 2000
"""How long one read waits for a task; a dead connection is noticed by its silence beyond that."""
MAX_READ = 64
"""Entries asked for in one read."""
MOST_UNSTARTED_SECONDS = 10.0
"""An entry that an agent has read and not started for a lease, or for so long, is taken over: starting follows reading
at once. When that agent lives all the same, the entry goes to whoever starts it first, and is stale for the other."""

MOST_PASSED_ON = 10_000
"""Suspects that an agent remembers to have left to others."""


LOST_FAULTS = NOT_CONNECTED_FAULTS | {RESET}
"""Faults of a call that the end of the container's process explains."""
BROKEN_OFF_FAULTS = frozenset({"timeout", "too_large"})
"""Faults of a call that this side broke off: the container may still be at work."""
CONTAINER_END_SECONDS = 1.0
"""How far apart the end of the container's process and of its connections may be noticed."""


class _Stop(Enum):
    """Why an attempt is broken off."""

    CANCELLED = (logging.INFO, "the task is cancelled: its call is stopped")
    FENCED = (logging.WARNING, "the attempt is fenced: its call is stopped")
    RELEASED = (logging.INFO, "the agent drains: its call is stopped")
    CONTAINER_ENDED = (logging.WARNING, "the container has ended: its call is stopped")

    def __init__(self, level: int, text: str) -> None:
        self.level = level
        self.text = text


_CANCELLED = Failed(CANCELLED_WHILE_RUNNING, TaskState.CANCELLED)


@dataclass
class _Held:
    """An attempt under way."""

    started: Started
    runner: asyncio.Task[None]
    stop: _Stop | None = None
    calling: bool = False
    """The container may have the request."""
    settling: bool = False
    """Its outcome is on its way to the store."""
    began: float = field(default_factory=time.monotonic)


class TaskWork:
    """Runs tasks until the agent drains; then running tasks finish within the grace, or are handed back.

    Guarantees: a task is executed only while this agent holds its lease, as far as it can know; an outcome is kept and
    offered to the store until the store has taken or refused it.
    """

    def __init__(
        self,
        config: AgentConfig,
        claims: ClaimStore,
        forwarder: Forwarder,
        watch: ContainerWatch,
        pause: ClaimPause | None = None,
    ) -> None:
        self._config = config
        self._claims = claims
        self._forwarder = forwarder
        self._watch = watch
        self._held: dict[str, _Held] = {}
        self._runners: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()
        self._gate = Gate()
        self._passed_on: OrderedDict[str, bool] = OrderedDict()
        self._unstarted_seconds = min(config.lease_seconds, MOST_UNSTARTED_SECONDS)
        self._pause = pause or ClaimPause()
        self.fault = ""
        # A backend ends a worker by force soon after its grace; by itself an agent may wait for the store for longer.
        self._end_seconds = RELEASE_SECONDS if config.managed else config.lease_seconds

    @property
    def running_tasks(self) -> int:
        return len(self._held)

    async def run(self, duty: Duty) -> None:
        heartbeats = asyncio.create_task(self._heartbeats(), name="heartbeats")
        claiming = (
            asyncio.create_task(
                run_forever(partial(self._claim, duty), idle_seconds=0, name="claim", passing=unavailability),
                name="claim",
            ),
            asyncio.create_task(
                run_forever(
                    partial(self._take_over, duty),
                    idle_seconds=self._unstarted_seconds / 4,
                    name="take over",
                    passing=unavailability,
                ),
                name="take over",
            ),
        )
        try:
            await duty.draining.wait()
            await end_tasks(*claiming)
            await self._drain(duty)
        finally:
            await end_tasks(heartbeats, *claiming)

    # Claiming

    async def _claim(self, duty: Duty) -> int:
        """One round: wait for the container and a free slot, read, begin what was read."""
        await duty.open.wait()
        await self._watch.wait_for_turn()
        if pause_seconds := self._pause.seconds_left:
            await asyncio.sleep(pause_seconds)
            return 1
        await self._gate.wait_until_open()
        free = await self._free_slots()
        entries = await self._claims.read(min(free, MAX_READ), block_ms=BLOCK_MS)
        if not entries:
            self._note_no_fault()
        await self._begin(entries, duty)
        return len(entries)

    async def _take_over(self, duty: Duty) -> int:
        """One round over entries that an agent read before it died.

        Without a free slot too: what cannot begin here goes before all new tasks, to whoever has a slot first.
        """
        if self._pause.seconds_left:
            return 0
        most = min(self._config.concurrency, MAX_READ)
        entries = await self._claims.take_over(most, idle_ms=int(self._unstarted_seconds * 1000))
        await self._begin(entries, duty)
        return len(entries)

    async def _free_slots(self) -> int:
        while (free := self._config.concurrency - len(self._runners)) <= 0:
            self._freed.clear()
            await self._freed.wait()
        return free

    async def _begin(self, entries: list[Entry], duty: Duty) -> None:
        """Start what fits; a read gives up to twice what was asked for, as it covers two queues."""
        for entry in entries:
            has_room = len(self._runners) < self._config.concurrency and self._gate.is_open
            may_begin = has_room and duty.open.is_set() and not duty.draining.is_set() and not self._pause.seconds_left
            if may_begin and self._watch.take_turn():
                runner = asyncio.create_task(self._run_entry(entry, duty))
                self._runners.add(runner)
                runner.add_done_callback(self._ended)
            else:
                await self._persist(partial(self._claims.put_back, entry), "put back")

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        self._freed.set()
        if not runner.cancelled() and (error := runner.exception()) is not None:
            log.error("a task's runner failed; its lease will run out", exc_info=error)

    # One attempt: start, call, settle

    async def _run_entry(self, entry: Entry, duty: Duty) -> None:
        started = await self._persist(lambda: self._claims.start(entry, address=str(self._watch.address)), "start")
        if started is None:
            return
        # Were it to wait here with its lease, it would be lost together with the worker of the suspect that runs alone,
        # and that would be held against it.
        if duty.draining.is_set() or not self._gate.is_open or self._passes_on(started):
            await self._persist(partial(self._release, started, called=False), "hand back")
            return
        task = await self._opened(started)
        if task is None:
            return
        held = self._held[started.lease.token] = _Held(started, runner=_this_task())
        metrics.agent_running_tasks.inc()
        try:
            await self._attempt(held, task, duty)
        finally:
            metrics.agent_running_tasks.dec()
            self._held.pop(started.lease.token, None)

    def _passes_on(self, started: Started) -> bool:
        """Whether a suspect, which would wait here until all calls have ended, is left to agents that may be idle.

        The second time it stays: when all are busy somebody must wait for it, and take nothing else meanwhile.
        """
        task_id = started.lease.task_id
        if not started.is_suspect or self._gate.is_empty or self._passed_on.pop(task_id, False):
            return False
        self._passed_on[task_id] = True
        if len(self._passed_on) > MOST_PASSED_ON:
            self._passed_on.popitem(last=False)
        log.info("a suspect is left to an idle agent, if there is one", extra=self._ids(started))
        return True

    async def _opened(self, started: Started) -> ClaimedTask | None:
        """Return the task with its secrets; None when they cannot be opened, and the task is released or has failed.

        It is left to other agents when this agent lacks the key. It fails when the secret was moved or changed, or when
        its key is no longer in use.
        """
        try:
            task = self._claims.open(started)
        except (SecretKeyMissing, SealBroken) as error:
            why = error
        else:
            self._pause.note_readable()
            self._note_no_fault()
            return task
        if await self._is_key_missing(why):
            self._pause_claims(started, why)
            await self._persist(partial(self._release, started, called=False), "release")
        else:
            failed = Failed(f"the worker's agent cannot read the task's headers: {why}")
            await self._settle(_Held(started, runner=_this_task()), failed)
        return None

    async def _is_key_missing(self, error: SecretKeyMissing | SealBroken) -> bool:
        if isinstance(error, SealKeyUnknown):
            return await self._persist(partial(self._claims.is_key_in_use, error.fingerprint), "secret key")
        return isinstance(error, SecretKeyMissing)

    def _pause_claims(self, started: Started, error: Exception) -> None:
        """Claim nothing for a while, and say why."""
        self._pause.begin()
        self.fault = f"the agent leaves tasks to other agents, because it cannot open their headers: {error}"
        metrics.agent_tasks_unreadable.inc()
        log.error("the agent leaves tasks to other agents", extra={**self._ids(started), "error": str(error)})

    def _note_no_fault(self) -> None:
        """Clear the fault: a task could be opened, or none waits. During a pause the agent does leave tasks to others.

        The end of the pause alone does not clear it, so that a worker whose next task is unreadable too does not become
        RUNNING in between.
        """
        if not self._pause.seconds_left:
            self.fault = ""

    async def _attempt(self, held: _Held, task: ClaimedTask, duty: Duty) -> None:
        """Wait for the task's turn, run it, record its outcome."""
        if held.started.is_first:
            metrics.task_queue_wait.observe((held.started.started_at_ms - held.started.created_at_ms) / 1000)
        try:
            # What may kill the worker is run alone: its neighbours must not pay for it again and again.
            async with self._gate.passed(alone=held.started.is_suspect):
                held.calling = True
                await self._run_call(held, task, duty)
        except asyncio.CancelledError:
            if held.calling or held.stop is None:
                raise
            held.runner.uncancel()
            if held.stop is _Stop.CANCELLED:
                await self._settle(held, _CANCELLED)

    async def _run_call(self, held: _Held, task: ClaimedTask, duty: Duty) -> None:
        """Call the container and record the outcome. When the call was broken off, tell the container meanwhile.

        Its slot stays taken until the container knows, so that the next task does not run beside this one.
        """
        came = await self._answer(held, task, duty)
        outcome = self._outcome(held, came)
        ends: list[Awaitable[None]] = []
        if outcome is not None:
            held.settling = True  # now, because the coroutine begins later, and must not be stopped before
            ends.append(self._settle(held, outcome))
        if came is None or came[0].fault in BROKEN_OFF_FAULTS:
            ends.append(self._tell_container(held, task, duty))
        await asyncio.gather(*ends)

    async def _answer(self, held: _Held, task: ClaimedTask, duty: Duty) -> tuple[ContainerAnswer, bool] | None:
        """Return what came of the call, and whether the worker has yet to serve; None when `held.stop` broke it off."""
        try:
            answer, is_starting = await self._watch.observed(self._call(task))
            if answer.fault in LOST_FAULTS and self._config.runs_container:
                # The connection breaks some milliseconds before the end of the process is noticed.
                await wait_for_event(duty.container_ended, CONTAINER_END_SECONDS)
        except asyncio.CancelledError:
            if held.stop is None:
                raise
            held.runner.uncancel()
            if held.stop is not _Stop.CONTAINER_ENDED:
                return None
            answer, is_starting = ContainerAnswer(fault=RESET), False
        if answer.fault in LOST_FAULTS and duty.container_ended.is_set():
            answer = replace(answer, detail=duty.container_end)
        return answer, is_starting

    def _outcome(self, held: _Held, came: tuple[ContainerAnswer, bool] | None) -> Outcome | None:
        """Return what is recorded of the attempt; None when that is not this agent's to do any longer."""
        if came is None:
            return _CANCELLED if held.stop is _Stop.CANCELLED else None
        answer, is_starting = came
        policy, budget = held.started.retry_policy, held.started.budget
        return judge(answer, policy, budget, luck=random.random(), is_starting=is_starting)

    async def _call(self, task: ClaimedTask) -> ContainerAnswer:
        request = request_for(task, self._watch.address)
        if request is None:
            return ContainerAnswer(fault="not_exposed", detail=self._watch.address.refusal(task.spec.worker_port))
        return await self._forwarder.forward(request)

    async def _tell_container(self, held: _Held, task: ClaimedTask, duty: Duty) -> None:
        """Call the endpoint's cancelUri, if it has one, because the attempt was given up while its call ran."""
        request = cancel_request_for(task, held.started.cancel_uri, self._watch.address)
        if request is None or duty.container_ended.is_set():
            return
        if duty.draining.is_set():
            request = replace(request, timeout_seconds=RELEASE_SECONDS)
        answer = await self._forwarder.forward(request)
        if answer.status is None or answer.status >= 300:
            log.warning(
                "the container has not taken the cancellation: %s",
                answer.status or answer.detail or answer.fault,
                extra=self._ids(held.started),
            )

    async def _settle(self, held: _Held, outcome: Outcome) -> None:
        held.settling = True
        run_seconds = time.monotonic() - held.began
        lease = held.started.lease
        settled = await self._persist(lambda: self._claims.settle(lease, outcome), "settle")
        self._count(held.started, outcome, settled, run_seconds)

    def _count(self, started: Started, outcome: Outcome, settled: Settled, run_seconds: float) -> None:
        refused = settled.word in ("FENCED", "GONE")
        metrics.task_attempts.labels(outcome="fenced" if refused else _outcome_label(outcome)).inc()
        metrics.task_run.observe(run_seconds)
        if refused:
            metrics.stale_results_rejected.inc()
        elif settled.word == "CANCELLED":
            metrics.tasks_finished.labels(state=TaskState.CANCELLED.value).inc()
        elif settled.word == "FAILED" or not isinstance(outcome, TryAgain):
            metrics.tasks_finished.labels(state=_state_of(outcome).value).inc()
            if settled.now_ms:
                metrics.task_end_to_end.observe((settled.now_ms - settled.created_at_ms) / 1000)
        if log.isEnabledFor(logging.INFO):
            why = {} if isinstance(outcome, Succeeded) else {"error": loggable_error(outcome.error)}
            facts = {"outcome": _outcome_label(outcome), "store": settled.word, "seconds": round(run_seconds, 4)}
            log.info("attempt ended", extra={**self._ids(started), **facts, **why})

    def _ids(self, started: Started) -> dict[str, Any]:
        """Return the fields by which the log lines of an attempt are found."""
        lease = started.lease
        return {
            "endpoint": lease.endpoint_id,
            "task": lease.task_id,
            "attempt": started.attempt,
            "worker": self._config.worker_id,
        }

    # Leases

    async def _heartbeats(self) -> None:
        await run_forever(
            self._renew, idle_seconds=self._config.lease_seconds / 4, name="heartbeats", passing=unavailability
        )

    async def _renew(self) -> int:
        """One heartbeat for all tasks that are held. Always answers 0: the next is due after the interval."""
        held = list(self._held.values())
        for first in range(0, len(held), 500):
            batch = held[first : first + 500]
            words = await self._claims.renew([one.started.lease for one in batch])
            for one, word in zip(batch, words, strict=True):
                self._heed(one, word)
            metrics.agent_last_heartbeat_timestamp.set_to_current_time()
        return 0

    def _heed(self, held: _Held, word: Renewal) -> None:
        if word is Renewal.READOPTED:
            log.warning("a lease had run out and is held again", extra=self._ids(held.started))
        if word not in (Renewal.OK, Renewal.READOPTED):
            self._stop(held, _Stop.CANCELLED if word is Renewal.CANCEL else _Stop.FENCED)

    def _stop(self, held: _Held, why: _Stop) -> None:
        """Break the attempt off, unless its outcome is on its way to the store or it is being broken off."""
        if held.settling or held.stop is not None or held.started.lease.token not in self._held:
            return
        log.log(why.level, why.text, extra=self._ids(held.started))
        if why is _Stop.FENCED:
            metrics.task_attempts.labels(outcome="fenced").inc()
        held.stop = why
        held.runner.cancel()

    # The end

    async def _drain(self, duty: Duty) -> None:
        """Let running calls finish within the grace, then release the other attempts, at no cost to their tasks.

        An attempt that waits to be alone, and what was read and not started, is released at once.
        """
        waiting = [held for held in self._unfinished() if not held.calling]
        early = asyncio.create_task(self._hand_back(waiting, called=False))
        try:
            await self._let_calls_finish(duty)
            await self._hand_back(self._unfinished(), called=True)
            await early
        finally:
            await end_tasks(early, *self._runners)

    async def _let_calls_finish(self, duty: Duty) -> None:
        """Wait for the running calls, for the grace at most. After the container's end they cannot go on."""
        if not self._runners:
            return
        finishing = asyncio.create_task(_all_ended(set(self._runners)))
        ending = asyncio.create_task(_ended_within(duty.container_ended, self._config.grace_seconds))
        await asyncio.wait({finishing, ending}, return_when=asyncio.FIRST_COMPLETED)
        if duty.container_ended.is_set():
            await asyncio.wait({finishing}, timeout=CONTAINER_END_SECONDS)
            for held in self._unfinished():
                self._stop(held, _Stop.CONTAINER_ENDED)
            await asyncio.wait({finishing}, timeout=self._end_seconds)
        await end_tasks(finishing, ending)

    async def _hand_back(self, attempts: list[_Held], *, called: bool) -> None:
        """Release these attempts and what was not started, in one round trip; then wait until their calls are stopped.

        The store comes first, because the container may take its time. Bounded: when the store stays away, the leases
        run out and the tasks are queued again then.
        """
        writes: list[asyncio.Task[None]] = [
            asyncio.create_task(self._persist(partial(self._release, one.started, called=called), "release"))
            for one in attempts
        ]
        writes.append(asyncio.create_task(self._put_back_unstarted()))
        for held in attempts:
            self._stop(held, _Stop.RELEASED)
        stopped = {held.runner for held in attempts}
        if called:
            stopped |= self._runners
        _, late = await asyncio.wait({*writes, *stopped}, timeout=self._end_seconds)
        if not late.isdisjoint(writes):
            log.warning("the store is away: the tasks are queued again when their leases have run out")
        await end_tasks(*late)
        for write in writes:
            if not write.cancelled() and (error := write.exception()) is not None:
                log.error("an attempt was not released; its lease will run out", exc_info=error)

    def _unfinished(self) -> list[_Held]:
        """Attempts whose outcome is not on its way to the store."""
        return [held for held in self._held.values() if not held.settling and held.stop is None]

    async def _release(self, started: Started, *, called: bool = True) -> None:
        word = await self._claims.release(started.lease, called=called)
        log.info("attempt released", extra={**self._ids(started), "called": called, "store": word})
        if word == "CANCELLED":
            metrics.tasks_finished.labels(state=TaskState.CANCELLED.value).inc()

    async def _put_back_unstarted(self) -> None:
        """Put back the entries that a read was handing to this agent when it was cut off."""
        entries = await self._persist(self._claims.read_own, "read back")
        await asyncio.gather(*(self._persist(partial(self._claims.put_back, entry), "put back") for entry in entries))

    async def _persist(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        return await retry_while_unavailable(call, passing=unavailability, what=what)


def _outcome_label(outcome: Outcome) -> str:
    if isinstance(outcome, Succeeded):
        return "ok"
    if isinstance(outcome, Failed) and outcome.state is TaskState.CANCELLED:
        return "cancelled"
    return "timeout" if isinstance(outcome, Failed) and outcome.state is TaskState.TIMED_OUT else "error"


def _state_of(outcome: Outcome) -> TaskState:
    """Return the state of a task that this outcome has ended; a try that is one too many fails it."""
    if isinstance(outcome, Succeeded):
        return TaskState.SUCCEEDED
    return outcome.state if isinstance(outcome, Failed) else TaskState.FAILED


async def _all_ended(runners: set[asyncio.Task[None]]) -> None:
    await asyncio.wait(runners)


async def _ended_within(event: asyncio.Event, seconds: float) -> None:
    await wait_for_event(event, seconds)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("must be called inside a task")
    return task
