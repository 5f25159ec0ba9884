"""API processes and agents, one, two and four of each. The API is `queue-engine api --processes N`.

The load generator and the echo server run on the same cores.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from itertools import count as counter

from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.figures import OURS, Figure, Measured
from tests.bench.measures.forwarding import tasks_round
from tests.bench.processes import Program
from tests.bench.stage import Stage, endpoint_path, payload_of, submission

NUMBERS = (1, 2, 4)
SUBMIT_COUNT, TASK_COUNT = 4000, 4000
SUBMITS, TASKS = Measure("submits", "/s"), Measure("tasks", "/s")


async def measure(stage: Stage) -> Measured:
    apis, agents = await _apis(stage), await _agents(stage)
    return Measured((*_named(apis, "API processes"), *_named(agents, "agents")), {**apis.failures, **agents.failures})


def _named(measured: Measured, what: str) -> list[Figure]:
    """Return the figures with the number of processes in their measure: each is one of the engine's."""
    return [
        Figure(f"{one.measure}, {one.subject} {what}", OURS, one.unit, one.values, note=one.note)
        for one in measured.figures
    ]


async def _apis(stage: Stage) -> Measured:
    async with AsyncExitStack() as stack:
        endpoint_id = await stage.endpoint()
        contestants = []
        for number in NUMBERS:
            program, port = await stack.enter_async_context(stage.api(processes=number))
            run = partial(_submits, stage, program, port, endpoint_path(endpoint_id))
            contestants.append(Contestant(str(number), run, (program,)))
        return await alternate(contestants, [SUBMITS])


async def _submits(stage: Stage, program: Program, port: int, path: str) -> Round:
    cores, count = stage.cores(stage.server, api=program), stage.count(SUBMIT_COUNT)
    found = await stage.load([port], path, submission(payload_of(50)), count=count)
    note = f"{cores}, load {found['cpu_seconds'] / found['seconds']:.2f}"
    return Round({SUBMITS.name: count / found["seconds"]}, note)


async def _agents(stage: Stage) -> Measured:
    numbers = counter()

    async def run(agents: list[Program], endpoint_id: str) -> Round:
        return await tasks_round(stage, agents, endpoint_id, f"s{next(numbers)}", stage.count(TASK_COUNT))

    async with AsyncExitStack() as stack:
        contestants = []
        for number in NUMBERS:
            endpoint_id = await stage.endpoint()
            agents = await stack.enter_async_context(stage.agents(endpoint_id, number))
            contestants.append(Contestant(str(number), partial(run, agents, endpoint_id), tuple(agents)))
        return await alternate(contestants, [TASKS])
