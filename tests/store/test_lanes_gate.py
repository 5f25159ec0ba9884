"""Tasks in lanes are refused while a process of an earlier version works."""

import pytest

from queue_engine.domain.errors import StateConflict
from queue_engine.domain.workers import LANES_PROTOCOL, WorkerStatus
from queue_engine.engine.lanes_gate import CACHE_SECONDS, LanesGate
from queue_engine.store.keys import FORMAT, META
from tests.store.bench import Bench


async def test_an_agent_that_does_not_know_lanes_closes_the_gate_while_it_works(bench: Bench) -> None:
    workers, now = bench.store.workers, 0.0
    gate = LanesGate(workers, bench.store.endpoints.index.is_complete, monotonic=lambda: now)
    await workers.put(bench.endpoint_id, "a1", managed=False)
    await workers.report(bench.endpoint_id, "a1", WorkerStatus.RUNNING, running_tasks=0, address="x:1")
    await gate.check(bench.endpoint_id)
    worker = bench.keys.of_worker("a1").worker
    for protocol in (1, LANES_PROTOCOL - 1):
        await bench.probe.ask("HSET", worker, "protocol", protocol)
        now += CACHE_SECONDS
        with pytest.raises(StateConflict, match="workers are being upgraded"):
            await gate.check(bench.endpoint_id)
    await bench.probe.ask("HDEL", worker, "protocol")
    now += CACHE_SECONDS
    with pytest.raises(StateConflict, match="workers are being upgraded"):
        await gate.check(bench.endpoint_id)
    await workers.remove(bench.endpoint_id, "a1")
    now += CACHE_SECONDS
    await gate.check(bench.endpoint_id)


async def test_the_gate_is_closed_until_the_data_is_migrated(bench: Bench) -> None:
    gate = LanesGate(bench.store.workers, bench.store.endpoints.index.is_complete)
    await bench.probe.ask("HSET", META, FORMAT, 1)
    with pytest.raises(StateConflict, match="workers are being upgraded"):
        await gate.check(bench.endpoint_id)
    await bench.probe.ask("HSET", META, FORMAT, 2)
    await gate.check(bench.endpoint_id)
