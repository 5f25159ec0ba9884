"""Two controllers on one store: one leads, and whatever becomes of either, the desired workers run once."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from queue_engine.domain.endpoints import Expose
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from tests.integration.parts import Program, Programs, new_endpoint, programs_on
from tests.integration.test_up import ECHO
from tests.servers import StoreServer
from tests.waiting import wait_until_async

WORKERS = 2
SETTINGS = {
    "QUEUE_ENGINE_LEASE_SECONDS": "1",
    "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "1",
    "QUEUE_ENGINE_WORKER_GRACE_SECONDS": "1",
    "QUEUE_ENGINE_WORKER_SILENCE_SECONDS": "6",
}


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
        yield started


def start(programs: Programs) -> Program:
    return programs.start("controller", "queue_engine", "controller", **SETTINGS)


def agents_of(controller: Program) -> set[int]:
    """The agents that are this controller's children."""
    try:
        children = psutil.Process(controller.pid).children()
        return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}
    except psutil.NoSuchProcess:
        return set()


async def all_run(store: Store, leader: Program, *others: Program) -> set[str]:
    """Wait until the desired workers run at this controller and nowhere else; their ids."""
    [endpoint] = (await store.endpoints.read(await store.endpoints.ids())).values()

    async def running() -> set[str] | None:
        workers = await store.workers.of_endpoint(endpoint.endpoint_id)
        fit = {worker.worker_id for worker in workers if worker.status is WorkerStatus.RUNNING}
        here, there = agents_of(leader), set().union(*map(agents_of, others)) if others else set()
        return fit if len(workers) == len(fit) == len(here) == WORKERS and not there else None

    found = await wait_until_async(running, message="the workers do not run at this controller alone")
    assert found is not None
    return found


async def start_two(store: Store, programs: Programs) -> tuple[Program, Program]:
    """A controller that leads and one that stands by."""
    await new_endpoint(store, workers=WORKERS, initialization_command=ECHO, expose=Expose(8000, "HTTP"))
    leader = start(programs)
    await all_run(store, leader)
    standby = start(programs)
    await wait_until_async(lambda: '"started"' in standby.output(), message="the second controller does not start")
    return leader, standby


async def test_a_standby_that_is_stopped_leaves_the_workers_alone(store: Store, programs: Programs) -> None:
    leader, standby = await start_two(store, programs)
    workers, agents = await all_run(store, leader), agents_of(leader)
    assert standby.stop() == 0
    assert await all_run(store, leader) == workers
    assert agents_of(leader) == agents
    recorded = [await store.workers.get(worker_id.partition("-")[0], worker_id) for worker_id in workers]
    assert [worker is not None and worker.restarts for worker in recorded] == [0] * WORKERS


async def test_a_leader_that_is_stopped_takes_its_workers_with_it_and_the_standby_starts_new_ones(
    store: Store, programs: Programs
) -> None:
    leader, standby = await start_two(store, programs)
    workers = await all_run(store, leader)
    assert leader.stop() == 0
    assert not workers & await all_run(store, standby)


async def test_the_workers_of_a_leader_that_is_killed_are_started_again_by_the_standby(
    store: Store, programs: Programs
) -> None:
    leader, standby = await start_two(store, programs)
    workers, agents = await all_run(store, leader), agents_of(leader)
    leader.kill()
    assert await all_run(store, standby) == workers
    await wait_until_async(lambda: not any(map(psutil.pid_exists, agents)), message="agents outlive their controller")


async def test_a_leader_that_comes_back_from_a_long_pause_ends_its_workers(store: Store, programs: Programs) -> None:
    leader, standby = await start_two(store, programs)
    workers = await all_run(store, leader)
    leader.signal(signal.SIGSTOP)
    assert await all_run(store, standby) == workers
    leader.signal(signal.SIGCONT)
    assert await all_run(store, standby, leader) == workers
