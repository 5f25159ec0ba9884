"""Run one of the engine's processes: set up its log, its metrics and its shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import TypeVar

from queue_engine.cli.running import fail
from queue_engine.config.shared import MetricsSettings, StoreSettings
from queue_engine.config.variables import unknown_variables
from queue_engine.domain.errors import EngineError
from queue_engine.net.listening import CannotListen, listen
from queue_engine.observability import metrics
from queue_engine.observability.exporter import Page, own_metrics, serve_pages
from queue_engine.observability.logs import configure_logging
from queue_engine.processes.lifeline import LIFELINE_VARIABLE, watch_lifeline

log = logging.getLogger("queue_engine")
Made = TypeVar("Made")


def start(role: str, settings: StoreSettings) -> None:
    if settings.secret_key is None and settings.secret_key_previous is not None:
        fail("QUEUE_ENGINE_SECRET_KEY: is required with QUEUE_ENGINE_SECRET_KEY_PREVIOUS")
    configure_logging(role, settings.log_level)
    for hint in unknown_variables(os.environ):
        log.warning(hint)


def serve_metrics(settings: MetricsSettings, role: metrics.Role, **more: Page) -> int:
    """Serve the role's metrics, and further pages below `/metrics/`; return the port."""
    pages = own_metrics(metrics.registry_of(role)) | {f"/metrics/{name}": page for name, page in more.items()}
    listener = bound_or_fail("QUEUE_ENGINE_METRICS", lambda: listen(settings.metrics_host, settings.metrics_port))
    serve_pages(listener, pages)
    port: int = listener.getsockname()[1]
    log.info("metrics", extra={"url": f"http://{settings.metrics_host}:{port}/metrics"})
    return port


def bound_or_fail(prefix: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Return the socket that `make` makes. CannotListen becomes an EngineError.

    The message names the variable that is the cause, `<prefix>_HOST` or `<prefix>_PORT`.
    """
    try:
        return make()
    except CannotListen as error:
        raise EngineError(f"{prefix}_{error.part.upper()}: {error.strerror}") from None


def or_fail(variable: str, make: Callable[[], Made]) -> Made:
    """Return the result of `make`. An error that the operator can fix becomes an EngineError with the setting."""
    try:
        return make()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise EngineError(f"{variable}: {reason}") from None


def on_end(callback: Callable[[], None]) -> None:
    """Call `callback` on SIGTERM, on SIGINT, and when the process that started this one has died."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, callback)
    lifeline = os.environ.get(LIFELINE_VARIABLE)
    if lifeline is not None:
        watch_lifeline(int(lifeline), callback)
