"""The agent's side of the queue: claim, start, renew, settle, release."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.aio import end_tasks
from queue_engine.domain.attempts import Renewal, Settled
from queue_engine.domain.quick import quick_init
from queue_engine.domain.retry import TaskRetryPolicy
from queue_engine.domain.tasks import (
    SUSPECT_AFTER,
    Budget,
    ClaimedTask,
    Failed,
    Lease,
    Outcome,
    Succeeded,
    TryAgain,
)
from queue_engine.gatherer import Gatherer
from queue_engine.store.bell import BellWait
from queue_engine.store.calls import Scripts
from queue_engine.store.cancel_requests import CancelRequests, WorkerCancellations
from queue_engine.store.codec import AgentSpecs, rest_of
from queue_engine.store.keys import FINGERPRINT, META, NEXT_FINGERPRINT, UNSEALED, Partitions, member
from queue_engine.store.policies import retry_policy_of
from queue_engine.store.redis.connections import MAX_COPIED_BYTES

if TYPE_CHECKING:
    from queue_engine.store.calls import ClaimOk

GROUP = "agents"
MAX_WHY_BYTES = 512
"""Limit of an error's text in the history of a task's attempts."""
IDLE_AFTER_SECONDS = 10.0
"""Time without tasks after which an agent is idle: see bell.py."""
MAX_UNSEARCHED_SECONDS = 60.0
"""Maximum time between two searches for claimed entries that no agent has started, although reports find no queued
task. Entries without a task, which no version of the engine makes, are removed then."""
MAX_STEPS = 20
"""Limit of steps in one search for claimed entries that no agent has started."""
MAX_TOGETHER = 24
"""Limit of attempts that one script begins or ends. The store serves no other client until the script ends. If all
attempts of an agent ended in one script, the agent would have nothing to do until then, and the store afterwards."""
_SUFFIXES = {"retry": ":retry", "turn": ":turn"}
"""The ends of the names of an endpoint's streams, by the words for them. The queue of new tasks has neither."""
_WORDS = re.compile(r"(new|retry|turn):([0-9]{1,20}-[0-9]{1,20}):([A-Za-z0-9_]{0,255})")
StreamEntry = tuple[bytes, dict[bytes, bytes]]
"""Id and fields of an entry of a stream."""


@quick_init
@dataclass(frozen=True)
class Entry:
    """A claimed task id. Its attempt has not started."""

    stream: str
    entry_id: str
    task_id: str
    token: str = field(default_factory=lambda: secrets.token_hex(16), compare=False, repr=False)
    """Token of the attempt that this entry starts: a start repeated after a lost reply is the same attempt."""

    def in_words(self) -> str:
        """Return the entry without its token as text, for an agent that does not use the store."""
        kind = next((word for word, suffix in _SUFFIXES.items() if self.stream.endswith(suffix)), "new")
        return f"{kind}:{self.entry_id}:{self.task_id}"


@quick_init
@dataclass(frozen=True)
class Started:
    """An attempt that has begun. `TaskQueue.open` opens its spec; that may fail while the attempt stands."""

    lease: Lease
    attempt: int
    lost: int
    max_attempts: int
    timeout_seconds: float
    queued_at_ms: int
    """Time from which the attempt could begin: of the submission, the end of a delay or backoff, or a retry."""
    started_at_ms: int
    number: int
    sealed_spec: bytes
    input: bytes | memoryview
    connections_lost: int = 0
    """Earlier attempts that lost the connection to the container."""
    attempts_before: int = 0
    """Attempts before the latest retry by hand. They count against no budget."""
    retry_policy: TaskRetryPolicy = field(default_factory=TaskRetryPolicy)
    cancel_uri: str | None = None
    """Path of the container that is called when the attempt ends before its call has returned."""
    busy_tries: int = 0
    """Number of the latest tries in a row that found a worker busy or not connected."""
    is_first: bool = True
    """True when the history has no earlier try."""

    @property
    def budget(self) -> Budget:
        """The used budget, including this attempt."""
        attempt = self.attempt - self.attempts_before - self.lost
        return Budget(attempt, self.max_attempts, self.connections_lost, self.busy_tries)

    @property
    def is_suspect(self) -> bool:
        """True when SUSPECT_AFTER attempts have lost their worker or connection, so that the task may be the cause."""
        return self.lost + self.connections_lost >= SUSPECT_AFTER


class TaskQueue:
    """Queue of an endpoint, for one agent.

    `scripts`, `beats` and `blocking` use separate clients, because a blocking read must not delay results and
    heartbeats. The client of `blocking` must not repeat commands, because a repeated read claims other entries.
    `lease_ms` is the time for which a task is held without a heartbeat. `is_served` is True if the entries come back
    from agents that call this process, which may pair the entry of a task with another task. Every method may be
    repeated after a lost reply.
    """

    def __init__(
        self,
        scripts: Scripts,
        beats: Scripts,
        blocking: Redis,
        partitions: Partitions,
        specs: AgentSpecs,
        *,
        endpoint_id: str,
        worker_id: str,
        lease_ms: int,
        is_served: bool = False,
    ) -> None:
        self._scripts = scripts
        self._beats = beats
        self._blocking = blocking
        self._keys = partitions.of(endpoint_id)
        self._specs = specs
        self.worker_id = worker_id
        self._lease_ms = lease_ms
        self._is_served = is_served
        self._bell = BellWait(blocking, self._keys)
        self._waits = Scripts(self._bell.submit)
        self._limited_until = 0.0
        """Monotonic time at which the agent claims again, because the bucket of starts was empty; 0: not asked to."""
        self._idle_from = 0.0
        """Monotonic time from which the agent is idle, if it gets no entries before."""
        self._claims_at_once = False
        """True if the last claim got all that it asked for, so that more tasks probably wait, or its reply was lost."""
        self._claiming: asyncio.Future[Any] | None = None
        """The latest call of the script, which goes on when its claim is cancelled."""
        self._is_turn_of_new = False
        """True if the odd place of the next claim belongs to the new tasks."""
        streams = (self._keys.retry_queue, self._keys.queue, self._keys.turn)
        self._received = dict.fromkeys(streams, "0-0")
        """The id of the latest entry of each stream that a claim has returned."""
        self._none_before = 0.0
        """Monotonic time before which no entry can be abandoned."""
        self._none_queued_at = float("-inf")
        """Monotonic time at which no task was queued. An entry that no agent has started is that of a queued task."""
        self._searched_at = float("-inf")
        """Monotonic time of the latest look for entries that no agent has started."""
        self._tasks_wait = asyncio.Event()
        """Set when a report has found tasks that the agent may claim."""
        self._cursors = dict.fromkeys(streams, "0-0")
        self._cancellations = WorkerCancellations(
            CancelRequests(blocking), self._keys.partition, endpoint_id=endpoint_id, worker_id=worker_id
        )
        self._starts = Gatherer(self.start_together, limit=MAX_TOGETHER)
        self._ends = Gatherer(self._end, limit=MAX_TOGETHER)

    def entry_in(self, words: str, token: str = "") -> Entry | None:
        """Return the entry of this endpoint that `Entry.in_words` has described; None for text that describes none."""
        found = _WORDS.fullmatch(words)
        if found is None:
            return None
        kind, entry_id, task_id = found.groups()
        return Entry(self._keys.queue + _SUFFIXES.get(kind, ""), entry_id, task_id, token)

    @property
    def endpoint_id(self) -> str:
        """The id of the queue's endpoint."""
        return self._keys.endpoint_id

    def note_report(self, asked_at: float, *, has_queued: bool, is_open: bool) -> None:
        """Note what the report of this agent, sent at a monotonic time, has found: whether tasks are queued, and
        whether the agent may claim them."""
        if not has_queued:
            self._none_queued_at = asked_at
        elif is_open:
            self._tasks_wait.set()

    async def claim(self, limit: int, *, block_ms: int, idle_block_ms: int | None = None) -> list[Entry]:
        """Return up to `limit` entries. Wait up to `block_ms` for the first one.

        An idle agent waits up to `idle_block_ms`, if its reports are noted by `note_report`.

        While tasks wait, the calls share the round trips of the other scripts. A wait for the bell would cost a round
        trip of its own, and the agent's slots would be empty for that time. These calls also return entries that an
        earlier claim got and did not return, because its reply was lost or it was cancelled.
        """
        try:
            entries = await self._claim(limit, block_ms, idle_block_ms or block_ms)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            if not await self._make_groups():
                await asyncio.sleep(block_ms / 1000)
                return []
            entries = await self._waiting(limit)
        self._claims_at_once = len(entries) >= limit
        if entries:
            self._idle_from = time.monotonic() + IDLE_AFTER_SECONDS
        return entries

    async def _claim(self, limit: int, block_ms: int, idle_block_ms: int) -> list[Entry]:
        if (limited_seconds := self._limited_until - time.monotonic()) > 0:
            # Not on the server, whose timers for blocked clients are slower than a quick bucket.
            await asyncio.sleep(min(limited_seconds, block_ms / 1000))
            return await self._waiting(limit) if time.monotonic() >= self._limited_until else []
        if self._claims_at_once:
            entries = await self._waiting(limit)
            self._is_turn_of_new = not self._is_turn_of_new
            if entries or self._limited_until:
                return entries
        self._claims_at_once = True  # unless this wait returns
        try:
            return await self._wait(limit, block_ms, idle_block_ms)
        except (RedisConnectionError, RedisTimeoutError, NoScriptError):
            return await self._waiting(limit)

    async def _waiting(self, limit: int) -> list[Entry]:
        """Return up to `limit` entries that wait now."""
        self._claiming = asyncio.ensure_future(
            self._scripts.claim(
                self._keys,
                worker_id=self.worker_id,
                limit=limit,
                is_turn_of_new=self._is_turn_of_new,
                retried_after=self._received[self._keys.retry_queue],
                new_after=self._received[self._keys.queue],
                taken_after=self._received[self._keys.turn],
            )
        )
        return self._entries_of(await asyncio.shield(self._claiming))

    async def _wait(self, limit: int, block_ms: int, idle_block_ms: int) -> list[Entry]:
        """Wait for the bell, and return up to `limit` entries."""
        if time.monotonic() < self._idle_from:
            self._bell.block_ms = block_ms
            entries = await self._waiting_after_bell(limit)
        else:
            self._bell.block_ms = idle_block_ms
            entries = await self._waiting(limit) if await self._is_called() else []
        if self._bell.is_refused and not entries:
            await asyncio.sleep(block_ms / 1000)
        return entries

    async def _is_called(self) -> bool:
        """Wait, and return True when the bell has rung, or a report has found tasks that wait without a bell."""
        self._tasks_wait.clear()
        ringing = asyncio.ensure_future(self._bell.rings())
        told = asyncio.ensure_future(self._tasks_wait.wait())
        try:
            await asyncio.wait({ringing, told}, return_when=asyncio.FIRST_COMPLETED)
            return told.done() or ringing.result()
        finally:
            await end_tasks(ringing, told)
            if not ringing.cancelled():
                ringing.exception()  # after a report that woke the agent, an error of the wait does not matter

    async def _waiting_after_bell(self, limit: int) -> list[Entry]:
        reply = await self._waits.claim(
            self._keys,
            worker_id=self.worker_id,
            limit=limit,
            is_turn_of_new=self._is_turn_of_new,
            retried_after=None,
            new_after=None,
            taken_after=None,
        )
        return self._entries_of(reply)

    def _entries_of(self, reply: ClaimOk) -> list[Entry]:
        self._limited_until = time.monotonic() + reply.wait_ms / 1000 if reply.wait_ms else 0.0
        entries = self._take(self._keys.retry_queue, reply.retried) + self._take(self._keys.queue, reply.new)
        return entries + self._take(self._keys.turn, reply.taken)

    def _take(self, stream: str, entries: Sequence[StreamEntry]) -> list[Entry]:
        """Return claimed entries of a stream, and note that they were received."""
        self._note_received(stream, entries)
        return _entries(stream, entries)

    def _note_received(self, stream: str, entries: Sequence[StreamEntry]) -> None:
        """Note entries that the agent has got, so that no claim returns them again."""
        ids = [self._received[stream], *(entry_id.decode() for entry_id, _ in entries)]
        self._received[stream] = max(ids, key=_place)

    async def claim_abandoned(self, limit: int, *, idle_ms: int) -> list[Entry]:
        """Return entries that another agent read at least `idle_ms` ago and did not start, because it has died.

        A call searches each queue until it finds entries, or to the end, in at most MAX_STEPS steps. The next call
        continues there, so that entries behind those of living agents are found too.
        """
        none_before = max(self._none_before, self._none_queued_at + idle_ms / 1000)
        now = time.monotonic()
        if now < min(none_before, self._searched_at + MAX_UNSEARCHED_SECONDS):
            return []
        if not await self._has_unstarted(idle_ms):
            return []
        entries: list[Entry] = []
        for stream in self._cursors:
            for _ in range(MAX_STEPS):
                found, is_through = await self._claim_abandoned_step(stream, limit, idle_ms)
                entries += found
                if found or is_through:
                    break
        return entries

    async def _has_unstarted(self, idle_ms: int) -> bool:
        """Return True if any agent has read entries and not started them.

        Otherwise no entry can be abandoned for the next `idle_ms`, so that an idle agent asks the store that rarely.
        """
        asked_at = self._searched_at = time.monotonic()
        try:
            reply = await self._scripts.unstarted(self._keys)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._make_groups()
            return False
        if not reply.entries:
            self._none_before = asked_at + idle_ms / 1000
        return reply.entries > 0

    async def _claim_abandoned_step(self, stream: str, limit: int, idle_ms: int) -> tuple[list[Entry], bool]:
        """Return the entries found by one command, and True if it reached the end of the queue.

        The store searches ten entries for each requested entry. The next step continues behind them.
        """
        try:
            reply = await self._scripts.take_over(
                self._keys,
                stream=stream,
                worker_id=self.worker_id,
                idle_ms=idle_ms,
                cursor=self._cursors[stream],
                limit=limit,
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._make_groups()
            return [], True
        self._cursors[stream] = reply.cursor
        self._note_received(stream, reply.taken)
        return _entries(stream, reply.taken), reply.cursor == "0-0"

    async def unstarted(self) -> list[Entry]:
        """Return entries that this worker has claimed and not started, including those of a cancelled claim."""
        if self._claiming is not None:
            await asyncio.wait({self._claiming})  # the store may not have executed it yet
        try:
            return await self._pending()
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return await self._pending() if await self._make_groups() else []

    async def _pending(self) -> list[Entry]:
        streams: dict[Any, Any] = dict.fromkeys(self._received, "0")
        return _entries_read(await self._blocking.xreadgroup(GROUP, self.worker_id, streams, count=1000))

    async def start(self, entry: Entry, *, address: str, is_ahead: bool = False) -> Started | None:
        """Begin an attempt. Return None when the task no longer waits with this entry.

        `address` is the address of the container. `is_ahead` is True when no slot is free for the call: the attempt
        costs nothing when its worker is lost before a renewal says that its call has begun.
        """
        return await self._starts.add((entry, address, is_ahead))

    async def start_together(self, starts: Sequence[tuple[Entry, str, bool]]) -> list[Started | Exception | None]:
        """Begin at most MAX_TOGETHER attempts: for each, the arguments of `start` in their order.

        Return the results of the first ones, at least of one, because the inputs of a call are limited.
        """
        (first, _, _), *others = starts
        reply = await self._scripts.start(
            self._keys.of_task(first.task_id),
            stream=first.stream,
            more=[key for entry, _, _ in others for key in self._keys_to_start(entry)],
            lease_ms=self._lease_ms,
            worker_id=self.worker_id,
            is_compared=self._is_served,
            entries=[
                text
                for entry, address, is_ahead in starts
                for text in (entry.entry_id, entry.token, address, "1" if is_ahead else "")
            ],
        )
        policy = retry_policy_of(reply.retry_on, reply.retry_delays)
        return [
            self._started(entry, facts, policy, reply.cancel_uri or None)
            for (entry, _, _), facts in zip(starts, reply.attempts, strict=False)
        ]

    def _keys_to_start(self, entry: Entry) -> tuple[str, str, str, str]:
        keys, task_id = self._keys, entry.task_id
        return keys.task(task_id), keys.body(task_id), keys.history(task_id), entry.stream

    def _started(
        self, entry: Entry, facts: Sequence[bytes], policy: TaskRetryPolicy, cancel_uri: str | None
    ) -> Started | Exception | None:
        """Return the result of a start by its facts in the order of start.lua."""
        word, *rest = facts
        if word != b"OK":
            return None if word == b"STALE" else ResponseError(rest[0].decode("utf-8", "replace"))
        attempt, limit, timeout, queued, started, number, length, content, lost, resets, base, busy, history = rest
        spec_length = int(length)
        return Started(
            lease=Lease(self._keys.endpoint_id, entry.task_id, entry.token),
            attempt=int(attempt),
            lost=int(lost),
            max_attempts=int(limit),
            timeout_seconds=float(timeout),
            queued_at_ms=int(queued),
            started_at_ms=int(started),
            number=int(number),
            sealed_spec=content[:spec_length],
            input=rest_of(content, spec_length),
            connections_lost=int(resets),
            attempts_before=int(base),
            retry_policy=policy,
            cancel_uri=cancel_uri,
            busy_tries=int(busy),
            is_first=not history,
        )

    def open(self, started: Started) -> ClaimedTask:
        """Return the attempt with the headers of its spec opened.

        Raises SecretKeyMissing, SealKeyUnknown, SealedForEngine or SealBroken.
        """
        spec = self._specs.decode(started.sealed_spec, started.lease.endpoint_id, started.lease.task_id)
        return ClaimedTask(
            lease=started.lease,
            number=started.number,
            attempt=started.attempt,
            timeout_seconds=started.timeout_seconds,
            spec=spec,
            input=started.input,
        )

    async def is_key_in_use(self, fingerprint: str) -> bool:
        """Return True if processes of this store seal with this secret key now; otherwise no process needs it."""
        noted = await self._blocking.hmget(META, [FINGERPRINT, NEXT_FINGERPRINT])  # type: ignore[misc]
        return fingerprint.encode() in noted

    async def ask_for_headers(self, started: Started) -> None:
        """Ask the engine to seal the headers of a task with a key of the endpoint; see `HeaderSealing`."""
        name = member(started.lease.endpoint_id, started.lease.task_id)
        await self._scripts.ask_for_headers(unsealed=UNSEALED, name=name)

    async def renew(self, leases: Sequence[Lease], *, begun: int = 0) -> list[Renewal]:
        """Renew all leases in one call. Return a result for each.

        The calls of the first `begun` attempts have begun. The others may wait for a slot.
        """
        reply = await self._beats.renew(
            self._keys,
            tasks=[self._keys.task(lease.task_id) for lease in leases],
            lease_ms=self._lease_ms,
            begun=begun,
            tokens=[lease.token for lease in leases],
        )
        return [Renewal(word) for word in reply.words]

    async def cancelled(self, *, block_ms: int) -> list[str]:
        """Return cancelled tasks of this worker; wait up to `block_ms` for one: see `WorkerCancellations`."""
        return await self._cancellations.next(block_ms=block_ms)

    async def settle(self, lease: Lease, outcome: Outcome) -> Settled:
        """Record the outcome of the attempt."""
        if isinstance(outcome, TryAgain):
            return await self._retry(lease, outcome)
        return await self._finish(lease, outcome)

    async def release(self, lease: Lease, *, called: bool = True) -> str:
        """Release a running task at no cost to its budgets. Return OK, CANCELLED, ALREADY, FENCED or GONE.

        `called` is True when the container may have received the task. Otherwise the attempt is not recorded in the
        task's history.
        """
        keys = self._keys.of_task(lease.task_id)
        return (await self._scripts.release(keys, token=lease.token, was_called=called)).word

    async def put_back(self, entry: Entry) -> None:
        """Put back a claimed entry that cannot be started."""
        keys = self._keys.of_task(entry.task_id)
        await self._scripts.put_back(keys, stream=entry.stream, entry_id=entry.entry_id, is_compared=self._is_served)

    async def _finish(self, lease: Lease, outcome: Succeeded | Failed) -> Settled:
        if isinstance(outcome, Succeeded):
            state, value = "succeeded", outcome.output
        else:
            state, value = outcome.state.value, outcome.error.encode("utf-8", "replace")
        # A large value is sent alone, so that the others do not wait for it.
        ends = self._ends if len(value) <= MAX_COPIED_BYTES else Gatherer(self._end, limit=1)
        return await ends.add((lease, state, value))

    async def _end(self, ends: Sequence[tuple[Lease, str, bytes | memoryview]]) -> list[Settled | Exception]:
        """End tasks by their attempts, with the states and the outputs or errors."""
        (first, _, _), *others = ends
        reply = await self._scripts.finish(
            self._keys.of_task(first.task_id),
            more=[key for lease, _, _ in others for key in self._keys_to_end(lease.task_id)],
            ends=[part for lease, state, value in ends for part in (lease.token.encode(), state.encode(), value)],
        )
        return [_settled(words, reply.now_ms) for words in reply.words]

    def _keys_to_end(self, task_id: str) -> tuple[str, str, str, str, str]:
        keys = self._keys
        return (
            keys.task(task_id),
            keys.body(task_id),
            keys.result(task_id),
            keys.history(task_id),
            keys.delivery(task_id),
        )

    async def _retry(self, lease: Lease, outcome: TryAgain) -> Settled:
        retry_after = outcome.retry_after_seconds
        reply = await self._scripts.retry(
            self._keys.of_task(lease.task_id),
            token=lease.token,
            delay_ms=int(outcome.delay_seconds * 1000),
            retry_after_ms=None if retry_after is None else int(retry_after * 1000),
            outcome=outcome.attempt_outcome,
            why=outcome.error.encode("utf-8", "replace")[:MAX_WHY_BYTES],
            cost=outcome.cost,
            last_error=outcome.last_error.encode("utf-8", "replace"),
        )
        if reply.word != "FAILED":
            return Settled(reply.word)
        return Settled(reply.word, reply.created_ms, reply.started_ms, reply.now_ms)

    async def _make_groups(self) -> bool:
        """Create the consumer groups again after the store has lost them, at the start of the streams.

        Return False when there is no such endpoint.
        """
        return (await self._scripts.make_queues(self._keys)).word == "OK"


def _settled(words: Sequence[str], now_ms: int) -> Settled | Exception:
    """Return the result of an end by its words in the order of finish.lua."""
    word, *rest = words
    if word == "ERROR":
        return ResponseError(rest[0])
    if not rest:
        return Settled(word)
    created_ms, started_ms = map(int, rest)
    return Settled(word, created_ms, started_ms, now_ms)


def _place(entry_id: str) -> tuple[int, int]:
    """Return the place of an entry in its stream."""
    milliseconds, number = entry_id.split("-")
    return int(milliseconds), int(number)


def _entries(stream: str, entries: Iterable[StreamEntry]) -> list[Entry]:
    """Return the entries of a stream. An invalid entry gets an empty task id, and `start` removes it."""
    return [
        Entry(stream, entry_id.decode(), fields.get(b"t", b"").decode("utf-8", "replace"))
        for entry_id, fields in entries
        if fields
    ]


def _entries_read(reply: list[tuple[bytes, list[StreamEntry]]]) -> list[Entry]:
    """Return the entries of an XREADGROUP reply."""
    return [entry for stream, entries in reply for entry in _entries(stream.decode(), entries)]
