"""Run one process of the engine. Needs no parser of command lines, which takes 3 MB of each process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from queue_engine.cli.process import start
from queue_engine.cli.running import fail, run
from queue_engine.cli.startup import settings_from
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings
from queue_engine.crypto.sealing import load_cipher
from queue_engine.processes.interpreter import Loading
from queue_engine.processes.sharing import Membership


def serve_role(role: str) -> NoReturn:
    """Run a process with the settings of its environment until it ends, and exit with its status."""
    _PROCESSES[role]()


def api(
    *,
    host: str | None = None,
    port: int | None = None,
    processes: int | None = None,
    redis_url: str | None = None,
    metrics_port: int | None = None,
) -> NoReturn:
    """Run the HTTP API. Options that are None come from the environment."""
    settings = settings_from(
        ApiSettings, host=host, port=port, api_processes=processes, redis_url=redis_url, metrics_port=metrics_port
    )
    start("api", settings)
    if settings.api_processes > 1 and Membership.from_environment(os.environ) is None:
        with Loading():
            from queue_engine.cli.serve_api_group import serve_api_group

        sys.exit(run(serve_api_group(settings)))
    with Loading():
        from queue_engine.cli.serve_api import serve_api

        if settings.secret_key is not None:
            load_cipher()  # here, because no request may block the others while the library is loaded
    sys.exit(run(serve_api(settings)))


def delivery(*, redis_url: str | None = None, metrics_port: int | None = None) -> NoReturn:
    """Run the delivery process. Options that are None come from the environment."""
    settings = settings_from(DeliverySettings, redis_url=redis_url, metrics_port=metrics_port)
    start("delivery", settings)
    with Loading():
        from queue_engine.cli.serve_delivery import serve_delivery

    sys.exit(run(serve_delivery(settings)))


def controller(
    *, redis_url: str | None = None, metrics_port: int | None = None, backend: str | None = None
) -> NoReturn:
    """Run the controller. Options that are None come from the environment."""
    settings = settings_from(ControllerSettings, redis_url=redis_url, metrics_port=metrics_port, backend=backend)
    check_jobs_place(settings)
    start("controller", settings)
    with Loading():
        from queue_engine.cli.serve_controller import serve_controller

    sys.exit(run(serve_controller(settings)))


_PROCESSES: Mapping[str, Callable[[], NoReturn]] = {"api": api, "controller": controller, "delivery": delivery}


def check_jobs_place(settings: ControllerSettings) -> None:
    """End the program when the store is a cluster and the background jobs have no other place for their queue."""
    if settings.needs_control_redis_url:
        fail(
            "QUEUE_ENGINE_CONTROL_REDIS_URL: is required when the store is a cluster, because the queue of the "
            "background jobs needs a single server, or a master that sentinels name"
        )
