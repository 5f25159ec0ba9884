"""Deliveries by one process to one fast receiver: signed, recorded in the ledger."""

from __future__ import annotations

import json
from functools import partial
from itertools import count as counter
from pathlib import Path
from time import perf_counter

from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.environments import PYTHON
from tests.bench.figures import OURS, Measured
from tests.bench.peer_workers import python_program
from tests.bench.stage import Stage

DELIVERIES = Measure("deliveries", "/s")
ARQ, AIOHTTP = "arq + httpx", "bare aiohttp"
COUNTS = {OURS: 4000, ARQ: 1500, AIOHTTP: 8000}
CONCURRENCY = 128
"""Deliveries in flight to one trusted destination, by default in the engine."""
WARM_UP_SHARE = 0.1


async def measure(stage: Stage) -> Measured:
    numbers = counter()
    body_file = stage.folder / "hook-body"

    async def ours() -> Round:
        return await _ours(stage, f"d{next(numbers)}", body_file)

    contestants = [
        Contestant(OURS, ours),
        Contestant(ARQ, partial(_arq, stage, body_file)),
        Contestant(AIOHTTP, partial(_aiohttp, stage, body_file)),
    ]
    failures = {name: PYTHON.reason for name in (ARQ, AIOHTTP) if PYTHON.reason}
    return await alternate(contestants, [DELIVERIES], failures=failures)


async def _ours(stage: Stage, prefix: str, body_file: Path) -> Round:
    endpoint_id, count = await stage.endpoint(), stage.count(COUNTS[OURS])
    await stage.enqueue_finished(endpoint_id, prefix, count)
    async with stage.delivery() as program:
        await stage.wait_for(endpoint_id, "delivered", int(count * WARM_UP_SHARE))
        started, first = perf_counter(), await stage.done(endpoint_id, "delivered")
        cores = stage.cores(stage.server, delivery=program)
        await stage.wait_for(endpoint_id, "delivered", count)
        rate = (count - first) / (perf_counter() - started)
        note = str(cores)
    # The peers send the same body.
    body_file.write_text(json.dumps(await stage.echo_get("/last")))
    return Round({DELIVERIES.name: rate}, note)


async def _arq(stage: Stage, body_file: Path) -> Round:
    count = stage.count(COUNTS[ARQ])
    warm_up = int(count * WARM_UP_SHARE)
    words = (stage.peer_server.url, stage.hook_url, count, warm_up, CONCURRENCY, body_file)
    stage.empty_peer_store()
    await stage.run("deliver-arq", python_program("deliver_arq.py", "enqueue", *words))
    found = await stage.output("deliver-arq", python_program("deliver_arq.py", "work", *words))
    return Round({DELIVERIES.name: (count - warm_up) / found["seconds"]}, _own_cores(found))


async def _aiohttp(stage: Stage, body_file: Path) -> Round:
    count = stage.count(COUNTS[AIOHTTP])
    warm_up = int(count * WARM_UP_SHARE)
    command = python_program("deliver_aiohttp.py", stage.hook_url, count, warm_up, CONCURRENCY, body_file)
    found = await stage.output("deliver-aiohttp", command)
    return Round({DELIVERIES.name: (count - warm_up) / found["seconds"]}, _own_cores(found))


def _own_cores(found: dict[str, float]) -> str:
    return f"cores: sender {found['cpu_seconds'] / found['seconds']:.2f}"
