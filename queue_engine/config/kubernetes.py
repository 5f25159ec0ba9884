"""Settings of the Kubernetes backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator
from pydantic_settings import NoDecode

from queue_engine.config.base import ProcessSettings
from queue_engine.config.names import without_prefix
from queue_engine.domain.field_errors import place_of
from queue_engine.domain.kubernetes import LabelKey, Namespace, ObjectName, Toleration

_TOLERATIONS = TypeAdapter(tuple[Toleration, ...])
_ANNOTATIONS = TypeAdapter(dict[LabelKey, str])


class ClusterSettings(ProcessSettings):
    """The regions of this installation."""

    clusters_file: Path | None = Field(
        None,
        description="TOML file with the regions, and the Kubernetes cluster of each; for example "
        "`deploy/examples/clusters.toml`. Its regions replace those of `QUEUE_ENGINE_CATALOGUE_FILE`. By default every "
        "region is accepted",
    )


class KubernetesSettings(ClusterSettings):
    """How workers run as pods."""

    kubernetes_context: str | None = Field(
        None,
        description="Context of the kubeconfig (Kubernetes backend) where `QUEUE_ENGINE_CLUSTERS_FILE` is not set. By "
        "default the current one; in a pod without a kubeconfig, the cluster of the pod",
    )
    kubernetes_namespace: Namespace = Field(
        "queue-engine-workers", description="Namespace of the workers' pods, for regions that have no namespace"
    )
    kubernetes_service_account: ObjectName | None = Field(
        None, description="Service account of the workers' pods, which needs no rights. They get no token of it"
    )
    kubernetes_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None,
        description="When nodes pull a worker's image. By default `Always` for the tag `latest`, else `IfNotPresent`. "
        "With the latter, an image that a node has can be used without its credential: use `Always` where tenants have "
        "private images",
    )
    kubernetes_pull_secrets: Annotated[tuple[ObjectName, ...], NoDecode] = Field(
        (),
        description="Names of Secrets in the namespace of the workers with which nodes pull images, such as the "
        "agent's, comma-separated. Endpoints of all tenants can pull with them",
    )
    kubernetes_pod_security: Literal["baseline", "restricted"] = Field(
        "baseline",
        description="Pod Security Standard of the endpoints' containers. `restricted` refuses images that run as root. "
        "The agent's container is always restricted",
    )
    kubernetes_memory_limits: bool = Field(
        False, description="Limit the memory of each pod to `minSingleCardRamInGb` of its endpoint, times its GPUs"
    )
    kubernetes_storage_class: ObjectName | None = Field(
        None,
        description="Storage class of a volume of `containerVolumeInGb` for each worker (Kubernetes 1.23 or newer). By "
        "default `containerVolumeInGb` limits the pod's part of its node's disk",
    )
    kubernetes_volume_path: str = Field("/data", description="Path of that volume in the container")
    kubernetes_priority_class: ObjectName | None = Field(None, description="Priority class of the workers' pods")
    kubernetes_runtime_class: ObjectName | None = Field(
        None, description="Runtime class of the workers' pods, unless their GPU type has one in the catalogue"
    )
    kubernetes_tolerations: str = Field(
        "[]",
        description="Tolerations of the workers' pods, besides those of their GPU type in the catalogue: a JSON array "
        "of objects as in a pod",
    )
    kubernetes_annotations: str = Field("{}", description="Annotations of the workers' pods: a JSON object of strings")
    kubernetes_evictable: bool = Field(
        False, description="Let autoscalers evict workers to empty a node, which ends running tasks after their grace"
    )
    kubernetes_force_delete_after_seconds: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="Time after which the pod of a lost node is deleted by force. Its worker is replaced before",
    )

    @field_validator("kubernetes_volume_path")
    @classmethod
    def _check_volume_path(cls, value: str) -> str:
        if not value.startswith("/") or value == "/" or ":" in value or ".." in value.split("/"):
            raise ValueError("must be an absolute path without `:` and `..`, and not /")
        return value

    @field_validator("kubernetes_pull_secrets", mode="before")
    @classmethod
    def _split_pull_secrets(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("kubernetes_tolerations")
    @classmethod
    def _check_tolerations(cls, value: str) -> str:
        _parsed(_TOLERATIONS, value, "a JSON array of tolerations")
        return value

    @field_validator("kubernetes_annotations")
    @classmethod
    def _check_annotations(cls, value: str) -> str:
        _parsed(_ANNOTATIONS, value, "a JSON object of strings")
        return value

    @property
    def tolerations(self) -> tuple[Toleration, ...]:
        """Return the configured tolerations."""
        found: tuple[Toleration, ...] = _parsed(_TOLERATIONS, self.kubernetes_tolerations, "")
        return found

    @property
    def annotations(self) -> dict[str, str]:
        """Return the configured annotations."""
        found: dict[str, str] = _parsed(_ANNOTATIONS, self.kubernetes_annotations, "")
        return found


def _parsed(kind: TypeAdapter[Any], text: str, what: str) -> Any:
    """Return the value in a JSON text. Raises ValueError that says `what` it must be, or the place of the error."""
    try:
        return kind.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{place_of(first['loc']) or 'the text'}: {without_prefix(first['msg'])}") from None
    except ValueError:
        raise ValueError(f"must be {what}") from None
