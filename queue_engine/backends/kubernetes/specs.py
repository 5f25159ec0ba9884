"""The pod of a worker as the API server is asked for it. Pure.

The agent is the first container, because the kubelet starts containers in order: the agent reports while the image of
the second one is pulled. Both share the pod's loopback address. At the end of the pod the second container waits for
the agent, which finishes the running tasks first:

    pod deleted -> agent: SIGTERM, drains for at most the grace period
                -> main:  its hook requests the agent's /drained, and SIGTERM follows the response

Only fields of Kubernetes 1.20 are used, besides the volume of a storage class (1.23).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from queue_engine.backends.base import WorkerSpec
from queue_engine.backends.container_words import (
    AGENT_MEMORY_BYTES,
    AGENT_PORT,
    MAIN_CAPABILITIES,
    NO_DEVICES,
    VISIBLE_DEVICES,
    agent_environment,
    command_words,
)
from queue_engine.backends.images import LATEST, InvalidReference, Reference, parse_reference
from queue_engine.backends.kubernetes.names import (
    AGENT,
    GPUS,
    MAIN,
    RESOURCE,
    identity_in,
    resource_text,
)
from queue_engine.backends.kubernetes.secrets import CA_KEY, TOKEN_KEY, Owner, Secrets, owned
from queue_engine.backends.kubernetes.sites import Place, Sites
from queue_engine.domain import agent_protocol as protocol
from queue_engine.domain.agent_tokens import TOKEN_VARIABLE
from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.kubernetes import NVIDIA_RESOURCE, Toleration

Document = dict[str, Any]

POD_MARGIN_SECONDS = 20
"""Time after the grace period for the agent's release of tasks, its response to /drained, and the signal to the
container, which has 10 s of it left."""
AGENT_USER = 10001
AGENT_STORAGE_GB = 1
"""Part of the endpoint's volume that is the agent's."""
NOT_READY_SECONDS = 60
"""Time for which a pod stays on a node that does not respond. Kubernetes' default is 300."""
READINESS_SECONDS = 5
CA_FOLDER = "/etc/queue-engine/ca"
VOLUME = "volume"
PRODUCT_LABEL = "nvidia.com/gpu.product"
MEMORY_LABEL = "nvidia.com/gpu.memory"
"""Labels of nodes by NVIDIA's GPU feature discovery: the product, and the memory of a GPU in MiB."""
BYTES_PER_MIB = 1024**2
BYTES_PER_GB = 10**9
"""Vendors give the memory of GPUs in these, so that NVIDIA L4 has 24 GB and reports 23,034 MiB."""
EVICTORS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Annotations with which autoscalers leave a pod on its node."""
_VARIABLE = re.compile(r"(?!\.\.)[-._a-zA-Z][-._a-zA-Z0-9]{0,252}")
"""Names that may be both a key of a Secret and a variable. Others would silently be left out by the kubelet."""
_NODE_CONDITIONS = ("not-ready", "unreachable")


@dataclass(frozen=True)
class PodSettings:
    """The operator's settings of all pods."""

    instance: str
    grace_seconds: float
    agent_image: str
    agent_server: str
    """The URL at which agents reach the API."""
    naming_key: bytes = field(default=b"", repr=False)
    """SECRET: the key of the digests in names, without which a name would tell something about a password."""
    agent_ca: str | None = None
    """Certificate authorities, as PEM text, that agents trust for the API besides the system's."""
    agent_pull_policy: str | None = None
    pull_policy: str | None = None
    """Pull policies in the API's words; by default that of `pull_policy`."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets of the operator with which nodes pull all images, such as the agent's."""
    service_account: str | None = None
    restricted: bool = False
    """True for the Pod Security Standard `restricted`; else `baseline`."""
    memory_limits: bool = False
    """True if the endpoint's minimum of memory is also the limit of its container."""
    storage_class: str | None = None
    """The class of a volume for each worker; None for the node's own disk."""
    volume_path: str = "/data"
    priority_class: str | None = None
    runtime_class: str | None = None
    tolerations: tuple[Toleration, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    is_evictable: bool = False
    """True if autoscalers may evict workers to empty a node."""


class PodDocuments:
    """The documents of workers. Raises InvalidReference if the agent's image is not one."""

    def __init__(self, settings: PodSettings, sites: Sites) -> None:
        self._settings = settings
        self._sites = sites
        self._agent_image = parse_reference(settings.agent_image)
        self._secrets = Secrets(settings.instance, settings.naming_key, settings.agent_ca)

    def refusal(self, spec: WorkerSpec) -> str | None:
        """Return the reason why no cluster can ever run such a worker, for the endpoint's owner; else None."""
        try:
            parse_reference(spec.image, spec.image_registry)
        except InvalidReference as error:
            return f"image: {error}"
        if spec.exposed_port == AGENT_PORT:
            return f"expose: port {AGENT_PORT} is the agent's own"
        for name in spec.environment:
            if _VARIABLE.fullmatch(name) is None:
                return f"environmentVars: {name!r} is not a name of a variable in Kubernetes"
        return self._sites.refusal(spec.resources, spec.service_mode)

    def secrets(self, spec: WorkerSpec, place: Place, owner: Owner | None) -> tuple[Document, ...]:  # noqa: ARG002
        """Return the Secrets that the pod needs, in the order of their creation. SECRET.

        That of the agent is left out if the specification has no token, because it exists already.
        """
        return self._secrets.documents(spec, owner)

    def pod(self, spec: WorkerSpec, place: Place, owner: Owner | None) -> Document:
        """Return the pod. It has no secret itself."""
        identity, settings = identity_in(spec), self._settings
        pull_secrets = [*filter(None, [self._secrets.pull_name(spec)]), *settings.pull_secrets]
        optional: Document = {
            "serviceAccountName": settings.service_account,
            "priorityClassName": settings.priority_class,
            "runtimeClassName": settings.runtime_class if place.gpu is None else self._gpu_runtime_class(place),
            "imagePullSecrets": [{"name": name} for name in pull_secrets] or None,
            "nodeSelector": dict(place.region.node_selector) or None,
            "affinity": _affinity(spec, place),
            "volumes": self._volumes(spec) or None,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": identity.name,
                "labels": identity.labels(settings.instance, spec.revision),
                "annotations": self._annotations(place),
                **owned(owner),
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": math.ceil(settings.grace_seconds) + POD_MARGIN_SECONDS,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "shareProcessNamespace": False,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "tolerations": self._tolerations(place),
                "containers": [self._agent(spec), self._main(spec, place)],
                **{name: value for name, value in optional.items() if value is not None},
            },
        }

    # Containers

    def _agent(self, spec: WorkerSpec) -> Document:
        settings = self._settings
        agent: Document = {
            "name": AGENT,
            "image": str(self._agent_image),
            "imagePullPolicy": settings.agent_pull_policy or pull_policy(self._agent_image),
            "env": self._agent_variables(spec),
            "ports": [{"name": AGENT, "containerPort": AGENT_PORT, "protocol": "TCP"}],
            "resources": {
                "requests": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": f"{AGENT_STORAGE_GB}Gi"},
                "limits": {
                    "memory": f"{AGENT_MEMORY_BYTES // BYTES_PER_MIB}Mi",
                    "ephemeral-storage": f"{AGENT_STORAGE_GB}Gi",
                },
            },
            "securityContext": {
                "runAsUser": AGENT_USER,
                "runAsGroup": AGENT_USER,
                "runAsNonRoot": True,
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        if settings.agent_ca is not None:
            agent["volumeMounts"] = [{"name": AGENT, "mountPath": CA_FOLDER, "readOnly": True}]
        return agent

    def _agent_variables(self, spec: WorkerSpec) -> list[Document]:
        values = agent_environment(spec, self._settings.agent_server) | {protocol.DRAIN_HOOK: "true"}
        if values.get(protocol.SERVER, "").startswith("http://"):
            values[protocol.CONTAINER_NETWORK] = "true"  # the gateway is the bridge of the node
        # The pod's own address, because it may be one of IPv6 only, and the kubelet requests it there.
        at_pod = {protocol.METRICS_HOST: _AT_POD}
        if spec.service_mode is not ServiceMode.QUEUE:
            at_pod[protocol.ADVERTISE_HOST] = _AT_POD
        if self._settings.agent_ca is not None:
            values[protocol.SERVER_CA] = f"{CA_FOLDER}/{CA_KEY}"
        token = {"secretKeyRef": {"name": identity_in(spec).agent_secret, "key": TOKEN_KEY}}
        return [
            *_literals({name: value for name, value in values.items() if name not in {TOKEN_VARIABLE, *at_pod}}),
            *({"name": name, "valueFrom": source} for name, source in at_pod.items()),
            {"name": TOKEN_VARIABLE, "valueFrom": token},
        ]

    def _main(self, spec: WorkerSpec, place: Place) -> Document:
        reference = parse_reference(spec.image, spec.image_registry)
        optional: Document = {
            "command": None,
            # Where NVIDIA's runtime is the nodes' default, an image could see all GPUs of its node otherwise.
            "env": _literals({VISIBLE_DEVICES: NO_DEVICES}) if place.gpu is None else None,
            "volumeMounts": None,
            "readinessProbe": None,
        }
        if spec.command is not None and spec.command.strip():
            optional["command"] = [_unexpanded(word) for word in command_words(spec.command)]
        if self._has_volume(spec):
            optional["volumeMounts"] = [{"name": VOLUME, "mountPath": self._settings.volume_path}]
        if spec.exposed_port is not None:
            optional["readinessProbe"] = {
                "tcpSocket": {"port": spec.exposed_port},
                "periodSeconds": READINESS_SECONDS,
            }
        return {
            "name": MAIN,
            "image": str(reference),
            "imagePullPolicy": self._settings.pull_policy or pull_policy(reference),
            "envFrom": [{"secretRef": {"name": self._secrets.environment_name(spec)}}],
            "resources": self._main_resources(spec, place),
            "lifecycle": {"preStop": {"httpGet": {"path": protocol.DRAINED_PATH, "port": AGENT_PORT}}},
            "securityContext": self._main_security(),
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _main_resources(self, spec: WorkerSpec, place: Place) -> Document:
        requests: dict[str, str] = {}
        limits: dict[str, str] = {}
        if cpus := spec.card_vcpus * place.cards:
            requests["cpu"] = str(cpus)
        if memory := spec.card_ram_gb * place.cards:
            requests["memory"] = f"{memory}Gi"
            if self._settings.memory_limits:
                limits["memory"] = f"{memory}Gi"
        if spec.volume_gb and not self._has_volume(spec):
            disk = f"{max(1, spec.volume_gb - AGENT_STORAGE_GB)}Gi"
            requests["ephemeral-storage"] = limits["ephemeral-storage"] = disk
        if place.gpu is not None:
            limits[place.gpu.resource_name] = str(place.gpu_count)
        return {name: value for name, value in (("requests", requests), ("limits", limits)) if value}

    def _main_security(self) -> Document:
        """Return the context of the endpoint's container: most images run as root, so that `baseline` lets them."""
        if self._settings.restricted:
            return {
                "runAsNonRoot": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }
        return {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(MAIN_CAPABILITIES)},
        }

    # Parts of the pod

    def _annotations(self, place: Place) -> dict[str, str]:
        waits_for = {GPUS: f"{place.gpu_count} × {place.resource.gpu_type}"} if place.gpu is not None else {}
        evictors = {} if self._settings.is_evictable else EVICTORS
        return {**self._settings.annotations, **evictors, RESOURCE: resource_text(place.resource), **waits_for}

    def _tolerations(self, place: Place) -> list[Document]:
        of_nodes = [
            {
                "key": f"node.kubernetes.io/{condition}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": NOT_READY_SECONDS,
            }
            for condition in _NODE_CONDITIONS
        ]
        of_gpu = () if place.gpu is None else place.gpu.tolerations
        return [*of_nodes, *(one.document for one in (*of_gpu, *self._settings.tolerations))]

    def _gpu_runtime_class(self, place: Place) -> str | None:
        return (place.gpu and place.gpu.runtime_class) or self._settings.runtime_class

    def _has_volume(self, spec: WorkerSpec) -> bool:
        return self._settings.storage_class is not None and spec.volume_gb > 0

    def _volumes(self, spec: WorkerSpec) -> list[Document]:
        volumes: list[Document] = []
        if self._settings.agent_ca is not None:
            source = {"secretName": identity_in(spec).agent_secret, "items": [{"key": CA_KEY, "path": CA_KEY}]}
            volumes.append({"name": AGENT, "secret": source})
        if self._has_volume(spec):
            claim = {
                "metadata": {"labels": identity_in(spec).labels(self._settings.instance, spec.revision)},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": self._settings.storage_class,
                    "resources": {"requests": {"storage": f"{spec.volume_gb}Gi"}},
                },
            }
            volumes.append({"name": VOLUME, "ephemeral": {"volumeClaimTemplate": claim}})
        return volumes


def pull_policy(reference: Reference) -> str:
    """Return when nodes pull an image, unless a setting says so, in the API's words."""
    if reference.is_local:
        return "Never"
    return "Always" if reference.tag == LATEST and not reference.digest else "IfNotPresent"


_AT_POD: Document = {"fieldRef": {"fieldPath": "status.podIP"}}


def _affinity(spec: WorkerSpec, place: Place) -> Document | None:
    """Return the rule for nodes that have the GPU type, and enough video memory; None if all nodes do."""
    gpu = place.gpu
    if gpu is None:
        return None
    rules: list[Document] = [{"key": key, "operator": "In", "values": [value]} for key, value in gpu.selector.items()]
    if gpu.products:
        rules.append({"key": PRODUCT_LABEL, "operator": "In", "values": list(gpu.products)})
    if spec.card_vram_gb and gpu.resource_name.startswith(NVIDIA_RESOURCE):
        needed = spec.card_vram_gb * BYTES_PER_GB // BYTES_PER_MIB
        rules.append({"key": MEMORY_LABEL, "operator": "Gt", "values": [str(needed - 1)]})
    if not rules:
        return None
    terms = {"nodeSelectorTerms": [{"matchExpressions": rules}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _literals(environment: Mapping[str, str]) -> list[Document]:
    return [{"name": name, "value": _unexpanded(value)} for name, value in environment.items()]


def _unexpanded(text: str) -> str:
    """Return a text that the kubelet leaves as it is: `$$` is one `$`, and `$(NAME)` would be a variable's value."""
    return text.replace("$", "$$")
