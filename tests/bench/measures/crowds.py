"""A healthy receiver of one tenant beside the crowd of another: how long its deliveries take, simulated and in reality.

Two delivery processes send. The deliveries of the crowd are due before they start. Then a task of the healthy tenant
ends every 20 ms, and the time until its webhook has arrived is measured in this process, which receives it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from queue_engine.store.store import Store
from tests.bench.figures import OURS, Figure, Measured, percentile
from tests.bench.processes import Program, ProgramFailed, until
from tests.bench.stage import Stage, python, store_server
from tests.crowds import Ports, command, deliver_to, end_tasks
from tests.simulated_deliveries import CROWDS, Crowd, beside

RATE = 50.0
SECONDS = 10.0
LATE_SECONDS = 10.0
"""Time that the last deliveries have to arrive, before they count as lost."""
HEALTHY, CROWD = "healthy", "crowd"


@dataclass(frozen=True)
class Setting:
    """The real form of a simulated crowd: its receivers, and the deliveries that are due for each."""

    simulated: Crowd
    ports: int
    seconds: float | None
    """Time until a receiver responds; None: never."""
    names: int = 0
    """Number of host names whose name server does not respond, in place of the receivers."""
    each: int = 1

    def urls(self, ports: Ports) -> list[str]:
        if self.names:
            return [f"http://name{number}.example:80/hook" for number in range(self.names)]
        return [f"http://127.0.0.1:{port}/hook" for port in ports.receivers]


TARPITS = Setting(CROWDS[0], 100, None, each=100)
SLOW = Setting(CROWDS[1], 400, 1.9, each=15)
NAMES = Setting(CROWDS[2], 0, None, names=5000)


@dataclass
class Arrivals:
    """The receiver of the healthy tenant, in this process. `at` has the time of arrival of each task's webhook."""

    port: int = 0
    at: dict[str, float] = field(default_factory=dict)


async def measure_tarpits(stage: Stage) -> Measured:
    return await _measure(stage, TARPITS)


async def measure_slow(stage: Stage) -> Measured:
    return await _measure(stage, SLOW)


async def measure_names(stage: Stage) -> Measured:
    return await _measure(stage, NAMES)


async def _measure(stage: Stage, setting: Setting) -> Measured:
    simulated = await asyncio.to_thread(beside, setting.simulated)
    waits = await _real(stage, setting)
    arrived = [wait for wait in waits if wait is not None]
    late = arrived or [float("inf")]
    return Measured(
        (
            Figure("p50", OURS, "ms", (percentile(late, 0.5) * 1000,), lower_is_better=True),
            Figure("p99", OURS, "ms", (percentile(late, 0.99) * 1000,), lower_is_better=True),
            Figure("arrived", OURS, "%", (100 * len(arrived) / len(waits),)),
            Figure(
                "p99 simulated", OURS, "ms", (percentile(simulated.waits["good"], 0.99) * 1000,), lower_is_better=True
            ),
        ),
        notes=(f"{len(waits)} deliveries at {RATE:g}/s beside {setting.simulated.name}",),
    )


async def _real(stage: Stage, setting: Setting) -> list[float | None]:
    """Return the time that each delivery of the healthy tenant took; None when it did not arrive."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(store_server(stage.binary, stage.folder / f"store-{time.monotonic_ns()}"))
        store = Store(server.url, stage.store.sealer)
        stack.push_async_callback(store.close)
        await store.prepare()
        arrivals = await stack.enter_async_context(_receiver())
        ports = await _crowd(stage, setting, stack)
        each = max(1, int(setting.each * min(1.0, stage.scale)))
        await deliver_to(store, CROWD, setting.urls(ports), each=each, prefix="crowd")
        hook = f"http://127.0.0.1:{arrivals.port}/hook"
        endpoint_id = await deliver_to(store, HEALTHY, [hook], each=1, prefix="first")
        own = {"QUEUE_ENGINE_REDIS_URL": server.url, "NAME_SERVER": f"127.0.0.1:{ports.name_server}"}
        variables = {**stage.variables, **own}
        for _ in range(2):
            await stack.enter_async_context(
                stage.programs.running("delivery", python("tests.named_delivery", "delivery"), variables)
            )
        await until(lambda: _is_there(arrivals, "first-0"), "the first delivery does not arrive")
        return await _deliver(store, stage.seconds(SECONDS), endpoint_id, hook, arrivals)


async def _crowd(stage: Stage, setting: Setting, stack: AsyncExitStack) -> Ports:
    file = stage.folder / f"crowd-{time.monotonic_ns()}.json"
    words = [sys.executable, *command(file, ports=setting.ports, seconds=setting.seconds)]
    program = await stack.enter_async_context(stage.programs.running("crowd", words, stage.variables))
    await until(lambda: _is_written(file, program), "the crowd does not listen")
    ports = Ports.read(file)
    assert ports is not None
    return ports


async def _deliver(store: Store, seconds: float, endpoint_id: str, hook: str, arrivals: Arrivals) -> list[float | None]:
    began, ended = time.monotonic(), {}
    for number in range(int(RATE * seconds)):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        ended[f"t{number}"] = time.monotonic()
        await end_tasks(store, HEALTHY, endpoint_id, {f"t{number}": hook})

    async def have_arrived() -> bool:
        return ended.keys() <= arrivals.at.keys()

    with suppress(ProgramFailed):  # those that have not arrived are counted
        await until(have_arrived, "deliveries do not arrive", LATE_SECONDS)
    return [arrivals.at[name] - at if name in arrivals.at else None for name, at in ended.items()]


@asynccontextmanager
async def _receiver() -> AsyncIterator[Arrivals]:
    """Receive webhooks, each of which has the id of its task in its body."""
    arrivals = Arrivals()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = next(int(line[15:]) for line in head.splitlines() if line.startswith(b"content-length:"))
                body = await reader.readexactly(length)
                name = body.partition(b'"user_task_id": "')[2].partition(b'"')[0].decode()
                arrivals.at.setdefault(name, time.monotonic())
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    arrivals.port = server.sockets[0].getsockname()[1]
    try:
        yield arrivals
    finally:
        server.close()


async def _is_there(arrivals: Arrivals, task_id: str) -> bool:
    return task_id in arrivals.at


async def _is_written(file: Path, program: Program) -> bool:
    program.check_runs()
    return Ports.read(file) is not None
