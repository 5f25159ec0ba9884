"""An agent on the store has two connections, and a read that waits for tasks delays nothing."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.queue import TaskQueue
from queue_engine.store.store import Store
from tests.store.bench import LONG_LEASE_MS, Bench
from tests.store.proxy import LossyProxy
from tests.waiting import wait_until_async


@asynccontextmanager
async def agent_of(bench: Bench, *, kept_seconds: float = 3600) -> AsyncIterator[tuple[LossyProxy, Store, TaskQueue]]:
    async with LossyProxy(bench.store.url) as proxy:
        partitions = bench.store.partitions.count
        store = Store(
            proxy.url, bench.store.sealer, partitions=partitions, is_agent=True, agent_kept_seconds=kept_seconds
        )
        try:
            queue = store.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=LONG_LEASE_MS)
            yield proxy, store, queue
        finally:
            await store.close()


async def _report(bench: Bench, store: Store) -> None:
    await store.workers.report(bench.endpoint_id, "a1", WorkerStatus.RUNNING, running_tasks=0, address="127.0.0.1:1")


async def test_an_agent_between_tasks_has_two_connections(bench: Bench) -> None:
    async with agent_of(bench) as (proxy, store, queue):
        await bench.submit("t1")
        (entry,) = await queue.claim(1, block_ms=1000)
        started = await queue.start(entry, address="127.0.0.1:9000")
        assert started is not None
        await queue.renew([started.lease])
        await store.logs.append(bench.endpoint_id, "a1", "b1", ["line"], retention_ms=60_000)
        await queue.release(started.lease)
        waiting = asyncio.create_task(queue.claim(1, block_ms=1))
        await _report(bench, store)
        await waiting
        assert proxy.connections == 2


async def test_a_read_that_waits_delays_no_heartbeat_and_no_other_call(bench: Bench) -> None:
    """Tried again on a machine on which the calls take longer than the read waits."""
    async with agent_of(bench) as (_, store, queue):
        started = await bench.submit_and_start("t1", queue)
        assert await queue.claim(1, block_ms=1) == []

        async def is_blocked() -> bool:
            return int((await bench.probe.redis.info("clients"))["blocked_clients"]) == 1

        async def others_are_sooner() -> bool:
            waiting = asyncio.create_task(queue.claim(1, block_ms=1900))
            await wait_until_async(is_blocked)
            await queue.renew([started.lease])
            await _report(bench, store)
            await store.logs.append(bench.endpoint_id, "a1", secrets.token_hex(4), ["line"], retention_ms=60_000)
            is_waiting = not waiting.done()
            await waiting
            return is_waiting

        await wait_until_async(others_are_sooner)


async def test_an_agent_that_was_busy_closes_the_connections_that_it_no_longer_uses(bench: Bench) -> None:
    async with agent_of(bench, kept_seconds=0.05) as (proxy, store, queue):
        started = await bench.submit_and_start("t1", queue)
        await asyncio.gather(
            queue.renew([started.lease]),
            _report(bench, store),
            store.logs.append(bench.endpoint_id, "a1", "b1", ["line"], retention_ms=60_000),
        )
        assert proxy.connections > 2

        async def has_two() -> bool:
            await _report(bench, store)
            return proxy.connections == 2

        await wait_until_async(has_two)
