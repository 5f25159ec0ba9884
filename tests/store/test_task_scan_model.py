"""Random walks over filtered tasks, while tasks come, end, move and go, compared with a model after every page."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.task_filters import TASK_FILTERS, TaskFilters
from queue_engine.domain.tasks import (
    DeliveryStatus,
    Failed,
    Outcome,
    Priority,
    Succeeded,
    Task,
    TaskState,
    TaskStatus,
    TryAgain,
)
from queue_engine.store.codec import TaskSpecs
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.queue import Started, TaskQueue
from queue_engine.store.store import Store
from queue_engine.store.task_scan import ScanLimits, ScannedIds, ScannedPage, TaskScan
from tests.examples import examples
from tests.store.bench import DELIVERED, DESTINATION, GIVEN_UP, SECRET_KEY, TENANT, Bench, again, answer, config, spec
from tests.store.probe import Probe

LONG_DESTINATION = f"https://{'x' * 60}.example:443"
INPUTS = [b'{"n": 1}', b'{"n": 2, "t": "caf\xc3\xa9"}', b'"' + b"x" * 70_000 + b'needle"']
ERRORS = ["out of memory", "HTTP 500: model not loaded", "HTTP 500: café"]
"""Errors that are their own signatures."""
PARTS = ["o", "500", "caf", "é", "memory", "needle", "n", "100%", "(", "x"]
RUNNERS = ["w1", "w2"]
TAGS = ["team", "team:a", "te", "z/9"]
"""A tag that begins with another one, and tags in which characters sort before and after digits and spaces."""
LANES: list[dict[str, object]] = [
    {},
    {"fairness_key": "acme"},
    {"fairness_key": "acm", "priority": Priority.HIGH},
    {"priority": Priority.LOW},
]
"""Lanes of tasks: none, two keys of which one begins with the other, and one without a key."""

LIVES = examples(
    25,
    stateful_step_count=50,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining traces every line: far too slow
    suppress_health_check=list(HealthCheck),
)
luck = st.integers(min_value=0, max_value=1_000)
"""Strategy that chooses from the existing items."""


def matches(task: Task, filters: TaskFilters) -> bool:
    """Return True if a task matches, as docs/guides/find-tasks.md defines it."""
    finished = task.finished_at_ms
    webhook = task.spec.webhook_destination if task.spec.webhook else None
    stated = [
        filters.status in (None, task.status),
        not filters.state or task.state in filters.state,
        filters.created_after is None or task.created_at_ms >= filters.created_after,
        filters.created_before is None or task.created_at_ms < filters.created_before,
        filters.finished_after is None or (finished is not None and finished >= filters.finished_after),
        filters.finished_before is None or (finished is not None and finished < filters.finished_before),
        filters.tag is None or filters.tag in task.spec.tags,
        filters.fairness_key in (None, task.fairness_key),
        filters.worker_id in (None, task.worker_id),
        filters.error_contains is None or (task.error is not None and filters.error_contains in task.error),
        filters.error_signature in (None, task.error),
        filters.delivery_status in (None, task.delivery_status),
        filters.destination in (None, webhook),
        filters.id_prefix is None or task.task_id.startswith(filters.id_prefix),
        filters.input is None or filters.input.encode() in bytes(task.input or b"")[:65_536],
    ]
    return all(stated)


@dataclass
class Walk:
    """A walk under way: what it has found, and the tasks that have matched at every moment since its start."""

    filters: TaskFilters
    oldest_first: bool
    limit: int
    throughout: set[int]
    """Numbers of these tasks."""
    upto: int | None
    newest: float
    """Highest number of a task that the walk may find."""
    after: int | None = None
    found: list[int] = field(default_factory=list)


def test_every_walk_finds_each_task_that_is_there_throughout_once(store_url: str) -> None:
    with asyncio.Runner() as runner:
        store = Store(store_url, Sealer(SECRET_KEY), partitions=1)
        try:
            run_state_machine_as_test(lambda: Lists(runner.run, store), settings=LIVES)  # type: ignore[arg-type]
        finally:
            runner.run(store.close())


class Lists(RuleBasedStateMachine):
    """Each rule changes a task, or reads the next page of a walk."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], store: Store) -> None:
        super().__init__()
        self.run = run
        self.store = store
        self.tasks: list[Task] = []
        """All tasks by creation, read one by one after each change."""
        self.names: list[str] = []
        self.running: list[tuple[TaskQueue, Started]] = []
        self.walks: list[Walk] = []
        self.submitted = 0

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        probe = Probe(self.store.redis)
        await probe.ask("FLUSHALL")
        endpoint = await self.store.endpoints.create(TENANT, config(max_attempts=3))
        self.bench = Bench(self.store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])
        self.outbox: Outbox = await self.bench.outbox()
        parts = self.store.redis, self.store.scripts, self.store.partitions, TaskSpecs(Sealer(SECRET_KEY))
        limits = ScanLimits(scanned=5, seconds=60, first_piece=1, piece=3, shown=2, sorted=6)
        self.scan = TaskScan(*parts, limits)
        for kind in range(6):
            await self._submit(kind, kind)
        # Tasks end in another order than they were created in.
        for runner in (*RUNNERS, *RUNNERS):
            await self._start(runner)
        while len(self.running) > 1:
            agent, started = self.running.pop()
            outcome = Failed(ERRORS[0]) if len(self.running) % 3 else Succeeded(b"42")
            await self.bench.settle(agent, started, outcome)
        await self._reread()

    # Changes

    @rule(kind=luck, name=luck)
    def submit(self, kind: int, name: int) -> None:
        self.run(self._submit(kind, name))

    async def _submit(self, kind: int, name: int) -> None:
        self.submitted += 1
        task_id = f"{'ab'[name % 2]}{self.submitted}"
        if name % 5 == 4 and (unused := [one for one in self.names if one not in {t.task_id for t in self.tasks}]):
            task_id = unused[name % len(unused)]  # the id of a task that does not exist
        webhook = spec(webhook=kind % 3 > 0)
        if kind % 3 == 2:
            webhook = replace(webhook, webhook_destination=LONG_DESTINATION)
        webhook = replace(webhook, tags=sorted({TAGS[kind % 4], TAGS[name % 4]} if name % 3 else set()))
        lane = LANES[(kind + name) % len(LANES)]
        await self.bench.submit(task_id, spec=webhook, input=INPUTS[kind % len(INPUTS)], **lane)
        self.names.append(task_id)
        if kind % 7 == 6:
            await self._make_entry_old()
        await self._reread([*(task.task_id for task in self.tasks), task_id])

    async def _make_entry_old(self) -> None:
        """Give the newest task an entry without a time, as an earlier version does."""
        created = self.bench.keys.created
        *entries, (entry, fields) = await self.store.redis.xrange(created)
        entries.append((entry.partition(b"-")[0] + b"-1", fields))
        await self.store.redis.delete(created)
        for entry_id, values in entries:
            await self.store.redis.xadd(created, values, id=entry_id)

    @rule(runner=st.sampled_from(RUNNERS))
    def start(self, runner: str) -> None:
        self.run(self._start(runner))

    async def _start(self, runner: str) -> None:
        if not any(task.state is TaskState.QUEUED for task in self.tasks):
            return
        agent = self.bench.agent(runner)
        self.running.append((agent, await self.bench.start(agent)))
        await self._reread()

    @precondition(lambda self: self.running)
    @rule(which=luck, how=luck)
    def settle(self, which: int, how: int) -> None:
        agent, started = self.running.pop(which % len(self.running))
        outcomes: list[Outcome] = [Succeeded(b"42"), TryAgain("busy", 3600), *(Failed(error) for error in ERRORS)]
        self.run(self.bench.settle(agent, started, outcomes[how % len(outcomes)]))
        self.run(self._reread())

    @rule(which=luck, how=luck)
    def deliver(self, which: int, how: int) -> None:
        self.run(self._deliver([DELIVERED, GIVEN_UP, again()][how % 3]))

    async def _deliver(self, verdict: Any) -> None:
        for entry in await self.outbox.read(1, block_ms=1):
            if await self.outbox.open(entry) is not None:
                await self.outbox.settle(entry, answer(500), verdict, at_ms=1)
        await self._reread()

    @rule(which=luck, order=st.sampled_from(["cancel", "rerun", "delete"]))
    def order(self, which: int, order: str) -> None:
        if not self.tasks:
            return
        endpoint_id, task_id = self.bench.endpoint_id, self.tasks[which % len(self.tasks)].task_id
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "cancel": lambda: self.store.tasks.cancel(endpoint_id, task_id),
            "rerun": lambda: self.store.tasks.rerun(endpoint_id, task_id, f"call{self.submitted}"),
            "delete": lambda: self.store.tasks.delete(endpoint_id, task_id),
        }
        self.run(calls[order]())
        self.run(self._reread())

    @rule()
    def purge(self) -> None:
        self.run(self.bench.purge())
        self.run(self._reread())

    async def _reread(self, task_ids: list[str] | None = None) -> None:
        """Read all tasks one by one, and remove those from the walks' sets that do not match now."""
        names = task_ids or [task.task_id for task in self.tasks]
        read = [await self.store.tasks.get(self.bench.endpoint_id, name) for name in names]
        self.tasks = [task for task in read if task is not None]
        for walk in self.walks:
            walk.throughout &= {task.number for task in self.tasks if matches(task, walk.filters)}

    # Walks

    @rule(data=st.data(), oldest_first=st.booleans(), limit=st.integers(1, 6), is_bounded=st.booleans())
    def begin_walk(self, data: st.DataObject, oldest_first: bool, limit: int, is_bounded: bool) -> None:
        filters = data.draw(self._filters())
        upto = self.run(self.scan.latest_place(self.bench.endpoint_id)) if is_bounded else None
        throughout = {task.number for task in self.tasks if matches(task, filters)}
        newest = max((task.number for task in self.tasks), default=0) if is_bounded else float("inf")
        self.walks.append(Walk(filters, oldest_first, limit, throughout, upto, newest))

    def _filters(self) -> st.SearchStrategy[TaskFilters]:
        created = [task.created_at_ms for task in self.tasks]
        finished = [task.finished_at_ms for task in self.tasks if task.finished_at_ms is not None]
        times = st.sampled_from([one + by for one in (*created, *finished) for by in (0, 1)] or [0])
        some = {
            "status": st.sampled_from(TaskStatus),
            "state": st.frozensets(st.sampled_from(TaskState), min_size=1, max_size=4),
            "created_after": times,
            "created_before": times,
            "finished_after": times,
            "finished_before": times,
            "tag": st.sampled_from([*TAGS, "team:"]),
            "fairness_key": st.sampled_from(["acme", "acm", "a"]),
            "worker_id": st.sampled_from(RUNNERS),
            "error_contains": st.sampled_from(PARTS),
            "error_signature": st.sampled_from(ERRORS),
            "delivery_status": st.sampled_from(DeliveryStatus),
            "destination": st.sampled_from([DESTINATION, LONG_DESTINATION, "https://none.example:443"]),
            "id_prefix": st.sampled_from(["a", "b", "a1", "c"]),
            "input": st.sampled_from(PARTS),
        }
        assert set(some) == {one.name for one in TASK_FILTERS}
        # Most walks have a filter that an index serves, and others beside it.
        indexed = st.sampled_from([{"status"}, {"state"}, {"tag"}, {"created_after", "created_before"}, set()])
        others = st.sets(st.sampled_from(sorted(some)), max_size=2)
        chosen = st.builds(set.union, indexed, others)
        return chosen.flatmap(lambda names: st.builds(TaskFilters, **{name: some[name] for name in sorted(names)}))

    @precondition(lambda self: self.walks)
    @rule(which=luck)
    def read_page(self, which: int) -> None:
        self._read_page(self.walks[which % len(self.walks)])

    @precondition(lambda self: self.walks)
    @rule(which=luck)
    def finish_walk(self, which: int) -> None:
        walk = self.walks[which % len(self.walks)]
        while walk in self.walks:
            self._read_page(walk)

    def _read_page(self, walk: Walk) -> None:
        scan, endpoint_id, filters = self.scan, self.bench.endpoint_id, walk.filters
        order = {"oldest_first": walk.oldest_first}
        places = {"after": walk.after, "limit": walk.limit, "upto": walk.upto}
        page: ScannedPage = self.run(scan.page(endpoint_id, filters, **places, **order))  # type: ignore[arg-type]
        ids: ScannedIds = self.run(scan.ids(endpoint_id, filters, **places, **order))  # type: ignore[arg-type]
        assert ids.task_ids == tuple(task.task_id for task in page.items)
        assert (ids.next, ids.scanned) == (page.next, page.scanned)
        assert page.scanned <= 5
        assert len(page.items) <= walk.limit
        by_number = {task.number: task for task in self.tasks}
        for task in page.items:
            # The record of a list has no input, no secret and no facts of the detail.
            whole = by_number[task.number]
            assert matches(whole, walk.filters)
            assert task == replace(whole, input=None, output=None, facts=None)
        walk.found += [task.number for task in page.items]
        assert walk.found == sorted(set(walk.found), reverse=not walk.oldest_first)
        assert max(walk.found, default=0) <= walk.newest
        walk.after = page.next
        if page.next is None:
            self.walks.remove(walk)
            assert walk.throughout <= set(walk.found)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            for walk in list(self.walks):
                while walk in self.walks:
                    self._read_page(walk)
            assert self.run(self.bench.check()) == []
