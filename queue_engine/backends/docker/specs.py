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
from queue_engine.backends.docker.names import VARIABLES, Identity, Part
from queue_engine.domain import agent_protocol as protocol
from queue_engine.net.ports import LOOPBACK

AGENT_PORT = 9091
"""Port of the agent's metrics in the worker's network, which no task and no endpoint may use."""
AGENT_MEMORY_BYTES = 512 * 1024**2
MAIN_MAX_PIDS = 8192
"""Maximum number of processes and threads of the endpoint's container, so that a fork bomb does not take those of the
host, of which Linux has 32768 by default. Programs with a thread for each CPU and model need up to some thousands."""
MAIN_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
)  # fmt: skip
"""Capabilities of the endpoint's container: Docker's usual ones without NET_RAW, MKNOD and AUDIT_WRITE. With NET_RAW it
could read the agent's token in the network that they share, and redirect the traffic of other workers."""
VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
"""Variable by which NVIDIA's container runtime, where it is the engine's default, chooses the GPUs of a container. Many
images set it to `all`."""
NO_DEVICES = "void"
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


def agent_config(spec: WorkerSpec, hosting: Hosting, image: str, gpus: tuple[str, ...]) -> dict[str, Any]:
    """Return the configuration of the agent's container. SECRET: it has the agent's token."""
    return {
        "Image": image,
        "Labels": part_of(spec, Part.AGENT).labels(hosting.instance, gpus),
        "Env": _assignments(agent_environment(spec, hosting)),
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


def agent_environment(spec: WorkerSpec, hosting: Hosting) -> dict[str, str]:
    """Return the agent's variables."""
    return {
        **spec.agent_environment,
        **({} if hosting.agent_server is None else {protocol.SERVER: hosting.agent_server}),
        **({} if spec.exposed_port is None else {protocol.EXPOSED_PORT: str(spec.exposed_port)}),
        **({} if spec.ready_path is None else {protocol.READY_PATH: spec.ready_path}),
        protocol.ENDPOINT: spec.endpoint_id,
        protocol.WORKER_ID: spec.worker_id,
        protocol.RUN: str(spec.run),
        protocol.SERVICE_MODE: spec.service_mode.value,
        protocol.CONCURRENCY: str(spec.concurrency),
        protocol.START_TIMEOUT_SECONDS: str(spec.start_timeout_seconds),
        protocol.CONTAINER_URL: f"http://{LOOPBACK}",
        protocol.OWN_NETWORK: "true",
        protocol.METRICS_HOST: "0.0.0.0",  # noqa: S104 - in the worker's own network
        protocol.METRICS_PORT: str(AGENT_PORT),
    }


def main_environment(spec: WorkerSpec) -> dict[str, str]:
    """Return the variables of the endpoint's container. The image's own are kept unless they are named here."""
    port = {} if spec.exposed_port is None else {protocol.CONTAINER_PORT: str(spec.exposed_port)}
    # A Python program that is killed loses buffered output.
    return {"PYTHONUNBUFFERED": "1", **port, **spec.environment}


def command_words(command: str) -> list[str]:
    """Return the words that replace the image's entry point: a JSON array as it is, a text for the image's shell."""
    if command.lstrip().startswith("["):
        try:
            words = json.loads(command)
        except ValueError:
            words = None
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            return words
    return ["/bin/sh", "-c", command]


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
