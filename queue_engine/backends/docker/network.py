"""The network of workers, and the address at which its containers reach this host."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from queue_engine.backends.base import BackendError
from queue_engine.backends.docker.engine import (
    CONFLICT,
    AiodockerEngine,
    Document,
    Engine,
    EngineError,
    engine_url,
)
from queue_engine.backends.docker.names import MANAGED_BY, MANAGER

CONTAINERS_REACH = "com.docker.network.bridge.enable_icc"
"""Option of Docker's networks: "false" if its containers must not reach each other."""


async def make_network(docker_host: str | None, name: str, environment: Mapping[str, str]) -> str:
    """Return the gateway's IPv4 address of a network for workers, and make the network if it does not exist.

    Its containers reach the host and what the host reaches, but not each other, where the engine can separate them:
    Docker can, and podman 4 ignores the option. Raises BackendError.
    """
    async with _connected(docker_host, environment) as engine:
        if (found := await engine.network(name)) is None:
            try:
                await engine.create_network(network_config(name))
            except EngineError as error:
                if error.status != CONFLICT:  # another process has made it
                    raise
            found = await engine.network(name) or {"Name": name}
        return gateway_in(found)


async def remove_network(docker_host: str | None, name: str, environment: Mapping[str, str]) -> None:
    """Remove a network. Does nothing if it does not exist. Raises BackendError if containers use it."""
    async with _connected(docker_host, environment) as engine:
        await engine.remove_network(name)


def network_config(name: str) -> dict[str, Any]:
    """Return the configuration of a network for workers."""
    return {
        "Name": name,
        "CheckDuplicate": True,  # Docker before version 25 creates a second network otherwise
        "Driver": "bridge",
        "Labels": {MANAGED_BY: MANAGER},
        "Options": {CONTAINERS_REACH: "false"},
    }


async def gateway_of(docker_host: str | None, name: str, environment: Mapping[str, str]) -> str:
    """Return the gateway's IPv4 address of a network of the engine.

    Raises BackendError if the engine does not respond, or the network has no such address.
    """
    async with _connected(docker_host, environment) as engine:
        if (description := await engine.network(name)) is None:
            raise BackendError(f"QUEUE_ENGINE_DOCKER_NETWORK: the container engine has no network {name!r}")
        return gateway_in(description)


def gateway_in(description: Document) -> str:
    """Return the gateway's IPv4 address in the description of a network. Raises BackendError."""
    configs = (description.get("IPAM") or {}).get("Config") or []
    for config in configs:
        if address := _ipv4(config.get("Gateway")):
            return address
    for config in configs:  # Docker leaves the gateway out of an unused network: it is the subnet's first address
        if subnet := _network(config.get("Subnet")):
            return str(subnet[1])
    raise BackendError(
        f"the network {description.get('Name')!r} has no gateway: set QUEUE_ENGINE_AGENT_URL to an address at which "
        "containers reach the API"
    )


@asynccontextmanager
async def _connected(docker_host: str | None, environment: Mapping[str, str]) -> AsyncIterator[Engine]:
    engine = AiodockerEngine(engine_url(docker_host, environment), environment)
    try:
        yield engine
    finally:
        await engine.aclose()


def _ipv4(text: Any) -> str | None:
    try:
        return str(ipaddress.IPv4Address(str(text or "").partition("/")[0]))
    except ValueError:
        return None


def _network(text: Any) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(str(text or ""))
    except ValueError:
        return None
