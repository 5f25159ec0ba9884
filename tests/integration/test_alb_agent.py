"""Agents of ALB and CUSTOM endpoints, started by hand: they report, claim nothing and let requests end."""

import asyncio
import signal

import pytest

from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Program, Programs, new_endpoint
from tests.ports import free_port
from tests.waiting import wait_until, wait_until_async


async def only_worker(store: Store, endpoint_id: str, status: WorkerStatus) -> Worker:
    async def found() -> Worker | None:
        workers = await store.workers.of_endpoint(endpoint_id)
        return next((worker for worker in workers if worker.status is status), None)

    worker = await wait_until_async(found)
    assert worker is not None
    return worker


@pytest.mark.parametrize("mode", [ServiceMode.ALB, ServiceMode.CUSTOM])
async def test_the_mode_is_read_from_the_store(store: Store, programs: Programs, mode: ServiceMode) -> None:
    endpoint_id = await new_endpoint(store, service_mode=mode)
    port = free_port()
    agent = programs.agent(endpoint_id, f"http://127.0.0.1:{port}")
    await only_worker(store, endpoint_id, WorkerStatus.INITIALIZING)
    with HttpServer(port=port):
        worker = await only_worker(store, endpoint_id, WorkerStatus.RUNNING)
        assert (worker.address, worker.running_tasks) == (f"127.0.0.1:{port}", 0)
    assert agent.stop() == 0
    assert await store.workers.of_endpoint(endpoint_id) == []
    assert "Traceback" not in agent.output()


async def drained_with_a_request(store: Store, programs: Programs, grace: str) -> tuple[Program, asyncio.StreamWriter]:
    """An agent that was told to end while somebody is connected to its container."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint_id = await new_endpoint(store, service_mode=ServiceMode.ALB)
    agent = programs.agent(endpoint_id, f"http://127.0.0.1:{port}", WORKER_AGENT_GRACE_SECONDS=grace)
    await only_worker(store, endpoint_id, WorkerStatus.RUNNING)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    agent.signal(signal.SIGTERM)
    await only_worker(store, endpoint_id, WorkerStatus.STOPPING)
    return agent, writer


async def test_it_ends_when_the_last_request_has_ended(store: Store, programs: Programs) -> None:
    agent, writer = await drained_with_a_request(store, programs, grace="60")
    assert agent.running
    writer.close()
    assert await asyncio.to_thread(agent.wait, 10) == 0
    assert "cut off" not in agent.output()


async def test_it_waits_no_longer_than_the_grace(store: Store, programs: Programs) -> None:
    agent, writer = await drained_with_a_request(store, programs, grace="3")
    assert await asyncio.to_thread(agent.wait, 10) == 0
    assert "running requests are cut off" in agent.output()
    writer.close()


async def test_a_crashed_container_is_reported_at_once(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store, service_mode=ServiceMode.ALB)
    agent = programs.agent(
        endpoint_id,
        "http://127.0.0.1",
        WORKER_AGENT_CONTAINER_COMMAND="exit 3",
        WORKER_AGENT_GRACE_SECONDS="60",
    )
    wait_until(lambda: not agent.running)
    assert "container exited with status 3" in agent.output()


def test_a_mode_that_there_is_not_is_named(programs: Programs) -> None:
    agent = programs.agent("1", "http://127.0.0.1", WORKER_AGENT_SERVICE_MODE="ELB")
    assert agent.wait(20) == 2
    assert "WORKER_AGENT_SERVICE_MODE" in agent.output()
