"""The commands that run the engine: `queue-engine up`, and one for each of its processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from queue_engine.cli.process import start
from queue_engine.cli.startup import RedisUrl, fail, option, run, settings_from
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings
from queue_engine.config.shared import MetricsSettings
from queue_engine.processes.interpreter import Loading
from queue_engine.processes.sharing import Membership

commands = typer.Typer()

MetricsPort = Annotated[int | None, option(MetricsSettings, "metrics_port")]


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
) -> None:
    """Run the whole engine on this machine: store, API, controller and delivery. Ctrl-C drains and stops it.

    Workers are processes of this user, so every API key gives a shell on this machine: an endpoint's
    initializationCommand runs here. Give keys only to users who may log in.
    """
    with Loading():
        from queue_engine.local.up import UpOptions, run_up

    for kind in (ApiSettings, DeliverySettings):
        settings_from(kind, redis_url=redis_url)  # so that invalid settings are reported before a process starts
    controller_settings = settings_from(ControllerSettings, redis_url=redis_url)
    if redis_url is not None:
        _check_jobs_place(controller_settings)
    options = UpOptions(
        host=host,
        port=port,
        data_dir=data_dir,
        redis_url=redis_url,
        environment=dict(os.environ),
        on_terminal=sys.stdout.isatty(),
    )
    sys.exit(run(run_up(options)))


@commands.command()
def api(
    host: Annotated[str | None, option(ApiSettings, "host")] = None,
    port: Annotated[int | None, option(ApiSettings, "port")] = None,
    processes: Annotated[int | None, option(ApiSettings, "api_processes")] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Run the HTTP API. There may be any number of replicas."""
    settings = settings_from(ApiSettings, host=host, port=port, api_processes=processes, redis_url=redis_url)
    start("api", settings)
    if settings.api_processes > 1 and Membership.from_environment(os.environ) is None:
        with Loading():
            from queue_engine.cli.serve_api_group import serve_api_group

        sys.exit(run(serve_api_group(settings)))
    with Loading():
        from queue_engine.cli.serve_api import serve_api

    sys.exit(run(serve_api(settings)))


@commands.command()
def delivery(
    redis_url: RedisUrl = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Run the delivery process, which sends webhooks. There may be any number of replicas."""
    settings = settings_from(DeliverySettings, redis_url=redis_url, metrics_port=metrics_port)
    start("delivery", settings)
    with Loading():
        from queue_engine.cli.serve_delivery import serve_delivery

    sys.exit(run(serve_delivery(settings)))


@commands.command()
def controller(
    redis_url: RedisUrl = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Run the controller, which starts and stops workers and runs the background jobs. Safe to run twice."""
    settings = settings_from(ControllerSettings, redis_url=redis_url, metrics_port=metrics_port)
    _check_jobs_place(settings)
    start("controller", settings)
    with Loading():
        from queue_engine.cli.serve_controller import serve_controller

    sys.exit(run(serve_controller(settings)))


def _check_jobs_place(settings: ControllerSettings) -> None:
    if settings.needs_control_redis_url:
        fail(
            "QUEUE_ENGINE_CONTROL_REDIS_URL: is required when the store is a cluster, because the queue of the "
            "background jobs needs a single server, or a master that sentinels name"
        )
