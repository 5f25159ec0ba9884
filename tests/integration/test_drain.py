"""Workers that are stopped while their tasks run: the tasks go back to the queue, and nothing is spent."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_engine.domain.endpoints import DesiredState, Expose
from queue_engine.domain.tasks import Task, TaskState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from tests.integration.parts import TENANT, Program, Programs, new_endpoint, programs_on, submit
from tests.integration.test_up import SLOW
from tests.servers import StoreServer
from tests.waiting import wait_until_async

WORKERS = 3
SETTINGS = {
    "QUEUE_ENGINE_LEASE_SECONDS": "30",
    "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "10",
    "QUEUE_ENGINE_WORKER_GRACE_SECONDS": "1",
}
TASKS = [f"t{number}" for number in range(WORKERS)]


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
        yield started


def start(programs: Programs) -> Program:
    return programs.start("controller", "queue_engine", "controller", **SETTINGS)


async def tasks_in(store: Store, endpoint_id: str, state: TaskState, timeout: float = 60) -> list[Task]:
    """The tasks, as soon as all are in this state."""

    async def all_there() -> list[Task] | None:
        found = [await store.tasks.get(endpoint_id, task_id) for task_id in TASKS]
        tasks = [task for task in found if task is not None and task.state is state]
        return tasks if len(tasks) == len(TASKS) else None

    tasks = await wait_until_async(all_there, timeout, f"not all tasks are {state}")
    assert tasks is not None
    return tasks


async def busy_endpoint(store: Store, received: Path) -> str:
    """An endpoint whose workers each have a task that takes an hour. Their containers note tasks in `received`."""
    endpoint_id = await new_endpoint(
        store,
        workers=WORKERS,
        concurrency=1,
        initialization_command=f"{SLOW} 3600 {received}",
        expose=Expose(8000, "HTTP"),
    )
    for task_id in TASKS:
        await submit(store, endpoint_id, task_id)
    await all_received(received)
    return endpoint_id


async def all_received(received: Path, times: int = 1) -> None:
    """Wait until the containers have received every task so many times.

    A task is RUNNING in the store some milliseconds before that. An attempt that is released then is not recorded.
    """

    def are_all() -> bool:
        return received.exists() and len(received.read_text().splitlines()) >= times * len(TASKS)

    await wait_until_async(are_all, 60, "the containers have not received all tasks")


async def assert_released(store: Store, endpoint_id: str) -> None:
    """All attempts were released, no budget was used, and the tasks wait."""
    for task in await tasks_in(store, endpoint_id, TaskState.QUEUED):
        attempts = await store.tasks.attempts(endpoint_id, task.task_id)
        assert attempts is not None
        assert {attempt.outcome for attempt in attempts} == {"released"}, task.task_id
        assert task.lost == 0


async def stop(store: Store, endpoint_id: str) -> None:
    await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.STOPPED)


async def test_the_tasks_of_a_stopped_endpoint_are_all_released(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    start(programs)
    endpoint_id = await busy_endpoint(store, tmp_path / "received")
    await stop(store, endpoint_id)
    await assert_released(store, endpoint_id)


async def test_the_tasks_of_a_controller_that_is_stopped_are_all_released(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    controller = start(programs)
    endpoint_id = await busy_endpoint(store, tmp_path / "received")
    controller.signal(signal.SIGTERM)
    assert await asyncio.to_thread(controller.wait, 60) == 0
    await assert_released(store, endpoint_id)


async def test_the_tasks_of_a_controller_that_is_killed_are_all_released(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    """The agents drain by themselves; the next controller gives them the time for it."""
    controller = start(programs)
    endpoint_id = await busy_endpoint(store, tmp_path / "received")
    controller.kill()
    start(programs)

    async def all_released() -> bool:
        attempts = [await store.tasks.attempts(endpoint_id, task_id) or [] for task_id in TASKS]
        return all("released" in {attempt.outcome for attempt in of_task} for of_task in attempts)

    await wait_until_async(all_released, 60, "not all attempts were released")


async def test_a_long_task_survives_more_stops_than_it_may_lose_workers(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    start(programs)
    received = tmp_path / "received"
    endpoint_id = await busy_endpoint(store, received)
    for stops in range(4):
        await all_received(received, stops + 1)
        await stop(store, endpoint_id)
        await assert_released(store, endpoint_id)
        await wait_until_async(lambda: _no_worker(store, endpoint_id), 60, "workers do not end")
        await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.RUNNING)
    await tasks_in(store, endpoint_id, TaskState.RUNNING)
    assert all(worker.status is not WorkerStatus.FAILED for worker in await store.workers.of_endpoint(endpoint_id))


GRACEFUL = """
import pathlib, signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[2]).touch(), sys.exit(0)))
pathlib.Path(sys.argv[1]).touch()
threading.Event().wait(600)
"""


async def test_sigterm_reaches_the_server_behind_the_shell(store: Store, programs: Programs, tmp_path: Path) -> None:
    start(programs)
    script, ready, ended = tmp_path / "server.py", tmp_path / "ready", tmp_path / "ended"
    script.write_text(GRACEFUL)
    command = f"cd {tmp_path} && {sys.executable} {script} {ready} {ended}; true"  # the shell stays beside it
    endpoint_id = await new_endpoint(store, workers=1, initialization_command=command, expose=Expose(8000, "HTTP"))
    await wait_until_async(ready.exists, 60, "the server does not start")
    await stop(store, endpoint_id)
    await wait_until_async(ended.exists, 60, "the server got no SIGTERM")


async def _no_worker(store: Store, endpoint_id: str) -> bool:
    return not await store.workers.of_endpoint(endpoint_id)
