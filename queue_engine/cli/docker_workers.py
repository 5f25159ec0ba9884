"""Put the Docker backend together. Its packages are imported when it is chosen."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path

from queue_engine import __version__
from queue_engine.backends.base import Backend
from queue_engine.cli.hosting import HostedWorkers, platform_errors
from queue_engine.cli.process_workers import gpus_of_host
from queue_engine.config.docker import DockerSettings
from queue_engine.config.engine import ControllerSettings
from queue_engine.domain.errors import EngineError
from queue_engine.domain.gpus import GpuMode, Gpus
from queue_engine.store.store import Store

log = logging.getLogger("queue_engine")

AGENT_IMAGE = f"queue-engine/agent:{__version__}"
"""The agent's image that `make images` builds. It is never pulled, because its name in a registry may be anybody's."""

REMOVAL_SECONDS = 30.0
"""Maximum time for the removal of the network. Calls to an engine have more, but a person waits for the end of `up`."""
_ELSEWHERE = "the GPUs of the container engine's host cannot be listed from the controller"
_TRACES_OF_A_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))
"""A controller in a container sees the GPUs of its host only if it was given them."""


async def docker_workers(settings: ControllerSettings, store: Store) -> HostedWorkers:
    """Return the backend for the container engine that the settings name. Raises EngineError."""
    if settings.agent_url is None:
        raise EngineError(
            "QUEUE_ENGINE_AGENT_URL: is required with the Docker backend: the URL of the API for agents in containers"
        )
    backend = _backend(settings, settings.agent_url, await store.instance_id(), await _gpus(settings))
    network = settings.docker_network or "the engine's default"
    log.info("workers are containers", extra={"agents_use": settings.agent_url, "network": network})
    return HostedWorkers(backend)


async def _gpus(settings: ControllerSettings) -> Gpus:
    """Return the GPUs of the engine's host. Raises EngineError that names a setting."""
    with platform_errors("docker"):
        from queue_engine.backends.docker.engine import engine_url, is_on_this_host

        is_here = is_on_this_host(engine_url(settings.docker_host, os.environ))
    mode = settings.gpu_setting.mode
    if mode is GpuMode.LISTED and not is_here:
        raise EngineError(f"QUEUE_ENGINE_GPUS: must be none or shared, because {_ELSEWHERE}")
    gpus = await gpus_of_host(settings)
    is_in_container = any(path.exists() for path in _TRACES_OF_A_CONTAINER)
    if mode is not GpuMode.AUTO or (is_here and (gpus.cards or not is_in_container)):
        return gpus
    return replace(gpus, cards=(), problem=gpus.problem or _ELSEWHERE)


def _backend(settings: ControllerSettings, agent_url: str, instance_id: str, gpus: Gpus) -> Backend:
    with platform_errors("docker"):
        from queue_engine.backends.docker.backend import DockerBackend, DockerOptions
        from queue_engine.backends.docker.engine import AiodockerEngine, engine_url
        from queue_engine.backends.docker.pull import PullPolicy
        from queue_engine.backends.docker.specs import Hosting

        url = engine_url(settings.docker_host, os.environ)
        hosting = Hosting(
            instance_id, network=settings.docker_network, agent_server=agent_url, limits=settings.docker_limits
        )
        options = DockerOptions(
            hosting,
            settings.agent_image or AGENT_IMAGE,
            agent_pull=PullPolicy.NEVER if settings.agent_image is None else PullPolicy.MISSING,
            pull=PullPolicy(settings.docker_pull),
        )
        return DockerBackend(lambda: AiodockerEngine(url, os.environ), options, gpus)


async def operators_network(settings: DockerSettings, network: str) -> str:
    """Return the gateway of a network that the operator has named. Raises EngineError."""
    with platform_errors("docker"):
        from queue_engine.backends.docker.network import gateway_of

        return await gateway_of(settings.docker_host, network, os.environ)


async def own_network(settings: DockerSettings, data_dir: Path) -> tuple[str, str]:
    """Return the network of the workers of an `up` with this data folder, and its gateway. Make it if necessary.

    Its name is the same after a restart, because containers may outlive `up`. Raises EngineError.
    """
    network = f"queue-engine-{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]}"
    with platform_errors("docker"):
        from queue_engine.backends.docker.network import make_network

        return network, await make_network(settings.docker_host, network, os.environ)


async def remove_own_network(network: str) -> str | None:
    """Remove the network that `own_network` has made; return why it stays, for example because a container uses it."""
    try:
        with platform_errors("docker"):
            from queue_engine.backends.docker.engine import NO_RESPONSE
            from queue_engine.backends.docker.network import remove_network

            try:
                async with asyncio.timeout(REMOVAL_SECONDS):
                    await remove_network(os.environ.get("QUEUE_ENGINE_DOCKER_HOST"), network, os.environ)
            except TimeoutError:
                return NO_RESPONSE
    except EngineError as error:
        return str(error)
    return None
