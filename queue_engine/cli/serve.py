"""The commands that run the engine: `queue-engine up`, and one for each of its processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from queue_engine.cli import serve_role
from queue_engine.cli.options import RedisUrl, option
from queue_engine.cli.running import run
from queue_engine.cli.serve_up import OWN_NETWORK, become_up
from queue_engine.cli.startup import settings_from
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings, UpSettings
from queue_engine.config.shared import MetricsSettings
from queue_engine.processes.memory import available_memory

commands = typer.Typer()

MetricsPort = Annotated[int | None, option(MetricsSettings, "metrics_port")]
Backend = Annotated[str | None, option(ControllerSettings, "backend")]


@commands.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API")] = 8000,
    host: Annotated[str, typer.Option(help="Address of the API")] = "127.0.0.1",
    data_dir: Annotated[Path, typer.Option(help="Folder for the data, which is kept for the next run")] = Path(
        "queue-engine-data"
    ),
    redis_url: Annotated[
        str | None, typer.Option(help="URL of an external Redis or Valkey, which replaces the embedded one")
    ] = None,
    backend: Backend = None,
) -> None:
    """Run the whole engine on this machine: store, API, controller and delivery. Ctrl-C drains and stops it.

    By default workers are processes of this user, so every API key gives a shell on this machine: an endpoint's
    initializationCommand runs here. Give keys only to users who may log in. With `--backend docker`, workers are
    containers of Docker or podman, with `--backend kubernetes` pods of a cluster, and Ctrl-C removes them.
    """
    for kind in (ApiSettings, DeliverySettings):
        settings_from(kind, redis_url=redis_url)  # so that invalid settings are reported before a process starts
    controller_settings = settings_from(ControllerSettings, redis_url=redis_url, backend=backend)
    if redis_url is not None:
        serve_role.check_jobs_place(controller_settings)
    max_memory = settings_from(UpSettings).embedded_max_memory_bytes
    os.environ |= _variables_of_backend(controller_settings, data_dir)
    become_up(host, port, data_dir, redis_url, available_memory() // 2 if max_memory is None else max_memory)


def _variables_of_backend(settings: ControllerSettings, data_dir: Path) -> dict[str, str]:
    """Return the variables that the processes of `up` need for the backend, besides those that are set."""
    if settings.backend == "process":
        return {}
    chosen: dict[str, str] = {"QUEUE_ENGINE_BACKEND": settings.backend}
    if settings.agent_url is not None or os.environ.get("QUEUE_ENGINE_AGENT_HOST"):
        return chosen
    if settings.backend == "kubernetes":
        return chosen | {"QUEUE_ENGINE_AGENT_HOST": run(_address_for_pods(settings), on=asyncio.run)}
    # here, because it needs most of the engine
    from queue_engine.cli.docker_workers import operators_network, own_network

    if (named := settings.docker_network) is not None:
        return chosen | {"QUEUE_ENGINE_AGENT_HOST": run(operators_network(settings, named), on=asyncio.run)}
    network, gateway = run(own_network(settings, data_dir), on=asyncio.run)
    own = {OWN_NETWORK: network, "QUEUE_ENGINE_DOCKER_NETWORK": network}
    return chosen | own | {"QUEUE_ENGINE_AGENT_HOST": gateway}


async def _address_for_pods(settings: ControllerSettings) -> str:
    """Return the address at which pods on this machine reach it."""
    from queue_engine.cli.kubernetes_workers import agent_gateway  # here, because it needs most of the engine

    return await agent_gateway(settings)


@commands.command()
def api(
    host: Annotated[str | None, option(ApiSettings, "host")] = None,
    port: Annotated[int | None, option(ApiSettings, "port")] = None,
    processes: Annotated[int | None, option(ApiSettings, "api_processes")] = None,
    redis_url: RedisUrl = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Run the HTTP API. There may be any number of replicas."""
    serve_role.api(host=host, port=port, processes=processes, redis_url=redis_url, metrics_port=metrics_port)


@commands.command()
def delivery(
    redis_url: RedisUrl = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Run the delivery process, which sends webhooks. There may be any number of replicas."""
    serve_role.delivery(redis_url=redis_url, metrics_port=metrics_port)


@commands.command()
def controller(
    redis_url: RedisUrl = None,
    metrics_port: MetricsPort = None,
    backend: Backend = None,
) -> None:
    """Run the controller, which starts and stops workers and runs the background jobs. Safe to run twice."""
    serve_role.controller(redis_url=redis_url, metrics_port=metrics_port, backend=backend)
