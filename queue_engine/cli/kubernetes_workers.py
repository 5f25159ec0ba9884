"""Put the Kubernetes backend together. Its packages are imported when it is chosen."""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from queue_engine.backends.base import Backend
from queue_engine.cli.docker_workers import AGENT_IMAGE
from queue_engine.cli.hosting import HostedWorkers, platform_errors
from queue_engine.cli.process import or_fail
from queue_engine.config.catalogue import load_catalogue
from queue_engine.config.clusters import load_clusters
from queue_engine.config.engine import ControllerSettings
from queue_engine.config.kubernetes import KubernetesSettings
from queue_engine.domain.clusters import Clusters
from queue_engine.domain.errors import EngineError
from queue_engine.store.store import Store

if TYPE_CHECKING:
    from queue_engine.backends.kubernetes.kube_client import ClusterAccess
    from queue_engine.backends.kubernetes.sites import ClusterPlace
    from queue_engine.backends.kubernetes.specs import PodSettings

log = logging.getLogger("queue_engine")

_CLIENT = "kubernetes_asyncio"
_NAMING_INFO = b"queue-engine names of kubernetes secrets"
IN_POD = "KUBERNETES_SERVICE_HOST"
"""A variable that every container of a cluster has."""


async def kubernetes_workers(settings: ControllerSettings, store: Store) -> HostedWorkers:
    """Return the backend for the clusters that the settings name. Raises EngineError."""
    if settings.agent_url is None:
        raise EngineError(
            "QUEUE_ENGINE_AGENT_URL: is required with the Kubernetes backend: the https:// URL at which pods reach the "
            "API"
        )
    clusters = or_fail("QUEUE_ENGINE_CLUSTERS_FILE", lambda: load_clusters(settings.clusters_file))
    backend, names = _backend(settings, settings.agent_url, clusters, await store.instance_id())
    log.info("workers are pods", extra={"clusters": ", ".join(names), "agents_use": settings.agent_url})
    return HostedWorkers(backend)


def _backend(
    settings: ControllerSettings, agent_url: str, clusters: Clusters, instance_id: str
) -> tuple[Backend, list[str]]:
    """Return the backend and the names of its clusters."""
    catalogue = or_fail("QUEUE_ENGINE_CATALOGUE_FILE", lambda: load_catalogue(settings.catalogue_file))
    with platform_errors("kubernetes"):
        if find_spec(_CLIENT) is None:  # looked for here, because the backend imports it later
            raise ModuleNotFoundError(name=_CLIENT)
        from queue_engine.backends.kubernetes.backend import KubernetesBackend, KubernetesOptions
        from queue_engine.backends.kubernetes.kube_api import connect
        from queue_engine.backends.kubernetes.sites import Sites
        from queue_engine.backends.kubernetes.specs import PodDocuments

        kubeconfig = _kubeconfig(clusters, os.environ)
        default = _default_place(settings)
        sites = or_fail("QUEUE_ENGINE_CLUSTERS_FILE", lambda: Sites(clusters, catalogue, default))
        connections = {name: partial(connect, _access(place, kubeconfig)) for name, place in sites.clusters.items()}
        documents = PodDocuments(_pod_settings(settings, agent_url, instance_id), sites)
        options = KubernetesOptions(
            instance_id,
            force_delete_after_seconds=settings.kubernetes_force_delete_after_seconds,
            ends_workers=settings.end_workers,
        )
        return KubernetesBackend(connections, options, documents, sites), list(connections)


async def agent_gateway(settings: KubernetesSettings) -> str:
    """Return the address at which the pods of a cluster on this machine reach the machine. Raises EngineError."""
    clusters = or_fail("QUEUE_ENGINE_CLUSTERS_FILE", lambda: load_clusters(settings.clusters_file))
    with platform_errors("kubernetes"):
        from queue_engine.backends.kubernetes.network import gateway_of

        return await gateway_of(_access(_default_place(settings), _kubeconfig(clusters, os.environ)))


def _default_place(settings: KubernetesSettings) -> ClusterPlace:
    from queue_engine.backends.kubernetes.sites import ClusterPlace

    return ClusterPlace(settings.kubernetes_context, settings.kubernetes_namespace)


def _access(place: ClusterPlace, kubeconfig: Path | None) -> ClusterAccess:
    from queue_engine.backends.kubernetes.kube_client import ClusterAccess

    return ClusterAccess(place.name, place.namespace, kubeconfig, place.context)


def _kubeconfig(clusters: Clusters, environment: Mapping[str, str]) -> Path | None:
    """Return the path of the kubeconfig; None for the service account of this process's pod. Raises EngineError."""
    named = clusters.kubeconfig or environment.get("KUBECONFIG")
    if named:
        return Path(named)
    by_default = Path.home() / ".kube/config"
    if by_default.is_file():
        return by_default
    if IN_POD in environment:
        return None
    raise EngineError(
        "KUBECONFIG: the Kubernetes backend needs a kubeconfig: this process runs in no pod, and there is no "
        f"{by_default}"
    )


def _pod_settings(settings: ControllerSettings, agent_url: str, instance_id: str) -> PodSettings:
    from queue_engine.backends.kubernetes.specs import PodSettings

    agent_ca = settings.agent_ca
    return PodSettings(
        instance_id,
        grace_seconds=settings.worker_grace_seconds,
        agent_image=settings.agent_image or AGENT_IMAGE,
        agent_server=agent_url,
        naming_key=hmac.digest(next(iter(settings.secret_keys), b""), _NAMING_INFO, "sha256"),
        agent_ca=None if agent_ca is None else or_fail("QUEUE_ENGINE_AGENT_CA", lambda: agent_ca.read_text("utf-8")),
        # Never, because the name in a registry may be anybody's.
        agent_pull_policy="Never" if settings.agent_image is None else None,
        pull_policy=settings.kubernetes_pull_policy,
        pull_secrets=settings.kubernetes_pull_secrets,
        service_account=settings.kubernetes_service_account,
        restricted=settings.kubernetes_pod_security == "restricted",
        memory_limits=settings.kubernetes_memory_limits,
        storage_class=settings.kubernetes_storage_class,
        volume_path=settings.kubernetes_volume_path,
        priority_class=settings.kubernetes_priority_class,
        runtime_class=settings.kubernetes_runtime_class,
        tolerations=settings.tolerations,
        annotations=settings.annotations,
        is_evictable=settings.kubernetes_evictable,
    )
