"""The address at which the containers of a network reach this host."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from queue_engine.backends.base import BackendError
from queue_engine.backends.docker.engine import AiodockerEngine, Document, Engine, engine_url

DEFAULT_NETWORKS = ("bridge", "podman")
"""Names of the default network, in Docker and in podman."""


async def gateway_of(docker_host: str | None, network: str | None, environment: Mapping[str, str]) -> str:
    """Return the gateway's IPv4 address of a network of the engine, by default of its default network.

    Raises BackendError if the engine does not respond, or the network has no such address.
    """
    engine = AiodockerEngine(engine_url(docker_host, environment), environment)
    try:
        return await gateway(engine, network)
    finally:
        await engine.aclose()


async def gateway(engine: Engine, network: str | None) -> str:
    """Return the gateway's IPv4 address of a network. Raises BackendError."""
    for name in DEFAULT_NETWORKS if network is None else (network,):
        description = await engine.network(name)
        if description is not None:
            return gateway_in(description)
    if network is None:
        raise BackendError("the container engine has no default network: set QUEUE_ENGINE_DOCKER_NETWORK")
    raise BackendError(f"QUEUE_ENGINE_DOCKER_NETWORK: the container engine has no network {network!r}")


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
