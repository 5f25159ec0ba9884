"""An installation on a container engine: what the backend made there, and specifications of workers for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from queue_engine.backends.base import Backend, RegistryCredential, WorkerSpec
from queue_engine.backends.docker.backend import DockerBackend, DockerOptions
from queue_engine.backends.docker.engine import AiodockerEngine
from queue_engine.backends.docker.names import INSTANCE, WORKER, Part
from queue_engine.backends.docker.pull import PullPolicy
from queue_engine.backends.docker.specs import Hosting
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.gpus import Gpus
from tests.clusters.engine import IMAGE, ContainerEngine
from tests.clusters.image_registry import PASSWORD, USERNAME, ImageRegistry
from tests.waiting import wait_until


@dataclass
class Installation:
    """The installation of one test on the engine, as the engine shows it."""

    engine: ContainerEngine
    instance: str
    gpus: Gpus = field(default_factory=Gpus)
    limits: bool = False

    async def containers(self, worker_id: str) -> int:
        return len([one for one in self._of(worker_id) if one["State"] == "running" and part_in(one) is Part.MAIN])

    async def left(self) -> list[str]:
        return [str(one["Names"]) for one in self.engine.containers(f"{INSTANCE}={self.instance}")]

    async def kill_agent(self, worker_id: str) -> None:
        self.engine.kill(self.id_of(worker_id, Part.AGENT))

    def next_backend(self) -> Backend:
        return self.backend()

    def backend(
        self, make_engine: Callable[[], AiodockerEngine] | None = None, *, hosting: Hosting | None = None
    ) -> DockerBackend:
        options = DockerOptions(
            hosting or Hosting(self.instance, limits=self.limits),
            IMAGE,
            agent_pull=PullPolicy.NEVER,
            end_margin_seconds=1.0,
            main_stop_seconds=1,
        )
        make_engine = make_engine or partial(AiodockerEngine, self.engine.url, os.environ)
        return DockerBackend(make_engine, options, self.gpus)

    def id_of(self, worker_id: str, part: Part) -> str:
        [container] = [str(one["Id"]) for one in self._of(worker_id) if part_in(one) is part]
        return container

    def clear(self) -> None:
        """Remove all that a test has left. A removal that it has begun may be in progress, so it is repeated."""
        wait_until(self._is_cleared, message="containers cannot be removed")

    def _is_cleared(self) -> bool:
        found = self.engine.containers(f"{INSTANCE}={self.instance}")
        for part in (Part.MAIN, Part.AGENT):
            for one in found:
                if part_in(one) is part:
                    self.engine.remove(str(one["Id"]))
        return not found

    def _of(self, worker_id: str) -> list[dict[str, Any]]:
        found = self.engine.containers(f"{INSTANCE}={self.instance}")
        return [one for one in found if one["Labels"][WORKER] == worker_id]


def part_in(summary: dict[str, Any]) -> Part:
    return Part(summary["Labels"]["queue-engine/part"])


def spec_for(worker_id: str, command: str | None, *, run: int = 1, drain: str = "quick", **more: str) -> WorkerSpec:
    return WorkerSpec(
        endpoint_id="7",
        worker_id=worker_id,
        image=IMAGE,
        command=command,
        run=run,
        exposed_port=8000,
        protocol="HTTP",
        resources=(Resource("local", "CPU", 1),),
        volume_gb=20,
        agent_environment={"STUB_DRAIN": drain, **more},
    )


def of_registry(spec: WorkerSpec, registry: ImageRegistry) -> WorkerSpec:
    return replace(spec, image=registry.name, registry_credential=RegistryCredential(USERNAME, PASSWORD))
