"""Submits through one API process, from kept-alive clients."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.environments import PYTHON
from tests.bench.figures import OURS, Measured
from tests.bench.processes import Program, wait_for_port
from tests.bench.stage import Stage, endpoint_path, payload_of, submission
from tests.ports import free_port
from tests.servers import StoreServer

SUBMITS = Measure("submits", "/s")
BARE, FASTAPI = "bare Starlette", "FastAPI + arq"
APPLICATIONS = {BARE: "submit_bare", FASTAPI: "submit_fastapi_arq"}
SINGLE = "single submits"
"""The engine again, beside its batches."""
COUNTS = {OURS: 6000, BARE: 6000, FASTAPI: 2500, SINGLE: 2000}


async def measure(stage: Stage) -> Measured:
    async with AsyncExitStack() as stack:
        program, port = await stack.enter_async_context(stage.api())
        endpoint_id = await stage.endpoint()
        path = endpoint_path(endpoint_id)
        contestants = [Contestant(OURS, partial(submits_round, stage, program, [port], path, OURS), (program,))]
        failures = {name: PYTHON.reason for name in APPLICATIONS if PYTHON.reason}
        contestants += [
            await _peer(stage, stack, name, application)
            for name, application in APPLICATIONS.items()
            if name not in failures
        ]
        stage.empty_peer_store()
        return await alternate(contestants, [SUBMITS], failures=failures)


async def _peer(stage: Stage, stack: AsyncExitStack, name: str, application: str) -> Contestant:
    port = free_port()
    program = await stage.peer_server_program(application, port)
    stack.push_async_callback(stage.programs.end, program)
    await wait_for_port(port, program)
    run = partial(submits_round, stage, program, [port], endpoint_path("1"), name, server=stage.peer_server)
    return Contestant(name, run, (program,))


async def submits_round(
    stage: Stage, program: Program, ports: list[int], path: str, name: str, *, server: StoreServer | None = None
) -> Round:
    """Submit tasks from 32 kept-alive connections."""
    cores = stage.cores(server or stage.server, api=program)
    count = stage.count(COUNTS[name])
    found = await stage.load(ports, path, submission(payload_of(50)), count=count)
    note = f"{cores}, load {found['cpu_seconds'] / found['seconds']:.2f}"
    return Round({SUBMITS.name: count / found["seconds"]}, note)
