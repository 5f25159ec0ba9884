"""The rounds that make the workers that run be the desired workers. Store and backend are in memory."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from queue_engine.backends.base import Observed, Phase
from queue_engine.controller.known import OVERDUE_SECONDS, WAITING_LOOKS_PER_SECOND
from queue_engine.controller.plan import START_PLACE_SECONDS
from queue_engine.controller.reconcile import GAP_SECONDS, STARTING_SILENCE_SECONDS, Reconciler, ReconcilerConfig
from queue_engine.crypto.sealing import SealBroken
from queue_engine.domain.credentials import RegistryAuth
from queue_engine.domain.endpoints import DesiredState, Endpoint, EndpointConfig, Resource, ServiceMode
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.store.checks import HOLD_MS, Taken, TakenChecks
from queue_engine.store.keys import Partition
from tests.scripted_backend import Broken, Faults, ScriptedBackend

SILENCE = 30.0
ROUNDS = 40
INITIALIZING, RUNNING, STOPPING = WorkerStatus.INITIALIZING, WorkerStatus.RUNNING, WorkerStatus.STOPPING
FAILED = WorkerStatus.FAILED


@dataclass
class Store:
    """Endpoints, workers and credentials as the reconciler sees them."""

    faults: Faults
    now_ms: int = 1_000_000
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    recorded: dict[str, Worker] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    failed_said: list[bool] = field(default_factory=list)
    credentials: dict[int, RegistryAuth] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    """Time of the next look by endpoint."""
    looked_at: list[str] = field(default_factory=list)
    unavailable: set[str] = field(default_factory=set)
    """Endpoints of a partition whose server does not respond."""

    def change(self, endpoint_id: str) -> None:
        """Make the endpoint due, as the scripts of a change do."""
        self.checks[endpoint_id] = min(self.now_ms, self.checks.get(endpoint_id, self.now_ms))

    async def take(self) -> TakenChecks:
        self.faults.before()
        held_until_ms = self.now_ms + HOLD_MS
        due = [one for one, at_ms in sorted(self.checks.items(), key=lambda pair: pair[1]) if at_ms <= self.now_ms]
        ids = [one for one in due if one not in self.unavailable]
        self.checks |= dict.fromkeys(ids, held_until_ms)
        self.faults.after()
        return TakenChecks([Taken(one, held_until_ms) for one in ids], [Broken()] if self.unavailable else [])

    async def plan(self, taken: Taken, wait_seconds: float | None) -> None:
        self.faults.before()
        if self.checks.get(taken.endpoint_id) == taken.held_until_ms:
            if wait_seconds is not None:
                self.checks[taken.endpoint_id] = self.now_ms + math.ceil(wait_seconds * 1000)
            elif not any(worker.endpoint_id == taken.endpoint_id for worker in self.recorded.values()):
                del self.checks[taken.endpoint_id]
        self.faults.after()

    async def hasten(self, endpoint_ids: Collection[str]) -> None:
        self.faults.before()
        for endpoint_id in endpoint_ids:
            self.change(endpoint_id)
        self.faults.after()

    async def hasten_all(self, done: set[Partition]) -> None:
        if done:
            return
        self.faults.before()
        for endpoint_id in self.checks:
            self.change(endpoint_id)
        self.faults.after()
        done.add(Partition(0))

    async def time_ms(self) -> int:
        self.faults.before()
        self.faults.after()
        return self.now_ms

    async def read(self, endpoint_ids: Sequence[str]) -> dict[str, Endpoint]:
        self.faults.before()
        self.looked_at += endpoint_ids
        self.faults.after()
        return {one: self.endpoints[one] for one in endpoint_ids if one in self.endpoints}

    async def environment(self, endpoint_id: str) -> dict[str, str]:
        self.faults.before()
        if endpoint_id in self.unreadable:
            raise SealBroken
        self.faults.after()
        return {"A": "1"}

    async def set_failed(self, endpoint_id: str, failed: bool) -> None:
        self.faults.before()
        self.failed_said.append(failed)
        self.endpoints[endpoint_id] = replace(self.endpoints[endpoint_id], failed=failed)
        self.faults.after()

    async def open(self, tenant: str, credential_id: int) -> RegistryAuth | None:
        self.faults.before()
        self.faults.after()
        return self.credentials.get(credential_id)

    async def of_endpoints(self, endpoint_ids: Sequence[str]) -> dict[str, list[Worker]]:
        self.faults.before()
        self.faults.after()
        workers = list(self.recorded.values())
        return {one: [worker for worker in workers if worker.endpoint_id == one] for one in endpoint_ids}

    async def put(self, endpoint_id: str, worker_id: str, *, managed: bool, revision: int = 1) -> None:
        self.faults.before()
        if endpoint_id in self.endpoints and worker_id not in self.recorded:
            self.recorded[worker_id] = Worker(
                worker_id, endpoint_id, INITIALIZING, self.now_ms, managed, revision=revision
            )
            self.change(endpoint_id)
        self.faults.after()

    async def begin_start(self, endpoint_id: str, worker_id: str, agent_token: str | None = None) -> int | None:
        self.faults.before()
        worker = self.recorded.get(worker_id)
        if worker is None:
            return None
        self.runs[worker_id] = self.runs.get(worker_id, 0) + 1
        self.recorded[worker_id] = replace(worker, started_at_ms=self.now_ms, last_heartbeat_at_ms=None)
        self.faults.after()
        return self.runs[worker_id]

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
    ) -> None:
        self.faults.before()
        if worker_id in self.recorded:
            worker = self.recorded[worker_id]
            if worker.status is not status:
                self.change(endpoint_id)
            kept = None if worker.error == outdated_error else worker.error
            self.recorded[worker_id] = replace(
                worker,
                status=status,
                error=error or kept,
                restarts=worker.restarts + restarted,
            )
        self.faults.after()

    async def remove(
        self, endpoint_id: str, worker_id: str, *, status: WorkerStatus = WorkerStatus.STOPPED, reason: str = ""
    ) -> None:
        self.faults.before()
        for name, worker in list(self.recorded.items()):
            if (worker.endpoint_id, worker.worker_id) == (endpoint_id, worker_id):
                del self.recorded[name]
                self.change(endpoint_id)
        self.faults.after()


class SlowOutput:
    """The output of containers, whose last lines cannot be read until a test lets it."""

    def __init__(self) -> None:
        self.may_go = asyncio.Event()

    def look(self, observed: Mapping[str, Observed]) -> None:
        """Follow nothing."""

    async def end_of(self, worker_id: str, run: int, reason: str) -> Sequence[str]:
        await self.may_go.wait()
        return ("the last line",)

    async def aclose(self) -> None:
        """Release nothing."""


@dataclass
class PartedBackend(ScriptedBackend):
    """Workers in regions, each of which may be away since the leader began. A worker is in its first region."""

    away: set[str] = field(default_factory=set)

    @property
    def unlisted(self) -> frozenset[str]:
        return frozenset(self.away)

    def unlisted_reason(self, resources: Sequence[Resource] | None) -> str | None:
        regions = self.away if resources is None else self.away & {one.region for one in resources}
        return f"{', '.join(sorted(regions))} does not respond" if regions else None

    async def observe(self) -> Mapping[str, Observed] | None:
        observed = await super().observe() or {}
        regions = {worker_id: spec.resources[0].region for worker_id, spec in self.running.items()}
        return {one: seen for one, seen in observed.items() if regions.get(one) not in self.away}


class Note:
    """The note why the platform does not respond, with all that was written."""

    def __init__(self) -> None:
        self.written: list[str | None] = []

    async def write(self, problem: str | None) -> None:
        self.written.append(problem)


class World:
    """One installation, and the controller that leads."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.store = Store(self.faults)
        self.note = Note()
        self.backend = ScriptedBackend(self.faults)
        self.now = 100.0
        self.beating = True
        """Agents say how they are; a worker is RUNNING one second after its start."""
        self.leads = True
        self.output: SlowOutput | None = None
        self.leaders: list[Reconciler] = []
        self.lead()

    def lead(self) -> None:
        """A new controller leads; it knows nothing of what the one before did."""
        config = ReconcilerConfig(lambda one: {"SECRET": f"of {one}"}, grace_seconds=5.0, silence_seconds=SILENCE)
        self.leaders.append(
            Reconciler(
                config,
                self.store,
                self.store,
                self.store,
                self.store,
                self.note,
                self.backend,
                self.store.time_ms,
                leads=lambda: self.leads,
                output=self.output,
                clock=lambda: self.now,
            )
        )

    def endpoint(self, workers: int = 1, endpoint_id: str = "7", wanted: DesiredState = DesiredState.RUNNING) -> None:
        config = EndpointConfig("e", "image", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), workers, 20)
        self.store.endpoints[endpoint_id] = Endpoint(
            endpoint_id, "t", config, wanted, failed=False, created_at_ms=0, updated_at_ms=0
        )
        self.store.change(endpoint_id)

    def change(self, endpoint_id: str = "7", *, revision: int | None = None, workers: int | None = None) -> None:
        before = self.store.endpoints[endpoint_id]
        config = before.config if workers is None else replace(before.config, workers=workers)
        new_revision = before.revision if revision is None else revision
        self.store.endpoints[endpoint_id] = replace(before, config=config, revision=new_revision, failed=False)
        self.store.change(endpoint_id)

    def want(self, wanted: DesiredState, endpoint_id: str = "7") -> None:
        self.store.endpoints[endpoint_id] = replace(self.store.endpoints[endpoint_id], desired=wanted)
        self.store.change(endpoint_id)

    async def round(self) -> int:
        """One round of the controller, then a second passes; how many things it did."""
        did = await self.leaders[-1].step()
        await self.pass_seconds(1)
        return did

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            await self.round()

    async def pass_seconds(self, seconds: float) -> None:
        for _ in range(5):
            await asyncio.sleep(0)  # drains go on in the background
        self.now += seconds
        self.store.now_ms += int(seconds * 1000)
        for worker_id in self.backend.running if self.beating else ():
            self.report(worker_id)

    def report(self, worker_id: str, status: WorkerStatus = RUNNING) -> None:
        worker = self.store.recorded.get(worker_id)
        if worker is not None:
            said = STOPPING if worker.status is STOPPING else status
            if worker.status is not said or worker.last_heartbeat_at_ms is None:
                self.store.change(worker.endpoint_id)
            self.store.recorded[worker_id] = replace(worker, status=said, last_heartbeat_at_ms=self.store.now_ms)

    def worker(self) -> Worker:
        [worker] = self.store.recorded.values()
        return worker

    def is_as_wanted(self) -> bool:
        """Whether exactly the wanted workers are recorded and run."""
        for endpoint_id, endpoint in self.store.endpoints.items():
            wanted = endpoint.config.workers if endpoint.desired is DesiredState.RUNNING else 0
            workers = [one for one in self.store.recorded.values() if one.endpoint_id == endpoint_id]
            fit = [one for one in workers if one.status is RUNNING and one.revision == endpoint.revision]
            if not len(workers) == len(fit) == wanted:
                return False
        return set(self.store.recorded) == set(self.backend.running) and not self.backend.ended


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.backend.finish_drains()
    for leader in made.leaders:
        await leader.aclose()
        await leader.aclose()


# The number and kind of workers


async def test_the_desired_workers_are_recorded_and_started(world: World) -> None:
    world.endpoint(workers=2)
    await world.round()
    assert world.is_as_wanted()
    [spec, _] = world.backend.running.values()
    assert (spec.endpoint_id, spec.image, spec.environment) == ("7", "image", {"A": "1"})
    assert spec.agent_environment == {"SECRET": "of 7"}
    await world.rounds(5)
    assert len(world.backend.starts) == 2


async def test_a_surplus_worker_may_finish_and_is_then_forgotten(world: World) -> None:
    world.endpoint()
    await world.round()
    world.backend.slow = True
    world.want(DesiredState.STOPPED)
    await world.rounds(10)
    assert world.worker().status is STOPPING
    assert list(world.backend.stopping.values()) == [5.0]
    world.backend.finish_drains()
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_a_worker_that_drains_for_long_holds_up_no_other_endpoint(world: World) -> None:
    world.endpoint()
    await world.round()
    world.backend.slow = True
    world.want(DesiredState.STOPPED)
    await world.round()
    world.endpoint(endpoint_id="8")
    await world.round()
    assert [spec.endpoint_id for spec in world.backend.running.values()] == ["7", "8"]


async def test_a_new_revision_replaces_the_workers_one_at_a_time(world: World) -> None:
    world.endpoint(workers=3)
    await world.round()
    before = set(world.backend.running)
    world.change(revision=2)
    for _ in range(20):
        await world.round()
        assert sum(worker.status is RUNNING for worker in world.store.recorded.values()) >= 2
    assert world.is_as_wanted()
    assert not before & set(world.backend.running)


@pytest.mark.parametrize("wanted", [DesiredState.STOPPED, DesiredState.DELETED])
async def test_a_stopped_or_deleted_endpoint_ends_with_no_worker(world: World, wanted: DesiredState) -> None:
    world.endpoint(workers=3)
    await world.round()
    world.want(wanted)
    await world.rounds(3)
    assert world.store.recorded == {}
    assert world.backend.running == {}


async def test_the_registry_credential_of_the_endpoint_is_handed_to_the_backend(world: World) -> None:
    world.endpoint()
    world.store.credentials[4] = RegistryAuth("me", "secret")
    world.store.endpoints["7"] = replace(
        world.store.endpoints["7"], config=replace(world.store.endpoints["7"].config, credential_id=4)
    )
    await world.round()
    [spec] = world.backend.running.values()
    assert spec.registry_credential is not None
    assert (spec.registry_credential.username, spec.registry_credential.password) == ("me", "secret")


# Parts that fail


async def test_a_partition_that_is_not_available_does_not_stop_the_others(world: World) -> None:
    world.endpoint()
    world.endpoint(endpoint_id="8")
    world.store.unavailable = {"7"}
    for _ in range(2):
        with pytest.raises(Broken):
            await world.round()
    assert [spec.endpoint_id for spec in world.backend.running.values()] == ["8"]
    world.store.unavailable.clear()
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_an_endpoint_whose_round_fails_does_not_stop_the_others(world: World) -> None:
    """It is looked at again in the next round."""
    world.endpoint()
    world.endpoint(endpoint_id="8")
    put = world.store.put

    async def fail_for_7(endpoint_id: str, worker_id: str, *, managed: bool, revision: int = 1) -> None:
        if endpoint_id == "7":
            raise Broken
        await put(endpoint_id, worker_id, managed=managed, revision=revision)

    world.store.put = fail_for_7  # type: ignore[method-assign]
    with pytest.raises(Broken):
        await world.round()
    assert [spec.endpoint_id for spec in world.backend.running.values()] == ["8"]
    world.store.put = put  # type: ignore[method-assign]
    await world.round()
    assert world.is_as_wanted()


async def test_all_endpoints_are_looked_at_after_a_step_back_of_the_stores_clock(world: World) -> None:
    """Their planned looks would be late by the step."""
    world.endpoint()
    await world.rounds(5)
    world.store.looked_at.clear()
    await world.round()
    assert world.store.looked_at == []
    world.store.now_ms -= 20_000
    await world.round()
    assert world.store.looked_at == ["7"]


# Parts of the platform that are away when a controller begins to lead


async def taken_over(world: World, *regions: Sequence[str]) -> PartedBackend:
    """Let a leader start a worker of an endpoint in each of these lists of regions, and another one take over."""
    backend = world.backend = PartedBackend(world.faults)
    world.lead()
    for number, names in enumerate(regions, start=7):
        world.endpoint(endpoint_id=str(number))
        place_in(world, names, endpoint_id=str(number))
    await world.rounds(3)
    assert world.is_as_wanted()
    world.lead()
    return backend


def place_in(world: World, regions: Sequence[str], endpoint_id: str = "7") -> None:
    before = world.store.endpoints[endpoint_id]
    resources = tuple(Resource(region, "CPU", 1) for region in regions)
    world.store.endpoints[endpoint_id] = replace(before, config=replace(before.config, resources=resources))


async def test_a_region_that_is_away_does_not_stop_the_work_for_the_others(world: World) -> None:
    backend = await taken_over(world, ["here"], ["there"])
    backend.away = {"there"}
    here, there = backend.running
    await world.rounds(2)
    backend.end(here, "exit")
    world.endpoint(endpoint_id="9")
    await world.rounds(5)
    assert backend.starts[2:] in ([here, *backend.starts[-1:]], [*backend.starts[2:3], here])
    assert {spec.endpoint_id for spec in backend.running.values()} == {"7", "8", "9"}
    assert backend.stopping.keys() == {here}
    backend.away = set()
    await world.rounds(5)
    assert world.is_as_wanted()
    assert backend.starts.count(there) == 1
    assert there not in backend.stopping


async def test_a_worker_whose_region_is_away_waits_with_the_reason_and_is_started_when_it_is_listed(
    world: World,
) -> None:
    world.beating = False
    backend = await taken_over_while_starting(world)
    backend.away = {"there"}
    [there] = backend.running
    del backend.running[there]
    await world.rounds(10)
    assert (backend.starts, world.worker().error) == ([there], "there does not respond")
    backend.away = set()
    world.beating = True
    await world.rounds(4)
    assert backend.starts == [there, there]
    assert world.is_as_wanted()


async def taken_over_while_starting(world: World) -> PartedBackend:
    backend = world.backend = PartedBackend(world.faults)
    world.lead()
    world.endpoint()
    place_in(world, ["there"])
    await world.rounds(3)
    world.lead()
    return backend


async def test_a_worker_that_this_leader_has_seen_is_started_again_while_another_region_is_away(world: World) -> None:
    backend = await taken_over(world, ["here", "there"])
    backend.away = {"there"}
    [worker_id] = backend.running
    await world.rounds(2)
    backend.end(worker_id, "exit")
    await world.rounds(5)
    assert backend.starts == [worker_id, worker_id]


async def test_a_surplus_worker_of_a_region_that_is_away_is_drained_when_it_is_listed(world: World) -> None:
    backend = await taken_over(world, ["there"])
    backend.away = {"there"}
    world.want(DesiredState.STOPPED)
    await world.rounds(5)
    assert (world.worker().status, backend.stopping) == (RUNNING, {})
    backend.away = set()
    await world.rounds(5)
    assert (world.store.recorded, backend.running) == ({}, {})


async def test_a_worker_of_an_earlier_revision_may_be_in_any_region(world: World) -> None:
    backend = await taken_over(world, ["there"])
    backend.away = {"there"}
    place_in(world, ["here"])
    world.change(revision=2)
    await world.rounds(5)
    assert len(backend.starts) == 1
    backend.away = set()
    await world.rounds(20)
    assert world.is_as_wanted()


# Agents started by hand, which choose their ids


def by_hand(world: World, endpoint_id: str, worker_id: str) -> None:
    """Register an agent that reports once. Other endpoints may have a worker with the same id."""
    now_ms = world.store.now_ms
    world.store.recorded[f"{endpoint_id}/{worker_id}"] = Worker(
        worker_id, endpoint_id, RUNNING, now_ms, managed=False, last_heartbeat_at_ms=now_ms
    )
    world.store.change(endpoint_id)


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_agents_of_two_endpoints_with_the_same_id_do_not_stop_the_round(world: World, is_deleted: bool) -> None:
    for endpoint_id in ("1", "2"):
        world.endpoint(endpoint_id=endpoint_id, workers=0)
        by_hand(world, endpoint_id, "gpu-1")
    await world.round()
    for endpoint_id in ("1", "2"):
        del world.store.recorded[f"{endpoint_id}/gpu-1"]
        world.store.change(endpoint_id)
        if is_deleted:
            del world.store.endpoints[endpoint_id]
    world.endpoint()
    await world.round()
    assert world.is_as_wanted()


async def test_an_agent_with_the_id_of_another_endpoints_worker_does_not_clear_its_backoff(world: World) -> None:
    world.endpoint(endpoint_id="8", workers=0)
    await fail(world)
    starts = len(world.backend.starts)
    key = f"8/{world.worker().worker_id}"
    by_hand(world, "8", world.worker().worker_id)
    await world.rounds(2)
    del world.store.recorded[key]
    world.store.change("8")
    await world.round()
    world.store.change("7")
    await world.rounds(2)
    assert len(world.backend.starts) == starts
    assert world.store.endpoints["7"].failed


async def test_a_silent_agent_with_the_id_of_another_endpoints_worker_does_not_end_that_worker(world: World) -> None:
    world.endpoint()
    world.endpoint(endpoint_id="8", workers=0)
    await world.rounds(2)
    by_hand(world, "8", world.worker().worker_id)
    await world.rounds(int(2 * SILENCE) + 3)
    assert world.worker().endpoint_id == "7"
    assert world.backend.stopping == {}
    assert len(world.backend.starts) == 1


# Workers that end by themselves


async def test_a_worker_that_dies_is_started_again_under_its_id_with_its_last_words_kept(world: World) -> None:
    world.endpoint()
    await world.rounds(20)
    worker_id = world.worker().worker_id
    world.backend.end(worker_id, "agent killed by signal 9", "one", "two")
    await world.leaders[-1].step()
    assert world.worker().status is INITIALIZING
    assert world.worker().error == "agent killed by signal 9\none\ntwo"
    await world.rounds(2)
    assert world.is_as_wanted()
    assert (world.worker().worker_id, world.worker().restarts) == (worker_id, 1)


async def test_a_command_that_does_not_work_is_tried_ever_more_rarely_and_its_worker_and_endpoint_fail(
    world: World,
) -> None:
    world.endpoint()
    world.beating = False
    started_at: list[float] = []
    for _ in range(150):
        known = len(world.backend.starts)
        await world.round()
        if len(world.backend.starts) > known:
            started_at.append(world.now)
        for worker_id in list(world.backend.running):
            world.backend.end(worker_id, "container exited with status 3")
        crashes = len(world.backend.starts) - len(world.backend.ended)
        assert (world.worker().status is FAILED) is (crashes >= 3)
        assert world.store.endpoints["7"].failed is (crashes >= 3)
    # A round a second: half a second becomes one, and one more passes between the note of the end and the new start.
    gaps = [later - earlier for earlier, later in pairwise(started_at)]
    assert gaps == sorted(gaps)
    assert gaps[:6] == [2, 2, 3, 5, 9, 17]
    assert gaps[-1] == 61
    assert world.store.failed_said == [True]
    assert world.worker().restarts == len(world.backend.starts) - len(world.backend.ended)


async def test_a_failed_endpoint_is_not_failed_any_more_when_its_worker_runs(world: World) -> None:
    await fail(world)
    world.beating = True
    while not world.backend.running:
        await world.round()
    await world.round()
    assert world.is_as_wanted()
    assert world.store.failed_said == [True, False]


async def test_a_failed_endpoint_that_is_changed_is_not_called_failed_again_for_its_old_workers(world: World) -> None:
    await fail(world)
    world.beating = True
    world.change(revision=2)
    await world.rounds(3)
    assert world.is_as_wanted()
    assert world.store.failed_said == [True]


async def test_an_endpoint_with_one_worker_that_runs_does_not_fail(world: World) -> None:
    world.endpoint(workers=2)
    await world.round()
    broken = world.backend.starts[0]
    for _ in range(100):
        if broken in world.backend.running:
            world.backend.end(broken, "container exited with status 3")
            world.report(broken, INITIALIZING)
        await world.round()
    assert world.store.failed_said == []
    world.change(workers=1)
    await world.rounds(3)
    assert world.store.failed_said == []
    assert world.is_as_wanted()
    assert broken not in world.backend.running


async def test_a_worker_that_runs_and_soon_dies_again_and_again_waits_ever_longer(world: World) -> None:
    world.endpoint()
    for _ in range(120):
        await world.round()
        for worker_id in list(world.backend.running):
            world.backend.end(worker_id, "container exited with status 0")
    assert 6 <= len(world.backend.starts) <= 9
    assert world.store.failed_said == []


async def test_a_worker_whose_end_cannot_be_recorded_counts_once(world: World) -> None:
    world.endpoint()
    await world.rounds(2)
    world.backend.end(world.worker().worker_id, "agent killed by signal 9")
    world.backend.refuses_stop = "the daemon is away"
    await world.rounds(5)
    assert (world.worker().restarts, world.worker().status) == (1, INITIALIZING)
    world.backend.refuses_stop = None
    await world.rounds(3)
    assert world.is_as_wanted()
    assert world.worker().restarts == 1


# Silence


async def test_a_silent_worker_is_ended_by_force_and_started_again(world: World) -> None:
    world.endpoint()
    await world.rounds(2)
    world.beating = False
    await world.rounds(int(2 * SILENCE) + 3)
    assert world.worker().restarts == 1
    assert list(world.backend.stopping.values()) == [0]
    assert "no sign of life" in str(world.worker().error)
    world.beating = True
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_after_a_gap_no_worker_is_judged_by_silence(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(40)
    world.beating = False
    await world.pass_seconds(GAP_SECONDS + SILENCE)
    await world.rounds(int(SILENCE) - 1)
    assert world.backend.stopping == {}
    world.beating = True
    await world.rounds(60)
    assert world.backend.stopping == {}


async def test_a_step_ahead_of_the_stores_clock_makes_no_worker_silent(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(40)
    world.beating = False
    world.store.now_ms += 3_600_000
    await world.rounds(2)
    world.beating = True
    await world.rounds(40)
    assert world.backend.stopping == {}
    assert {one.restarts for one in world.store.recorded.values()} == {0}


@pytest.mark.parametrize("step_seconds", [SILENCE / 2, 2 * SILENCE, 3600])
async def test_a_worker_that_ends_at_a_step_back_of_the_stores_clock_is_noticed_in_the_usual_time(
    world: World, step_seconds: float
) -> None:
    """Its last report is later than the clock for as long as the step."""
    world.endpoint()
    await world.rounds(2)
    world.beating = False
    world.store.now_ms -= int(step_seconds * 1000)
    await world.rounds(int(SILENCE) + 3)
    assert list(world.backend.stopping.values()) == [0]
    assert "no sign of life" in str(world.worker().error)


async def test_a_step_back_of_the_stores_clock_makes_no_worker_silent(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(2)
    world.store.now_ms -= 3_600_000
    await world.rounds(int(3 * SILENCE))
    assert world.backend.stopping == {}


async def test_a_worker_that_starts_after_a_long_wait_has_the_time_to_report(world: World) -> None:
    await fail(world)
    while not world.backend.running:  # its wait is a minute: longer than silence
        await world.round()
    await world.rounds(10)
    assert world.backend.running
    world.beating = True
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_a_start_may_take_longer_than_silence(world: World) -> None:
    world.endpoint(workers=2)
    world.beating = False
    await world.rounds(int(3 * SILENCE))
    assert len(world.backend.starts) == 2
    world.beating = True
    await world.rounds(2)
    assert world.is_as_wanted()
    assert [worker.restarts for worker in world.store.recorded.values()] == [0, 0]


async def test_a_start_without_a_sign_within_its_timeout_fails_and_is_tried_again(world: World) -> None:
    world.endpoint()
    world.beating = False
    start_timeout = world.store.endpoints["7"].config.start_timeout_seconds
    await world.round()
    for _ in range(int(start_timeout) + 3):
        if world.worker().status is FAILED:
            break
        await world.round()
    assert world.worker().status is FAILED
    assert f"no sign of life within {start_timeout:g} s of its start" in str(world.worker().error)
    assert (world.worker().restarts, len(world.backend.starts)) == (1, 1)
    await world.round()
    assert world.store.endpoints["7"].failed
    world.beating = True
    await world.rounds(4)
    assert world.is_as_wanted()
    assert not world.store.endpoints["7"].failed


async def test_what_an_earlier_start_said_is_no_sign_of_this_one(world: World) -> None:
    world.endpoint()
    await world.rounds(5)
    world.backend.end(world.worker().worker_id, "agent killed by signal 9")
    world.beating = False
    await world.rounds(int(2 * SILENCE))
    assert world.worker().last_heartbeat_at_ms is None
    assert (world.worker().restarts, len(world.backend.starts)) == (1, 2)
    assert world.backend.running[world.worker().worker_id].run == 2


async def test_workers_beyond_the_backends_start_limit_wait_and_say_so(world: World) -> None:
    world.backend.max_starting = 2
    world.endpoint(workers=5)
    world.beating = False
    await world.rounds(3)
    assert len(world.backend.starts) == 2
    waiting = [worker for worker in world.store.recorded.values() if worker.worker_id not in world.backend.running]
    assert [worker.status for worker in waiting] == [INITIALIZING] * 3
    assert {worker.error for worker in waiting} == {"waits for its start: 2 others are starting"}
    world.beating = True
    await world.rounds(4)
    assert world.is_as_wanted()


async def test_a_start_that_ends_or_hangs_makes_room_for_the_next(world: World) -> None:
    world.backend.max_starting = 2
    world.endpoint(workers=2)
    world.beating = False
    await world.round()
    world.endpoint(workers=1, endpoint_id="8")
    await world.rounds(2)
    assert not [spec for spec in world.backend.running.values() if spec.endpoint_id == "8"]
    world.backend.end(world.backend.starts[0], "container exited with status 3")
    await world.rounds(2)
    assert [spec for spec in world.backend.running.values() if spec.endpoint_id == "8"]
    world.endpoint(workers=1, endpoint_id="9")
    await world.rounds(int(START_PLACE_SECONDS) + 2)
    assert [spec for spec in world.backend.running.values() if spec.endpoint_id == "9"]


async def test_while_workers_start_the_others_may_be_late(world: World) -> None:
    world.backend.max_starting = 2
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    late = world.worker().worker_id
    world.beating = False
    for number in range(int(STARTING_SILENCE_SECONDS) - 2):
        if number % 20 == 0:  # one start after the other
            world.endpoint(endpoint_id=str(100 + number))
        await world.round()
    assert late in world.backend.running
    assert world.backend.stopping == {}
    await world.rounds(int(SILENCE))
    assert world.backend.stopping[late] == 0


@pytest.mark.parametrize("places", [1, 2, 4], ids=str)
async def test_a_crash_loop_does_not_let_others_be_late(world: World, places: int) -> None:
    world.backend.max_starting = places
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    late = world.worker().worker_id
    world.endpoint(workers=places, endpoint_id="8")
    await world.rounds(2)
    world.beating = False
    for _ in range(int(2 * SILENCE) - 2):
        await world.round()
        for worker_id, spec in list(world.backend.running.items()):
            if spec.endpoint_id == "8":
                world.backend.end(worker_id, "container exited with status 3")
    assert world.backend.stopping.get(late) == 0


async def test_a_single_start_among_many_places_does_not_let_others_be_late(world: World) -> None:
    world.backend.max_starting = 12
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    late = world.worker().worker_id
    world.beating = False
    for number in range(int(SILENCE) + 2):
        if number % 10 == 0:
            world.endpoint(endpoint_id=str(100 + number))
        await world.round()
    assert world.backend.stopping.get(late) == 0


async def test_an_unmanaged_worker_is_forgotten_when_it_is_silent(world: World) -> None:
    world.endpoint(workers=0)
    await world.store.put("7", "by-hand", managed=False)
    await world.rounds(int(SILENCE))
    assert "by-hand" in world.store.recorded
    await world.rounds(3)
    assert world.store.recorded == {}


async def test_a_worker_whose_end_was_not_recorded_is_not_left_as_running(world: World) -> None:
    world.endpoint()
    await world.rounds(2)
    world.backend.running.clear()  # it was ended by force, and then the round was broken off
    await world.leaders[-1].step()
    assert (world.worker().status, world.worker().restarts) == (INITIALIZING, 1)


# A backend that fails


async def test_a_worker_that_cannot_be_started_says_why_and_is_tried_again_with_backoff(world: World) -> None:
    world.endpoint()
    world.backend.refuses_start = "no such image"
    await world.rounds(10)
    assert (world.worker().status, world.worker().error) == (FAILED, "no such image")
    assert world.store.endpoints["7"].failed
    world.backend.refuses_start = None
    await world.rounds(20)
    assert world.is_as_wanted()
    assert not world.store.endpoints["7"].failed


async def test_an_environment_that_cannot_be_read_holds_up_no_other_endpoint(world: World) -> None:
    world.endpoint(endpoint_id="9")
    world.endpoint(endpoint_id="8")
    world.store.unreadable.add("9")
    await world.rounds(10)
    assert [spec.endpoint_id for spec in world.backend.running.values()] == ["8"]
    assert world.store.endpoints["9"].failed


async def test_a_missing_credential_fails_the_worker_and_no_other(world: World) -> None:
    world.endpoint(endpoint_id="9")
    world.endpoint(endpoint_id="8")
    gone = world.store.endpoints["9"]
    world.store.endpoints["9"] = replace(gone, config=replace(gone.config, credential_id=4))
    await world.rounds(10)
    assert [spec.endpoint_id for spec in world.backend.running.values()] == ["8"]
    assert world.store.endpoints["9"].failed


async def test_a_worker_that_cannot_be_stopped_is_tried_again_and_holds_up_no_other(world: World) -> None:
    world.endpoint(endpoint_id="9")
    await world.round()
    world.want(DesiredState.STOPPED, "9")
    world.endpoint(endpoint_id="8")
    world.backend.refuses_stop = "the daemon is away"
    await world.rounds(3)
    assert {spec.endpoint_id for spec in world.backend.running.values()} == {"9", "8"}
    world.backend.refuses_stop = None
    await world.rounds(3)
    assert world.is_as_wanted()


# Phases of a start


async def begin(world: World, phase: Phase, reason: str | None = None) -> str:
    """Start the only worker of an endpoint, which comes to a phase; return its id."""
    world.beating = False
    world.backend.first = Observed(0, phase, 1, reason)
    world.endpoint()
    endpoint = world.store.endpoints["7"]
    world.store.endpoints["7"] = replace(endpoint, config=replace(endpoint.config, start_timeout_seconds=120))
    await world.rounds(2)
    return world.worker().worker_id


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING])
async def test_a_start_that_takes_long_shows_its_reason_until_the_worker_runs(world: World, phase: Phase) -> None:
    worker_id = await begin(world, phase, "pulling 1.0 of 8.4 GB")
    assert (world.worker().status, world.worker().error) == (INITIALIZING, "pulling 1.0 of 8.4 GB")
    world.backend.see(worker_id, phase, "pulling 3.1 of 8.4 GB")
    await world.rounds(1)
    assert world.worker().error == "pulling 3.1 of 8.4 GB"
    await world.rounds(int(3 * SILENCE))
    world.backend.see(worker_id, Phase.RUNNING)
    await world.rounds(1)
    assert (world.worker().status, world.worker().error) == (INITIALIZING, None)
    world.beating = True
    await world.rounds(2)
    assert world.is_as_wanted()
    assert (world.worker().worker_id, world.worker().restarts, len(world.backend.starts)) == (worker_id, 0, 1)


async def test_an_error_that_the_agent_reports_is_not_removed_with_the_reason_of_the_start(world: World) -> None:
    worker_id = await begin(world, Phase.STARTING, "pulling 1.0 of 8.4 GB")
    world.store.recorded[worker_id] = replace(world.worker(), error="the container is not ready")
    world.backend.see(worker_id, Phase.RUNNING)
    await world.rounds(2)
    assert world.worker().error == "the container is not ready"


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING])
async def test_a_start_beyond_its_timeout_is_failed_with_its_reason_and_goes_on(world: World, phase: Phase) -> None:
    worker_id = await begin(world, phase, "waits for 2 × NVIDIA L4: 1 of 4 free")
    start_timeout = int(world.store.endpoints["7"].config.start_timeout_seconds)
    await world.rounds(start_timeout - 3)
    assert world.worker().status is INITIALIZING
    await world.rounds(5)
    assert (world.worker().status, world.worker().error) == (FAILED, "waits for 2 × NVIDIA L4: 1 of 4 free")
    await world.rounds(60)
    assert world.store.failed_said == [True]
    assert (len(world.backend.starts), world.backend.stopping) == (1, {})
    world.backend.see(worker_id, Phase.RUNNING)
    await world.rounds(int(SILENCE))  # the agent has the time to report
    world.beating = True
    await world.rounds(2)
    assert world.is_as_wanted()
    assert world.store.failed_said == [True, False]
    assert (world.worker().worker_id, len(world.backend.starts)) == (worker_id, 1)


async def test_a_worker_that_waits_takes_no_place_of_other_starts(world: World) -> None:
    world.backend.max_starting = 1
    await begin(world, Phase.WAITING, "waits for a GPU")
    world.backend.first = None
    world.endpoint(endpoint_id="8")
    await world.rounds(1)
    assert [spec.endpoint_id for spec in world.backend.running.values()] == ["7", "8"]


async def test_an_end_after_which_no_retry_helps_fails_the_worker_at_once_and_is_tried_each_minute(
    world: World,
) -> None:
    worker_id = await begin(world, Phase.STARTING)
    started_at = []
    for _ in range(150):
        if worker_id in world.backend.running:
            started_at.append(world.now)
            world.backend.end(worker_id, "the image does not exist", retry_helps=False)
        await world.round()
        assert (world.worker().status, world.worker().error) == (FAILED, "the image does not exist")
    assert [later - earlier for earlier, later in pairwise(started_at)] == [61, 61]
    assert world.store.endpoints["7"].failed


async def test_workers_on_a_platform_that_does_not_respond_are_neither_ended_nor_replaced(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(int(SILENCE) + 2)
    world.beating = False
    for worker_id in world.backend.running:
        world.backend.see(worker_id, Phase.UNKNOWN, "the engine does not respond")
    await world.rounds(int(10 * SILENCE))
    assert (len(world.backend.starts), world.backend.stopping) == (2, {})
    assert {worker.status for worker in world.store.recorded.values()} == {RUNNING}
    world.backend.states.clear()
    world.beating = True
    await world.rounds(2)
    assert world.is_as_wanted()


# Ends that are not confirmed


async def test_a_silent_worker_whose_end_is_not_confirmed_is_replaced_under_a_new_id(world: World) -> None:
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    lost = world.worker().worker_id
    world.backend.lost.add(lost)
    world.beating = False
    await world.rounds(int(SILENCE) + 3)
    world.beating = True
    await world.rounds(1)
    assert world.worker().worker_id != lost
    assert set(world.backend.running) == {lost, world.worker().worker_id}
    assert world.backend.starts == [lost, world.worker().worker_id]
    world.backend.lost.clear()
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_a_worker_that_has_ended_on_a_lost_node_is_replaced_under_a_new_id(world: World) -> None:
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    lost = world.worker().worker_id
    world.backend.lost.add(lost)
    world.backend.end(lost, "the node is lost")
    await world.rounds(3)
    assert list(world.backend.running) == [world.worker().worker_id]
    assert world.worker().worker_id != lost
    world.backend.lost.clear()
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_a_drained_worker_whose_end_is_not_confirmed_does_not_count_any_more(world: World) -> None:
    world.endpoint()
    await world.rounds(2)
    lost = world.worker().worker_id
    world.backend.lost.add(lost)
    world.change(revision=2)
    await world.rounds(4)
    assert world.worker().revision == 2
    world.backend.lost.clear()
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_an_end_that_takes_long_delays_no_other_worker_and_is_requested_once(world: World) -> None:
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    stuck = world.worker().worker_id
    world.backend.stuck.add(stuck)
    world.beating = False
    await world.rounds(int(SILENCE) + 2)
    world.backend.stopping.clear()
    world.endpoint(endpoint_id="8")
    await world.rounds(3)
    assert [spec.endpoint_id for spec in world.backend.running.values()] == ["7", "8"]
    assert world.backend.stopping == {}
    assert world.store.recorded[stuck].restarts == 0
    world.backend.finish_drains()
    world.beating = True
    await world.rounds(3)
    assert world.is_as_wanted()
    assert world.store.recorded[stuck].restarts == 1


async def test_an_end_is_recorded_once_while_the_rest_of_the_worker_ends(world: World) -> None:
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    worker_id = world.worker().worker_id
    world.backend.stuck.add(worker_id)
    world.backend.end(worker_id, "container exited with status 3")
    await world.round()
    assert world.worker().error == "container exited with status 3"
    world.store.recorded[worker_id] = replace(world.worker(), error="changed since")
    await world.rounds(3)
    assert world.worker().error == "changed since"
    world.backend.finish_drains()
    await world.rounds(3)
    assert world.is_as_wanted()
    assert world.worker().restarts == 1


# Workers that nobody knows, and other controllers


async def test_nothing_is_planned_until_the_backend_has_listed_its_workers(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(2)
    world.backend.listed = False
    world.lead()
    before = dict(world.store.recorded)
    world.store.faults.calls = 0
    await world.leaders[-1].step()
    assert world.store.faults.calls == 1, "more than the observation was done"
    assert world.store.recorded == before
    world.backend.listed = True
    await world.rounds(3)
    assert world.is_as_wanted()
    assert len(world.backend.starts) == 2


async def test_the_next_leader_adopts_the_workers_that_outlive_their_controller(world: World) -> None:
    world.backend.outlives_controller = True
    world.endpoint(workers=2)
    await world.rounds(5)
    before = dict(world.backend.running)
    world.lead()
    await world.rounds(int(2 * SILENCE))
    assert world.is_as_wanted()
    assert (world.backend.running, len(world.backend.starts)) == (before, 2)
    assert (world.backend.resumed, world.backend.stopping) == ([], {})
    assert [worker.restarts for worker in world.store.recorded.values()] == [0, 0]


async def test_output_that_cannot_be_read_to_its_end_delays_no_round(world: World) -> None:
    world.output = SlowOutput()
    world.lead()
    world.endpoint(workers=1)
    await world.rounds(3)
    [worker_id] = world.backend.running
    world.backend.end(worker_id, "container exited with status 3")
    world.backend.ended[worker_id] = replace(world.backend.ended[worker_id], container_id="c1")
    async with asyncio.timeout(60):
        await world.rounds(3)
    assert list(world.backend.ended) == [worker_id]
    world.output.may_go.set()
    await world.rounds(1)
    assert world.worker().error == "container exited with status 3\nthe last line"
    assert world.worker().restarts == 1
    await world.rounds(4)
    assert world.is_as_wanted()


async def test_the_next_leader_lets_the_backend_go_on_with_a_start_once(world: World) -> None:
    worker_id = await begin(world, Phase.STARTING, "pulling 1.0 of 8.4 GB")
    world.lead()
    world.backend.interrupt(worker_id)
    await world.rounds(3)
    assert [(spec.worker_id, spec.run) for spec in world.backend.resumed] == [(worker_id, 1)]
    assert world.backend.starts == [worker_id]


async def test_a_start_that_the_backend_cannot_go_on_with_is_made_again(world: World) -> None:
    worker_id = await begin(world, Phase.STARTING)
    world.lead()
    world.backend.interrupt(worker_id)
    world.backend.refuses_start = "the agent's image does not exist"
    await world.rounds(1)
    assert "the agent's image does not exist" in str(world.worker().error)
    world.backend.refuses_start, world.backend.first = None, None
    world.beating = True
    await world.rounds(4)
    assert world.is_as_wanted()
    assert world.backend.starts == [worker_id, worker_id]


@pytest.mark.parametrize("change", [lambda world: world.change(workers=3), lambda world: world.change(revision=2)])
async def test_a_controller_that_no_longer_leads_does_nothing(world: World, change: Callable[[World], None]) -> None:
    world.endpoint(workers=2)
    await world.rounds(int(SILENCE) + 2)
    world.beating = False
    change(world)
    world.backend.end(world.backend.starts[0], "container exited with status 3")
    recorded, running = dict(world.store.recorded), dict(world.backend.running)
    take = world.store.take

    async def paused_while_taking() -> TakenChecks:
        taken = await take()
        world.leads = False
        return taken

    world.store.take = paused_while_taking  # type: ignore[method-assign]
    await world.rounds(2)
    assert (world.store.recorded, world.backend.running) == (recorded, running)
    assert world.backend.stopping == {}


async def test_an_end_is_not_recorded_by_a_controller_that_no_longer_leads(world: World) -> None:
    world.endpoint()
    await world.rounds(int(SILENCE) + 2)
    world.backend.stuck.add(world.worker().worker_id)
    world.beating = False
    await world.rounds(int(SILENCE) + 2)
    recorded = dict(world.store.recorded)
    world.leads = False
    world.backend.finish_drains()
    await world.rounds(2)
    assert world.store.recorded == recorded


async def test_workers_that_the_store_does_not_know_are_ended(world: World) -> None:
    world.endpoint()
    await world.round()
    world.store.recorded.clear()
    await world.rounds(3)
    assert world.is_as_wanted()
    assert len(world.backend.starts) == 2


async def test_the_workers_of_a_removed_endpoint_are_ended(world: World) -> None:
    world.endpoint()
    await world.round()
    world.store.endpoints.clear()
    world.store.recorded.clear()
    await world.round()
    assert world.backend.running == {}


async def test_a_new_leader_with_a_backend_of_its_own_starts_the_same_workers_again(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(2)
    before = set(world.backend.running)
    world.backend = ScriptedBackend(world.faults)  # the workers of the controller that died end by themselves
    world.lead()
    await world.rounds(2)
    assert world.is_as_wanted()
    assert set(world.backend.running) == before
    assert [worker.restarts for worker in world.store.recorded.values()] == [1, 1]


async def test_a_drain_that_died_with_its_controller_goes_on_under_the_next(world: World) -> None:
    world.endpoint()
    await world.round()
    world.backend.slow = True
    world.want(DesiredState.STOPPED)
    await world.round()
    await world.leaders[-1].aclose()
    assert world.backend.running
    world.backend.slow = False
    world.lead()
    await world.rounds(3)
    assert world.is_as_wanted()


# Which endpoints are looked at


async def looks(world: World, rounds: int) -> list[str]:
    """Return the endpoints that are looked at in these rounds."""
    world.store.looked_at.clear()
    await world.rounds(rounds)
    return world.store.looked_at


async def test_an_endpoint_without_workers_is_looked_at_once(world: World) -> None:
    world.endpoint(workers=0)
    assert await looks(world, 5) == ["7"]
    assert world.store.checks == {}
    world.change(workers=0)
    assert await looks(world, 5) == ["7"]


async def test_an_endpoint_with_healthy_workers_is_looked_at_when_one_could_be_silent(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(5)
    assert world.is_as_wanted()
    assert len(await looks(world, int(4 * SILENCE))) in (4, 5)


async def test_a_new_leader_looks_at_all_endpoints_with_workers(world: World) -> None:
    for number in range(5):
        world.endpoint(endpoint_id=str(10 + number))
    world.endpoint(workers=0, endpoint_id="20")
    await world.rounds(5)
    world.lead()
    assert sorted(await looks(world, 1)) == ["10", "11", "12", "13", "14"]


async def test_a_worker_that_ends_makes_its_endpoint_due_in_the_same_round(world: World) -> None:
    for endpoint_id in ("7", "8"):
        world.endpoint(endpoint_id=endpoint_id)
    await world.rounds(5)
    (worker_id,) = [one for one, spec in world.backend.running.items() if spec.endpoint_id == "8"]
    world.backend.end(worker_id, "agent killed by signal 9")
    assert await looks(world, 1) == ["8"]
    assert world.store.recorded[worker_id].error == "agent killed by signal 9"


async def test_workers_are_ended_when_the_store_has_lost_all_data(world: World) -> None:
    world.endpoint(workers=2)
    await world.rounds(5)
    world.store.endpoints.clear()
    world.store.recorded.clear()
    world.store.checks.clear()
    await world.rounds(int(OVERDUE_SECONDS) + 3)
    assert world.backend.running == {}


async def test_a_change_during_a_look_is_looked_at_in_the_next_round(world: World) -> None:
    world.endpoint(workers=0)
    read = world.store.read

    async def change_after_reading(endpoint_ids: Sequence[str]) -> dict[str, Endpoint]:
        found = await read(endpoint_ids)
        world.store.read = read  # type: ignore[method-assign]
        world.change(workers=1)
        return found

    world.store.read = change_after_reading  # type: ignore[method-assign]
    await world.round()
    assert world.backend.running == {}
    await world.rounds(2)
    assert world.is_as_wanted()


async def test_endpoints_of_a_tenant_with_many_waiting_starts_are_looked_at_in_turn(world: World) -> None:
    world.backend.max_starting = 2
    world.beating = False
    count = 2 * WAITING_LOOKS_PER_SECOND
    for number in range(count):
        world.endpoint(endpoint_id=str(1000 + number))
    await world.rounds(2)
    assert len(await looks(world, 4)) < 3 * count
    world.store.endpoints["7"] = replace(world.store.endpoints["1000"], endpoint_id="7", tenant="other")
    world.store.change("7")
    await world.rounds(int(START_PLACE_SECONDS) + 3)
    assert "7" in {spec.endpoint_id for spec in world.backend.running.values()}


# A round that is broken off

Change = Callable[[World], None]


def nothing(_: World) -> None:
    """The endpoint is new."""


def scale_down(world: World) -> None:
    world.change(workers=1)


def scale_up(world: World) -> None:
    world.change(workers=3)


def renew(world: World) -> None:
    world.change(revision=2)


def stop(world: World) -> None:
    world.want(DesiredState.STOPPED)


def delete(world: World) -> None:
    world.want(DesiredState.DELETED)


def crash(world: World) -> None:
    world.backend.end(world.backend.starts[0], "agent killed by signal 9")


def crash_on_start(world: World) -> None:
    crash(world)
    world.report(world.backend.starts[0], INITIALIZING)


def fall_silent(world: World) -> None:
    worker = world.store.recorded[world.backend.starts[0]]
    world.store.recorded[worker.worker_id] = replace(worker, last_heartbeat_at_ms=1)


def lose_the_data(world: World) -> None:
    world.store.recorded.clear()


@pytest.mark.parametrize("after_effect", [False, True], ids=["not done", "done, reply lost"])
@pytest.mark.parametrize(
    ("workers", "change"),
    [
        (2, nothing), (3, scale_down), (2, scale_up), (2, renew), (2, stop), (2, delete), (2, crash),
        (1, crash_on_start), (2, fall_silent), (2, lose_the_data),
    ],
)  # fmt: skip
@pytest.mark.parametrize("new_leader", [False, True], ids=["same controller", "next controller"])
async def test_a_round_broken_off_at_any_call_loses_and_doubles_no_worker(
    workers: int, change: Change, after_effect: bool, new_leader: bool
) -> None:
    calls = await broken_at(workers, change, None, after_effect, new_leader)
    for number in range(1, calls + 1):
        await broken_at(workers, change, number, after_effect, new_leader)


async def broken_at(workers: int, change: Change, number: int | None, after_effect: bool, new_leader: bool) -> int:
    """The calls that were made until all was as wanted, with this one failing."""
    world = World()
    world.endpoint(workers)
    if change is not nothing:
        await world.rounds(int(SILENCE) + 2)  # from here on silence counts
        assert world.is_as_wanted()
    change(world)
    most = max(workers, world.store.endpoints["7"].config.workers)
    if change is lose_the_data:
        most += workers  # the old ones, which nobody knows any more, may finish
    world.faults.calls, world.faults.at, world.faults.after_effect = 0, number, after_effect
    for _ in range(ROUNDS):
        did = 1
        try:
            did = await world.round()
        except Broken:
            if new_leader:
                await world.leaders[-1].aclose()
                world.lead()
        assert len(world.backend.running) <= most, f"too many workers after call {number} broke"
        if did == 0 and world.is_as_wanted():
            break
    assert world.is_as_wanted(), f"not as wanted after call {number} broke: {world.store.recorded}"
    calls = world.faults.calls
    starts = len(world.backend.starts)
    await world.rounds(3)
    assert world.is_as_wanted()
    assert len(world.backend.starts) == starts
    await world.leaders[-1].aclose()
    return calls


async def fail(world: World) -> None:
    """An endpoint whose one worker has crashed so often that its wait is a minute."""
    world.endpoint()
    world.beating = False
    while len(world.backend.starts) < 9:
        await world.round()
        for worker_id in list(world.backend.running):
            world.backend.end(worker_id, "container exited with status 3")
    await world.round()
    assert world.worker().status is FAILED


async def test_a_platform_that_does_not_respond_is_noted_until_it_does(world: World) -> None:
    world.endpoint()
    world.backend.listed, world.backend.problem = False, "the container engine cannot be reached"
    await world.rounds(15)
    assert world.note.written == [world.backend.problem] * 2  # once more, because the note expires
    assert world.store.recorded == {}
    world.backend.listed, world.backend.problem = True, None
    await world.rounds(15)
    assert world.note.written[2:] == [None]
    assert world.is_as_wanted()


async def test_a_new_leader_removes_the_note_of_an_earlier_one(world: World) -> None:
    await world.rounds(3)
    assert world.note.written == [None]


async def test_a_controller_that_no_longer_leads_notes_nothing(world: World) -> None:
    world.leads, world.backend.listed, world.backend.problem = False, False, "the container engine cannot be reached"
    await world.rounds(3)
    assert world.note.written == []
