"""Time from the recorded end of a task to the response of a client that waits for it, at one API process.

The tasks run before the clients begin to wait, and end at a steady rate. The ends are recorded by this process, past an
agent, so that their rate is exact.
"""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import httpx

from queue_engine.domain.tasks import Lease, Succeeded
from queue_engine.processes.file_limit import raise_file_limit
from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.figures import OURS, Measured
from tests.bench.processes import Program, ProgramFailed, cpu_seconds, resident_bytes, until
from tests.bench.stage import Stage, endpoint_path, payload_of, python
from tests.environment import inherited

P50, P99 = Measure("p50", "ms", lower_is_better=True), Measure("p99", "ms", lower_is_better=True)
MEMORY = Measure("memory for one", "KiB", lower_is_better=True)
CPU = Measure("api", "µs of its processor for one", lower_is_better=True)
NO_LIMIT = "0"
STEPS_PER_SECOND = 100
END_SECONDS = 30.0
"""Time for the last responses."""
JOIN_SECONDS = 90.0


async def measure_300(stage: Stage) -> Measured:
    """3,000 clients, 300 ends per second."""
    return await _measured(stage, 3000, 300)


async def measure_1000(stage: Stage) -> Measured:
    """10,000 clients, 1,000 ends per second."""
    return await _measured(stage, 10_000, 1000)


async def _measured(stage: Stage, full: int, rate: int) -> Measured:
    count = stage.count(full)
    raise_file_limit(count)
    variables = {
        "QUEUE_ENGINE_API_METRICS": "public",
        "QUEUE_ENGINE_MAX_CONNECTIONS": str(2 * count),
        "QUEUE_ENGINE_MAX_CONNECTIONS_PER_ADDRESS": NO_LIMIT,
        "QUEUE_ENGINE_MAX_CONNECTIONS_PER_TENANT": NO_LIMIT,
        "QUEUE_ENGINE_MAX_WAITS": NO_LIMIT,
        "QUEUE_ENGINE_MAX_WAITS_PER_TENANT": NO_LIMIT,
    }
    async with stage.api(variables) as (api, port):
        endpoint_id = await stage.endpoint()
        run = partial(_round, stage, api, port, endpoint_id, count, rate)
        # A single round, because it has thousands of delays.
        return await alternate([Contestant(OURS, partial(run, "w"))], [P50, P99, MEMORY, CPU], rounds=1)


async def _round(stage: Stage, api: Program, port: int, endpoint_id: str, count: int, rate: int, prefix: str) -> Round:
    leases = await _running(stage, endpoint_id, prefix, count)
    empty, used = sum(resident_bytes(api.pids()).values()), cpu_seconds(api.pids())
    words = (str(port), endpoint_path(endpoint_id), stage.api_key, prefix, str(count))
    clients = await stage.programs.start("waiting-clients", python("tests.bench.waiting_clients", *words), inherited())
    try:
        await until(partial(_all_wait, clients, port, count), f"{count} clients do not wait", JOIN_SECONDS)
        memory = (sum(resident_bytes(api.pids()).values()) - empty) / 1024 / count
        await _end(stage, endpoint_id, leases, rate)
        async with asyncio.timeout(END_SECONDS):
            await clients.wait()
        found = json.loads(clients.output().strip().splitlines()[-1])
    except (TimeoutError, ValueError, IndexError):
        raise ProgramFailed(f"the clients got no responses: {clients.last_lines()}") from None
    finally:
        await stage.programs.end(clients)
    if found["failures"]:
        raise ProgramFailed(f"{found['failures']} of {count} clients got no ended task")
    cost = (cpu_seconds(api.pids()) - used) * 1e6 / count
    values = {P50.name: found["p50"], P99.name: found["p99"], MEMORY.name: memory, CPU.name: cost}
    return Round(values, f"{count:,} waits, {rate} ends/s, the last response after {found['max']:.0f} ms")


async def _running(stage: Stage, endpoint_id: str, prefix: str, count: int) -> list[Lease]:
    """Return the leases of `count` tasks that run."""
    queue = stage.store.queue(endpoint_id=endpoint_id, worker_id=prefix, lease_ms=3_600_000)
    await stage.enqueue(endpoint_id, prefix, count)
    leases: list[Lease] = []
    while len(leases) < count:
        entries = await queue.claim(100, block_ms=100)
        started = await asyncio.gather(*(queue.start(entry, address="127.0.0.1:9000") for entry in entries))
        leases += [one.lease for one in started if one is not None]
    return leases


async def _all_wait(clients: Program, port: int, count: int) -> bool:
    """Return True if `count` tasks are waited for at the API."""
    clients.check_runs()
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    return f"queue_engine_task_waits {float(count)}\n" in text


async def _end(stage: Stage, endpoint_id: str, leases: list[Lease], rate: int) -> None:
    """End the tasks, `rate` per second."""
    queue = stage.store.queue(endpoint_id=endpoint_id, worker_id="ends", lease_ms=3_600_000)
    step = max(1, rate // STEPS_PER_SECOND)
    began = time.perf_counter()
    for first in range(0, len(leases), step):
        await asyncio.gather(
            *(queue.settle(lease, Succeeded(payload_of(100))) for lease in leases[first : first + step])
        )
        await asyncio.sleep(max(0.0, began + (first + step) / rate - time.perf_counter()))
