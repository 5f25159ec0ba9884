"""The start of a worker: its images, its agent's container, then the endpoint's container."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from queue_engine.aio import uncut
from queue_engine.backends.base import BackendError, Phase, RegistryCredential, WorkerSpec
from queue_engine.backends.docker.engine import CONFLICT, Engine, EngineError, EngineUnavailable
from queue_engine.backends.docker.explain import Explanation, StartFailed, explain_start_error, is_disk_full
from queue_engine.backends.docker.names import INSTANCE, WORKER, Identity, Part, identity_of
from queue_engine.backends.docker.pull import Grants, PullPolicy, ensure_image
from queue_engine.backends.docker.specs import (
    Devices,
    Hosting,
    MainOptions,
    agent_config,
    main_config,
    part_of,
)
from queue_engine.backends.docker.watch import Watch
from queue_engine.backends.docker.worker import Worker
from queue_engine.backends.images import Reference, parse_reference

log = logging.getLogger(__name__)

_NO_DISK_LIMITS = ("storage-opt", "storage opt", "pquota", "quota")
"""Words of the engine's refusal to limit a container's disk, which depends on its storage driver and file system."""
_DROPPED = (
    "the container engine has dropped the request for GPUs, so the worker would run without them: podman takes no "
    "device requests by Docker's API"
)


@dataclass(frozen=True)
class Images:
    """The agent's image, and when images are pulled."""

    agent: Reference
    agent_pull: PullPolicy
    pull: PullPolicy


class Maker:
    """Makes the parts of workers that do not exist yet."""

    def __init__(self, engine: Engine, watch: Watch, hosting: Hosting, images: Images) -> None:
        self._engine = engine
        self._watch = watch
        self._hosting = hosting
        self._images = images
        self._grants = Grants()
        self._sizes_disks = True
        """False once the engine has refused to limit the disk of a container."""

    async def make(self, worker: Worker, spec: WorkerSpec, devices: Devices) -> None:
        """Make the missing parts of a worker, and start them. Raises BackendError.

        Safe to repeat, and beside another controller: the engine accepts each name once.
        """
        await self.remove(worker, below=worker.run)
        agent = worker.id_of(Part.AGENT) or await self._make_agent(worker, spec)
        await self._start(agent, Part.AGENT)
        reference = parse_reference(spec.image, spec.image_registry)
        name = await self._image(worker, reference, spec.registry_credential, self._images.pull)
        worker.progress = Explanation(Phase.STARTING)
        main = worker.id_of(Part.MAIN) or await self._make_main(worker, spec, MainOptions(name, agent, devices))
        if devices.requests and not worker.parts[Part.MAIN].has_devices:
            raise StartFailed(_DROPPED, retry_helps=False)
        await self._start(main, Part.MAIN)

    async def remove(self, worker: Worker, *, below: int) -> None:
        """Remove the containers of a worker's runs before `below`: first those that use another one's network."""
        found = await self._engine.containers(f"{WORKER}={worker.worker_id}")
        containers = [(self._identity(one.get("Labels")), str(one["Id"])) for one in found]
        for part in (Part.MAIN, Part.AGENT):
            for identity, container_id in containers:
                if identity is not None and identity.part is part and identity.run < below:
                    await self._engine.remove(container_id)
                    await self._watch.look_at(container_id)

    async def _make_agent(self, worker: Worker, spec: WorkerSpec) -> str:
        try:
            image = await self._image(worker, self._images.agent, None, self._images.agent_pull)
        except StartFailed as error:
            advice = "run `make images`, or set QUEUE_ENGINE_AGENT_IMAGE to an image that can be pulled"
            raise StartFailed(f"the agent's image is missing: {error}; {advice}", retry_helps=False) from error
        worker.progress = Explanation(Phase.STARTING)
        return await self._create(spec, Part.AGENT, agent_config(spec, self._hosting, image, worker.gpus, worker.note))

    async def _make_main(self, worker: Worker, spec: WorkerSpec, options: MainOptions) -> str:
        if self._sizes_disks:
            try:
                return await self._create_main(worker, spec, replace(options, sizes_disk=True))
            except EngineError as error:
                is_refused = any(word in str(error).lower() for word in _NO_DISK_LIMITS)
                if not is_refused or is_disk_full(str(error)):
                    raise
                log.warning("containerVolumeInGb is not enforced: %s", error)
                self._sizes_disks = False
        return await self._create_main(worker, spec, options)

    async def _create_main(self, worker: Worker, spec: WorkerSpec, options: MainOptions) -> str:
        return await self._create(spec, Part.MAIN, main_config(spec, self._hosting, options, worker.gpus))

    async def _image(
        self, worker: Worker, reference: Reference, credential: RegistryCredential | None, policy: PullPolicy
    ) -> str:
        def note(progress: str) -> None:
            worker.progress = Explanation(Phase.STARTING, progress)

        return await ensure_image(self._engine, reference, credential, policy, self._grants, note)

    async def _create(self, spec: WorkerSpec, part: Part, config: Mapping[str, Any]) -> str:
        """Create a container; return its id, or that of the one that another controller has just created."""
        identity = part_of(spec, part)
        try:
            container_id = await uncut(self._engine.create(identity.name, config))
        except EngineError as error:
            existing = await self._engine.inspect(identity.name) if error.status == CONFLICT else None
            if existing is None or self._identity(existing["Config"].get("Labels")) != identity:
                if is_disk_full(str(error)):
                    raise BackendError(explain_start_error(str(error), part)) from error
                raise
            container_id = str(existing["Id"])
        await self._watch.look_at(container_id)
        return container_id

    def _identity(self, labels: Mapping[str, str] | None) -> Identity | None:
        """Return the identity of a container of this installation; None for one of another, which is left alone.

        Worker ids of two installations are equal if one of them has a restored copy of the other's store.
        """
        of_container = labels or {}
        return identity_of(of_container) if of_container.get(INSTANCE) == self._hosting.instance else None

    async def _start(self, container_id: str, part: Part) -> None:
        try:
            await uncut(self._engine.start(container_id))
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise BackendError(explain_start_error(str(error), part)) from error
        await self._watch.look_at(container_id)
