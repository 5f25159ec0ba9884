"""Agents started by hand: where they may send tasks, and what they refuse to start without."""

import json

import pytest

from queue_engine.domain.endpoints import Expose, ServiceMode
from queue_engine.domain.tasks import TaskState
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Programs, ended, new_endpoint, submit
from tests.ports import free_port
from tests.waiting import wait_until_async

HOST = "http://127.0.0.1"


async def test_an_agent_sends_tasks_to_the_exposed_port_only(
    store: Store, programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    """The receiver stands for any other program on the host."""
    endpoint_id = await new_endpoint(store, expose=Expose(container.port, "HTTP"), cancel_uri="/cancel")
    await submit(store, endpoint_id, "other", port=receiver.port)
    await submit(store, endpoint_id, "exposed", port=container.port)
    programs.agent(endpoint_id, HOST)
    assert (await ended(store, endpoint_id, "exposed")).state is TaskState.SUCCEEDED
    other = await ended(store, endpoint_id, "other")
    assert (other.state, other.attempts) == (TaskState.FAILED, 1)
    assert other.error == (
        f"workerPort {receiver.port} is not exposed by the worker: tasks may name {container.port} only"
    )
    assert receiver.requests == []


async def test_the_exposed_port_stands_for_the_port_of_the_container(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store, expose=Expose(8000, "HTTP"))
    await submit(store, endpoint_id, "exposed", port=8000)
    await submit(store, endpoint_id, "own", port=container.port)
    programs.agent(endpoint_id, container.url)
    assert (await ended(store, endpoint_id, "exposed")).state is TaskState.SUCCEEDED
    own = await ended(store, endpoint_id, "own")
    assert (own.state, own.attempts, len(container.requests)) == (TaskState.FAILED, 1, 1)
    assert "may name 8000 only" in (own.error or "")


async def test_in_a_network_of_its_own_a_task_may_name_every_port_but_the_agents(
    store: Store, programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    metrics = free_port()
    endpoint_id = await new_endpoint(store, expose=Expose(container.port, "HTTP"))
    await submit(store, endpoint_id, "exposed", port=container.port)
    await submit(store, endpoint_id, "other", port=receiver.port)
    await submit(store, endpoint_id, "agent", port=metrics)
    programs.agent(endpoint_id, HOST, WORKER_AGENT_OWN_NETWORK="true", WORKER_AGENT_METRICS_PORT=str(metrics))
    for name in ("exposed", "other"):
        assert (await ended(store, endpoint_id, name)).state is TaskState.SUCCEEDED
    refused = await ended(store, endpoint_id, "agent")
    assert (refused.state, refused.attempts) == (TaskState.FAILED, 1)
    assert "is the agent's own port" in (refused.error or "")
    assert (len(container.requests), len(receiver.requests)) == (1, 1)


async def test_an_agent_that_may_send_tasks_nowhere_does_not_start(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store)
    agent = programs.agent(endpoint_id, HOST)
    assert agent.wait() == 2
    (line,) = complaints(agent.output())
    assert all(word in line for word in ("--container-url http://<host>:<port>", "expose", "--own-network"))


@pytest.mark.parametrize("mode", [ServiceMode.ALB, ServiceMode.CUSTOM])
async def test_an_agent_without_tasks_needs_no_port(store: Store, programs: Programs, mode: ServiceMode) -> None:
    endpoint_id = await new_endpoint(store, service_mode=mode)
    agent = programs.agent(endpoint_id, HOST)

    async def reports() -> bool:
        return bool(await store.workers.of_endpoint(endpoint_id))

    await wait_until_async(reports)
    assert agent.stop() == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"WORKER_AGENT_METRICS_PORT": "{taken}"},
            ("WORKER_AGENT_METRICS_PORT: metrics cannot be served on 127.0.0.1:{taken}",),
        ),
        (
            {"WORKER_AGENT_METRICS_HOST": "a host"},
            ("WORKER_AGENT_METRICS_HOST: metrics cannot be served on a host:0", "the host must be an address of"),
        ),
        (
            {"WORKER_AGENT_METRICS_PORT": "{free}", "WORKER_AGENT_CONTAINER_URL": "http://localhost:{free}"},
            ("port {free} is the agent's own", "--metrics-port"),
        ),
        ({"WORKER_AGENT_READY_PATH": "/ready", "WORKER_AGENT_OWN_NETWORK": "1"}, ("WORKER_AGENT_READY_PATH needs",)),
    ],
    ids=["metrics port taken", "metrics host", "metrics port of the container", "ready path"],
)
async def test_what_an_agent_cannot_work_without_is_said_at_start(
    store: Store, programs: Programs, receiver: HttpServer, environment: dict[str, str], words: tuple[str, ...]
) -> None:
    endpoint_id = await new_endpoint(store)
    known = {"taken": str(receiver.port), "free": str(free_port())}
    agent = programs.start(
        "agent",
        "worker_agent",
        "--endpoint",
        endpoint_id,
        **{name: value.format_map(known) for name, value in environment.items()},
    )
    assert agent.wait() == 2
    (line,) = complaints(agent.output())
    assert all(word.format_map(known) in line for word in words)
    assert "Traceback" not in agent.output()


def complaints(output: str) -> list[str]:
    """The messages of the errors in a log."""
    lines = [json.loads(line) for line in output.splitlines()]
    return [str(line["message"]) for line in lines if line["level"] == "ERROR"]
