"""The backends by their names. The packages that a backend needs are imported when it is chosen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from queue_engine.cli.docker_workers import docker_workers
from queue_engine.cli.hosting import HostedWorkers
from queue_engine.cli.kubernetes_workers import kubernetes_workers
from queue_engine.cli.process_workers import process_workers
from queue_engine.config.engine import ControllerSettings
from queue_engine.store.store import Store

_BACKENDS: Mapping[str, Callable[[ControllerSettings, Store], Awaitable[HostedWorkers]]] = {
    "process": process_workers,
    "docker": docker_workers,
    "kubernetes": kubernetes_workers,
}


async def hosted_workers(settings: ControllerSettings, store: Store) -> HostedWorkers:
    """Return the backend that the settings name. Raises EngineError if it cannot be used."""
    return await _BACKENDS[settings.backend](settings, store)
