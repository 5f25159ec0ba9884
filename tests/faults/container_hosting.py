"""A container engine for an engine of the fault suite, whose controllers then start workers as containers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from queue_engine.backends.docker.names import MANAGED_BY, MANAGER, WORKER, Part
from tests.clusters.engine import ContainerEngine
from tests.clusters.python_image import AGENT_IMAGE, ENTRY_POINT, ENVIRONMENT, agent_image
from tests.ports import free_port

CONTAINERS = "containers"
"""The flavour of engines that have one."""
AGENTS_API = "api-1"
"""The process that listens for the agents."""
_PORT = 8000


@dataclass(frozen=True)
class Pair:
    """The containers of a worker as they were at one time. Its name is the address that they share."""

    name: str
    containers: tuple[tuple[str, str], ...]
    """The id and the start of each."""

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(one for one, _ in self.containers)


class ContainerHosting:
    """An engine, with an image of the agent and of the suite's container.

    The agents reach the API at the gateway of the default network.
    """

    def __init__(self, engine: ContainerEngine, directory: Path) -> None:
        self.engine = engine
        engine.load(AGENT_IMAGE, agent_image(directory), ENTRY_POINT, ENVIRONMENT)
        self.gateway = engine.gateway()
        self._agent_port = free_port()

    def variables_of(self, role: str) -> dict[str, str]:
        """Return the settings of a process of the engine."""
        if role == AGENTS_API:
            return {
                "QUEUE_ENGINE_AGENT_HOST": self.gateway,
                "QUEUE_ENGINE_AGENT_PORT": str(self._agent_port),
            }
        if not role.startswith("controller"):
            return {}
        return {
            "QUEUE_ENGINE_BACKEND": "docker",
            "QUEUE_ENGINE_DOCKER_HOST": self.engine.url,
            "QUEUE_ENGINE_AGENT_IMAGE": AGENT_IMAGE,
            "QUEUE_ENGINE_AGENT_URL": f"http://{self.gateway}:{self._agent_port}",
        }

    def command(self, journal_port: int) -> str:
        """Return the initializationCommand of a container that sends its journal to this port of the gateway."""
        journal = f"{self.gateway}:{journal_port}"
        program = ("python3", "-m", "tests.faults.container")
        return json.dumps([*program, "--port", str(_PORT), "--journal-server", journal])

    def pair(self, worker_id: str) -> Pair:
        """Return the containers of a worker. ValueError unless both run."""
        found = sorted(self._described(f"{WORKER}={worker_id}"), key=_part)
        if [_part(one) for one in found] != [Part.AGENT, Part.MAIN]:
            raise ValueError(f"{worker_id} has {len(found)} containers that run")
        states = tuple((str(one["Id"]), str(one["State"]["StartedAt"])) for one in found)
        return Pair(_address_of(found[0]), states)

    def left(self) -> list[str]:
        """Return the names of all containers of workers."""
        return [str(one["Names"]) for one in self.engine.containers(f"{MANAGED_BY}={MANAGER}")]

    def _described(self, label: str) -> Sequence[dict[str, Any]]:
        found = self.engine.containers(label)
        return [self.engine.inspect(str(one["Id"])) for one in found if one["State"] == "running"]


def _part(description: dict[str, Any]) -> str:
    return str(description["Config"]["Labels"]["queue-engine/part"])


def _address_of(description: dict[str, Any]) -> str:
    networks = description["NetworkSettings"].get("Networks") or {}
    return next(str(one["IPAddress"]) for one in networks.values() if one.get("IPAddress"))
