"""Command line of the agent: its composition root."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import sys
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from queue_engine.domain.agent_protocol import STATUS_CONTAINER_ENDED
from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.errors import EngineError
from queue_engine.runtime.exporter import serve_metrics
from queue_engine.runtime.lifeline import watch_lifeline
from queue_engine.runtime.logs import configure_logging
from queue_engine.runtime.loops import persist
from queue_engine.runtime.process_groups import end_own_group
from queue_engine.store.client import unavailability
from queue_engine.store.store import Store
from worker_agent.agent import Agent, AgentConfig
from worker_agent.container import ContainerAddress, ContainerProcess, ContainerWatch
from worker_agent.forward import HttpForwarder
from worker_agent.settings import AgentSettings

log = logging.getLogger("worker_agent")

EXIT_USAGE = 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    help="Stand beside a container: claim the tasks of an endpoint, forward each to the container, record the result. "
    "Every option is also an environment variable WORKER_AGENT_…; the store's password and the secret key are better "
    "given that way."
)
def run(
    redis_url: Annotated[str | None, typer.Option(help="The engine's Redis or Valkey")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Id of the endpoint")] = None,
    container_url: Annotated[str | None, typer.Option(help="http://host[:port] of the container")] = None,
    worker_id: Annotated[str | None, typer.Option(help="Name of the worker")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Tasks at once; by default the endpoint's setting")] = None,
    grace_seconds: Annotated[float | None, typer.Option(help="How long tasks may go on after SIGTERM")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port for /metrics; 0 takes a free one")] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR")] = None,
) -> None:
    given = {name: value for name, value in locals().items() if value is not None}
    settings = _settings(given)
    configure_logging("worker-agent", settings.log_level)
    try:
        import uvloop
    except ImportError:  # not on Windows
        status = asyncio.run(serve(settings))
    else:
        status = uvloop.run(serve(settings))
    sys.exit(status)


def main() -> None:
    """The console script `worker-agent`."""
    app()


def _settings(given: dict[str, Any]) -> AgentSettings:
    """The settings, with what every process of the engine has in common taken from its variables too."""
    for name in ("redis_url", "secret_key", "lease_seconds", "partitions"):
        shared = os.environ.get(f"QUEUE_ENGINE_{name.upper()}")
        if shared and name not in given and not os.environ.get(f"WORKER_AGENT_{name.upper()}"):
            given[name] = shared
    try:
        return AgentSettings(**given)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            option = str(fault["loc"][0]) if fault["loc"] else "settings"
            message = fault["msg"].removeprefix("Value error, ")
            typer.echo(
                f"worker-agent: --{option.replace('_', '-')} (WORKER_AGENT_{option.upper()}): {message}",
                err=True,
            )
        sys.exit(EXIT_USAGE)


async def serve(settings: AgentSettings) -> int:
    """Run one agent until it is told to end; returns the exit status."""
    store = Store(settings.redis_url.get_secret_value(), settings.sealer(), partitions=settings.partitions)
    try:
        return await _serve(settings, store)
    except EngineError as error:
        log.error("cannot work: %s", error)
        return EXIT_USAGE
    finally:
        await store.close()


async def _serve(settings: AgentSettings, store: Store) -> int:
    info = await store.wait_until_ready()
    if not store.sealer.has_key:
        log.warning("no secret key (QUEUE_ENGINE_SECRET_KEY): tasks with headers will fail")
    concurrency = settings.concurrency or await _endpoint_concurrency(settings, store)
    port = serve_metrics(settings.metrics_host, settings.metrics_port)
    address = ContainerAddress.parse(
        settings.container_url, exposed_port=settings.exposed_port, refused_ports=frozenset({port})
    )
    log.info(
        "started",
        extra={
            "endpoint": settings.endpoint,
            "worker": settings.worker_id,
            "container": str(address),
            "concurrency": concurrency,
            "metrics": f"http://{settings.metrics_host}:{port}/metrics",
            "server": str(info),
        },
    )
    forwarder = HttpForwarder(max_answer_bytes=settings.max_answer_bytes, max_connections=concurrency)
    try:
        return await _work(settings, store, address, forwarder, concurrency)
    finally:
        await forwarder.aclose()


async def _work(
    settings: AgentSettings, store: Store, address: ContainerAddress, forwarder: HttpForwarder, concurrency: int
) -> int:
    config = AgentConfig(
        endpoint_id=settings.endpoint,
        worker_id=settings.worker_id,
        concurrency=concurrency,
        lease_seconds=settings.lease_seconds,
        grace_seconds=settings.grace_seconds,
        managed=settings.managed,
    )
    claims = store.claims(
        endpoint_id=config.endpoint_id, worker_id=config.worker_id, lease_ms=int(config.lease_seconds * 1000)
    )
    agent = Agent(config, claims, store.workers, forwarder, address, ContainerWatch(address))
    _drain_on_signals(agent, settings)
    if settings.container_command is None:
        await agent.run()
        return 0
    return await _run_with_container(agent, settings.container_command, settings)


async def _run_with_container(agent: Agent, command: str, settings: AgentSettings) -> int:
    """Run the command as the container, and the agent for as long as it lives."""
    container = await ContainerProcess.start(command, settings.container_environment)
    ended = asyncio.create_task(container.wait())
    ended.add_done_callback(lambda task: agent.drain(task.result() if not task.cancelled() else "stopped"))
    try:
        await agent.run()
        return STATUS_CONTAINER_ENDED if ended.done() else 0
    finally:
        ended.cancel()
        await container.stop(grace_seconds=min(5.0, settings.grace_seconds))


def _drain_on_signals(agent: Agent, settings: AgentSettings) -> None:
    loop = asyncio.get_running_loop()

    def orphaned() -> None:
        agent.drain("the process that started this agent has died")
        atexit.register(end_own_group)  # nobody else is left to end what the command has started

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.drain, f"signal {signal.Signals(number).name}")
    if settings.lifeline_fd is not None:
        watch_lifeline(settings.lifeline_fd, orphaned)


async def _endpoint_concurrency(settings: AgentSettings, store: Store) -> int:
    endpoint = await persist(
        lambda: store.endpoints.get(settings.endpoint, None), passing=unavailability, what="the endpoint"
    )
    if endpoint is None:
        raise EngineError(f"endpoint {settings.endpoint} does not exist in this store")
    if endpoint.config.service_mode is not ServiceMode.QUEUE:
        raise EngineError(f"endpoint {settings.endpoint} is not a QUEUE endpoint and has no tasks")
    return endpoint.config.concurrency
