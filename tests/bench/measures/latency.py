"""Time from a submit to the container, at a steady rate to an idle worker.

The payload has the time when the client sent it, and the echo server notes its age when it arrives. All processes of a
machine share that clock. The peers' clients put the job into the store themselves, so they have one hop less than ours.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.figures import OURS, Measured, percentile
from tests.bench.peer_workers import ARQ, BULLMQ, PeerWorker
from tests.bench.processes import until
from tests.bench.stage import Stage, endpoint_path, submission
from tests.environment import inherited

P50, P99 = Measure("p50", "ms", lower_is_better=True), Measure("p99", "ms", lower_is_better=True)
RATE = 50
COUNT = 220
WARM_UP = 20
"""Requests at the beginning of a round that do not count: their connections are still to be made."""
CONNECTIONS = 20
SENT = b'{"sent_ns": %t}'
PEERS = (ARQ, BULLMQ)


async def measure(stage: Stage) -> Measured:
    async with AsyncExitStack() as stack:
        _, port = await stack.enter_async_context(stage.api())
        endpoint_id = await stage.endpoint()
        await stack.enter_async_context(stage.agents(endpoint_id))
        contestants = [Contestant(OURS, partial(ages_round, stage, port, endpoint_id, COUNT))]
        failures = stage.missing(*PEERS)
        stage.empty_peer_store()
        contestants += [await _peer(stage, stack, peer) for peer in PEERS if peer.name not in failures]
        return await alternate(contestants, [P50, P99], failures=failures)


async def ages_round(stage: Stage, port: int, endpoint_id: str, full: int) -> Round:
    """Submit through the API at RATE; return the percentiles of the ages at the container."""
    count = WARM_UP + stage.count(full)
    await stage.echo_get("/reset")
    path = endpoint_path(endpoint_id)
    await stage.load([port], path, submission(SENT), count=count, connections=CONNECTIONS, rate=RATE)
    return await _ages(stage, count)


async def _peer(stage: Stage, stack: AsyncExitStack, peer: PeerWorker) -> Contestant:
    # Never done: it is ended when the row is.
    work = peer.command("work", stage.peer_server.url, stage.target_url, count=1_000_000)
    program = await stage.programs.start(peer.name, work, inherited())
    stack.push_async_callback(stage.programs.end, program)
    # A worker that is paused before it is ready would go on starting in its first round.
    await _send(stage, peer, WARM_UP)
    return Contestant(peer.name, partial(_peer_round, stage, peer), (program,))


async def _peer_round(stage: Stage, peer: PeerWorker) -> Round:
    count = WARM_UP + stage.count(COUNT)
    await _send(stage, peer, count)
    return await _ages(stage, count)


async def _send(stage: Stage, peer: PeerWorker, count: int) -> None:
    await stage.echo_get("/reset")
    await stage.run(peer.name, peer.command("enqueue", stage.peer_server.url, "-", count=count, rate=RATE))
    await _arrived(stage, count)


async def _arrived(stage: Stage, count: int) -> None:
    async def are_there() -> bool:
        return bool((await stage.echo_get("/stats"))["runs"] >= count)

    await until(are_there, f"the container did not get {count} requests")


async def _ages(stage: Stage, count: int) -> Round:
    await _arrived(stage, count)
    ages = tuple((await stage.echo_get("/stats"))["ages_ms"][WARM_UP:])
    return Round({P50.name: percentile(ages, 0.5), P99.name: percentile(ages, 0.99)}, f"{len(ages)} requests", ages)
