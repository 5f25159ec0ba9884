"""A scrape of a controller gives the metrics of all agents that it has started."""

import signal
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from queue_engine.domain.endpoints import DesiredState, Expose
from queue_engine.store.store import Store
from tests.integration.parts import TENANT, Program, Programs, new_endpoint, submit, wait_for_port
from tests.ports import free_port
from tests.promtool import check, check_alerts, promtool_binary, scrape
from tests.waiting import wait_until

QUEUED = ("queue_engine_queue_tasks", '{instance="controller",state="queued"}')
ECHO = f"{sys.executable} {Path(__file__).parents[2] / 'deploy/examples/echo_server.py'}"


def page_of(port: int) -> str:
    url = f"http://127.0.0.1:{port}/metrics/agents"
    return httpx.get(url, trust_env=False, timeout=30).raise_for_status().text


def scraped(port: int) -> dict[tuple[str, str], float]:
    """Name and worker of each sample without further labels, with its value."""
    samples = [sample for family in text_string_to_metric_families(page_of(port)) for sample in family.samples]
    return {
        (one.name, one.labels["worker"]): one.value for one in samples if set(one.labels) == {"endpoint", "worker"}
    }  # fmt: skip


def workers_up(port: int, value: int = 1) -> set[str]:
    return {worker for (name, worker), up in scraped(port).items() if name == "worker_agent_up" and up == value}


def agent_of(controller: Program, worker_id: str) -> psutil.Process:
    [found] = [
        process
        for process in psutil.Process(controller.pid).children()
        if process.environ().get("WORKER_AGENT_WORKER_ID") == worker_id
    ]
    return found


async def test_the_agents_of_a_controller_are_scraped_at_one_address(store: Store, programs: Programs) -> None:
    port = free_port()
    endpoint_id = await new_endpoint(store, workers=2, initialization_command=ECHO, expose=Expose(8000, "HTTP"))
    controller = programs.controller(QUEUE_ENGINE_METRICS_PORT=str(port))
    wait_for_port(port)
    up = wait_until(lambda: found if len(found := workers_up(port)) == 2 else None, 60, "the agents are not up")
    assert up is not None
    await submit(store, endpoint_id)

    def finished() -> bool:
        runs = [value for (name, _), value in scraped(port).items() if name == "queue_engine_task_run_seconds_count"]
        return sum(runs) == 1

    wait_until(finished, 60, "no agent counts the task")
    text = page_of(port)
    assert f'endpoint="{endpoint_id}"' in text
    if (promtool := promtool_binary()) is not None:
        check(promtool, "metrics", given=text)

    hanging = min(up)
    agent = agent_of(controller, hanging)
    agent.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: workers_up(port, 0) == {hanging}, 60, "the agent that hangs is not down")
        assert workers_up(port) == up - {hanging}
    finally:
        agent.send_signal(signal.SIGCONT)
    await store.endpoints.set_desired_state(endpoint_id, TENANT, DesiredState.STOPPED)
    wait_until(lambda: scraped(port) == {}, 60, "series of agents that have ended stay")


async def test_by_default_no_metric_of_a_controller_itself_names_an_endpoint(store: Store, programs: Programs) -> None:
    port = free_port()
    await submit(store, await new_endpoint(store))
    programs.controller(QUEUE_ENGINE_METRICS_PORT=str(port))
    wait_for_port(port)
    url = f"http://127.0.0.1:{port}/metrics"
    wait_until(lambda: scrape(url, "controller").samples.get(QUEUED) == 1, 60, "the controller reads no figures")
    assert not any("endpoint=" in labels for _, labels in scrape(url, "controller").samples)


async def test_no_process_of_a_worker_listens_on_a_port_but_the_container_on_its_own(
    store: Store, programs: Programs
) -> None:
    """Webhooks and worker records could name such a port: neither the API nor the delivery process knows it."""
    port = free_port()
    await new_endpoint(store, workers=2, initialization_command=ECHO, expose=Expose(8000, "HTTP"))
    controller = programs.controller(QUEUE_ENGINE_METRICS_PORT=str(port))
    wait_for_port(port)
    wait_until(lambda: len(beating(port)) == 2, 60, "the agents are not up")
    for agent in [agent_of(controller, worker_id) for worker_id in beating(port)]:
        own_port = urlsplit(agent.environ()["WORKER_AGENT_CONTAINER_URL"]).port
        wait_until(partial(listening_ports, agent), 60, "the container is not up")
        assert listening_ports(agent) == {own_port}


def listening_ports(agent: psutil.Process) -> set[int]:
    """The TCP ports on which the agent or a process below it listens."""
    processes = [agent, *agent.children(recursive=True)]
    connections = [one for process in processes for one in process.net_connections("tcp")]
    return {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}


@pytest.mark.promtool
async def test_an_agent_that_hangs_fires_and_one_that_responds_does_not(
    store: Store, programs: Programs, tmp_path: Path, promtool: str
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics/agents"
    await new_endpoint(store, workers=2, initialization_command=ECHO, expose=Expose(8000, "HTTP"))
    controller = programs.controller(QUEUE_ENGINE_METRICS_PORT=str(port))
    wait_for_port(port)
    wait_until(lambda: len(beating(port)) == 2, 60, "the agents are not up")
    before = scrape(url, "agents")
    earlier = beating(port)
    wait_until(lambda: all(at > earlier[worker] for worker, at in beating(port).items()), 60, "no heartbeats")
    absent = ["ApiAbsent", "ControllerAbsent", "DeliveryAbsent", "NoLeader"]
    check_alerts(promtool, tmp_path, [(before, scrape(url, "agents"))], alerts(*absent))
    agent = agent_of(controller, min(earlier))
    agent.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: workers_up(port, 0) == {min(earlier)}, 60, "the agent that hangs is not down")
        hanging = scrape(url, "agents")
    finally:
        agent.send_signal(signal.SIGCONT)
    check_alerts(promtool, tmp_path, [(before, hanging)], alerts("AgentDown", *absent))


def beating(port: int) -> dict[str, float]:
    """When the store last took the heartbeat of each agent."""
    name = "worker_agent_last_heartbeat_timestamp_seconds"
    return {worker: at for (one, worker), at in scraped(port).items() if one == name}


def alerts(*names: str) -> list[str]:
    return [f"QueueEngine{name}" for name in names]
