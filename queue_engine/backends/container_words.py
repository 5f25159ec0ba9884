"""The variables and commands of a worker's containers, equal on all platforms where agents use the API. Pure."""

from __future__ import annotations

import json

from queue_engine.backends.agent_variables import agent_variables
from queue_engine.backends.base import WorkerSpec
from queue_engine.domain import agent_protocol as protocol
from queue_engine.net.ports import LOOPBACK

AGENT_PORT = 9091
"""Port of the agent's metrics in the worker's network, which no task and no endpoint may use."""
AGENT_MEMORY_BYTES = 512 * 1024**2
MAIN_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
)  # fmt: skip
"""Capabilities of the endpoint's container: Docker's usual ones without NET_RAW, MKNOD and AUDIT_WRITE. With NET_RAW it
could read the agent's token in the network that they share, and redirect the traffic of other workers."""
VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
"""Variable by which NVIDIA's container runtime, where it is the platform's default, chooses the GPUs of a container.
Many images set it to `all`."""
NO_DEVICES = "void"


def agent_environment(spec: WorkerSpec, server: str | None) -> dict[str, str]:
    """Return the agent's variables. SECRET: the token is among them.

    `server` is the URL at which agents reach the API; None if `WorkerSpec.agent_environment` has it.
    """
    return {
        **spec.agent_environment,
        **({} if server is None else {protocol.SERVER: server}),
        **agent_variables(spec),
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
