"""The receivers of another tenant hang, respond slowly, or have names that hang."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.crowds import Ports, command, deliver_to
from tests.faults.recovery import quantile
from tests.faults.scenarios import scenario
from tests.faults.stage import Stage

CROWD = "crowd"
DELAY_GOAL_SECONDS = 0.5
"""From the end of a task to its webhook, for 99 of 100. On two cores without other work."""
RATE = 15
DELIVERIES = ("delivery-1", "delivery-2")


@scenario("slow receivers")
async def slow_receivers(stage: Stage) -> None:
    """Another tenant's receivers hang or respond after 1.9 s: webhooks are not delayed, and none is lost."""
    async with (
        _crowd(stage, "slow", ports=300, seconds=1.9) as slow,
        _crowd(stage, "tarpits", ports=50) as tarpits,
        _deliveries(stage, _urls(slow), each=10),
        _deliveries(stage, _urls(tarpits), each=40),
    ):
        await _check_delays(stage)


@scenario("many names")
async def many_names(stage: Stage) -> None:
    """Another tenant's host names hang in their lookup: webhooks are not delayed, and none is lost."""
    async with _crowd(stage, "names", ports=1) as ports:
        names = [f"http://name{number}.example:80/hook" for number in range(3000)]
        async with _named_deliveries(stage, ports), _deliveries(stage, names, each=1):
            await _check_delays(stage)


async def _check_delays(stage: Stage) -> None:
    plans = [plan for plan in stage.mix.quick(200) if plan.webhook]
    await stage.load(plans, rate=RATE)
    await stage.until(stage.all_ended, what="tasks do not end")

    def have_arrived() -> bool:
        return {plan.task_id for plan in plans} <= {str(one["task"]) for one in stage.seen("webhook", "receiver.jsonl")}

    await stage.until(have_arrived, what="webhooks do not arrive")
    ended = {str(one["task"]): float(one["mono"]) for one in stage.seen("end")}
    arrived: dict[str, float] = {}
    for one in stage.seen("webhook", "receiver.jsonl"):
        arrived.setdefault(str(one["task"]), float(one["mono"]))
    delays = [arrived[plan.task_id] - ended[plan.task_id] for plan in plans]
    worst = quantile(sorted(delays), 0.99) or 0.0
    stage.notes.append(f"{len(delays)} webhooks, p99 {worst * 1000:.0f} ms after their task")
    if worst > DELAY_GOAL_SECONDS:
        stage.violations.append(f"webhooks took {worst:.2f} s (p99) beside the receivers of another tenant")


@asynccontextmanager
async def _crowd(stage: Stage, name: str, *, ports: int, seconds: float | None = None) -> AsyncIterator[Ports]:
    """Run receivers, and a name server that does not respond."""
    file = stage.directory / f"{name}.json"
    program = stage.engine.run(name, None, *command(file, ports=ports, seconds=seconds)[1:])
    try:
        await stage.until(lambda: Ports.read(file), what="the receivers do not listen")
        found = Ports.read(file)
        assert found is not None
        yield found
    finally:
        await asyncio.to_thread(program.stop)


@asynccontextmanager
async def _deliveries(stage: Stage, urls: Sequence[str], *, each: int) -> AsyncIterator[None]:
    """Let deliveries of another tenant to these URLs be due during the block."""
    endpoint_id = await deliver_to(stage.store, CROWD, urls, each=each, prefix="crowd")
    try:
        yield
    finally:
        names = [f"crowd-{number}" for number in range(len(urls) * each)]
        await asyncio.gather(*(stage.store.tasks.delete(endpoint_id, name) for name in names))


@asynccontextmanager
async def _named_deliveries(stage: Stage, ports: Ports) -> AsyncIterator[None]:
    """Let the delivery processes ask the crowd's name server during the block."""
    server = f"127.0.0.1:{ports.name_server}"
    for name in DELIVERIES:
        await asyncio.to_thread(_end, stage, name)
        stage.engine.start_role(name, module="tests.named_delivery", NAME_SERVER=server)
    try:
        yield
    finally:
        for name in DELIVERIES:
            await asyncio.to_thread(_end, stage, name)
            stage.engine.start_role(name)


def _end(stage: Stage, name: str) -> None:
    program = stage.engine.program(name)
    program.signal(signal.SIGTERM)
    program.stop()


def _urls(ports: Ports) -> list[str]:
    return [f"http://127.0.0.1:{port}/hook" for port in ports.receivers]
