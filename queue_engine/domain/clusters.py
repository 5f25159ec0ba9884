"""Regions and the Kubernetes clusters in which their workers run. The operator names them in a TOML file.

```toml
kubeconfig = "/etc/queue-engine/kubeconfig"     # optional: KUBECONFIG, or the service account of the controller's pod

[regions.us-east-1]                             # the name that endpoints give in `resources`
context = "prod-east"                           # optional: of the kubeconfig; its current one
namespace = "queue-engine-workers"              # optional: QUEUE_ENGINE_KUBERNETES_NAMESPACE
nodeSelector = { "topology.kubernetes.io/region" = "us-east-1" }    # optional: labels that nodes must have
flatNetwork = true                              # optional: the API can connect to the pods of this cluster
maxWorkers = 200                                # optional: limit of the engine's workers in this cluster
gpuTypes = ["NVIDIA_L4_24G", "CPU"]             # optional: the only types here; all of the catalogue
```

Regions with the same context and namespace are in one cluster. A namespace that may use only some of the GPU types of
its cluster, for example by its quota, names them in `gpuTypes`: workers of other types would wait there. Where the file
is missing, every region is accepted, and means the cluster of QUEUE_ENGINE_KUBERNETES_CONTEXT.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from queue_engine.domain.field_errors import place_of
from queue_engine.domain.field_types import matching
from queue_engine.domain.kubernetes import LabelKey, LabelValue, Namespace

MAX_REGION_CHARACTERS = 64
"""Length limit of a region's name in the API."""


NOT_OFFERED = "{region} has no GPU type {gpu_type}: there are {offered}"
"""The reason why a resource must not be named: the operator's `gpuTypes` leave it out."""
UNREACHED = "ALB endpoints cannot have workers in {region}, because the API does not reach the network of its cluster"
"""The reason why an ALB endpoint must not name a region. The operator's `flatNetwork` says that the API reaches it."""


class InvalidClusters(ValueError):
    """The text does not describe clusters; the message names the place and the rule."""


class _Region(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    context: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    namespace: Namespace | None = None
    nodeSelector: dict[LabelKey, LabelValue] = {}  # noqa: N815 - the API's word
    flatNetwork: bool | None = None  # noqa: N815 - as the words of the API
    maxWorkers: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # noqa: N815 - as the words of the API
    gpuTypes: Annotated[list[str], Field(min_length=1)] | None = None  # noqa: N815 - as the words of the API


_RegionName = Annotated[
    str,
    matching(
        rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_REGION_CHARACTERS - 1}}}",
        "the name of a region must be 1–64 letters, digits, _, . and -",
    ),
]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    kubeconfig: Annotated[str, Field(min_length=1)] | None = None
    regions: Annotated[dict[_RegionName, _Region], Field(min_length=1)]


@dataclass(frozen=True)
class Region:
    """A region that the operator has named."""

    name: str
    context: str | None = None
    namespace: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    is_reached: bool = True
    """True if the API can connect to the pods of its cluster."""
    max_workers: int | None = None
    gpu_types: tuple[str, ...] | None = None
    """The GPU types that it offers, in the operator's spelling; None means all of the catalogue."""


@dataclass(frozen=True)
class Clusters:
    """The regions of an installation. Empty without a file: then every region is accepted."""

    regions: tuple[Region, ...] = ()
    kubeconfig: str | None = None

    @classmethod
    def parse(cls, text: str) -> Clusters:
        """Parse the text of a TOML file. Raises InvalidClusters."""
        try:
            content = _File.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InvalidClusters(f"is not TOML: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidClusters(f"{place_of(first['loc'])}: {first['msg'].removeprefix('Value error, ')}") from None
        regions = tuple(_region(name, one) for name, one in content.regions.items())
        names = [one.name.lower() for one in regions]
        for name in names:
            if names.count(name) > 1:
                raise InvalidClusters(f"regions: {name!r} is given twice, in different cases")
        return cls(regions, content.kubeconfig)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the regions."""
        return tuple(region.name for region in self.regions)

    @property
    def unreached(self) -> frozenset[str]:
        """The names of the regions to whose pods the API cannot connect."""
        return frozenset(region.name for region in self.regions if not region.is_reached)

    def region(self, name: str) -> Region | None:
        """Return the region with this name, ignoring case; None if there is none."""
        if not self.regions:
            return Region(name)
        return next((region for region in self.regions if region.name.lower() == name.lower()), None)


def _region(name: str, content: _Region) -> Region:
    """Return the region. A cluster without a context is the controller's own, so the API is taken to be in it."""
    is_reached = content.context is None if content.flatNetwork is None else content.flatNetwork
    gpu_types = None if content.gpuTypes is None else tuple(content.gpuTypes)
    return Region(
        name, content.context, content.namespace, content.nodeSelector, is_reached, content.maxWorkers, gpu_types
    )
