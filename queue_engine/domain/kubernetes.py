"""Words of Kubernetes in the operator's files: labels, tolerations, and the node of a GPU type. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from queue_engine.domain.field_types import matching

NVIDIA_RESOURCE = "nvidia.com/gpu"
_NAME_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_SUBDOMAIN = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
LabelKey = Annotated[
    str,
    matching(rf"(?:{_SUBDOMAIN}/)?{_NAME_PART}", "must be the key of a label, such as nvidia.com/gpu.product"),
]
LabelValue = Annotated[
    str, matching(rf"(?:{_NAME_PART})?", "must be the value of a label: up to 63 letters, digits, _, . and -")
]
ResourceName = Annotated[
    str, matching(rf"{_SUBDOMAIN}/{_NAME_PART}", "must be the name of a resource, such as nvidia.com/gpu")
]
Namespace = Annotated[
    str, matching(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", "must be up to 63 lower-case letters, digits and -")
]
ObjectName = Annotated[str, matching(_SUBDOMAIN, "must be up to 253 lower-case letters, digits, . and -")]


class Toleration(BaseModel):
    """A toleration of a Pod, in the words of the Kubernetes API."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: Annotated[int, Field(ge=0)] | None = None  # noqa: N815 - the API's word

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Check what the API server checks too, because it would refuse every pod."""
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value must be absent with the operator Exists")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key is required with the operator Equal")
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds requires the effect NoExecute")
        return self

    @property
    def document(self) -> dict[str, Any]:
        """The API's form."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class KubernetesGpu:
    """The nodes and the resource of a GPU type."""

    resource_name: str = NVIDIA_RESOURCE
    """The resource of which a worker gets `gpuCount`."""
    products: tuple[str, ...] = ()
    """Values of the label `nvidia.com/gpu.product`. Nodes with one of them have the type; empty: all nodes."""
    selector: Mapping[str, str] = field(default_factory=dict)
    """Further labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: str | None = None
