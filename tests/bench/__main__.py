"""Run the benchmarks and print a table. Takes about a minute; `python -m tests.bench --scale 0.2` is quicker.

Numbers of different machines, or of different runs on a busy machine, do not compare; those of one run do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvloop

from queue_engine.crypto.sealing import Sealer, new_secret_key, parse_secret_key
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import NewTask, TaskSpec
from queue_engine.local.embedded import EmbeddedStore
from queue_engine.store.api_keys import new_api_key
from queue_engine.store.store import Store
from tests.bench import growth
from tests.ports import free_port
from tests.servers import valkey_binary
from tests.waiting import wait_until_async

PAYLOAD = '{"prompt": "' + "x" * 50 + '", "n": %d}'
LIMIT_SECONDS = 120.0
RATE_PER_SECOND = 50
CONCURRENCY = 64
WARM_UP = 20


@dataclass(frozen=True)
class Bench:
    """What every benchmark needs."""

    store: Store
    store_url: str
    target_port: int
    environment: Mapping[str, str]
    api_key: str
    scale: float

    def count(self, full: int) -> int:
        return max(50, int(full * self.scale))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of requests")
    parser.add_argument("what", nargs="?", choices=["growth"], help="growth: whether costs depend on the history")
    parser.add_argument("--sizes", default="", help="of growth: numbers of finished tasks, comma-separated")
    parser.add_argument("--server", type=Path, default=valkey_binary(), help="of growth: valkey-server or redis-server")
    given = parser.parse_args()
    if given.what == "growth":
        sizes = [int(size) for size in given.sizes.split(",")] if given.sizes else growth.SIZES
        uvloop.run(growth.run(given.server, sizes))
    else:
        uvloop.run(_run(given.scale))


async def _run(scale: float) -> None:
    with tempfile.TemporaryDirectory(prefix="queue-engine-bench-") as folder:
        embedded = EmbeddedStore(Path(folder) / "store", environment=os.environ)
        try:
            await _run_all(await embedded.start(), scale)
        finally:
            await embedded.stop()


async def _run_all(store_url: str, scale: float) -> None:
    secret_key, api_key = new_secret_key(), new_api_key()
    store = Store(store_url, Sealer(parse_secret_key(secret_key)))
    info = await store.prepare()
    await store.api_keys.put(api_key, tenant="default", name="bench")
    _say(f"{info}, Python {sys.version.split()[0]}, {os.cpu_count()} cores; {CONCURRENCY} tasks at once\n")
    environment = {
        **os.environ,
        "QUEUE_ENGINE_REDIS_URL": store_url,
        "QUEUE_ENGINE_SECRET_KEY": secret_key,
        "QUEUE_ENGINE_WEBHOOK_ALLOW": "127.0.0.0/8",
        "QUEUE_ENGINE_LOG_LEVEL": "WARNING",
        "WORKER_AGENT_LOG_LEVEL": "WARNING",
    }
    target_port = free_port()
    target = (
        "uvicorn",
        "tests.bench.target:app",
        "--port",
        str(target_port),
        "--no-access-log",
        "--log-level",
        "error",
    )
    try:
        async with _process(target, environment, wait_port=target_port):
            bench = Bench(store, store_url, target_port, environment, api_key, scale)
            await _peer(bench)
            await _agent(bench)
            await _deliveries(bench)
            await _api(bench)
    finally:
        await store.close()


async def _peer(bench: Bench) -> None:
    count = bench.count(2000)
    url = f"http://127.0.0.1:{bench.target_port}/run"
    output = await _output(("tests.bench.peer_arq", bench.store_url, url, str(count)), bench.environment)
    _result("tasks/s, arq doing the same (yardstick)", count, output["seconds"], output["cpu_seconds"])


async def _agent(bench: Bench) -> None:
    count = bench.count(8000)
    endpoint_id = await _endpoint(bench)
    await _enqueue(bench, endpoint_id, count, webhook=False)
    async with _agent_process(bench, endpoint_id) as process:
        seconds, cpu_seconds = await _until_done(bench, endpoint_id, "success", count, process)
    _result("tasks/s forwarded and recorded by one agent", count, seconds, cpu_seconds)


async def _deliveries(bench: Bench) -> None:
    count = bench.count(4000)
    endpoint_id = await _endpoint(bench)
    await _enqueue(bench, endpoint_id, count, webhook=True)
    async with _agent_process(bench, endpoint_id) as process:
        await _until_done(bench, endpoint_id, "success", count, process)
    async with _process(("queue_engine", "delivery"), bench.environment) as process:
        seconds, cpu_seconds = await _until_done(bench, endpoint_id, "delivered", count, process)
    _result("webhooks/s delivered by one delivery process", count, seconds, cpu_seconds)


async def _api(bench: Bench) -> None:
    endpoint_id = await _endpoint(bench)
    port = free_port()
    async with _process(("queue_engine", "api", "--port", str(port)), bench.environment, wait_port=port) as process:
        await _submits(bench, endpoint_id, port, process)
        other = await _endpoint(bench)
        async with _agent_process(bench, other):
            await _latency(bench, other, port)


async def _submits(bench: Bench, endpoint_id: str, port: int, process: psutil.Process) -> None:
    count = bench.count(8000)
    body = f'{{"input": {PAYLOAD}, "workerPort": 8000, "processUri": "/run"}}'
    cpu = _cpu_seconds(process)
    path = f"/v2/serverless/{endpoint_id}/tasks"
    arguments = ("tests.bench.load", "127.0.0.1", str(port), path, bench.api_key, str(count), "32")
    output = await _output(arguments, bench.environment, body)
    if output["failures"]:
        raise RuntimeError(f"{output['failures']} submits failed")
    _result("submits/s through one API process", count, output["seconds"], _cpu_seconds(process) - cpu)


async def _latency(bench: Bench, endpoint_id: str, port: int) -> None:
    """Submit at a steady rate to an idle worker; the container notes how old each request is when it comes."""
    count = bench.count(500)
    target = f"http://127.0.0.1:{bench.target_port}"
    limits = httpx.Limits(max_connections=20)
    async with httpx.AsyncClient(headers={"X-Api-Key": bench.api_key}, trust_env=False, limits=limits) as client:
        # The first tasks find an agent that is still starting, and connections that are still to be made.
        await asyncio.gather(*(_submit_stamped(client, port, endpoint_id) for _ in range(WARM_UP)))
        await _wait_for_count(bench, endpoint_id, "success", WARM_UP)
        await client.get(f"{target}/stats")
        submits = []
        started = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / RATE_PER_SECOND - time.perf_counter()))
            submits.append(asyncio.create_task(_submit_stamped(client, port, endpoint_id)))
        await asyncio.gather(*submits)
        await _wait_for_count(bench, endpoint_id, "success", WARM_UP + count)
        ages = sorted((await client.get(f"{target}/stats")).json()["ages_ms"])
    p50, p99 = ages[len(ages) // 2], ages[min(len(ages) - 1, len(ages) * 99 // 100)]
    _say(f"{f'submit to container at {RATE_PER_SECOND} tasks/s':<48} p50 {p50:.1f} ms   p99 {p99:.1f} ms")


async def _submit_stamped(client: httpx.AsyncClient, port: int, endpoint_id: str) -> None:
    body = f'{{"input": {{"sent_ns": {time.monotonic_ns()}}}, "workerPort": 8000, "processUri": "/run"}}'
    response = await client.post(
        f"http://127.0.0.1:{port}/v2/serverless/{endpoint_id}/tasks",
        content=body,
        headers={"Content-Type": "application/json"},
    )
    response.raise_for_status()


# What the benchmarks are made of


async def _endpoint(bench: Bench) -> str:
    config = EndpointConfig(
        "bench", "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 0, 20, concurrency=CONCURRENCY
    )
    return (await bench.store.endpoints.create("default", config)).endpoint_id


async def _enqueue(bench: Bench, endpoint_id: str, count: int, *, webhook: bool) -> None:
    url = f"http://127.0.0.1:{bench.target_port}"
    hook = (f"{url}/hook", url, "key") if webhook else (None, None, None)
    spec = TaskSpec(8000, "/run", {}, *hook)

    async def enqueue(number: int) -> None:
        payload = PAYLOAD.replace("%d", str(number)).encode()
        await bench.store.tasks.enqueue(NewTask(f"t{number}", endpoint_id, "default", spec, payload, "bench"))

    for first in range(0, count, 500):
        await asyncio.gather(*(enqueue(number) for number in range(first, min(count, first + 500))))


async def _until_done(
    bench: Bench, endpoint_id: str, status: str, count: int, process: psutil.Process
) -> tuple[float, float]:
    """Seconds and the process's CPU seconds from its first task to its last; starting up does not count."""
    await _wait_for_count(bench, endpoint_id, status, 1)
    before = getattr(await bench.store.tasks.counts(endpoint_id), status)
    started, cpu = time.perf_counter(), _cpu_seconds(process)
    await _wait_for_count(bench, endpoint_id, status, count)
    share = count / (count - before)
    return (time.perf_counter() - started) * share, (_cpu_seconds(process) - cpu) * share


async def _wait_for_count(bench: Bench, endpoint_id: str, status: str, count: int) -> None:
    async def is_reached() -> bool:
        return bool(getattr(await bench.store.tasks.counts(endpoint_id), status) >= count)

    await wait_until_async(is_reached, timeout=LIMIT_SECONDS, message=f"{count} tasks at {status}")


@asynccontextmanager
async def _agent_process(bench: Bench, endpoint_id: str) -> AsyncIterator[psutil.Process]:
    url = f"http://127.0.0.1:{bench.target_port}"
    arguments = ("worker_agent", "--endpoint", endpoint_id, "--container-url", url)
    async with _process(arguments, bench.environment) as process:
        yield process


@asynccontextmanager
async def _process(
    arguments: tuple[str, ...], environment: Mapping[str, str], wait_port: int | None = None
) -> AsyncIterator[psutil.Process]:
    """`python -m …` for as long as the block runs."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, env=dict(environment))
    try:
        if wait_port is not None:
            await _wait_for_port(wait_port)
        yield psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _wait_for_port(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def _output(arguments: tuple[str, ...], environment: Mapping[str, str], given: str = "") -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, env=dict(environment),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_SECONDS):
        output, _ = await process.communicate(given.encode())
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} failed with status {process.returncode}")
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _result(what: str, count: int, seconds: float, cpu_seconds: float) -> None:
    per_core = f"{count / cpu_seconds:7.0f} per CPU second of it" if cpu_seconds else ""
    _say(f"{what:<48} {count / seconds:7.0f} /s   {per_core}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
