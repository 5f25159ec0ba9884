"""Reconcile the running workers with the desired ones."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from queue_engine.aio import LaterErrors
from queue_engine.backends.base import (
    Backend,
    BackendError,
    ListsInParts,
    Observed,
    Phase,
    RegistryCredential,
    TellsProblem,
    WorkerSpec,
)
from queue_engine.controller.ends import Ends
from queue_engine.controller.known import Known
from queue_engine.controller.plan import (
    FAILED_AFTER_CRASHES,
    FRESH,
    Action,
    Create,
    Drain,
    Forget,
    Kill,
    NoteEnd,
    NoteReason,
    OfWorker,
    Record,
    Restart,
    Resume,
    Situation,
    Start,
    after_end,
    heard_early,
    is_failing,
    next_look,
    next_starts,
    plan,
    starts_under_way,
)
from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.crypto.sealing import SealBroken, SecretKeyMissing
from queue_engine.domain.agent_tokens import TOKEN_VARIABLE
from queue_engine.domain.credentials import RegistryAuth
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.workers import Worker, WorkerStatus, endpoint_of_worker, managed_worker_id
from queue_engine.store.checks import Taken, TakenChecks
from queue_engine.store.keys import Partition

log = logging.getLogger(__name__)

GAP_SECONDS = 5.0
"""Pause between rounds after which no worker counts as silent for a while, because the store was unavailable to all of
them or the machine is overloaded."""
MIN_GAP_SECONDS = 2.5
"""Lower limit of that pause if `silence_seconds` is short. Rounds are one second apart."""
STARTING_SILENCE_SECONDS = 60.0
"""Minimum silence that counts while many workers start, and for `silence_seconds` afterwards, because starts slow down
the agents on the same machine."""
NOTE_SECONDS = 10.0
"""Interval at which it is noted again that the backend's platform does not respond. The note expires later."""
WAITS_FOR_START = "waits for its start"


class Endpoints(Protocol):
    """The part of the endpoint store that reconciling uses."""

    async def read(self, endpoint_ids: Sequence[str]) -> Mapping[str, Endpoint]: ...
    async def environment(self, endpoint_id: str) -> dict[str, str]: ...
    async def set_failed(self, endpoint_id: str, failed: bool) -> None: ...


class Workers(Protocol):
    """The part of the worker store that reconciling uses."""

    async def of_endpoints(self, endpoint_ids: Sequence[str]) -> Mapping[str, list[Worker]]: ...
    async def put(self, endpoint_id: str, worker_id: str, *, managed: bool, revision: int = 1) -> None: ...
    async def begin_start(self, endpoint_id: str, worker_id: str, agent_token: str | None = None) -> int | None: ...
    async def mark(
        self,
        endpoint_id: str,
        worker_id: str,
        status: WorkerStatus,
        *,
        reason: str,
        error: str = "",
        outdated_error: str = "",
        restarted: bool = False,
    ) -> None: ...
    async def remove(
        self, endpoint_id: str, worker_id: str, *, status: WorkerStatus = ..., reason: str = ...
    ) -> None: ...


class Checks(Protocol):
    """The endpoints to look at, each at its time or when it has changed."""

    async def take(self) -> TakenChecks: ...
    async def plan(self, taken: Taken, wait_seconds: float | None) -> None: ...
    async def hasten(self, endpoint_ids: Collection[str]) -> None: ...
    async def hasten_all(self, done: set[Partition]) -> None: ...


class Credentials(Protocol):
    """The part of the credential store that reconciling uses."""

    async def open(self, tenant: str, credential_id: int) -> RegistryAuth | None: ...


class PlatformNote(Protocol):
    """The note for the owners of endpoints."""

    async def write(self, problem: str | None) -> None: ...


class ContainerOutput(Protocol):
    """The output of containers that the controller writes to their logs, because no agent does."""

    def look(self, observed: Mapping[str, Observed]) -> None:
        """Follow the containers of these workers, and no others."""
        ...

    async def end_of(self, worker_id: str, run: int, reason: str) -> Sequence[str]:
        """Return the last lines of a run that has ended. Takes a limited time, and never raises."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class ReconcilerConfig:
    """Times in seconds."""

    agent_environment: Callable[[str], Mapping[str, str]]
    """Function that returns the variables of an agent of the endpoint with this id."""
    grace_seconds: float
    """Time that a drained worker has to finish its tasks."""
    silence_seconds: float
    """Time without a report after which a worker is restarted."""


@dataclass(frozen=True)
class _Due:
    """A start that is due."""

    endpoint: Endpoint
    worker_id: str
    worker: Worker | None
    """None if the worker was created in this round."""

    @property
    def start(self) -> Start:
        return Start(self.endpoint.tenant, self.endpoint.endpoint_id, self.worker_id)


class Reconciler:
    """Reconciles all endpoints, round by round.

    Only the leader may run it. A round may be repeated, and interrupted at any line, because it begins with the current
    state of the store and the backend. The state kept between rounds is used only for the backoff of restarts, the
    detection of silent workers and the reasons of starts.

    `leads` returns False as soon as the leadership may have ended, for example after the process was paused. Then
    nothing more is done, because workers that outlive their controller belong to the next leader.
    """

    def __init__(
        self,
        config: ReconcilerConfig,
        endpoints: Endpoints,
        workers: Workers,
        checks: Checks,
        credentials: Credentials,
        platform_note: PlatformNote,
        backend: Backend,
        store_now_ms: Callable[[], Awaitable[int]],
        *,
        leads: Callable[[], bool],
        output: ContainerOutput | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._endpoints = endpoints
        self._workers = workers
        self._checks = checks
        self._credentials = credentials
        self._platform_note = platform_note
        self._backend = backend
        # Asked once, because the check of a protocol takes 11 µs, and each look at an endpoint would ask.
        self._in_parts = backend if isinstance(backend, ListsInParts) else None
        self._platform = backend if isinstance(backend, TellsProblem) else None
        self._store_now_ms = store_now_ms
        self._leads = leads
        self._output = output
        self._clock = clock
        self._records: dict[str, Record] = {}
        """Histories of managed workers. No two of them have the same id."""
        self._ends = Ends(workers, leads)
        self._last_round: float | None = None
        self._silence_counts_from = 0.0
        self._starts_seen_at = -math.inf
        """Monotonic time when starts last occupied half of the places."""
        self._known = Known()
        self._observed: Mapping[str, Observed] = {}
        """Observation of the previous round."""
        self._unlisted: frozenset[str] = frozenset()
        """Parts of the platform that had not been listed in the previous round."""
        self._waits_for_list: set[str] = set()
        """Endpoints with workers that may exist in one of these parts."""
        self._waits_for_backend = False
        self._noted_problem: str | None = ""
        """The problem of the platform that was noted last; empty before the first note of this leader."""
        self._note_again_at = math.inf
        self._unplanned: set[str] = set()
        """Endpoints to look at, until a round has set their next look."""
        self._hastened: set[Partition] = set()
        """Partitions whose endpoints have all been made due, by this leader and since the last step of the clock."""
        self._last_store_ms = 0

    async def step(self) -> int:
        """Run a round; return the number of actions.

        An error of one endpoint, or of a part of the store, does not stop the work for others. It is raised at the end.
        """
        ending = self._ends.in_progress()  # before the observation, which shows these workers as they were
        observed = await self._backend.observe()
        self._note_backend(observed)
        if self._leads():
            await self._note_platform()
        if observed is None or not self._leads():
            return 0
        store_now_ms = await self._store_now_ms()
        now = self._clock()
        self._note_round(now, store_now_ms)
        if self._output is not None:
            self._output.look(observed)
        later = LaterErrors()
        await self._make_due(observed, ending, now, later)
        checks = await self._checks.take()
        for error in checks.errors:
            later.keep(error)
        ids = [one.endpoint_id for one in checks.taken]
        self._unplanned.update(ids)
        endpoints, workers = await self._endpoints.read(ids), await self._workers.of_endpoints(ids)
        waits: dict[str, float | None] = {}
        due: list[_Due] = []
        done = 0
        for endpoint_id in ids:
            endpoint = endpoints.get(endpoint_id)
            if endpoint is None:
                self._look(endpoint_id, [], [], now)
                waits[endpoint_id] = None
                continue
            with later:
                situation = self._situation(endpoint, workers.get(endpoint_id, []), observed, now, store_now_ms)
                self._look(endpoint_id, situation.workers, starts_under_way(situation), now)
                actions = await self._reconcile(situation, ending, due)
                waits[endpoint_id] = next_look(situation, actions, self._config.silence_seconds)
                done += len(actions)
        with later:
            await self._start_in_turn(due)
        done += self._end_strangers(observed, ending, ids)
        with later:
            await self._plan([one for one in checks.taken if one.endpoint_id in waits], waits)
        later.raise_first()
        return done

    async def _make_due(
        self, observed: Mapping[str, Observed], ending: Collection[str], now: float, later: LaterErrors
    ) -> None:
        """Make endpoints due for reasons that the store does not know: a new leader, a step back of the store's clock,
        a worker that has ended or appeared in the backend, an interrupted round, and a next look that the store has
        lost."""
        with later:
            await self._checks.hasten_all(self._hastened)
        before = self._observed
        changed = {one for one in before.keys() | observed.keys() if before.get(one) != observed.get(one)}
        unknown = {one for one in observed if not self._known.has(one) and one not in ending}
        found = {endpoint_of_worker(one) for one in changed | unknown}
        self._unplanned |= {*self._known.overdue(now), *filter(is_endpoint_id, found), *self._newly_listed()}
        self._observed = dict(observed)
        with later:
            await self._checks.hasten(self._unplanned)

    def _newly_listed(self) -> set[str]:
        """Return the endpoints whose missing workers may have been decided, because a part of the platform was listed
        since the previous round."""
        unlisted = frozenset() if self._in_parts is None else self._in_parts.unlisted
        if unlisted == self._unlisted:
            return set()
        if unlisted:
            log.warning("no worker is started in place of those that may exist there", extra={"away": sorted(unlisted)})
        waiting, self._waits_for_list = self._waits_for_list, set()
        self._unlisted = unlisted
        return waiting

    def _look(self, endpoint_id: str, workers: Sequence[Worker], starts: Sequence[Start], now: float) -> None:
        """Remember the workers and starts of an endpoint, and forget the records of its former workers."""
        for worker_id in self._known.replace(endpoint_id, [worker.worker_id for worker in workers], starts, now):
            if endpoint_of_worker(worker_id) == endpoint_id:
                self._records.pop(worker_id, None)

    async def _plan(self, taken: Sequence[Taken], waits: Mapping[str, float | None]) -> None:
        """Set the next looks of the endpoints of this round."""
        if not self._leads():
            return

        async def plan_one(one: Taken) -> None:
            wait_seconds = waits.get(one.endpoint_id)
            if wait_seconds is not None:
                wait_seconds = max(wait_seconds, self._known.wait_for_start(one.endpoint_id))
            await self._checks.plan(one, wait_seconds)
            self._unplanned.discard(one.endpoint_id)

        later = LaterErrors()
        for result in await asyncio.gather(*map(plan_one, taken), return_exceptions=True):
            if result is not None:
                later.keep(result)
        later.raise_first()

    async def aclose(self) -> None:
        """Stop waiting for the ends of workers; the next leader requests them again. Safe to call twice."""
        await self._ends.aclose()
        if self._output is not None:
            await self._output.aclose()

    def _note_backend(self, observed: Mapping[str, Observed] | None) -> None:
        waits = observed is None
        if waits and not self._waits_for_backend:
            log.warning("the backend has not listed its workers yet: no worker is started or stopped until it has")
        self._waits_for_backend = waits

    async def _note_platform(self) -> None:
        """Note why the platform does not respond: an endpoint that is created then has no worker with a reason."""
        problem = None if self._platform is None else self._platform.problem
        now = self._clock()
        if problem == self._noted_problem and now < self._note_again_at:
            return
        await self._platform_note.write(problem)
        self._noted_problem = problem
        self._note_again_at = math.inf if problem is None else now + NOTE_SECONDS

    def _note_round(self, now: float, store_now_ms: int) -> None:
        # After a step back of the clock the planned looks would be late by the step.
        if store_now_ms < self._last_store_ms:
            self._hastened.clear()
        gap_seconds = max(MIN_GAP_SECONDS, min(GAP_SECONDS, self._config.silence_seconds / 2))
        # After a step ahead all workers seem silent, until they have reported.
        elapsed_ms = store_now_ms - self._last_store_ms
        if self._last_round is None or max(now - self._last_round, elapsed_ms / 1000) > gap_seconds:
            self._silence_counts_from = now + self._config.silence_seconds
        self._last_store_ms, self._last_round = store_now_ms, now

    def _situation(
        self,
        endpoint: Endpoint,
        workers: list[Worker],
        observed: Mapping[str, Observed],
        now: float,
        store_now_ms: int,
    ) -> Situation:
        silence_seconds, start_timeout_seconds = math.inf, math.inf
        if now >= self._silence_counts_from:
            silence_seconds = self._config.silence_seconds
            start_timeout_seconds = endpoint.config.start_timeout_seconds
            if now - self._starts_seen_at <= silence_seconds:
                silence_seconds = max(silence_seconds, STARTING_SILENCE_SECONDS)
        unlisted = self._unlisted_workers(endpoint, workers, observed) if self._unlisted else {}
        if unlisted:
            self._waits_for_list.add(endpoint.endpoint_id)
            of_endpoint = (worker.worker_id for worker in workers)
            observed = {one: observed[one] for one in of_endpoint if one in observed} | unlisted
        return Situation(
            endpoint,
            workers,
            observed,
            self._records,
            now,
            store_now_ms,
            silence_seconds,
            start_timeout_seconds,
            frozenset(unlisted),
        )

    def _unlisted_workers(
        self, endpoint: Endpoint, workers: Sequence[Worker], observed: Mapping[str, Observed]
    ) -> dict[str, Observed]:
        """Return the workers that may exist in a part of the platform that was not listed yet, in an unknown phase.

        An earlier leader has started them. A worker of an earlier revision may have been started with other resources.
        """
        found: dict[str, Observed] = {}
        if self._in_parts is None:
            return found
        for worker in filter(_is_managed, workers):
            is_located = worker.worker_id in observed or self._records.get(worker.worker_id, FRESH).is_located
            if is_located or worker.started_at_ms is None:
                continue
            is_current = worker.revision == endpoint.revision
            reason = self._in_parts.unlisted_reason(endpoint.config.resources if is_current else None)
            if reason is not None:
                found[worker.worker_id] = Observed(0, Phase.UNKNOWN, worker.started_at_ms, reason)
        return found

    async def _reconcile(self, situation: Situation, ending: Collection[str], due: list[_Due]) -> list[Action]:
        """Carry out the planned actions, except for workers that are being ended. Starts are added to `due`. Return the
        actions."""
        self._note_running(situation)
        actions = [action for action in plan(situation) if not _is_of_unlisted(action, situation)]
        for action in actions:
            if not self._leads():
                break
            if isinstance(action, Create):
                endpoint = situation.endpoint
                due += [_Due(endpoint, await self._create(endpoint), None) for _ in range(action.count)]
            elif action.worker.worker_id not in ending:
                await self._carry_out(action, situation, due)
        await self._judge_endpoint(situation)
        return actions

    async def _carry_out(self, action: OfWorker, situation: Situation, due: list[_Due]) -> None:
        match action:
            case Restart(worker):
                due.append(_Due(situation.endpoint, worker.worker_id, worker))
            case Resume(worker, run):
                await self._resume(situation.endpoint, worker, run)
            case NoteReason():
                await self._note_reason(action, situation)
            case NoteEnd(worker, reason):
                await self._note_end(worker, reason, situation)
            case Kill():
                self._kill(action)
            case Drain(worker, reason):
                await self._drain(worker, reason)
            case Forget():
                await self._forget(action)

    async def _forget(self, forget: Forget) -> None:
        """Remove the record of a worker after its end. An agent that was started by hand is not ended, because its id
        may be that of a worker in the backend."""
        worker = forget.worker
        remove = partial(
            self._workers.remove, worker.endpoint_id, worker.worker_id, status=forget.status, reason=forget.reason
        )
        if worker.managed:
            self._ends.begin(worker, partial(self._backend.kill, worker.worker_id), remove)
        else:
            await remove()

    async def _create(self, endpoint: Endpoint) -> str:
        worker_id = managed_worker_id(endpoint.endpoint_id, secrets.token_hex(5))
        await self._workers.put(endpoint.endpoint_id, worker_id, managed=True, revision=endpoint.revision)
        self._known.add(endpoint.endpoint_id, worker_id)
        return worker_id

    async def _start_in_turn(self, due: list[_Due]) -> None:
        """Begin as many starts as the backend has places for; mark the other workers as waiting."""
        under_way = self._known.starts()
        chosen = set(next_starts([one.start for one in due], under_way, self._backend.max_starting))
        self._note_starts([*under_way, *chosen])
        others = len(under_way) + len(chosen)
        for one in due:
            if not self._leads():
                break
            if one.start not in chosen:
                self._known.note_waiting(one.start)
                await self._note_waiting(one, others)
                continue
            self._known.note_start(one.start)
            if one.worker is None:
                await self._start(one.endpoint, one.worker_id)
            else:
                await self._restart(one.endpoint, one.worker)

    def _note_starts(self, starts: list[Start]) -> None:
        """If starts occupy at least half of the places, note the time, because they slow down running agents.

        Workers in a crash loop do not count, so that one tenant's crash loop, or an occasional start, does not delay
        the detection of silent agents.
        """
        calm = [start for start in starts if not self._records.get(start.worker_id, FRESH).short_lives]
        if calm and 2 * len(calm) >= self._backend.max_starting:
            self._starts_seen_at = self._clock()

    async def _note_waiting(self, one: _Due, others: int) -> None:
        """Record that a worker waits for its start, unless its record has the error of its last start."""
        text = f"{WAITS_FOR_START}: {others} others are starting"
        error = one.worker.error if one.worker is not None else None
        if error == text or (error and not error.startswith(WAITS_FOR_START)):
            return
        status = WorkerStatus.INITIALIZING if one.worker is None else one.worker.status
        if status is WorkerStatus.INITIALIZING:
            await self._workers.mark(one.endpoint.endpoint_id, one.worker_id, status, reason=text, error=text)

    async def _restart(self, endpoint: Endpoint, worker: Worker) -> None:
        """Start a worker again; first reset its status if that is from before its end.

        A worker that this controller has not started belonged to an earlier leader, so its end is not a crash. If its
        status is still RUNNING, an interrupted round has not recorded its end.
        """
        taken_over = self._records.get(worker.worker_id, FRESH).started_at is None
        if worker.status is WorkerStatus.RUNNING or (taken_over and worker.status is not WorkerStatus.INITIALIZING):
            await self._workers.mark(
                endpoint.endpoint_id,
                worker.worker_id,
                WorkerStatus.INITIALIZING,
                reason="started again",
                restarted=True,
            )
        await self._start(endpoint, worker.worker_id)

    async def _start(self, endpoint: Endpoint, worker_id: str) -> None:
        record = self._records.get(worker_id, FRESH)
        record = replace(record, started_at=self._clock(), noted_reason=None, running_since=None, is_located=True)
        self._records[worker_id] = record
        token = new_agent_token(worker_id) if self._backend.agents_over_https else None
        run = await self._workers.begin_start(endpoint.endpoint_id, worker_id, token)
        if run is None:
            return
        try:
            await self._backend.start(await self._spec(endpoint, worker_id, run, token))
        except (BackendError, SealBroken, SecretKeyMissing) as error:
            log.warning("a worker cannot be started: %s", error, extra=_ids(endpoint.endpoint_id, worker_id))
            self._records[worker_id] = after_end(record, had_run=False, now=self._clock())
            await self._workers.mark(
                endpoint.endpoint_id,
                worker_id,
                self._status_after(worker_id),
                reason="cannot be started",
                error=str(error),
            )

    async def _resume(self, endpoint: Endpoint, worker: Worker, run: int) -> None:
        """Let the backend make what is missing of a run that another controller has begun."""
        try:
            await self._backend.start(await self._spec(endpoint, worker.worker_id, run))
        except (BackendError, SealBroken, SecretKeyMissing) as error:
            self._kill(Kill(worker, f"cannot be started ({error})"))
        else:
            record = self._records.get(worker.worker_id, FRESH)
            self._records[worker.worker_id] = replace(record, started_at=self._clock())

    async def _note_reason(self, note: NoteReason, situation: Situation) -> None:
        """Record why a start waits or takes long, or remove that reason, so that the endpoint's owner sees it."""
        worker, record = note.worker, situation.record(note.worker)
        if note.status is not worker.status:
            facts = {**_ids(worker.endpoint_id, worker.worker_id), "reason": note.reason}
            log.warning("a worker does not start", extra=facts)
        await self._workers.mark(
            worker.endpoint_id,
            worker.worker_id,
            note.status,
            reason=note.reason or "",
            error=note.reason or "",
            outdated_error=record.noted_reason or "",
        )
        self._records[worker.worker_id] = replace(record, noted_reason=note.reason)

    async def _note_end(self, worker: Worker, reason: str, situation: Situation) -> None:
        """Record a worker's end with its last log lines, so that the endpoint's owner sees the reason."""
        seen = situation.observed[worker.worker_id]
        record = situation.record(worker)
        is_new = record.noted_end != seen.run
        if is_new:
            log.warning("a worker ended unexpectedly: %s", reason, extra=_ids(worker.endpoint_id, worker.worker_id))
            had_run = worker.status is WorkerStatus.RUNNING
            record = after_end(record, had_run=had_run, now=situation.now, retry_helps=seen.retry_helps)
            self._records[worker.worker_id] = replace(record, noted_end=seen.run)
        # Last, because an interrupted round must leave the ended worker in the backend: the next round notes it again.
        # Not by force, because an agent whose container has ended still has to release its tasks.
        stop = partial(self._backend.stop, worker.worker_id, 0.0)
        status = self._status_after(worker.worker_id)
        mark = partial(self._mark_ended, worker, status, reason, is_new=is_new)
        if self._output is None or seen.container_id is None:
            await mark(seen.last_lines)
            self._ends.begin(worker, stop)
            return
        end_of = partial(self._output.end_of, worker.worker_id, seen.run, reason)

        async def mark_and_stop() -> None:
            lines = await end_of()  # takes seconds if the output cannot be read, and must not delay the round
            if self._leads():
                await mark(lines)
                await stop()

        self._ends.begin(worker, mark_and_stop)

    async def _mark_ended(
        self, worker: Worker, status: WorkerStatus, reason: str, last_lines: Sequence[str], *, is_new: bool
    ) -> None:
        await self._workers.mark(
            worker.endpoint_id,
            worker.worker_id,
            status,
            reason=reason,
            error="\n".join([reason, *last_lines]),
            restarted=is_new,
        )

    async def _drain(self, worker: Worker, reason: str) -> None:
        if worker.status is not WorkerStatus.STOPPING:
            await self._workers.mark(worker.endpoint_id, worker.worker_id, WorkerStatus.STOPPING, reason=reason)
        self._ends.begin(worker, partial(self._backend.stop, worker.worker_id, self._config.grace_seconds))

    def _kill(self, kill: Kill) -> None:
        worker = kill.worker
        log.warning("a worker %s", kill.reason, extra=_ids(worker.endpoint_id, worker.worker_id))
        self._ends.begin(worker, partial(self._backend.kill, worker.worker_id), partial(self._note_killed, kill))

    async def _note_killed(self, kill: Kill) -> None:
        worker = kill.worker
        had_run = worker.status is WorkerStatus.RUNNING
        record = self._records.get(worker.worker_id, FRESH)
        self._records[worker.worker_id] = after_end(record, had_run=had_run, now=self._clock())
        await self._workers.mark(
            worker.endpoint_id,
            worker.worker_id,
            WorkerStatus.FAILED if kill.never_spoke else self._status_after(worker.worker_id),
            reason=kill.reason,
            error=f"the worker {kill.reason} and is started again",
            restarted=True,
        )

    def _end_strangers(
        self, observed: Mapping[str, Observed], ending: Collection[str], looked_at: Collection[str]
    ) -> int:
        """Drain workers that run without a record in the store: their endpoint was removed, or the store lost data.

        A worker that is not known belongs to an endpoint that has not been looked at yet, or to none.
        """
        strangers = [
            worker_id
            for worker_id in observed
            if not self._known.has(worker_id)
            and worker_id not in ending
            and (endpoint_of_worker(worker_id) in looked_at or not is_endpoint_id(endpoint_of_worker(worker_id)))
        ]
        for worker_id in strangers if self._leads() else ():
            stop = partial(self._backend.stop, worker_id, self._config.grace_seconds)
            self._ends.begin_stranger(worker_id, stop)
        return len(strangers)

    def _note_running(self, situation: Situation) -> None:
        """Remember which managed workers run, since when their agents could report, and reports of the future."""
        for worker in filter(_is_managed, situation.workers):
            record, seen = situation.record(worker), situation.seen(worker)
            runs = seen is not None and seen.phase is Phase.RUNNING
            noted = replace(
                record,
                crashes=0 if worker.status is WorkerStatus.RUNNING else record.crashes,
                running_since=(record.running_since or situation.now) if runs else None,
                heard_early=heard_early(worker, situation),
                is_located=record.is_located or (seen is not None and worker.worker_id not in situation.unlisted),
            )
            if noted != record:
                self._records[worker.worker_id] = noted

    async def _judge_endpoint(self, situation: Situation) -> None:
        """Mark the endpoint as FAILED while all its desired workers keep crashing."""
        endpoint, failed = situation.endpoint, is_failing(situation)
        if failed != endpoint.failed and self._leads():
            await self._endpoints.set_failed(endpoint.endpoint_id, failed)

    def _status_after(self, worker_id: str) -> WorkerStatus:
        crashes = self._records[worker_id].crashes
        return WorkerStatus.FAILED if crashes >= FAILED_AFTER_CRASHES else WorkerStatus.INITIALIZING

    async def _spec(self, endpoint: Endpoint, worker_id: str, run: int, token: str | None = None) -> WorkerSpec:
        """Return the worker's specification. Raises BackendError, SealBroken or SecretKeyMissing if its secrets are not
        available. `token` is that of a new run whose agent uses the API."""
        config = endpoint.config
        of_agent = self._config.agent_environment(endpoint.endpoint_id)
        return WorkerSpec(
            endpoint_id=endpoint.endpoint_id,
            worker_id=worker_id,
            run=run,
            tenant=endpoint.tenant,
            revision=endpoint.revision,
            image=config.image,
            image_registry=config.image_registry,
            registry_credential=await self._registry_credential(endpoint),
            command=config.initialization_command,
            environment=await self._endpoints.environment(endpoint.endpoint_id),
            plain_variables=config.plain_variables,
            exposed_port=config.expose.port if config.expose else None,
            protocol=config.expose.protocol if config.expose else None,
            resources=config.resources,
            volume_gb=config.container_volume_in_gb,
            card_vcpus=config.min_single_card_vcpu or 0,
            card_ram_gb=config.min_single_card_ram_in_gb or 0,
            card_vram_gb=config.min_single_card_vram_in_gb or 0,
            service_mode=config.service_mode,
            concurrency=config.concurrency,
            ready_path=config.ready_path,
            start_timeout_seconds=config.start_timeout_seconds,
            agent_environment=of_agent if token is None else {**of_agent, TOKEN_VARIABLE: token},
        )

    async def _registry_credential(self, endpoint: Endpoint) -> RegistryCredential | None:
        credential_id = endpoint.config.credential_id
        if credential_id is None:
            return None
        auth = await self._credentials.open(endpoint.tenant, credential_id)
        if auth is None:
            raise BackendError(f"the registry credential {credential_id} does not exist")
        return RegistryCredential(auth.username, auth.password)


def _is_of_unlisted(action: Action, situation: Situation) -> bool:
    """Return True for an action on a worker that the backend does not know yet, except the note of the reason."""
    if isinstance(action, Create | NoteReason):
        return False
    return action.worker.worker_id in situation.unlisted


def _is_managed(worker: Worker) -> bool:
    return worker.managed


def _ids(endpoint_id: str, worker_id: str) -> dict[str, str]:
    return {"endpoint": endpoint_id, "worker": worker_id}
