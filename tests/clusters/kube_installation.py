"""An installation on a Kubernetes cluster: what the backend made there, and specifications of workers for it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from queue_engine.backends.base import WorkerSpec
from queue_engine.backends.docker.names import INSTANCE, WORKER
from queue_engine.backends.kubernetes.backend import KubernetesBackend, KubernetesOptions
from queue_engine.backends.kubernetes.kube_api import KubeApi, connect
from queue_engine.backends.kubernetes.kube_client import ClusterAccess
from queue_engine.backends.kubernetes.sites import ClusterPlace, Sites
from queue_engine.backends.kubernetes.specs import PodDocuments, PodSettings
from queue_engine.config.catalogue import load_catalogue
from queue_engine.domain.agent_tokens import TOKEN_VARIABLE
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.clusters import Clusters
from queue_engine.domain.kubernetes import KubernetesGpu
from tests.clusters import installation
from tests.clusters.engine import IMAGE
from tests.clusters.kubernetes_cluster import Cluster
from tests.waiting import wait_until

MARGIN_SECONDS = 2
"""Time after the grace period at which a pod is killed. Short, because the container of many tests ignores SIGTERM."""


@dataclass
class KubeInstallation:
    """The installation of one test on the cluster, as the cluster shows it."""

    cluster: Cluster
    namespace: str
    instance: str
    options: KubernetesOptions = field(init=False)
    settings: PodSettings = field(init=False)

    def __post_init__(self) -> None:
        self.options = KubernetesOptions(self.instance, pod_margin_seconds=MARGIN_SECONDS)
        self.settings = PodSettings(
            self.instance,
            grace_seconds=5,
            agent_image=IMAGE,
            agent_server="https://127.0.0.1:1",
            naming_key=b"of the test",
        )

    async def containers(self, worker_id: str) -> int:
        states = [state for pod in self.pods(worker_id) for state in pod["status"].get("containerStatuses", ())]
        return len([one for one in states if one["name"] == "main" and "running" in one["state"]])

    async def left(self) -> list[str]:
        kinds = ("pods", "secrets")
        return [f"{kind}/{one['metadata']['name']}" for kind in kinds for one in self._all(kind)]

    async def kill_agent(self, worker_id: str) -> None:
        self.kill(worker_id, "agent")

    def next_backend(self) -> KubernetesBackend:
        return self.backend()

    def backend(self, make_api: Callable[[ClusterAccess], KubeApi] = connect) -> KubernetesBackend:
        return self._backend(load_catalogue(None), make_api)

    def backend_with_gpus(self, resource_name: str) -> KubernetesBackend:
        """Return a backend for which NVIDIA L4 are a resource of nodes, whatever the labels of the nodes."""
        builtin = load_catalogue(None)
        gpus = {**builtin.kubernetes, "NVIDIA_L4_24G": KubernetesGpu(resource_name=resource_name)}
        return self._backend(replace(builtin, kubernetes=gpus), connect)

    def _backend(self, catalogue: Catalogue, make_api: Callable[[ClusterAccess], KubeApi]) -> KubernetesBackend:
        sites = Sites(Clusters(), catalogue, ClusterPlace(None, self.namespace))
        [name] = sites.clusters
        access = ClusterAccess(name, self.namespace, self.cluster.kubeconfig)
        documents = PodDocuments(self.settings, sites)
        backend = KubernetesBackend({name: partial(make_api, access)}, self.options, documents, sites)
        backend.leads = lambda: True
        return backend

    def pods(self, worker_id: str) -> list[dict[str, Any]]:
        return [one for one in self._all("pods") if one["metadata"]["labels"][WORKER] == worker_id]

    def kill(self, worker_id: str, container: str) -> None:
        """Kill the first process of a container on the node, as its kernel would."""
        [pod] = self.pods(worker_id)
        kill_container(pod, container)

    def clear(self) -> None:
        """Remove all that a test has left."""
        selector = f"--selector={INSTANCE}={self.instance}"
        for kind in ("pods", "secrets"):
            self.kubectl("delete", kind, selector, "--grace-period=0", "--force", "--wait=false", check=False)
        wait_until(lambda: not self._all("pods"), message="pods cannot be removed")

    def kubectl(self, *words: str, given: object = None, check: bool = True) -> str:
        """Run kubectl in the namespace."""
        text = None if given is None else json.dumps(given)
        return self.cluster.kubectl(f"--namespace={self.namespace}", *words, stdin=text, check=check)

    def _all(self, kind: str) -> list[dict[str, Any]]:
        return self.cluster.objects(kind, self.namespace, f"--selector={INSTANCE}={self.instance}")


def spec_for(worker_id: str, command: str | None, *, run: int = 1, drain: str = "quick", **more: str) -> WorkerSpec:
    spec = installation.spec_for(worker_id, command, run=run, drain=drain, **more)
    token = {TOKEN_VARIABLE: "canary-of-the-agent"}
    # Without a size, because the node has room for few workers of 20 GB.
    return replace(spec, volume_gb=0, agent_environment={**spec.agent_environment, **token})


def kill_container(pod: dict[str, Any], name: str) -> None:
    """Kill the processes of a container."""
    for pid in processes_of(container_id_of(pod, name)):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def container_id_of(pod: dict[str, Any], name: str) -> str:
    """Return the id that a container of a pod has in the runtime of its node."""
    [status] = [one for one in pod["status"]["containerStatuses"] if one["name"] == name]
    found: str = status["containerID"]
    return found.partition("://")[2]


def processes_of(container_id: str) -> list[int]:
    """Return the processes of a container, the first one first. The node is this machine, and their control group has
    the container's id."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):
            if container_id in process.read_text():
                found.append(int(process.parent.name))
    return sorted(found)
