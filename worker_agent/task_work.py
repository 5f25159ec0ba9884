"""The work of an agent of a QUEUE endpoint: claim tasks, have the container run them, record what comes of them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from queue_engine import metrics
from queue_engine.domain.tasks import (
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
from queue_engine.runtime.loops import drive, end_tasks, persist
from queue_engine.runtime.sealing import SealBroken, SecretKeyMissing
from queue_engine.store.claims import ClaimStore, Entry, Renewal, Settled, Started
from queue_engine.store.client import unavailability
from queue_engine.store.tasks import CANCELLED_WHILE_RUNNING
from worker_agent.agent import AgentConfig, Duty
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


@dataclass
class _Held:
    """An attempt under way."""

    started: Started
    runner: asyncio.Task[None]
    fenced: bool = False
    """Somebody else has the task: nothing of the attempt is recorded."""
    cancelled: bool = False
    """The task is to be stopped, and that is recorded."""
    calling: bool = False
    """The container may have the request."""
    settling: bool = False


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

    @property
    def running_tasks(self) -> int:
        return len(self._held)

    async def run(self, duty: Duty) -> None:
        heartbeats = asyncio.create_task(self._heartbeats(), name="heartbeats")
        claiming = (
            asyncio.create_task(
                drive(partial(self._claim, duty), idle_seconds=0, name="claim", passing=unavailability), name="claim"
            ),
            asyncio.create_task(
                drive(
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
            await self._finish_or_release()
        finally:
            await end_tasks(heartbeats, *claiming)

    # Claiming

    async def _claim(self, duty: Duty) -> int:
        """One round: wait for the container and a free slot, read, begin what was read."""
        await duty.open.wait()
        await self._watch.wait_for_turn()
        await self._gate.wait_until_open()
        free = await self._free_slots()
        entries = await self._claims.read(min(free, MAX_READ), block_ms=BLOCK_MS)
        await self._begin(entries, duty)
        return len(entries)

    async def _take_over(self, duty: Duty) -> int:
        """One round over entries that an agent read before it died.

        Without a free slot too: what cannot begin here goes before all new tasks, to whoever has a slot first.
        """
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
            may_begin = has_room and duty.open.is_set() and not duty.draining.is_set()
            if may_begin and self._watch.take_turn():
                runner = asyncio.create_task(self._run_entry(entry))
                self._runners.add(runner)
                runner.add_done_callback(self._ended)
            else:
                await self._persist(partial(self._claims.put_back, entry), "put back")

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        self._freed.set()
        if not runner.cancelled() and (error := runner.exception()) is not None:
            log.error("a task's runner failed; its lease will run out", exc_info=error)

    # One attempt: start, execute, settle

    async def _run_entry(self, entry: Entry) -> None:
        started = await self._persist(lambda: self._claims.start(entry, address=str(self._watch.address)), "start")
        if started is None:
            return
        # Were it to wait here with its lease, it would be lost together with the worker of the suspect that runs alone,
        # and that would be held against it.
        if not self._gate.is_open or self._passes_on(started):
            await self._persist(partial(self._release, started, called=False), "hand back")
            return
        held = self._held[started.lease.token] = _Held(started, runner=_this_task())
        metrics.agent_running_tasks.inc()
        began = time.monotonic()
        try:
            outcome = await self._execute(held)
            if outcome is not None:
                held.settling = True
                await self._settle(held, outcome, time.monotonic() - began)
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

    async def _execute(self, held: _Held) -> Outcome | None:
        """The outcome of the attempt, or None when it was fenced meanwhile."""
        started = held.started
        try:
            task = self._claims.open(started)
        except (SecretKeyMissing, SealBroken) as error:
            return Failed(f"the worker's agent cannot read the task's headers: {error}")
        if started.is_first:
            metrics.task_queue_wait.observe((started.started_at_ms - started.created_at_ms) / 1000)
        try:
            # What may kill the worker is run alone: its neighbours must not pay for it again and again.
            async with self._gate.passed(alone=started.is_suspect):
                held.calling = True
                answer, is_free = await self._watch.observed(self._call(task))
        except asyncio.CancelledError:
            if not held.fenced and not held.cancelled:
                raise
            held.runner.uncancel()
            return await self._cancelled(held, task) if held.cancelled else None
        return judge(answer, started.retry_policy, started.budget, luck=random.random(), is_starting=is_free)

    async def _cancelled(self, held: _Held, task: ClaimedTask) -> Outcome:
        """The call has been broken off; the container is told, where the endpoint says how."""
        request = cancel_request_for(task, held.started.cancel_uri, self._watch.address) if held.calling else None
        if request is not None:
            answer = await self._forwarder.forward(request)
            if answer.status is None or answer.status >= 300:
                log.warning(
                    "the container has not taken the cancellation: %s",
                    answer.status or answer.detail or answer.fault,
                    extra=self._ids(held.started),
                )
        return Failed(CANCELLED_WHILE_RUNNING, TaskState.CANCELLED)

    async def _call(self, task: ClaimedTask) -> ContainerAnswer:
        request = request_for(task, self._watch.address)
        if request is None:
            return ContainerAnswer(fault="not_exposed", detail=self._watch.address.refusal(task.spec.worker_port))
        return await self._forwarder.forward(request)

    async def _settle(self, held: _Held, outcome: Outcome, run_seconds: float) -> None:
        lease = held.started.lease
        destination = self._claims.public_spec(held.started).webhook_destination
        settled = await self._persist(lambda: self._claims.settle(lease, outcome, destination=destination), "settle")
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
        await drive(self._renew, idle_seconds=self._config.lease_seconds / 4, name="heartbeats", passing=unavailability)

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
        if word in (Renewal.OK, Renewal.READOPTED) or held.settling or held.started.lease.token not in self._held:
            return
        if word is Renewal.CANCEL:
            if not held.cancelled:
                log.info("the task is cancelled: its call is stopped", extra=self._ids(held.started))
                held.cancelled = True
                held.runner.cancel()
            return
        log.warning("the attempt is fenced: its call is stopped", extra=self._ids(held.started))
        metrics.task_attempts.labels(outcome="fenced").inc()
        held.fenced = True
        held.runner.cancel()

    # The end

    async def _finish_or_release(self) -> None:
        """Let running tasks finish within the grace; hand back those that have not, at no cost to their attempts.

        One that waits to be alone begins no more, and is handed back at once.
        """
        at_gate = self._stop([held for held in self._unfinished() if not held.calling])
        await end_tasks(*(held.runner for held in at_gate))
        for held in at_gate:
            await self._give_back(partial(self._release, held.started, called=False))
        if self._runners:
            await asyncio.wait(set(self._runners), timeout=self._config.grace_seconds)
        unfinished = self._stop(self._unfinished())
        if self._runners:
            await asyncio.wait(set(self._runners), timeout=self._config.lease_seconds)
        for held in unfinished:
            await self._give_back(partial(self._release, held.started))
        await end_tasks(*self._runners)
        for entry in await self._unstarted():
            await self._give_back(partial(self._claims.put_back, entry))

    def _unfinished(self) -> list[_Held]:
        """Attempts whose outcome is not on its way to the store."""
        return [held for held in self._held.values() if not held.settling and not held.cancelled]

    def _stop(self, stopped: list[_Held]) -> list[_Held]:
        for held in stopped:
            held.fenced = True
            held.runner.cancel()
        return stopped

    async def _release(self, started: Started, *, called: bool = True) -> None:
        destination = self._claims.public_spec(started).webhook_destination
        word = await self._claims.release(started.lease, destination=destination, called=called)
        log.info("attempt released", extra={**self._ids(started), "called": called, "store": word})
        if word == "CANCELLED":
            metrics.tasks_finished.labels(state=TaskState.CANCELLED.value).inc()

    async def _unstarted(self) -> list[Entry]:
        """Entries that a read was handing to us when it was cut off."""
        try:
            return await self._claims.read_own()
        except Exception as error:
            if unavailability(error) is None:
                raise
            return []

    async def _give_back(self, call: Callable[[], Awaitable[object]]) -> None:
        """Try for a while; when the store stays away the lease runs out and the task comes back by itself."""
        try:
            async with asyncio.timeout(self._config.lease_seconds):
                await self._persist(call, "give back")
        except TimeoutError:
            log.warning("the store is away: a task comes back when its lease has run out")

    async def _persist(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        return await persist(call, passing=unavailability, what=what)


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


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("must be called inside a task")
    return task
