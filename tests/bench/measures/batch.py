"""Tasks that are submitted as JSON lines, beside the same tasks in requests of their own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.figures import OURS, Measured
from tests.bench.measures.submission import SINGLE, submits_round
from tests.bench.processes import Program, ProgramFailed
from tests.bench.stage import Stage, endpoint_path, payload_of, python, submission

TASKS = Measure("submits", "/s")
LINES, STREAMS = 6000, 4


async def measure(stage: Stage) -> Measured:
    async with AsyncExitStack() as stack:
        program, port = await stack.enter_async_context(stage.api())
        path = endpoint_path(await stage.endpoint())
        return await alternate(
            [
                Contestant(OURS, partial(_batches_round, stage, program, port, path), (program,)),
                Contestant(SINGLE, partial(submits_round, stage, program, [port], path, SINGLE), (program,)),
            ],
            [TASKS],
        )


async def _batches_round(stage: Stage, program: Program, port: int, path: str) -> Round:
    """Submit tasks in a few streams at the same time."""
    cores = stage.cores(stage.server, api=program)
    count = max(STREAMS, stage.count(LINES) // STREAMS * STREAMS)
    file = stage.folder / "line"
    file.write_bytes(submission(payload_of(50)))
    words = (port, f"{path}/batch", stage.api_key, count, STREAMS, file)
    found = await stage.output("load", python("tests.bench.batch_load", *map(str, words)))
    if found["failures"]:
        raise ProgramFailed(f"{found['failures']:.0f} of {count} tasks were not accepted")
    note = f"{cores}, load {found['cpu_seconds'] / found['seconds']:.2f}"
    return Round({TASKS.name: count / found["seconds"]}, note)
