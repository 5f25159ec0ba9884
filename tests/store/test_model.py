"""Random lives of tasks, with several agents and delivery processes, compared with a model after every step."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.deliveries import Verdict
from queue_engine.domain.endpoints import EndpointConfig, RateLimit
from queue_engine.domain.tasks import AttemptOutcome, Cost, Failed, Outcome, Priority, Succeeded, TryAgain, lane_of
from queue_engine.store.endpoints import StateChange
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.queue import Entry, Started, TaskQueue
from queue_engine.store.store import Store
from queue_engine.store.tasks import Submission
from tests.examples import examples
from tests.store.bench import (
    DELIVERED,
    GIVEN_UP,
    LONG_LEASE_MS,
    SECRET_KEY,
    TENANT,
    TICK_MS,
    TOO_LARGE_TO_JOIN,
    Bench,
    again,
    answer,
    config,
    spec,
)
from tests.store.model import ENDED, MAX_ATTEMPTS, MAX_LOST, Model, ModelDelivery, ModelTask
from tests.store.probe import Probe

T = TypeVar("T")

TASKS = ["t1", "t2", "t3", "t4", "t5", "t6"]
LANES: dict[str, tuple[Priority | None, str | None]] = {
    "t3": (Priority.LOW, None),
    "t4": (Priority.HIGH, "k"),
    "t5": (None, "k"),
    "t6": (Priority.NORMAL, "k"),
}
AGENTS = ["a1", "a2", "a3"]
PROCESSES = ["d1", "d2"]
INPUTS = dict.fromkeys(TASKS, b"1") | {"t3": b'"' + b"x" * 2000 + b'"'}
TAGS = {"t2": ["a"], "t3": ["a", "b"]}
BUSY = TryAgain("busy", 3600, cost=Cost.BUSY, last_error="busy for too long")
NOT_UP = TryAgain("not up", 3600, AttemptOutcome.NO_CONNECTION, Cost.BUSY, "not up for too long")
LOADING = TryAgain("loading", 0, cost=Cost.NOTHING)
LOST = TryAgain("broke off", 3600, AttemptOutcome.CONNECTION_LOST)
OUTCOMES: list[Outcome] = [Succeeded(b"1"), TOO_LARGE_TO_JOIN, Failed("no"), LOST, BUSY, NOT_UP, LOADING]
VERDICTS: list[Verdict] = [DELIVERED, GIVEN_UP, again()]

Read = tuple[str, Entry, int]
"""An agent, an entry that it has read, and the turn of the task that the entry was for."""
ReadDelivery = tuple[str, OutboxEntry, int]

LIVES = examples(
    40,
    stateful_step_count=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining traces every line: far too slow
    suppress_health_check=list(HealthCheck),
)

tasks = st.sampled_from(TASKS)
agents = st.sampled_from(AGENTS)
processes = st.sampled_from(PROCESSES)
luck = st.integers(min_value=0, max_value=1_000)
"""Strategy that chooses from the existing items."""


def test_every_life_of_a_task_follows_the_model(store_url: str) -> None:
    with asyncio.Runner() as runner:
        store = Store(store_url, Sealer(SECRET_KEY), partitions=1)
        try:
            run_state_machine_as_test(lambda: Lives(runner.run, store), settings=LIVES)  # type: ignore[arg-type]
        finally:
            runner.run(store.close())


class Lives(RuleBasedStateMachine):
    """Each rule changes the store and the model by one step, and compares the results."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], store: Store) -> None:
        super().__init__()
        self.run = run
        self.store = store
        self.model = Model()
        self.entries: list[Read] = []
        self.attempts: list[tuple[str, Started]] = []
        self.deliveries: list[ReadDelivery] = []
        self.calls = 0

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        probe = Probe(self.store.redis)
        await probe.ask("FLUSHALL")
        endpoint = await self.store.endpoints.create(TENANT, config(max_attempts=MAX_ATTEMPTS))
        self.bench = Bench(self.store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])
        self.agents: dict[str, TaskQueue] = {name: self.bench.agent(name) for name in AGENTS}
        self.outboxes: dict[str, Outbox] = {name: await self.bench.outbox(name) for name in PROCESSES}
        self.model.alive = set(PROCESSES)
        for task_id in ("t1", "t2", "t3", "t5"):
            await self._submit(task_id)

    # Tasks

    @rule(task_id=tasks)
    def submit(self, task_id: str) -> None:
        self.run(self._submit(task_id))

    @rule(task_id=tasks)
    def submit_with_a_delay(self, task_id: str) -> None:
        self.run(self._submit(task_id, delay_seconds=3600))

    async def _submit(self, task_id: str, delay_seconds: float | None = None) -> None:
        webhook, ttl = task_id != "t1", 3600 if task_id in ("t1", "t2", "t5") else None
        priority, key = LANES.get(task_id, (None, None))
        accepted = self.model.submit(
            task_id,
            webhook=webhook,
            has_deadline=ttl is not None,
            is_delayed=delay_seconds is not None,
            lane=(lane_of(priority, key) or "").replace("-", "1"),
        )
        submission = await self.bench.submit(
            task_id,
            spec=spec(webhook=webhook, tags=TAGS.get(task_id, ())),
            input=INPUTS[task_id],
            priority=priority,
            fairness_key=key,
            queue_ttl_seconds=ttl,
            delay_seconds=delay_seconds,
        )
        assert submission is (Submission.ACCEPTED if accepted else Submission.DUPLICATE)

    @precondition(lambda self: self.model.waiting("new", "retry", "lane"))
    @rule(agent=agents)
    def read(self, agent: str) -> None:
        self._read(agent)

    @precondition(lambda self: self.model.waiting("new", "retry", "lane"))
    @rule(agent=agents, outcome=st.sampled_from([None, *OUTCOMES]))
    def read_start_and_settle(self, agent: str, outcome: Outcome | None) -> None:
        for one in self._read(agent):
            self._start(one)
            if outcome is not None:
                self._settle(self.attempts[-1], outcome)

    def _read(self, agent: str) -> list[Read]:
        entries: list[Entry] = self.run(self._claiming(agent))
        model, keys = self.model, self.bench.keys
        places = {keys.queue: "new", keys.retry_queue: "retry", keys.turn: "lane"}
        waiting = set(() if model.is_paused else model.waiting("new", "retry", "lane"))
        found = {entry.task_id for entry in entries}
        assert len(found) == len(entries)
        assert found <= waiting
        assert all(model.tasks[entry.task_id].place == places[entry.stream] for entry in entries)
        by_key = Counter(model.tasks[name].lane[1:] for name in waiting)
        assert len(found) == min(model.tokens, sum(min(number, model.free(key)) for key, number in by_key.items()))
        for key, number in Counter(model.tasks[name].lane[1:] for name in found).items():
            assert number <= model.free(key)
        for one in found:
            for other in waiting - found:
                if (lane := model.tasks[one].lane) and lane == model.tasks[other].lane:
                    assert model.tasks[one].order <= model.tasks[other].order
        if not model.is_paused:
            model.use_tokens(len(found))
        return self._note(agent, entries)

    async def _claiming(self, agent: str) -> list[Entry]:
        if self.model.burst is not None:  # an agent that finds no token claims nothing for a while, and no bell rings
            await self.bench.probe.ask("RPUSH", self.bench.keys.bell, 1)
        return await self._agent(agent).claim(100, block_ms=1)

    def _agent(self, name: str) -> TaskQueue:
        """Return the agent, or while there is a rate limit a new one."""
        if self.model.burst is None:
            return self.agents[name]
        self.calls += 1
        return self.bench.agent(f"{name}-{self.calls}")

    @precondition(lambda self: self.model.waiting("read") or self.model.taken)
    @rule(agent=agents)
    def claim_abandoned(self, agent: str) -> None:
        model = self.model
        plain = [name for name in model.waiting("read") if not model.tasks[name].lane]
        expected = sorted([*plain, *(task_id for task_id, _, _ in model.taken.values())])
        if model.is_paused:
            expected = []
        entries: list[Entry] = self.run(self._agent(agent).claim_abandoned(100, idle_ms=0))
        found = sorted(entry.task_id for entry in entries)
        assert found == expected if model.tokens >= len(expected) else not Counter(found) - Counter(expected)
        assert len(found) <= model.tokens
        if entries:
            model.use_tokens(len(entries))
        self._note(agent, entries)

    @rule(limit=st.integers(min_value=0, max_value=2))
    def limit_keys(self, limit: int) -> None:
        self.run(self.bench.set_key_limit(limit))
        self.model.key_limit = limit

    @rule(burst=st.sampled_from([None, None, 1, 3]))
    def limit_rate(self, burst: int | None) -> None:
        rate_limit = None if burst is None else RateLimit(0.001, burst)

        def limited(before: EndpointConfig) -> EndpointConfig:
            return replace(before, rate_limit=rate_limit)

        self.run(self.store.endpoints.update(self.bench.endpoint_id, TENANT, limited))
        self.model.burst = burst

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        change = self.run(self.store.endpoints.set_paused(self.bench.endpoint_id, TENANT, paused=paused))
        assert change is (StateChange.UNCHANGED if paused is self.model.is_paused else StateChange.OK)
        self.model.is_paused = paused

    def _note(self, agent: str, entries: list[Entry]) -> list[Read]:
        entries.sort(key=lambda entry: entry.task_id)  # a sweep queues what it finds in no certain order
        noted = []
        for entry in entries:
            if (taken := self.model.taken.get(entry.entry_id)) is not None:
                noted.append((agent, entry, taken[2]))
                continue
            task = self.model.tasks[entry.task_id]
            task.place = "read"
            if entry.stream == self.bench.keys.turn:
                self.model.taken[entry.entry_id] = (entry.task_id, task.lane[1:], task.turn)
            noted.append((agent, entry, task.turn))
        self.entries += noted
        return noted

    @precondition(lambda self: self.entries)
    @rule(which=luck)
    def start(self, which: int) -> None:
        self._start(_pick(self.entries, which))

    def _start(self, one: Read) -> None:
        agent, entry, turn = one
        task = self.model.tasks.get(entry.task_id)
        self._forget_taken(entry)
        started = self.run(self.agents[agent].start(entry, address="x:1"))
        if task is not None and task.state == "running" and task.token == entry.token:
            assert started is not None  # a repeat of its own
        elif self._is_current(entry, turn):
            assert started is not None
            assert task is not None
            task.start(entry.token)
            self.attempts.append((agent, started))
        else:
            assert started is None
        if started is not None and task is not None:
            assert (started.lease.token, started.attempt, started.lost) == (entry.token, task.attempts, task.lost)
            assert started.busy_tries == task.busy_tries

    @precondition(lambda self: self.entries)
    @rule(which=luck)
    def put_back(self, which: int) -> None:
        agent, entry, turn = _pick(self.entries, which)
        self.run(self.agents[agent].put_back(entry))
        if self._is_current(entry, turn):
            self.model.tasks[entry.task_id].put_back()
            self.model.use_tokens(-1)
        self._forget_taken(entry)

    def _forget_taken(self, entry: Entry) -> None:
        if entry.stream == self.bench.keys.turn:
            self.model.taken.pop(entry.entry_id, None)

    def _is_current(self, entry: Entry, turn: int) -> bool:
        task = self.model.tasks.get(entry.task_id)
        return task is not None and task.state == "queued" and task.place == "read" and task.turn == turn

    @precondition(lambda self: self.attempts)
    @rule(which=luck)
    def beat(self, which: int) -> None:
        agent, started = _pick(self.attempts, which)
        task = self._task_of(started)
        word = task.beat(started.lease.token) if task else "GONE"
        assert self.run(self.agents[agent].renew([started.lease])) == [word]

    @precondition(lambda self: self.attempts)
    @rule(which=luck, outcome=st.sampled_from(OUTCOMES))
    def settle(self, which: int, outcome: Outcome) -> None:
        self._settle(_pick(self.attempts, which), outcome)

    def _settle(self, one: tuple[str, Started], outcome: Outcome) -> None:
        agent, started = one
        task = self._task_of(started)
        word = task.settle(started.lease.token, outcome) if task else "GONE"
        assert self.run(self.bench.settle(self.agents[agent], started, outcome)).word == word

    @precondition(lambda self: self.attempts)
    @rule(which=luck)
    def release(self, which: int) -> None:
        agent, started = _pick(self.attempts, which)
        task = self._task_of(started)
        word = task.release(started.lease.token) if task else "GONE"
        assert self.run(self.bench.release(self.agents[agent], started)) == word

    def _task_of(self, started: Started) -> ModelTask | None:
        return self.model.tasks.get(started.lease.task_id)

    @precondition(lambda self: self._held())
    @rule(which=luck)
    def run_out(self, which: int) -> None:
        self._run_out(_pick(self._held(), which))

    def _run_out(self, task_id: str) -> None:
        self.run(self.bench.run_out(task_id))
        self.model.tasks[task_id].lease_is_over = True

    @precondition(lambda self: self._put_off())
    @rule(which=luck)
    def make_due(self, which: int) -> None:
        self._make_due(_pick(self._put_off(), which))

    def _make_due(self, task_id: str) -> None:
        self.run(self.bench.make_due(task_id))
        self.model.tasks[task_id].wait_is_over = True

    @precondition(lambda self: self._in_busy_streak())
    @rule(which=luck)
    def let_busy_streak_last(self, which: int) -> None:
        task_id = _pick(self._in_busy_streak(), which)
        self.run(self.bench.let_busy_streak_last(task_id))
        self.model.tasks[task_id].busy_streak_is_over = True

    def _in_busy_streak(self) -> list[str]:
        return [name for name, task in self.model.tasks.items() if task.busy_tries and task.state not in ENDED]

    @precondition(lambda self: self._held() or self._put_off())
    @rule()
    def let_everything_run_out_and_sweep(self) -> None:
        for task_id in self._held():
            self._run_out(task_id)
        for task_id in self._put_off():
            self._make_due(task_id)
        self._sweep()

    @rule()
    def sweep(self) -> None:
        self._sweep()

    def _sweep(self) -> None:
        self.model.clock.next()
        self.model.clock.stands_still = True
        expected = [task.sweep() for task in self.model.tasks.values()]
        self.model.clock.stands_still = False
        swept = self.run(self.bench.sweep(max_lost=MAX_LOST))
        assert swept.requeued == expected.count("requeued")
        assert swept.dead == expected.count("dead")
        assert swept.promoted == expected.count("promoted")
        assert swept.cancelled == expected.count("cancelled")
        assert swept.expired == expected.count("expired")

    @precondition(lambda self: self.model.removable())
    @rule()
    def purge(self) -> None:
        expected = self.model.purge()
        assert self.run(self.bench.purge()) == expected
        self._forget_what_is_gone()

    def _forget_what_is_gone(self) -> None:
        # Entries of removed tasks must not be treated as entries of new tasks with the same id.
        taken, keys = self.model.taken, self.bench.keys
        self.entries = [
            one
            for one in self.entries
            if one[1].task_id in self.model.tasks or (one[1].stream == keys.turn and one[1].entry_id in taken)
        ]
        self.attempts = [one for one in self.attempts if one[1].lease.task_id in self.model.tasks]
        self.deliveries = [one for one in self.deliveries if _task_id(one[1]) in self.model.tasks]

    def _held(self) -> list[str]:
        return [name for name, task in self.model.tasks.items() if task.state == "running" and not task.lease_is_over]

    def _put_off(self) -> list[str]:
        return [name for name, task in self.model.tasks.items() if task.state == "scheduled" and not task.wait_is_over]

    # Orders of users

    @rule(task_id=tasks)
    def cancel(self, task_id: str) -> None:
        self._cancel(task_id)

    @precondition(lambda self: self._held())
    @rule(which=luck)
    def cancel_what_runs(self, which: int) -> None:
        self._cancel(_pick(self._held(), which))

    def _cancel(self, task_id: str) -> None:
        for _ in range(2):  # twice is as good as once
            task = self.model.tasks.get(task_id)
            word = task.ask_to_cancel() if task else "GONE"
            assert self.run(self.store.tasks.cancel(self.bench.endpoint_id, task_id)) == word

    @rule(task_id=tasks)
    def rerun(self, task_id: str) -> None:
        self._run_again(task_id)

    @precondition(lambda self: self._ended())
    @rule(which=luck)
    def run_again_what_has_ended(self, which: int) -> None:
        self._run_again(_pick(self._ended(), which))

    def _run_again(self, task_id: str) -> None:
        task = self.model.tasks.get(task_id)
        word = task.rerun() if task else "GONE"
        self.calls += 1
        for expected in (word, "ALREADY" if word == "OK" else word):
            assert self.run(self.store.tasks.rerun(self.bench.endpoint_id, task_id, str(self.calls))) == expected

    @rule(task_id=tasks)
    def delete(self, task_id: str) -> None:
        task = self.model.tasks.get(task_id)
        word = "GONE" if task is None else "OK" if task.state in ENDED else "BUSY"
        if word == "OK":
            del self.model.tasks[task_id]
        for expected in (word, "GONE" if word == "OK" else word):
            assert self.run(self.store.tasks.delete(self.bench.endpoint_id, task_id)) == expected
        self._forget_what_is_gone()

    @precondition(lambda self: self._listed())
    @rule(which=luck)
    def pass_deadline(self, which: int) -> None:
        task_id = _pick(self._listed(), which)
        self.run(self.bench.pass_deadline(task_id))
        self.model.tasks[task_id].deadline_is_over = True

    def _ended(self) -> list[str]:
        return [name for name, task in self.model.tasks.items() if task.state in ENDED]

    def _listed(self) -> list[str]:
        return [name for name, task in self.model.tasks.items() if task.is_listed and not task.deadline_is_over]

    # Deliveries

    @precondition(lambda self: self.model.deliveries("ready"))
    @rule(process=processes)
    def read_outbox(self, process: str) -> None:
        self._read_outbox(process)

    @precondition(lambda self: self.model.deliveries("ready"))
    @rule(process=processes, verdict=st.sampled_from([None, *VERDICTS]))
    def read_open_and_settle_deliveries(self, process: str, verdict: Verdict | None) -> None:
        for one in self._read_outbox(process):
            self._open(one)
            if verdict is not None:
                self._settle_delivery(one, verdict)

    def _read_outbox(self, process: str) -> list[ReadDelivery]:
        entries: list[OutboxEntry] = self.run(self.outboxes[process].read(100, block_ms=1))
        assert {_task_id(entry) for entry in entries} == set(self.model.deliveries("ready"))
        return self._note_deliveries(process, entries)

    @rule(process=processes, others_are_dead=st.booleans())
    def adopt(self, process: str, others_are_dead: bool) -> None:
        if others_are_dead:
            self.run(self._let_die([name for name in PROCESSES if name != process]))
            self.model.alive.clear()
        self.model.alive.add(process)
        expected = {
            task_id
            for task_id, delivery in self.model.deliveries("read").items()
            if delivery.reader not in self.model.alive
        }
        entries = self.run(self._adopt(process))
        assert {_task_id(entry) for entry in entries} == expected
        self._note_deliveries(process, entries)

    async def _let_die(self, names: list[str]) -> None:
        for name in names:
            await self.bench.probe.ask("ZADD", self.bench.partition.senders, 1, name)

    async def _adopt(self, process: str) -> list[OutboxEntry]:
        await self.bench.steady()
        return await self.outboxes[process].adopt(tick_ms=TICK_MS, lease_ms=LONG_LEASE_MS)

    def _note_deliveries(self, process: str, entries: list[OutboxEntry]) -> list[ReadDelivery]:
        noted = []
        for entry in sorted(entries, key=_task_id):
            delivery = self._delivery_of(entry)
            assert delivery is not None
            delivery.place, delivery.reader = "read", process
            noted.append((process, entry, delivery.turn))
        self.deliveries += noted
        return noted

    def _delivery_of(self, entry: OutboxEntry) -> ModelDelivery | None:
        return self.model.tasks[_task_id(entry)].delivery

    @precondition(lambda self: self.deliveries)
    @rule(which=luck)
    def open(self, which: int) -> None:
        self._open(_pick(self.deliveries, which))

    def _open(self, one: ReadDelivery) -> None:
        process, entry, turn = one
        opened = self.run(self.outboxes[process].open(entry))
        delivery = self._delivery_of(entry)
        if delivery is not None and delivery.turn == turn and delivery.place == "read":
            assert opened is not None
            assert opened.attempts == self.model.tasks[_task_id(entry)].delivery_attempts
            delivery.owner = process
        else:
            assert opened is None

    @precondition(lambda self: self.deliveries)
    @rule(which=luck, verdict=st.sampled_from(VERDICTS))
    def settle_delivery(self, which: int, verdict: Verdict) -> None:
        self._settle_delivery(_pick(self.deliveries, which), verdict)

    def _settle_delivery(self, one: ReadDelivery, verdict: Verdict) -> None:
        process, entry, turn = one
        expected = self.model.tasks[_task_id(entry)].deliver(turn, process, verdict)
        settled = self.run(self.outboxes[process].settle(entry, answer(), verdict, at_ms=1))
        assert settled.accepted is expected

    @precondition(lambda self: self.deliveries)
    @rule(which=luck)
    def defer(self, which: int) -> None:
        process, entry, turn = _pick(self.deliveries, which)
        self.run(self.outboxes[process].defer(entry, delay_ms=0))
        delivery = self._delivery_of(entry)
        if delivery is not None and delivery.turn == turn and delivery.place == "read":
            delivery.place, delivery.owner = "parked", ""

    @precondition(lambda self: self.model.deliveries("retry", "parked"))
    @rule()
    def promote(self) -> None:
        waiting = self.model.deliveries("retry", "parked")
        for delivery in waiting.values():
            delivery.place, delivery.turn = "ready", delivery.turn + 1
        assert self.run(self.outboxes["d1"].promote()) == len(waiting)

    # Invariants after every step

    @invariant()
    def the_store_agrees_with_itself(self) -> None:
        assert self.run(self.bench.check()) == []

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        self.model.forget_taken()
        self.run(self._compare())

    async def _compare(self) -> None:
        found = await asyncio.gather(*(self.store.tasks.get(self.bench.endpoint_id, one) for one in TASKS))
        real = {
            task.task_id: (
                task.state.value, task.attempts, task.lost, task.input, task.output, task.delivery_status.value,
                task.delivery_attempts, task.runs, task.cancel_requested,
            )
            for task in found
            if task is not None
        }  # fmt: skip
        modelled = {
            task_id: (
                task.state, task.attempts, task.lost, INPUTS[task_id], task.output, task.delivery_status,
                task.delivery_attempts, task.run, task.cancel,
            )
            for task_id, task in self.model.tasks.items()
        }  # fmt: skip
        assert real == modelled
        assert await self.store.tasks.counts(self.bench.endpoint_id) == self.model.counts()
        listed = await self.bench.probe.scores(self.bench.partition.deadlines)
        assert set(listed) == {self.bench.member(name) for name, task in self.model.tasks.items() if task.is_listed}
        for task_id, task in self.model.tasks.items():
            attempts = await self.store.tasks.attempts(self.bench.endpoint_id, task_id)
            assert attempts is not None
            assert [(one.number, one.outcome, one.tries) for one in attempts] == task.all_attempts()[-51:]


def _pick(items: list[T], which: int) -> T:
    """Return an item, newer ones more often, because old items are mostly stale."""
    return items[-1 - (which % len(items)) * (which % 3 == 0)]


def _task_id(entry: OutboxEntry) -> str:
    return entry.delivery_id.rpartition(":")[2]
