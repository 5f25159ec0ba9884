"""All processes that a worker has started end with it, also those that left its group, session and environment."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from queue_engine.domain.endpoints import DesiredState, Expose
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from tests.integration.daemon import is_alive
from tests.integration.parts import TENANT, Program, Programs, new_endpoint, programs_on
from tests.integration.test_up import ROOT, Up, create, wait_for_workers
from tests.servers import StoreServer
from tests.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no subreapers")

DAEMON = f"{sys.executable} {ROOT / 'tests/integration/daemon.py'}"
SETTINGS = {"QUEUE_ENGINE_WORKER_GRACE_SECONDS": "0", "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "5"}


@pytest.fixture
def programs(valkey_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(valkey_server.url, tmp_path) as started:
        yield started


@pytest.fixture
def daemon() -> str:
    """The name of the socket of what a worker starts and lets go of."""
    return f"daemon-{os.getpid()}-{os.urandom(4).hex()}"


async def started(store: Store, programs: Programs, daemon: str, life: str = "sleeping") -> tuple[Program, str]:
    """A controller, and its endpoint of one worker that runs and has started the daemon."""
    controller = programs.start("controller", "queue_engine", "controller", **SETTINGS)
    endpoint_id = await new_endpoint(
        store, workers=1, initialization_command=f"{DAEMON} {daemon} {life}", expose=Expose(8000, "HTTP")
    )

    async def runs() -> bool:
        workers = await store.workers.of_endpoint(endpoint_id)
        return [worker.status for worker in workers] == [WorkerStatus.RUNNING]

    await wait_until_async(runs, 60, "the worker does not run")
    assert is_alive(daemon)
    return controller, endpoint_id


async def stop(store: Store, endpoint_id: str, _: Program) -> None:
    await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.STOPPED)


async def delete(store: Store, endpoint_id: str, _: Program) -> None:
    await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.DELETED)


async def kill_the_agent(store: Store, endpoint_id: str, controller: Program) -> None:
    await stop(store, endpoint_id, controller)  # so that no other worker follows
    agent_of(controller).kill()


async def kill_the_controller(store: Store, endpoint_id: str, controller: Program) -> None:
    controller.kill()


async def stop_the_controller(store: Store, endpoint_id: str, controller: Program) -> None:
    controller.signal(signal.SIGTERM)


ORPHANS = 4000

End = Callable[[Store, str, Program], Awaitable[None]]


@pytest.mark.parametrize("end", [stop, delete, kill_the_agent, kill_the_controller, stop_the_controller])
async def test_a_daemon_ends_with_its_worker(store: Store, programs: Programs, daemon: str, end: End) -> None:
    controller, endpoint_id = await started(store, programs, daemon)
    await end(store, endpoint_id, controller)
    await wait_until_async(lambda: not is_alive(daemon), message="the daemon outlives its worker")


@pytest.mark.parametrize("end", [stop, kill_the_agent])
async def test_a_daemon_that_never_has_the_same_number_for_long_ends_too(
    store: Store, programs: Programs, daemon: str, end: End
) -> None:
    controller, endpoint_id = await started(store, programs, daemon, "reforking")
    await end(store, endpoint_id, controller)
    await wait_until_async(lambda: not is_alive(daemon), message="the daemon outlives its worker")


def test_a_daemon_whose_controller_and_agent_were_killed_is_ended_by_up(tmp_path: Path, daemon: str) -> None:
    up = Up(tmp_path)
    try:
        up.wait_until_up()
        endpoint_id = create(up, command=f"{DAEMON} {daemon} sleeping")
        wait_for_workers(up, endpoint_id, 1)
        [agent] = up.workers()
        up.role("controller").suspend()
        agent.kill()
        up.role("controller").kill()
        wait_until(lambda: not is_alive(daemon), message="the daemon outlives its worker")
    finally:
        up.end()


LEAVES_A_CHILD = """
import asyncio, os, sys, time
from queue_engine.processes.orphans import become_subreaper, children, end_orphans

assert become_subreaper()
go, told = os.pipe()
first = os.fork()
if not first:
    os.read(go, 1)
    if not os.fork():
        time.sleep(60)
    os._exit(0)

def leaves_a_child(pid):
    if pid == first:  # listed and not reaped yet: now it forks and exits
        os.write(told, b"x")
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    return False

asyncio.run(end_orphans(leaves_a_child))
sys.exit(len(children()))
"""


DOES_NOT_END = """
import asyncio, os, signal
from queue_engine.backends.leftovers import AdoptedOrphans
from queue_engine.processes import orphans

assert orphans.become_subreaper()
stuck = os.fork()
if not stuck:
    signal.pause()

async def main():
    kill, orphans._kill = orphans._kill, lambda pid: None  # as the kernel does for a process that waits for a device
    left = await orphans.end_orphans(lambda pid: False, give_up_seconds=-1)
    assert left.alive == {stuck}, left
    ending = asyncio.create_task(AdoptedOrphans(give_up_seconds=0.1).end({}))
    done, _ = await asyncio.wait({ending}, timeout=0.5)
    assert not done
    orphans._kill = kill
    await asyncio.wait_for(ending, 30)
    assert orphans.children() == []

asyncio.run(main())
"""


def test_an_orphan_that_does_not_end_in_time_is_reported_and_waited_for() -> None:
    subprocess.run([sys.executable, "-c", DOES_NOT_END], cwd=ROOT, timeout=60, check=True)


def test_a_process_that_forks_and_exits_while_orphans_are_listed_does_not_save_its_child() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES_A_CHILD], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


async def test_ended_processes_that_a_container_has_left_do_not_pile_up(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    controller = programs.start("controller", "queue_engine", "controller", **SETTINGS)
    done = tmp_path / "done"
    command = f"for n in 1 2 3 4 5; do (setsid sleep 0 &); done; touch {done}; sleep 600"
    await new_endpoint(store, workers=1, initialization_command=command, expose=Expose(8000, "HTTP"))
    await wait_until_async(done.exists, 60, "the container does not start")

    def is_left(process: psutil.Process) -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # reaped since it was listed
            return False

    def left() -> list[psutil.Process]:
        return [one for one in agent_of(controller).children() if is_left(one)]

    await wait_until_async(lambda: not left(), message="the agent reaps nothing")


async def test_a_container_that_forks_without_a_pause_does_not_use_up_the_process_ids(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    controller = programs.start("controller", "queue_engine", "controller", **SETTINGS)
    done = tmp_path / "done"
    script = f"""
import os, time
for _ in range({ORPHANS}):
    child = os.fork()
    if not child:
        os.fork()
        os._exit(0)
    os.waitpid(child, 0)
open({str(done)!r}, "w").close()
time.sleep(600)
"""
    program = tmp_path / "program.py"
    program.write_text(script)
    command = f"{sys.executable} -S {program}"
    await new_endpoint(store, workers=1, initialization_command=command, expose=Expose(8000, "HTTP"))
    await wait_until_async(done.exists, 60, "the container does not start")
    assert len(agent_of(controller).children()) < ORPHANS / 2


def agent_of(controller: Program) -> psutil.Process:
    [agent] = psutil.Process(controller.pid).children()
    return agent
