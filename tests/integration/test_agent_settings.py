"""Settings of an agent that was started by hand."""

from pydantic import SecretStr

from queue_engine.config.agent import AgentSettings
from queue_engine.domain.endpoints import EndpointConfig, Expose, Resource, ServiceMode
from queue_engine.store.store import Store
from worker_agent.on_store import completed

CONFIG = EndpointConfig(
    "echo", "python:3.11", ServiceMode.ALB, (Resource("here", "CPU", 1),), 0, 20,
    expose=Expose(8000, "HTTP"), concurrency=3, ready_path="/healthz", start_timeout_seconds=60,
)  # fmt: skip


async def test_what_is_not_given_is_read_from_the_endpoint(store: Store, valkey_url: str) -> None:
    endpoint = await store.endpoints.create("acme", CONFIG)
    given = AgentSettings(redis_url=SecretStr(valkey_url), endpoint=endpoint.endpoint_id)
    found = await completed(given, store)
    assert (found.service_mode, found.concurrency) == (ServiceMode.ALB, 3)
    assert (found.ready_path, found.start_timeout_seconds) == ("/healthz", 60)


async def test_what_is_given_wins_over_the_endpoint(store: Store, valkey_url: str) -> None:
    endpoint = await store.endpoints.create("acme", CONFIG)
    given = AgentSettings(
        redis_url=SecretStr(valkey_url),
        endpoint=endpoint.endpoint_id,
        ready_path="up",
        start_timeout_seconds=90,
        concurrency=1,
    )
    found = await completed(given, store)
    assert (found.ready_path, found.start_timeout_seconds, found.concurrency) == ("/up", 90, 1)


async def test_a_managed_agent_that_was_given_all_does_not_ask_the_store(store: Store, valkey_url: str) -> None:
    given = AgentSettings(
        redis_url=SecretStr(valkey_url),
        endpoint="999",
        service_mode=ServiceMode.QUEUE,
        concurrency=1,
        start_timeout_seconds=90,
        managed=True,
    )
    assert await completed(given, store) == given
