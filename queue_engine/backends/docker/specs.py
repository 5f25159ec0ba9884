"""The containers of a worker as the engine's API describes them. Pure.

The agent's container has the network, because the other one may end first, and joins it. Both share its loopback
address, so the agent reaches the endpoint's server at 127.0.0.1. The agent's environment is in its own container only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from queue_engine.backends.base import WorkerSpec
from queue_engine.backends.container_words import (
    AGENT_MEMORY_BYTES,
    MAIN_CAPABILITIES,
    NO_DEVICES,
    VISIBLE_DEVICES,
    agent_environment,
    command_words,
    main_environment,
)
from queue_engine.backends.docker.names import NOTE, VARIABLES, Identity, Part
from queue_engine.domain import agent_protocol as protocol

MAIN_MAX_PIDS = 8192
"""Maximum number of processes and threads of the endpoint's container, so that a fork bomb does not take those of the
host, of which Linux has 32768 by default. Programs with a thread for each CPU and model need up to some thousands."""
GB = 1024**3
NANO_CPUS = 1_000_000_000
NO_HEALTHCHECK = {"Test": ["NONE"]}
LOG_OPTIONS = {"max-size": "20m", "max-file": "2"}
"""Maximum size of a container's output on the host. The worker's log in the store has limits of its own."""


@dataclass(frozen=True)
class Hosting:
    """The settings of the host that all its workers share."""

    instance: str
    network: str | None = None
    """The network of the workers; the engine's default network if None."""
    agent_server: str | None = None
    """The URL at which agents reach the API; None if `WorkerSpec.agent_environment` has it."""
    limits: bool = False
    """True if the endpoint's minimum of CPUs and memory is also the limit of the container."""


@dataclass(frozen=True)
class Devices:
    """The GPUs of a worker: some by identifier, all of the host, or none."""

    identifiers: tuple[str, ...] = ()
    all_of_host: bool = False

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The engine's form of the request; empty if there is none."""
        wanted: dict[str, Any] = {"Driver": "nvidia", "Capabilities": [["gpu"]]}
        if self.all_of_host:
            return [wanted | {"Count": -1}]
        return [wanted | {"DeviceIDs": list(self.identifiers)}] if self.identifiers else []

    @property
    def environment(self) -> dict[str, str]:
        """The variables that hide all other GPUs, whatever the image and the endpoint set."""
        return {} if self.all_of_host else {VISIBLE_DEVICES: ",".join(self.identifiers) or NO_DEVICES}


@dataclass(frozen=True)
class MainOptions:
    """Facts beside the specification on which the endpoint's container depends."""

    image: str
    agent_container: str
    """The id of the agent's container, whose network is joined."""
    devices: Devices = field(default_factory=Devices)
    sizes_disk: bool = False
    """True to limit the container's disk to the endpoint's volume."""


def part_of(spec: WorkerSpec, part: Part) -> Identity:
    """Return the identity of a part of a worker's run."""
    return Identity(spec.endpoint_id, spec.worker_id, spec.run, part)


def agent_config(
    spec: WorkerSpec, hosting: Hosting, image: str, gpus: tuple[str, ...], note: str = ""
) -> dict[str, Any]:
    """Return the configuration of the agent's container. SECRET: it has the agent's token."""
    return {
        "Image": image,
        "Labels": part_of(spec, Part.AGENT).labels(hosting.instance, gpus) | ({NOTE: note} if note else {}),
        # In the host's own network the gateway is a router.
        "Env": _assignments(
            agent_environment(spec, hosting.agent_server)
            | {protocol.CONTAINER_NETWORK: "false" if hosting.network == "host" else "true"}
        ),
        "Hostname": spec.worker_id[:63],
        # The image's check asks another port, and a failed check has no effect here.
        "Healthcheck": NO_HEALTHCHECK,
        "HostConfig": _host_config()
        | {
            "NetworkMode": hosting.network or "default",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "Memory": AGENT_MEMORY_BYTES,
            "PidsLimit": 256,
        },
    }


def main_config(spec: WorkerSpec, hosting: Hosting, options: MainOptions, gpus: tuple[str, ...]) -> dict[str, Any]:
    """Return the configuration of the endpoint's container. SECRET: it has the endpoint's variables."""
    of_devices = options.devices.environment
    config: dict[str, Any] = {
        "Image": options.image,
        "Labels": part_of(spec, Part.MAIN).labels(hosting.instance, gpus)
        | {VARIABLES: json.dumps([name for name in spec.environment if name not in of_devices])},
        "Env": _assignments(main_environment(spec) | of_devices),
        # The agent asks whether the container is ready. An image's check would only cost processes and events.
        "Healthcheck": NO_HEALTHCHECK,
        "HostConfig": _host_config()
        | {
            "NetworkMode": f"container:{options.agent_container}",
            "CapDrop": ["ALL"],
            "CapAdd": list(MAIN_CAPABILITIES),
            "PidsLimit": MAIN_MAX_PIDS,
        }
        | _limits(spec, hosting, options.devices)
        | ({"DeviceRequests": requests} if (requests := options.devices.requests) else {})
        | ({"StorageOpt": {"size": f"{spec.volume_gb}G"}} if options.sizes_disk and spec.volume_gb else {}),
    }
    if spec.command is not None and spec.command.strip():
        config |= {"Entrypoint": command_words(spec.command), "Cmd": []}
    return config


def _host_config() -> dict[str, Any]:
    return {
        "RestartPolicy": {"Name": "no"},
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": {"Type": "json-file", "Config": LOG_OPTIONS},
    }


def _limits(spec: WorkerSpec, hosting: Hosting, devices: Devices) -> dict[str, Any]:
    if not hosting.limits:
        return {}
    cards = len(devices.identifiers) or max((1, *(one.gpu_count for one in spec.resources[:1])))
    memory, cpus = spec.card_ram_gb * cards * GB, spec.card_vcpus * cards * NANO_CPUS
    return ({"Memory": memory, "MemorySwap": memory} if memory else {}) | ({"NanoCpus": cpus} if cpus else {})


def _assignments(environment: Mapping[str, str]) -> Sequence[str]:
    return [f"{name}={value}" for name, value in environment.items()]
