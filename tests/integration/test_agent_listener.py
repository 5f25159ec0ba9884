"""The listener for agents in containers: the routes for agents and no others, with limits of its own."""

import asyncio
import socket

import httpx
import pytest

from queue_engine.api.app import Api
from queue_engine.api.http.server import BACKLOG, bind_for_agents, serve_agents
from tests.api_server import ENDPOINT, running_api
from tests.integration.parts import Program, Programs
from tests.ports import free_port
from tests.waiting import wait_until

API_KEY = "key-of-the-listener-test"
OF_AGENTS = "/agent/v1/hello"
OTHERS = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/v2/me", "/v2/serverless", "/e/1/x", "/x")


def status_at(port: int, path: str, method: str = "GET") -> int:
    """Return the status of a response on a connection of its own; 0 while nothing listens."""
    try:
        answer = httpx.request(method, f"http://127.0.0.1:{port}{path}", headers={"Connection": "close"}, timeout=60)
    except httpx.TransportError:
        return 0
    return answer.status_code


def webhook_status(port: int, webhook: str) -> int:
    """Return the status of the creation of an endpoint with this webhook."""
    url, headers = f"http://127.0.0.1:{port}/v2/serverless", {"X-Api-Key": API_KEY}
    return httpx.post(url, json=ENDPOINT | {"webhook": webhook}, headers=headers, timeout=60).status_code


def api_program(programs: Programs, port: int, agent_port: int, processes: int = 1) -> Program:
    return programs.start(
        "api",
        *("queue_engine", "api", "--port", str(port), "--processes", str(processes)),
        QUEUE_ENGINE_AGENT_HOST="127.0.0.1",
        QUEUE_ENGINE_AGENT_PORT=str(agent_port),
        QUEUE_ENGINE_API_METRICS="public",
        QUEUE_ENGINE_API_KEY=API_KEY,
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_only_the_routes_for_agents_exist_at_the_address_for_agents(programs: Programs, processes: int) -> None:
    port, agent_port = free_port(), free_port()
    program = api_program(programs, port, agent_port, processes)
    wait_until(lambda: status_at(port, "/readyz") == 200)
    assert {status_at(agent_port, path) for path in OTHERS} == {404}
    assert status_at(agent_port, OF_AGENTS, "POST") == status_at(port, OF_AGENTS, "POST") == 401
    assert f'"agent_url":"http://127.0.0.1:{agent_port}"' in program.output().replace(": ", ":")
    # The port is one of the engine's own, so no webhook may go there.
    refused, allowed = (webhook_status(port, f"http://127.0.0.1:{one}/") for one in (agent_port, free_port()))
    assert (refused, allowed) == (400, 200)
    assert program.stop() == 0
    assert status_at(agent_port, OF_AGENTS) == 0


def test_a_taken_port_for_agents_is_named(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        agent_port = taken.getsockname()[1]
        programs_ended = [api_program(programs, free_port(), agent_port, processes) for processes in (1, 2)]
        for program in programs_ended:
            assert program.wait() == 2
            reason = f"QUEUE_ENGINE_AGENT_PORT: cannot listen on 127.0.0.1:{agent_port}: Address already in use"
            assert reason in program.output()


async def test_connections_of_clients_do_not_take_those_of_agents(valkey_url: str) -> None:
    async with running_api(valkey_url, max_connections=1) as api:
        assert isinstance(api.app, Api)
        stopping = asyncio.Event()
        with bind_for_agents("127.0.0.1", 0) as listener:
            listener.listen(BACKLOG)
            agent_port = listener.getsockname()[1]
            serving = asyncio.create_task(serve_agents(api.app.for_agents, api.settings, listener, stopping))
            try:
                # This connection stays open.
                assert (await api.client.get("/healthz")).status_code == 200
                async with httpx.AsyncClient(base_url=api.url) as second:
                    assert (await second.get("/healthz")).status_code == 429
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{agent_port}") as agent:
                    assert (await agent.post(OF_AGENTS)).status_code == 401
                assert (await api.client.get("/healthz")).status_code == 200
            finally:
                stopping.set()
                await serving
