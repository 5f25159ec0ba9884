"""The agent's work on a task source without a store: its claims have started when they are handed out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from queue_engine.aio import end_tasks
from queue_engine.domain.attempts import Renewal, Settled, StartedAttempt, Unreadable
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import (
    Budget,
    ClaimedTask,
    ContainerResponse,
    Failed,
    Lease,
    Outcome,
    Succeeded,
    TaskSpec,
    TaskState,
)
from tests.waiting import wait_until_async
from worker_agent.agent import AgentConfig, Duty
from worker_agent.container import ContainerAddress, ContainerWatch, watch_over
from worker_agent.execution import CANCELLED
from worker_agent.leases import MAX_RENEWED, Leases
from worker_agent.ports import Claim
from worker_agent.requests import ForwardRequest
from worker_agent.slots import Slots
from worker_agent.tasks import TaskWork

LEASE_SECONDS = 0.2


def attempt(name: str, *, is_suspect: bool = False, unreadable: Unreadable | None = None) -> StartedAttempt:
    lease = Lease("1", name, f"token of {name}")
    task = ClaimedTask(lease, 1, 1, 60.0, TaskSpec(8000, "/run"), b"{}")
    return StartedAttempt(lease, "w1", 1, 0, 0, unreadable or task, Budget(1, 3), is_suspect=is_suspect)


@dataclass
class MemoryClaim:
    source: "MemorySource"
    attempt: StartedAttempt

    async def start(self, *, address: str, is_ahead: bool = False) -> StartedAttempt | None:
        self.source.unstarted.remove(self)
        if is_ahead:
            self.source.uncounted.add(self.attempt.lease.task_id)
        return self.attempt

    async def put_back(self) -> None:
        self.source.unstarted.remove(self)
        self.source.put_back.append(self.attempt.lease.task_id)


@dataclass
class MemorySource:
    """Hands out what is offered; records what comes back."""

    offered: asyncio.Queue[StartedAttempt] = field(default_factory=asyncio.Queue)
    unstarted: list[MemoryClaim] = field(default_factory=list)
    put_back: list[str] = field(default_factory=list)
    settled: dict[str, Outcome] = field(default_factory=dict)
    released: dict[str, bool] = field(default_factory=dict)
    renewals: dict[str, Renewal] = field(default_factory=dict)
    renewed: set[str] = field(default_factory=set)
    uncounted: set[str] = field(default_factory=set)
    """Tasks that were started ahead of a free slot, and whose calls have not begun as far as the source knows."""
    cancellations: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """Ids of cancelled tasks that the source tells of."""
    asked_for_cancellations: int = 0
    records: asyncio.Event = field(default_factory=asyncio.Event)
    """Outcomes are recorded while it is set."""
    failures: int = 0
    renewal_failures: int = 0

    def __post_init__(self) -> None:
        self.records.set()

    async def claim(self, limit: int) -> Sequence[Claim]:
        claim = MemoryClaim(self, await self.offered.get())
        self.unstarted.append(claim)
        return [claim]

    async def claim_abandoned(self, limit: int, *, unstarted_seconds: float) -> Sequence[Claim]:
        return []

    async def unstarted_claims(self) -> Sequence[Claim]:
        return list(self.unstarted)

    async def renew(self, leases: Sequence[Lease], *, begun: int = 0) -> Sequence[Renewal]:
        if self.renewal_failures:
            self.renewal_failures -= 1
            raise StoreUnavailable("it cannot be reached")
        self.renewed |= {lease.task_id for lease in leases}
        self.uncounted -= {lease.task_id for lease in leases[:begun]}
        return [self.renewals.get(lease.task_id, Renewal.OK) for lease in leases]

    async def cancelled(self) -> Collection[str]:
        self.asked_for_cancellations += 1
        return {await self.cancellations.get()}

    async def settle(self, lease: Lease, outcome: Outcome) -> Settled:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("it cannot be reached")
        await self.records.wait()
        self.settled[lease.task_id] = outcome
        return Settled("OK")

    async def release(self, lease: Lease, *, called: bool) -> str:
        self.released[lease.task_id] = called
        return "OK"


class Container:
    """Responds when the test lets it: to all requests while `free` is set, or to one after `respond`."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.free = asyncio.Event()
        self._responds: dict[str, asyncio.Event] = {}

    def respond(self, name: str) -> None:
        self._responds[name].set()

    async def forward(self, request: ForwardRequest) -> ContainerResponse:
        name = dict(request.headers)["X-Task-Id"]
        self.running.add(name)
        one = self._responds[name] = asyncio.Event()
        waits = [asyncio.create_task(event.wait()) for event in (self.free, one)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.running.discard(name)
            await end_tasks(*waits)
        return ContainerResponse(200, b"1")


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


@pytest.fixture
def container() -> Container:
    return Container()


@pytest.fixture
def duty() -> Duty:
    return Duty()


@pytest.fixture
async def work(source: MemorySource, container: Container, duty: Duty) -> AsyncIterator[TaskWork]:
    """The work of an agent with two slots and no grace, which runs until the end of the test."""
    config = AgentConfig("1", "w1", 2, lease_seconds=LEASE_SECONDS, grace_seconds=0, managed=False)
    watch = await ready_watch()
    made = TaskWork(config, source, container, watch)
    running = asyncio.create_task(made.run(duty))
    yield made
    duty.draining.set()
    container.free.set()
    await running
    await watch.aclose()


@asynccontextmanager
async def work_ahead(
    source: MemorySource,
    container: Container,
    duty: Duty,
    *,
    max_wait_seconds: float,
    lease_seconds: float = LEASE_SECONDS,
) -> AsyncIterator[TaskWork]:
    """The work of an agent with two slots whose calls were short, so that one more attempt may wait for a slot."""
    config = AgentConfig("1", "w1", 2, lease_seconds=lease_seconds, grace_seconds=0, managed=False)
    watch = await ready_watch()
    slots = Slots(2, recent_seconds=3600, max_wait_seconds=max_wait_seconds)
    made = TaskWork(config, source, container, watch, slots=slots)
    running = asyncio.create_task(made.run(duty))
    container.free.set()
    for name in ("short 1", "short 2"):
        source.offered.put_nowait(attempt(name))
        await until(lambda: name in source.settled)  # noqa: B023
    container.free.clear()
    yield made
    duty.draining.set()
    container.free.set()
    await running
    await watch.aclose()


async def test_an_attempt_that_waits_for_a_slot_is_leased_and_not_called(
    source: MemorySource, container: Container, duty: Duty
) -> None:
    async with work_ahead(source, container, duty, max_wait_seconds=60) as work:
        for name in ("t1", "t2", "t3", "t4"):
            source.offered.put_nowait(attempt(name))
        await until(lambda: {"t1", "t2", "t3"} <= source.renewed)
        assert container.running == {"t1", "t2"}
        assert work.running_tasks == 2
        assert source.uncounted == {"t3"}
        assert source.offered.qsize() == 1  # no further task is claimed
        container.free.set()
        await until(lambda: {"t1", "t2", "t3", "t4"} <= set(source.settled))
    assert not source.released


async def test_an_attempt_without_a_slot_is_left_to_other_agents_in_time(
    source: MemorySource, container: Container, duty: Duty
) -> None:
    async with work_ahead(source, container, duty, max_wait_seconds=0.01):
        for name in ("t1", "t2", "t3"):
            source.offered.put_nowait(attempt(name))
        await until(lambda: source.released == {"t3": False})
        assert container.running == {"t1", "t2"}


async def test_a_drain_releases_an_attempt_that_waits_for_a_slot(
    source: MemorySource, container: Container, duty: Duty
) -> None:
    async with work_ahead(source, container, duty, max_wait_seconds=60) as work:
        for name in ("t1", "t2", "t3"):
            source.offered.put_nowait(attempt(name))
        await until(lambda: "t3" in source.renewed)
        duty.draining.set()
        await until(lambda: not work.running_tasks)
    assert source.released == {"t1": True, "t2": True, "t3": False}
    assert set(source.settled) == {"short 1", "short 2"}


async def test_a_cancelled_task_that_waits_for_a_slot_ends_as_cancelled(
    source: MemorySource, container: Container, duty: Duty
) -> None:
    async with work_ahead(source, container, duty, max_wait_seconds=60):
        for name in ("t1", "t2", "t3"):
            source.offered.put_nowait(attempt(name))
        await until(lambda: "t3" in source.renewed)
        source.renewals["t3"] = Renewal.CANCEL
        await until(lambda: "t3" in source.settled)
        outcome = source.settled["t3"]
        assert isinstance(outcome, Failed)
        assert outcome.state is TaskState.CANCELLED
        assert container.running == {"t1", "t2"}


@pytest.mark.parametrize("failures", [0, 2])
async def test_the_source_learns_of_a_call_that_has_waited_for_a_slot(
    source: MemorySource, container: Container, duty: Duty, failures: int
) -> None:
    async with work_ahead(source, container, duty, max_wait_seconds=60, lease_seconds=3600):
        for name in ("t1", "t2", "t3"):
            source.offered.put_nowait(attempt(name))
        await until(lambda: source.uncounted == {"t3"})
        source.renewal_failures = failures
        container.respond("t1")
        await until(lambda: "t3" in container.running)
        await until(lambda: not source.uncounted)


async def test_a_call_that_begins_while_other_leases_are_renewed_is_the_one_that_counts() -> None:
    class BusySource(MemorySource):
        async def renew(self, leases: Sequence[Lease], *, begun: int = 0) -> Sequence[Renewal]:
            renewals = await super().renew(leases, begun=begun)
            agent_leases.begin_call(last)
            return renewals

    names = [f"t{number}" for number in range(MAX_RENEWED + 2)]
    source = BusySource(uncounted=set(names))
    agent_leases = Leases(source, lease_seconds=LEASE_SECONDS)
    with ExitStack() as stack:
        held = [stack.enter_context(agent_leases.holding(attempt(name), is_ahead=True)) for name in names]
        last = held[-1]
        await agent_leases.renew_step()
    assert source.uncounted == {*names} - {names[-1]}
    assert [one for one in held if not one.is_ahead] == [last]


async def test_a_slot_is_free_while_the_outcome_of_its_call_is_recorded(
    source: MemorySource, container: Container, duty: Duty
) -> None:
    names = [f"t{number}" for number in range(7)]
    async with work_ahead(source, container, duty, max_wait_seconds=60) as work:
        container.free.set()
        source.records.clear()
        for name in names:
            source.offered.put_nowait(attempt(name))
        await until(lambda: set(names[:5]) <= source.renewed)
        assert source.offered.qsize() == 2  # so many outcomes wait that no further task is claimed
        assert work.running_tasks == 0
        source.records.set()
        await until(lambda: set(names) <= set(source.settled))


async def ready_watch() -> ContainerWatch:
    watch = watch_over(
        ContainerAddress("127.0.0.1", own_network=True), ready_path=None, start_timeout_seconds=60, sees_calls=True
    )
    await watch.step()
    return watch


async def until(condition: Callable[[], object]) -> None:
    await wait_until_async(condition, 60)


async def test_an_outcome_is_offered_until_the_source_takes_it(
    work: TaskWork, source: MemorySource, container: Container
) -> None:
    source.failures = 2
    container.free.set()
    source.offered.put_nowait(attempt("t1"))
    await until(lambda: source.settled == {"t1": Succeeded(b"1")})
    assert source.failures == 0


async def test_leases_of_running_attempts_are_renewed(
    work: TaskWork, source: MemorySource, container: Container
) -> None:
    source.offered.put_nowait(attempt("t1"))
    source.offered.put_nowait(attempt("t2"))
    await until(lambda: source.renewed == {"t1", "t2"})
    assert work.running_tasks == 2


async def test_a_fenced_attempt_is_stopped_and_its_outcome_is_not_recorded(
    work: TaskWork, source: MemorySource, container: Container
) -> None:
    source.offered.put_nowait(attempt("t1"))
    await until(lambda: container.running)
    source.renewals["t1"] = Renewal.FENCED
    await until(lambda: not work.running_tasks)
    assert not container.running
    assert (source.settled, source.released) == ({}, {})


async def test_a_cancelled_task_is_stopped_and_ends_as_cancelled(
    work: TaskWork, source: MemorySource, container: Container
) -> None:
    source.offered.put_nowait(attempt("t1"))
    await until(lambda: container.running)
    source.renewals["t1"] = Renewal.CANCEL
    await until(lambda: "t1" in source.settled)
    outcome = source.settled["t1"]
    assert isinstance(outcome, Failed)
    assert outcome.state is TaskState.CANCELLED
    assert not container.running


async def test_a_cancellation_that_the_source_tells_of_stops_the_attempt_before_its_next_renewal(
    source: MemorySource, container: Container, duty: Duty
) -> None:
    async with work_ahead(source, container, duty, max_wait_seconds=60, lease_seconds=3600):
        source.offered.put_nowait(attempt("t1"))
        source.offered.put_nowait(attempt("t2"))
        await until(lambda: container.running == {"t1", "t2"})
        source.renewals["t1"] = Renewal.CANCEL
        source.cancellations.put_nowait("another")
        source.cancellations.put_nowait("t1")
        await until(lambda: "t1" in source.settled)
        assert source.settled["t1"] == CANCELLED
        assert container.running == {"t2"}


async def test_a_cancellation_that_comes_just_before_the_attempt_is_not_missed(source: MemorySource) -> None:
    leases = Leases(source, lease_seconds=3600)
    source.cancellations.put_nowait("t1")
    source.renewals["t1"] = Renewal.CANCEL
    asking = asyncio.create_task(leases.stop_cancelled_forever())
    await until(source.cancellations.empty)

    async def run() -> None:
        with leases.holding(attempt("t1")):
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await asyncio.wait({running})
    assert running.cancelled()
    await end_tasks(asking)


async def test_an_agent_without_tasks_does_not_ask_for_cancellations(source: MemorySource) -> None:
    leases = Leases(source, lease_seconds=LEASE_SECONDS)
    source.cancellations.put_nowait("t1")
    asking = asyncio.create_task(leases.stop_cancelled_forever())
    await until(source.cancellations.empty)
    for _ in range(10):
        await asyncio.sleep(0)
    assert source.asked_for_cancellations == 1
    with leases.holding(attempt("t1")):
        await until(lambda: source.asked_for_cancellations == 2)
    await end_tasks(asking)


async def test_a_refused_agent_stops_its_calls_and_releases_nothing(
    work: TaskWork, source: MemorySource, container: Container, duty: Duty
) -> None:
    """The fixture has no grace. A refusal within a long one: see the next test."""
    source.offered.put_nowait(attempt("t1"))
    await until(lambda: container.running)
    duty.refused.set()
    duty.draining.set()
    await until(lambda: not work.running_tasks)
    assert not container.running
    assert (source.settled, source.released) == ({}, {})


async def test_a_refusal_within_the_grace_period_ends_it(
    source: MemorySource, container: Container, duty: Duty
) -> None:
    config = AgentConfig("1", "w1", 2, lease_seconds=LEASE_SECONDS, grace_seconds=3600, managed=False)
    watch = await ready_watch()
    running = asyncio.create_task(TaskWork(config, source, container, watch).run(duty))
    source.offered.put_nowait(attempt("t1"))
    await until(lambda: container.running)
    duty.draining.set()
    await until(lambda: not source.unstarted)
    assert not running.done()
    duty.refused.set()
    await asyncio.wait_for(running, 60)
    assert (container.running, source.settled, source.released) == (set(), {}, {})
    await watch.aclose()


async def test_a_suspect_is_left_to_other_agents_once_and_then_runs_alone(
    work: TaskWork, source: MemorySource, container: Container
) -> None:
    source.offered.put_nowait(attempt("t1"))
    await until(lambda: container.running == {"t1"})
    source.offered.put_nowait(attempt("suspect", is_suspect=True))
    await until(lambda: source.released == {"suspect": False})
    source.offered.put_nowait(attempt("suspect", is_suspect=True))
    await until(lambda: work.running_tasks == 2)
    assert container.running == {"t1"}
    container.free.set()
    await until(lambda: set(source.settled) == {"t1", "suspect"})


async def test_a_drain_releases_running_attempts_and_puts_back_unstarted_claims(
    work: TaskWork, source: MemorySource, container: Container, duty: Duty
) -> None:
    source.offered.put_nowait(attempt("t1"))
    await until(lambda: container.running)
    source.unstarted.append(MemoryClaim(source, attempt("cut off")))
    duty.draining.set()
    await until(lambda: source.released == {"t1": True})
    await until(lambda: source.put_back == ["cut off"])
    assert not container.running
    assert source.settled == {}


async def test_a_task_whose_key_is_missing_is_left_to_other_agents(work: TaskWork, source: MemorySource) -> None:
    source.offered.put_nowait(attempt("t1", unreadable=Unreadable("no key", is_key_missing=True)))
    await until(lambda: source.released == {"t1": False})
    assert "no key" in work.problem


async def test_a_task_that_no_process_can_open_fails(work: TaskWork, source: MemorySource) -> None:
    source.offered.put_nowait(attempt("t1", unreadable=Unreadable("was moved", is_key_missing=False)))
    await until(lambda: "t1" in source.settled)
    assert source.settled["t1"] == Failed("the worker's agent cannot read the task's headers: was moved")
    assert work.problem == ""


async def test_a_task_whose_headers_are_being_sealed_is_released_without_a_problem(
    work: TaskWork, source: MemorySource
) -> None:
    unreadable = Unreadable("not for agents", is_key_missing=True, is_being_sealed=True)
    source.offered.put_nowait(attempt("t1", unreadable=unreadable))
    await until(lambda: source.released == {"t1": False})
    assert work.problem == ""
    assert source.settled == {}
