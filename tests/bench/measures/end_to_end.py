"""The whole way on two cores: submit, forward, record, deliver the webhook. A round ends with the last webhook.

The engine runs one API, one agent and one delivery process. The peer runs FastAPI, an arq worker for the tasks and
another one for the webhooks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from time import perf_counter

from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.environments import PYTHON
from tests.bench.figures import OURS, Measured
from tests.bench.peer_workers import python_program
from tests.bench.processes import until, wait_for_port
from tests.bench.stage import Stage, endpoint_path, payload_of, submission
from tests.environment import inherited
from tests.ports import free_port

TASKS = Measure("tasks", "/s")
FASTAPI = "FastAPI + arq"
COUNTS = {OURS: 2500, FASTAPI: 1000}
WARM_UP = 50
"""Tasks before the first round: a process that is paused before it is ready would go on starting in its round."""
CORES = 2


async def measure(stage: Stage) -> Measured:
    servers = (stage.server, stage.peer_server)
    with two_cores([*stage.echo.pids(), *(one.pid for one in servers)]):
        async with AsyncExitStack() as stack:
            contestants = [await _ours(stage, stack)]
            failures = {FASTAPI: PYTHON.reason} if PYTHON.reason else {}
            if not failures:
                contestants.append(await _peer(stage, stack))
            return await alternate(contestants, [TASKS], failures=failures)


async def _ours(stage: Stage, stack: AsyncExitStack) -> Contestant:
    api, port = await stack.enter_async_context(stage.api())
    endpoint_id = await stage.endpoint()
    agents = await stack.enter_async_context(stage.agents(endpoint_id))
    delivery = await stack.enter_async_context(stage.delivery())
    programs = (api, *agents, delivery)

    async def run(count: int) -> Round:
        before = await stage.done(endpoint_id, "delivered")
        cores, started = stage.cores(stage.server, **{one.name: one for one in programs}), perf_counter()
        await stage.load([port], endpoint_path(endpoint_id), _body(stage, port=8000), count=count)
        await stage.wait_for(endpoint_id, "delivered", before + count)
        return Round({TASKS.name: count / (perf_counter() - started)}, str(cores))

    await run(WARM_UP)
    return Contestant(OURS, partial(run, stage.count(COUNTS[OURS])), programs)


async def _peer(stage: Stage, stack: AsyncExitStack) -> Contestant:
    stage.empty_peer_store()
    port = free_port()
    api = await stage.peer_server_program("submit_fastapi_arq", port)
    stack.push_async_callback(stage.programs.end, api)
    programs = [api]
    for role in ("run", "deliver"):
        command = python_program("chain_arq.py", role, stage.peer_server.url)
        programs.append(await stage.programs.start(f"arq-{role}", command, inherited()))
        stack.push_async_callback(stage.programs.end, programs[-1])
    await wait_for_port(port, api)

    async def run(count: int) -> Round:
        await stage.echo_get("/reset")
        cores, started = stage.cores(stage.peer_server, **{one.name: one for one in programs}), perf_counter()
        await stage.load([port], endpoint_path("1"), _body(stage, port=stage.echo_port), count=count)
        await until(partial(_has_hooks, stage, count), f"the receiver did not get {count} webhooks")
        return Round({TASKS.name: count / (perf_counter() - started)}, str(cores))

    await run(WARM_UP)
    return Contestant(FASTAPI, partial(run, stage.count(COUNTS[FASTAPI])), tuple(programs))


async def _has_hooks(stage: Stage, count: int) -> bool:
    return bool((await stage.echo_get("/stats"))["hooks"] >= count)


def _body(stage: Stage, *, port: int) -> bytes:
    return submission(payload_of(50), f', "webhook": "{stage.hook_url}"'.encode(), port=port)


@contextmanager
def two_cores(pids: Iterable[int]) -> Iterator[None]:
    """Let these processes, this one and all that it starts use two cores only."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    processes = [os.getpid(), *pids]
    _allow(processes, set(sorted(allowed)[:CORES]))
    try:
        yield
    finally:
        _allow(processes, allowed)


def _allow(processes: Iterable[int], cores: set[int]) -> None:
    for pid in processes:
        with suppress(OSError):  # a thread may end between the two calls
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cores)
