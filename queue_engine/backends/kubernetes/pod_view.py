"""A pod as the backend sees it, parsed from the API's JSON. Pure.

Only the fields that the backend uses are kept, so that thousands of pods take little memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from queue_engine.backends.docker.explain import time_ms
from queue_engine.backends.kubernetes.names import AGENT, GPUS, MAIN, Identity, identity_of, resource_of
from queue_engine.domain.endpoints import Resource

MEMORY = "memory"
DISK = "ephemeral-storage"
_LACKING = re.compile(r"Insufficient (\S+)")


class State(StrEnum):
    """The state of a container."""

    ABSENT = "absent"
    """The node has not reported it yet."""
    WAITING = "waiting"
    RUNNING = "running"
    TERMINATED = "terminated"


@dataclass(frozen=True)
class ContainerView:
    """A container of a pod."""

    state: State = State.ABSENT
    reason: str = ""
    """The kubelet's word for why it waits or has terminated, such as `ErrImagePull` or `OOMKilled`."""
    message: str = ""
    exit_code: int = 0
    finished_at_ms: int = 0
    container_id: str | None = None


@dataclass(frozen=True)
class Condition:
    """A condition of a pod that the backend looks at."""

    is_true: bool
    reason: str
    message: str


@dataclass(frozen=True)
class PodView:
    """A pod of this installation."""

    name: str
    uid: str
    identity: Identity | None
    """None if its labels are not those of a worker."""
    created_at_ms: int
    phase: str
    """`Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`."""
    reason: str = ""
    message: str = ""
    scheduled: Condition | None = None
    disruption: Condition | None = None
    is_cut_off: bool = False
    """True if the cluster has marked it because its node does not respond. A pod that was not ready gets no mark."""
    deletion_at_ms: int | None = None
    """Time by which it should be gone, after somebody has asked for its end."""
    deletion_grace_seconds: int = 0
    """The time that its containers have for their end, from that request on."""
    agent: ContainerView = field(default_factory=ContainerView)
    main: ContainerView = field(default_factory=ContainerView)
    memory_limit: str = ""
    disk_limit: str = ""
    gpus: str = ""
    """The GPUs that it asks for, such as `2 × NVIDIA L4`; empty if none."""
    gpu_resource: str = ""
    """The name of that resource in the cluster, such as `nvidia.com/gpu`."""
    resource: Resource | None = None
    has_credential: bool = False
    """True if its image is pulled with a credential."""
    secrets: frozenset[str] = frozenset()
    """Names of all Secrets that it uses."""
    variables: tuple[str, ...] = ()
    """Names of the Secrets with the variables of the endpoint's container."""

    @property
    def is_deleted(self) -> bool:
        """True if somebody has asked for its end."""
        return self.deletion_at_ms is not None

    @property
    def has_ended(self) -> bool:
        """True if its node has reported that both containers have ended."""
        return self.phase in ("Failed", "Succeeded")

    @property
    def has_stopped(self) -> bool:
        """True if its node has reported the end of each container. Until the pod is removed, a minute may pass."""
        return self.has_ended or self.agent.state is self.main.state is State.TERMINATED

    @property
    def end_asked_at_ms(self) -> int | None:
        """Time at which its end was asked for; None if that has not happened."""
        return None if self.deletion_at_ms is None else self.deletion_at_ms - 1000 * self.deletion_grace_seconds

    @property
    def has_node(self) -> bool:
        """True if a node has taken it."""
        return self.scheduled is not None and self.scheduled.is_true

    @property
    def is_unschedulable(self) -> bool:
        """True if no node can take it now."""
        return self.scheduled is not None and not self.scheduled.is_true and self.scheduled.reason == "Unschedulable"

    @property
    def lacks_gpus(self) -> bool:
        """True if nodes have too few free GPUs for it, as the scheduler says."""
        message = "" if self.scheduled is None else self.scheduled.message
        return self.is_unschedulable and self.gpu_resource in [one.rstrip(".,;") for one in _LACKING.findall(message)]


def pod_view(document: Mapping[str, Any]) -> PodView:
    """Return the view of a pod. Raises KeyError if it has no name or uid."""
    metadata, spec, status = (_mapping(document.get(name)) for name in ("metadata", "spec", "status"))
    annotations = _mapping(metadata.get("annotations"))
    containers = {one.get("name"): one for one in _mappings(spec.get("containers"))}
    states = {one.get("name"): _container(one) for one in _mappings(status.get("containerStatuses"))}
    conditions = {one.get("type"): _condition(one) for one in _mappings(status.get("conditions"))}
    main = _mapping(containers.get(MAIN))
    limits = _mapping(_mapping(main.get("resources")).get("limits"))
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        identity=identity_of(_mapping(metadata.get("labels"))),
        created_at_ms=time_ms(metadata.get("creationTimestamp")) or 0,
        phase=str(status.get("phase") or "Unknown"),
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        scheduled=conditions.get("PodScheduled"),
        disruption=conditions.get("DisruptionTarget"),
        is_cut_off=_is_cut_off(conditions.get("Ready")),
        deletion_at_ms=time_ms(metadata.get("deletionTimestamp")),
        deletion_grace_seconds=int(metadata.get("deletionGracePeriodSeconds") or 0),
        agent=states.get(AGENT, ContainerView()),
        main=states.get(MAIN, ContainerView()),
        memory_limit=str(limits.get(MEMORY) or ""),
        disk_limit=str(limits.get(DISK) or ""),
        gpus=str(annotations.get(GPUS) or ""),
        gpu_resource=next((name for name in limits if "/" in name), ""),
        resource=resource_of(annotations),
        has_credential=bool(spec.get("imagePullSecrets")),
        secrets=frozenset(_secrets_of(spec)),
        variables=tuple(_sources_of(main)),
    )


def _container(status: Mapping[str, Any]) -> ContainerView:
    states = _mapping(status.get("state"))
    found = next((one for one in (State.TERMINATED, State.RUNNING, State.WAITING) if one in states), State.ABSENT)
    detail = _mapping(states.get(found))
    exit_code = detail.get("exitCode")
    return ContainerView(
        state=found,
        reason=str(detail.get("reason") or ""),
        message=str(detail.get("message") or ""),
        exit_code=exit_code if isinstance(exit_code, int) else 0,
        finished_at_ms=time_ms(detail.get("finishedAt")) or 0,
        container_id=str(status["containerID"]) if status.get("containerID") else None,
    )


def _condition(condition: Mapping[str, Any]) -> Condition:
    reason, message = (str(condition.get(name) or "") for name in ("reason", "message"))
    return Condition(condition.get("status") == "True", reason, message)


def _is_cut_off(ready: Condition | None) -> bool:
    """Return True if the node controller has set the condition: it gives no reason, and kubelets always do."""
    return ready is not None and not ready.is_true and not ready.reason


def _secrets_of(spec: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(one.get("name")) for one in _mappings(spec.get("imagePullSecrets")))
    for container in _mappings(spec.get("containers")):
        yield from _sources_of(container)
        for variable in _mappings(container.get("env")):
            reference = _mapping(_mapping(variable.get("valueFrom")).get("secretKeyRef"))
            yield from filter(None, [reference.get("name")])
    for volume in _mappings(spec.get("volumes")):
        yield from filter(None, [_mapping(volume.get("secret")).get("secretName")])


def _sources_of(container: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the Secrets that are variables of a container as a whole."""
    for source in _mappings(container.get("envFrom")):
        yield from filter(None, [_mapping(source.get("secretRef")).get("name")])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
