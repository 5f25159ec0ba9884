"""Workers that a controller starts as processes, by the process backend."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from queue_engine.domain.agent_protocol import CONTROLLER_PID, WORKER_ID
from queue_engine.processes.process_groups import processes_with
from tests.faults.engine import CONTROLLERS, ROOT
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage

WORKERS = 2


@dataclass(frozen=True)
class Managed:
    """One worker of a controller: an agent and a container, with a name that stays when they are started again."""

    name: str

    def tree(self) -> list[tuple[psutil.Process, Mapping[str, str]]]:
        """All its processes, and their environments."""
        return processes_with({WORKER_ID: self.name})

    def kill(self) -> set[int]:
        """SIGKILL of all its processes, none of which sees another's end; returns their ids."""
        tree = [process for process, _ in self.tree()]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in tree:
                with suppress(psutil.Error):
                    process.send_signal(number)
        return {process.pid for process in tree}


@scenario(
    "kill managed workers",
    workers=0,
    endpoint={"expose": {"port": 8000, "protocol": "HTTP"}},
)
async def kill_managed(stage: Stage) -> None:
    """kill -9 of whole workers that a controller has started, and of it with all of them: new ones go on.

    Without a goal: with two workers a task may have to wait until the killed one is back.
    """
    workers = await start_managed(stage, WORKERS)
    async with stage.steady_load(rate=6, ms=1500):
        for worker in stage.rng.choices(workers, k=3):
            await stage.until_busy(*workers)
            with stage.fault("kill agent and container", worker):
                killed = await asyncio.to_thread(worker.kill)
            await _until_new(stage, worker, killed)
        await stage.until_busy(*workers)
        leader = await asyncio.to_thread(leader_of, stage, workers[0])
        with stage.fault(f"{leader} and its workers killed", *workers):
            await asyncio.to_thread(stage.engine.program(leader).kill)
            trees = await asyncio.gather(*(asyncio.to_thread(worker.kill) for worker in workers))
        for worker, killed in zip(workers, trees, strict=True):
            await _until_new(stage, worker, killed)
        await asyncio.to_thread(stage.engine.start_role, leader)
    await stage.until(stage.all_ended, 120, what="tasks do not end")
    await _end(stage, workers)


async def start_managed(
    stage: Stage, count: int, endpoint_id: str = "", *, journal: str = "containers.jsonl"
) -> list[Managed]:
    """Let the controllers start workers whose containers journal as all do; return them when they run.

    Without an id they are of the scenario's own endpoint.
    """
    endpoint_id = endpoint_id or stage.endpoint_id
    command = container_command(stage.directory / journal)
    await asyncio.to_thread(
        lambda: stage.engine.change_endpoint(endpoint_id, workers=count, initializationCommand=command)
    )

    async def all_run() -> bool:
        return len(await asyncio.to_thread(managed_workers, stage, endpoint_id)) == count

    await stage.until(all_run, what="the controllers start no workers")
    return await asyncio.to_thread(managed_workers, stage, endpoint_id)


def container_command(journal: Path) -> str:
    """Return the initializationCommand of a container that journals to this file under its worker's id."""
    program = shlex.join([sys.executable, "-m", "tests.faults.container"])
    file = shlex.quote(str(journal))
    return f'PYTHONPATH={shlex.quote(str(ROOT))} exec {program} --port "$PORT" --journal {file} --worker "${WORKER_ID}"'


def managed_workers(stage: Stage, endpoint_id: str) -> list[Managed]:
    """Return the workers that run now, as the API shows them."""
    found = stage.engine.get(f"/{endpoint_id}/workers")
    return [Managed(one["workerId"]) for one in found if one["status"] == "RUNNING"]


async def until_none_runs(stage: Stage, workers: Sequence[Managed]) -> None:
    """Return when no process of these workers is left."""
    await stage.until(
        lambda: not any(worker.tree() for worker in workers), 120, what="a worker stays although it shall end"
    )


async def _end(stage: Stage, workers: list[Managed]) -> None:
    """Nothing of them may be left when none is wanted any more."""
    await asyncio.to_thread(stage.engine.scale, stage.endpoint_id, 0)
    await until_none_runs(stage, workers)


async def _until_new(stage: Stage, worker: Managed, killed: set[int]) -> None:
    """Wait until a controller has brought another agent and container, and they work."""
    await stage.until(
        lambda: any(one["pid"] not in killed for one in stage.interruptible(worker)),
        what="no controller brings a killed worker back",
    )


def leader_of(stage: Stage, worker: Managed) -> str:
    """Return the name of the controller that has started this worker."""
    pids = {int(environment[CONTROLLER_PID]) for _, environment in worker.tree()}
    return next(name for name in CONTROLLERS if stage.engine.program(name).pid in pids)
