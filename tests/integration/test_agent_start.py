"""An agent whose store is not there when it starts waits for it, and says so once in its log."""

import json
from collections.abc import AsyncIterator

import pytest

from queue_engine.domain.tasks import TaskState
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Program, Programs, ended, new_endpoint, open_store, submit
from tests.servers import StoreServer
from tests.waiting import wait_until


@pytest.fixture
async def own_store(own_server: StoreServer) -> AsyncIterator[Store]:
    store = open_store(own_server.url)
    await store.prepare()
    yield store
    await store.close()


def lines(agent: Program, message: str) -> list[str]:
    logged = [json.loads(line)["message"] for line in agent.output().splitlines()]
    return [line for line in logged if message in line]


def wait_for_line(agent: Program, message: str) -> None:
    """Wait until the agent has logged the message. Fails at once if it ends."""
    wait_until(lambda: lines(agent, message) != [] or not agent.running, message=agent.output())
    assert agent.running, agent.output()


async def is_served(store: Store, agent: Program, endpoint_id: str) -> None:
    """Check that the agent runs a task, and has logged the outage in one line, and its end in another."""
    await submit(store, endpoint_id)
    assert (await ended(store, endpoint_id)).state is TaskState.SUCCEEDED
    wait_for_line(agent, "the store is back")
    assert len(lines(agent, "the store is back")) == 1
    assert len(lines(agent, "the store is away")) == 1
    assert "Traceback" not in agent.output()


async def test_an_agent_waits_for_a_store_that_starts_later(
    own_store: Store, own_server: StoreServer, own_programs: Programs, container: HttpServer
) -> None:
    endpoint_id = await new_endpoint(own_store)
    own_server.stop()
    agent = own_programs.agent(endpoint_id, container.url)
    wait_for_line(agent, "the store is away: it cannot be reached")
    own_server.start()
    await is_served(own_store, agent, endpoint_id)


async def test_an_agent_waits_for_a_store_that_has_no_room_for_its_connections(
    own_store: Store, own_programs: Programs, container: HttpServer
) -> None:
    """As when more agents start at once than the store can take."""
    endpoint_id = await new_endpoint(own_store)
    await own_store.redis.config_set("maxclients", 1)
    agent = own_programs.agent(endpoint_id, container.url)
    # At first the connection may end before the server's reason is read.
    wait_for_line(agent, "it accepts no more connections (maxclients)")
    await own_store.redis.config_set("maxclients", 10_000)
    await is_served(own_store, agent, endpoint_id)
