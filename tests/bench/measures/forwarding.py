"""An agent beside an echo container: tasks claimed, forwarded, recorded, leased and fenced."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from functools import partial
from itertools import count as counter
from time import perf_counter

import httpx

from tests.bench.contestants import Contestant, Measure, Round, alternate
from tests.bench.figures import OURS, Measured
from tests.bench.peer_workers import BULLMQ, WORKERS, PeerWorker
from tests.bench.processes import Program
from tests.bench.stage import Stage
from tests.integration.certificates import Authority

TASKS = Measure("tasks", "/s")
ON_STORE = "agent on the store"
COUNTS = {OURS: 8000, BULLMQ.name: 8000}
PEER_COUNT = 1500
WARM_UP_SHARE = 0.1
"""Share of the jobs before the clock starts, for the engine and for every peer: a fresh process is slower at first."""


async def measure(stage: Stage) -> Measured:
    async with AsyncExitStack() as stack:
        endpoint_id = await stage.endpoint()
        [agent] = await stack.enter_async_context(stage.agents(endpoint_id))
        numbers = counter()

        async def ours() -> Round:
            return await tasks_round(stage, [agent], endpoint_id, f"r{next(numbers)}", stage.count(COUNTS[OURS]))

        contestants = [Contestant(OURS, ours, (agent,))]
        contestants += [Contestant(one.name, partial(_peer, stage, one)) for one in WORKERS]
        return await alternate(contestants, [TASKS], failures=stage.missing(*WORKERS))


async def measure_https(stage: Stage) -> Measured:
    """Measure an agent that uses an API process with a certificate, in turn with one on the store."""
    async with AsyncExitStack() as stack:
        over_https, on_store = await stage.endpoint(), await stage.endpoint()
        authority = Authority(stage.folder)
        certificate = str(authority.issue("127.0.0.1").path)
        tls = {"QUEUE_ENGINE_TLS_CERT": certificate, "QUEUE_ENGINE_TLS_KEY": certificate}
        api, port = await stack.enter_async_context(stage.api(tls))
        way = {
            "WORKER_AGENT_SERVER": f"https://127.0.0.1:{port}",
            "WORKER_AGENT_SERVER_CA": str(authority.bundle),
            "WORKER_AGENT_TOKEN": await _new_token(stage, port, over_https, authority),
        }
        [remote] = await stack.enter_async_context(stage.agents(over_https, variables=way))
        [agent] = await stack.enter_async_context(stage.agents(on_store))
        numbers, count = counter(), stage.count(COUNTS[OURS])

        async def ours() -> Round:
            return await tasks_round(stage, [remote], over_https, f"h{next(numbers)}", count, api=api)

        async def reference() -> Round:
            return await tasks_round(stage, [agent], on_store, f"s{next(numbers)}", count)

        contestants = [Contestant(OURS, ours, (remote, api)), Contestant(ON_STORE, reference, (agent,))]
        return await alternate(contestants, [TASKS])


async def _new_token(stage: Stage, port: int, endpoint_id: str, authority: Authority) -> str:
    context = ssl.create_default_context(cafile=str(authority.bundle))
    async with httpx.AsyncClient(trust_env=False, verify=context) as client:
        response = await client.post(
            f"https://127.0.0.1:{port}/v2/serverless/{endpoint_id}/agent-tokens",
            json={"name": "bench"},
            headers={"X-Api-Key": stage.api_key},
        )
    return str(response.raise_for_status().json()["data"]["token"])


async def tasks_round(
    stage: Stage, agents: list[Program], endpoint_id: str, prefix: str, count: int, **others: Program
) -> Round:
    """Let waiting agents work on tasks; measure from the first tenth of them to the last.

    The note has the cores that the agents and `others` use.
    """
    for agent in agents:
        agent.pause()
    await stage.enqueue(endpoint_id, prefix, count)
    before, warm_up = await stage.done(endpoint_id, "success"), int(count * WARM_UP_SHARE)
    for agent in agents:
        agent.resume()
    await stage.wait_for(endpoint_id, "success", before + warm_up)
    started, first = perf_counter(), await stage.done(endpoint_id, "success")
    cores = stage.cores(stage.server, **{f"agent{index}": agent for index, agent in enumerate(agents, 1)}, **others)
    await stage.wait_for(endpoint_id, "success", before + count)
    return Round({TASKS.name: (before + count - first) / (perf_counter() - started)}, str(cores))


async def _peer(stage: Stage, peer: PeerWorker) -> Round:
    count = stage.count(COUNTS.get(peer.name, PEER_COUNT))
    warm_up = int(count * WARM_UP_SHARE)
    stage.empty_peer_store()
    url = stage.peer_server.url
    await stage.run(peer.name, peer.command("enqueue", url, stage.target_url, count=count))
    work = peer.command("work", url, stage.target_url, count=count, warm_up=warm_up)
    cores = stage.cores(stage.peer_server)
    found = await stage.output(peer.name, work)
    note = f"{cores}, worker {found['cpu_seconds'] / found['seconds']:.2f}"
    return Round({TASKS.name: (count - warm_up) / found["seconds"]}, note)
