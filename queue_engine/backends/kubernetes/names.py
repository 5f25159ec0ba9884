"""Names, labels and annotations of the objects of a worker, by which they are found again. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from queue_engine.backends.base import WorkerSpec
from queue_engine.backends.docker.names import ENDPOINT, INSTANCE, MANAGED_BY, MANAGER, RUN, WORKER
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.ids import is_endpoint_id, is_worker_id

REVISION = "queue-engine/revision"
RESOURCE = "queue-engine/resource"
"""An annotation of a pod: the resource that was chosen for it, as a JSON object in the words of the HTTP API."""
GPUS = "queue-engine/gpus"
"""An annotation of a pod that asks for GPUs: what it waits for, in words."""
AGENT = "agent"
MAIN = "main"
"""Names of a pod's containers."""
MAX_RUN_DIGITS = 18


@dataclass(frozen=True)
class Identity:
    """The worker and the start that a pod is."""

    endpoint_id: str
    worker_id: str
    run: int

    @property
    def name(self) -> str:
        """The pod's name. The API server refuses a second pod with it, so that a run is made once."""
        return f"qe-{self.worker_id}-{self.run}"

    @property
    def agent_secret(self) -> str:
        """The name of the Secret with the token of this run's agent."""
        return f"qe-agent-{self.worker_id}-{self.run}"

    def labels(self, instance: str, revision: int) -> dict[str, str]:
        """Return the labels of the pod, and of the Secret of its agent."""
        return {
            **common_labels(instance),
            ENDPOINT: self.endpoint_id,
            WORKER: self.worker_id,
            RUN: str(self.run),
            REVISION: str(revision),
        }


def identity_in(spec: WorkerSpec) -> Identity:
    """Return the identity of the run that a specification describes."""
    return Identity(spec.endpoint_id, spec.worker_id, spec.run)


def common_labels(instance: str) -> dict[str, str]:
    """Return the labels of all objects of an installation."""
    return {MANAGED_BY: MANAGER, INSTANCE: instance}


def selector(instance: str) -> str:
    """Return the selector of all objects of an installation."""
    return f"{INSTANCE}={instance}"


def manager_selector() -> str:
    """Return the selector of the objects of all installations."""
    return f"{MANAGED_BY}={MANAGER}"


def identity_of(labels: Mapping[str, str]) -> Identity | None:
    """Return the identity that labels state; None if the object is not that of a worker's run."""
    endpoint_id, worker_id, run = (labels.get(name, "") for name in (ENDPOINT, WORKER, RUN))
    is_number = run.isascii() and run.isdigit() and len(run) <= MAX_RUN_DIGITS
    if not (is_endpoint_id(endpoint_id) and is_worker_id(worker_id) and is_number):
        return None
    return Identity(endpoint_id, worker_id, int(run))


def resource_text(resource: Resource) -> str:
    """Return the value of RESOURCE."""
    return json.dumps({"region": resource.region, "gpuType": resource.gpu_type, "gpuCount": resource.gpu_count})


def resource_of(annotations: Mapping[str, str]) -> Resource | None:
    """Return the resource with which a pod was placed; None if its annotation is missing or was changed."""
    try:
        found = json.loads(annotations.get(RESOURCE, ""))
        return Resource(str(found["region"]), str(found["gpuType"]), int(found["gpuCount"]))
    except (ValueError, KeyError, TypeError):
        return None
