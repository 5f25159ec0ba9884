"""Drains of workers that a controller has started, in every way that an operator or a user can ask for one."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from queue_engine.domain.tasks import TERMINAL_STATES
from tests.faults.engine import CONCURRENCY, GRACE_SECONDS
from tests.faults.managed import Managed, container_command, leader_of, managed_workers, start_managed, until_none_runs
from tests.faults.producer import TaskPlan
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage
from tests.integration.parts import HttpServer, Reply
from tests.integration.test_up import Up, create
from tests.waiting import wait_until

WORKERS = 3
TASK_MS = 3000
"""Three times the grace: most of what runs when a drain begins must be released."""
DELETED_TASK_MS = 60_000
"""None of these may end by itself before its endpoint's workers drain."""
WAIT_SECONDS = 90.0
EXPOSE = {"port": 8000, "protocol": "HTTP"}
DELETED_JOURNAL = "deleted.jsonl"
"""Of the container of the endpoint that is deleted: its executions are not this scenario's."""

Drain = Callable[[Stage, Sequence[Managed]], Awaitable[None]]


@scenario(
    "drain under load",
    workers=0,
    endpoint={"expose": EXPOSE},
    play_seconds=400.0,
)
async def drain_under_load(stage: Stage) -> None:
    """Stop, scale down, PATCH, DELETE, SIGTERM of controller and `up`: no attempt is lost, no budget spent."""
    workers = await start_managed(stage, WORKERS)
    async with stage.steady_load(rate=3, ms=TASK_MS, change=_long):
        for drain in (_stop, _scale_down, _replace, _end_controller):
            before = (await _outcomes(stage, stage.endpoint_id, _submitted(stage)))["released"]
            await stage.until_busy(*workers)
            with stage.fault(f"drain: {drain.__name__.strip('_')}", *workers):
                await drain(stage, workers)
            workers = await _until_running(stage)
            if (await _outcomes(stage, stage.endpoint_id, _submitted(stage)))["released"] == before:
                stage.violations.append(f"{drain.__name__} released no attempt: nothing was tried")
        await _delete(stage)
        stage.violations += await asyncio.to_thread(_end_up, stage.directory / "up")
    await stage.until(stage.all_ended, 2 * WAIT_SECONDS, what="tasks do not end")
    await _check_budgets(stage)
    await asyncio.to_thread(stage.engine.scale, stage.endpoint_id, 0)
    await until_none_runs(stage, workers)


def _long(plan: TaskPlan) -> TaskPlan:
    return replace(plan, input={"do": "ok", "ms": TASK_MS})


# Ways to drain


async def _stop(stage: Stage, workers: Sequence[Managed]) -> None:
    await asyncio.to_thread(stage.engine.order, stage.endpoint_id, "stop")
    await until_none_runs(stage, workers)
    await asyncio.to_thread(stage.engine.order, stage.endpoint_id, "start")


async def _scale_down(stage: Stage, workers: Sequence[Managed]) -> None:
    await asyncio.to_thread(stage.engine.scale, stage.endpoint_id, 0)
    await until_none_runs(stage, workers)
    await asyncio.to_thread(stage.engine.scale, stage.endpoint_id, WORKERS)


async def _replace(stage: Stage, workers: Sequence[Managed]) -> None:
    variables = [{"key": "REVISION", "value": "next"}]
    await asyncio.to_thread(
        lambda: stage.engine.change_endpoint(stage.endpoint_id, workers=WORKERS, environmentVars=variables)
    )
    await until_none_runs(stage, workers)


async def _end_controller(stage: Stage, workers: Sequence[Managed]) -> None:
    """The other controller starts the workers again, under their names."""
    leader = await asyncio.to_thread(leader_of, stage, workers[0])
    status = await asyncio.to_thread(stage.engine.program(leader).stop)
    if status != 0:
        stage.violations.append(f"a controller that was asked to end has ended with status {status}")
    await asyncio.to_thread(stage.engine.start_role, leader)


async def _delete(stage: Stage) -> None:
    """Another endpoint, because the tasks of this one are checked at the end.

    Its receiver refuses the webhooks until the attempts have been read: until then the tasks are kept.
    """
    names = [f"deleted_{number}" for number in range(8)]
    taken = threading.Event()
    with HttpServer(lambda _: Reply(200 if taken.is_set() else 503)) as receiver:
        endpoint_id = await asyncio.to_thread(lambda: stage.engine.new_endpoint(expose=EXPOSE))
        workers = await start_managed(stage, 1, endpoint_id, journal=DELETED_JOURNAL)
        for name in names:
            await asyncio.to_thread(
                stage.engine.submit, endpoint_id, name, {"do": "ok", "ms": DELETED_TASK_MS}, receiver.url
            )
        await stage.until(lambda: len(stage.seen("begin", DELETED_JOURNAL)) >= CONCURRENCY, what="no task begins")
        await asyncio.to_thread(stage.engine.order, endpoint_id, "delete")
        await until_none_runs(stage, workers)

        async def all_ended() -> bool:
            tasks = [await stage.store.tasks.get(endpoint_id, name) for name in names]
            return all(task is not None and task.state in TERMINAL_STATES for task in tasks)

        await stage.until(all_ended, WAIT_SECONDS, what="tasks of a deleted endpoint do not end")
        outcomes = await _outcomes(stage, endpoint_id, names)
        if outcomes != {"released": CONCURRENCY}:
            stage.violations.append(f"the attempts of a deleted endpoint came to {dict(outcomes)}")
        taken.set()
        await stage.until(
            lambda: stage.engine.status_of(f"/{endpoint_id}") == 404, WAIT_SECONDS, what="a deleted endpoint stays"
        )


def _end_up(directory: Path) -> list[str]:
    """SIGTERM of an `up` of its own; returns what was wrong, in sentences."""
    directory.mkdir()
    up = Up(directory, QUEUE_ENGINE_WORKER_GRACE_SECONDS=str(GRACE_SECONDS))
    try:
        up.wait_until_up()
        endpoint_id = create(up, workers=CONCURRENCY, command=container_command(directory / "up.jsonl"))
        base = f"/v2/serverless/{endpoint_id}/tasks"
        for number in range(CONCURRENCY):
            body = {"taskId": f"up_{number}", "input": {"do": "ok", "ms": DELETED_TASK_MS}}
            up.post(base, body | {"workerPort": 8000, "processUri": "/run"})
        wait_until(lambda: up.get(f"{base}/count")["running"] == CONCURRENCY, WAIT_SECONDS, "no task begins")
        up.program.signal(signal.SIGTERM)
        if status := up.program.wait(WAIT_SECONDS):
            return [f"`up` was asked to end and has ended with status {status}"]
        up.start()
        up.wait_until_up()
        attempts = [one for number in range(CONCURRENCY) for one in up.get(f"{base}/up_{number}/attempts")]
        outcomes = Counter(one["outcome"] for one in attempts if one["outcome"] != "running")
        return [] if outcomes == {"released": CONCURRENCY} else [f"the attempts of `up` came to {dict(outcomes)}"]
    finally:
        up.end()


# What came of it


async def _until_running(stage: Stage) -> list[Managed]:
    """Return the workers as soon as they all run and accept tasks."""
    await stage.until(lambda: _all_run(stage), WAIT_SECONDS, what="the workers do not run again after a drain")
    return await asyncio.to_thread(managed_workers, stage, stage.endpoint_id)


async def _all_run(stage: Stage) -> bool:
    return len(await asyncio.to_thread(managed_workers, stage, stage.endpoint_id)) == WORKERS


async def _outcomes(stage: Stage, endpoint_id: str, names: Iterable[str]) -> Counter[str]:
    """Count the outcomes of all attempts of these tasks."""
    found: Counter[str] = Counter()
    for name in names:
        for attempt in await stage.store.tasks.attempts(endpoint_id, name) or ():
            found[attempt.outcome] += 1
    return found


def _submitted(stage: Stage) -> list[str]:
    return [str(record["task"]) for record in stage.seen("acknowledged", "harness.jsonl")]


async def _check_budgets(stage: Stage) -> None:
    """Every task has one attempt that counts, and none that was lost."""
    outcomes = await _outcomes(stage, stage.endpoint_id, _submitted(stage))
    stage.notes.append(f"{outcomes['released']} attempts released, {outcomes['lost']} lost")
    for name in _submitted(stage):
        task = await stage.store.tasks.get(stage.endpoint_id, name)
        if task is not None and (task.attempts, task.lost) != (1, 0):
            stage.violations.append(f"{name} was charged {task.attempts} attempts and {task.lost} lost workers")
