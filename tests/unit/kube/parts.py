"""Specifications, documents and places for tests of the Kubernetes backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from queue_engine.backends.base import WorkerSpec
from queue_engine.backends.kubernetes.kube_api import Document, Owner
from queue_engine.backends.kubernetes.names import GPUS, RESOURCE, Identity, common_labels, resource_text
from queue_engine.backends.kubernetes.sites import Load, Place
from queue_engine.backends.placement import Later, Refusal, Shortage
from queue_engine.domain.clusters import Region
from queue_engine.domain.endpoints import Resource

INSTANCE = "1f5e"
HERE = Resource("here", "CPU", 1)


def spec_for(worker_id: str, *, run: int = 1, **more: Any) -> WorkerSpec:
    values = {"endpoint_id": "7", "image": "image:1", "resources": (HERE,), "environment": {"KEY": "canary-5e1f"}}
    return WorkerSpec(worker_id=worker_id, run=run, **{**values, **more})


class SmallDocuments:
    """Documents with the members that the backend looks at."""

    def refusal(self, spec: WorkerSpec) -> str | None:
        return None

    def secrets(self, spec: WorkerSpec, place: Place, owner: Owner | None) -> tuple[Document, ...]:
        names = (f"qe-env-{spec.endpoint_id}-{spec.revision}", f"qe-agent-{spec.worker_id}-{spec.run}")
        return tuple({"metadata": {"name": name, "labels": common_labels(INSTANCE)}, "data": {}} for name in names)

    def pod(self, spec: WorkerSpec, place: Place, owner: Owner | None) -> Document:
        identity = Identity(spec.endpoint_id, spec.worker_id, spec.run)
        environment, agent = (one["metadata"]["name"] for one in self.secrets(spec, place, owner))
        token = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": agent, "key": "token"}}}
        resource = place.resource
        limits = {"nvidia.com/gpu": str(resource.gpu_count)} if resource.gpu_type != "CPU" else {}
        gpus = {GPUS: f"{resource.gpu_count} × {resource.gpu_type}"} if resource.gpu_type != "CPU" else {}
        return {
            "metadata": {
                "name": identity.name,
                "labels": identity.labels(INSTANCE, spec.revision),
                "annotations": {RESOURCE: resource_text(resource), **gpus},
                "ownerReferences": [] if owner is None else [{"uid": owner.uid}],
            },
            "spec": {
                "imagePullSecrets": [{"name": "of-the-operator"}],
                "containers": [
                    {"name": "agent", "env": [token]},
                    {
                        "name": "main",
                        "envFrom": [{"secretRef": {"name": environment}}],
                        "resources": {"limits": limits},
                    },
                ],
            },
        }


class FirstPlaces:
    """Places all workers in the cluster that has the name of the region, as soon as the test lets them."""

    def __init__(self) -> None:
        self.later: str | None = None
        self.recent: Mapping[Resource, Shortage] = {}
        self.load: Mapping[str, Load] = {}

    def place(
        self, resources: Sequence[Resource], recent: Mapping[Resource, Shortage], load: Mapping[str, Load], now: float
    ) -> Place | Later | Refusal:
        self.recent, self.load = dict(recent), load
        if self.later is not None:
            return Later(self.later)
        resource = next((one for one in resources if one not in recent), resources[0])
        return Place(resource, resource.region, Region(resource.region))

    def at(self, resource: Resource) -> str | None:
        return resource.region
