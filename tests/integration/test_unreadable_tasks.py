"""The worker of an agent that cannot open a task's headers says so for as long as that holds."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from queue_engine.aio import Backoff
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.tasks import TaskState
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.store import Store
from queue_engine.store.task_source import StoreTaskSource, StoreWorkerRecord
from tests.integration.parts import HttpServer, ended, new_endpoint, submit
from tests.waiting import wait_until_async
from worker_agent.agent import Agent, AgentConfig
from worker_agent.claim_pause import ClaimPause
from worker_agent.container import ContainerAddress, watch_over
from worker_agent.forward import HttpForwarder
from worker_agent.tasks import TaskWork

WORKER = "w1"


@pytest.fixture
async def endpoint_id(store: Store, container: HttpServer) -> AsyncIterator[str]:
    """An endpoint whose only agent has no secret key, and short pauses."""
    endpoint_id = await new_endpoint(store)
    keyless = Store(store.url, Sealer(None))
    config = AgentConfig(endpoint_id, WORKER, 1, lease_seconds=5, grace_seconds=5, managed=False)
    claims = keyless.queue(endpoint_id=endpoint_id, worker_id=WORKER, lease_ms=5000)
    address = ContainerAddress.parse(container.url, exposed_port=None, refused_ports=frozenset(), own_network=False)
    watch = watch_over(address, ready_path=None, start_timeout_seconds=60, sees_calls=True)
    forwarder = HttpForwarder(max_response_bytes=1024, max_connections=1)
    pause = ClaimPause(pauses=Backoff(0.2, 600.0))
    record = StoreWorkerRecord(keyless.workers, endpoint_id=endpoint_id, worker_id=WORKER)
    agent = Agent(config, record, watch, TaskWork(config, StoreTaskSource(claims), forwarder, watch, pause))
    running = asyncio.create_task(agent.run())
    yield endpoint_id
    agent.drain("the test is over")
    await running
    await forwarder.aclose()
    await keyless.close()


async def test_the_error_goes_when_no_unreadable_task_waits_and_comes_back_with_the_next_one(
    store: Store, endpoint_id: str
) -> None:
    for name in ("first", "second"):
        await submit(store, endpoint_id, name, headers={"X-Any": "1"})
        await reports(store, endpoint_id, WorkerStatus.INITIALIZING)
        await store.tasks.cancel(endpoint_id, name)
        await reports(store, endpoint_id, WorkerStatus.RUNNING)


async def test_the_error_goes_when_the_agent_runs_a_task(store: Store, endpoint_id: str, container: HttpServer) -> None:
    await submit(store, endpoint_id, "unreadable", headers={"X-Any": "1"})
    await reports(store, endpoint_id, WorkerStatus.INITIALIZING)
    await store.tasks.cancel(endpoint_id, "unreadable")
    await submit(store, endpoint_id, "plain", port=container.port)
    assert (await ended(store, endpoint_id, "plain")).state is TaskState.SUCCEEDED
    await reports(store, endpoint_id, WorkerStatus.RUNNING)


async def reports(store: Store, endpoint_id: str, status: WorkerStatus) -> None:
    """Wait until the worker has this status, with the reason while it is not running."""

    async def reported() -> bool:
        (worker,) = await store.workers.of_endpoint(endpoint_id) or (None,)
        if worker is None or worker.status is not status:
            return False
        explained = "cannot open their headers" in (worker.error or "")
        return explained is (status is WorkerStatus.INITIALIZING)

    await wait_until_async(reported, message=f"the worker is not {status}, with its reason")
