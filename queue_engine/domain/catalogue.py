"""Catalogue of GPU types, regions and prices. The operator extends the built-in list of GPU types by a TOML file.

```toml
regions = ["us-east-3"]           # optional: the only known regions; without it, any region is accepted

[storage]
price_per_gb_hour = 0.0001        # optional, like every price: 0 without it

[[gpu]]
name = "NVIDIA_H100_80G"          # the name in responses; requests may use any case
aliases = ["NVIDIA_H100"]         # optional: other names for it
price_per_hour = 2.49             # of one GPU

[[gpu]]
name = "CPU_LARGE"
cpu = true                        # optional: workers of this type get no GPU

[[gpu]]
name = "AMD_MI300X_192G"
[gpu.kubernetes]                  # optional, like every member: the nodes of this type in Kubernetes
resourceName = "amd.com/gpu"      # the resource of which a worker gets `gpuCount`; nvidia.com/gpu by default
products = []                     # values of the label nvidia.com/gpu.product; without them, nodes of all products
selector = { "amd.com/gpu.family" = "AI" }       # further labels that a node must have
tolerations = [{ key = "amd.com/gpu", operator = "Exists", effect = "NoSchedule" }]
runtimeClass = "amd"
```
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from queue_engine.domain.clusters import Clusters, InvalidClusters, Region
from queue_engine.domain.endpoints import EndpointConfig
from queue_engine.domain.field_errors import place_of
from queue_engine.domain.kubernetes import (
    NVIDIA_RESOURCE,
    KubernetesGpu,
    LabelKey,
    LabelValue,
    ObjectName,
    ResourceName,
    Toleration,
)

COST_DIGITS = 6
"""Number of decimals of a cost."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Price = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class InvalidCatalogue(ValueError):
    """The text is not a valid catalogue; the message names the place and the rule."""


class _Kubernetes(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    resourceName: ResourceName = NVIDIA_RESOURCE  # noqa: N815 - as the words of the API
    products: list[LabelValue] = []
    selector: dict[LabelKey, LabelValue] = {}
    tolerations: list[Toleration] = []
    runtimeClass: ObjectName | None = None  # noqa: N815 - as the words of the API

    @property
    def gpu(self) -> KubernetesGpu:
        return KubernetesGpu(
            self.resourceName, tuple(self.products), self.selector, tuple(self.tolerations), self.runtimeClass
        )


class _Gpu(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    aliases: list[str] = []
    price_per_hour: Price | None = None
    cpu: bool = False
    kubernetes: _Kubernetes | None = None


class _Storage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    price_per_gb_hour: Price


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    regions: Annotated[list[str], Field(min_length=1)] | None = None
    storage: _Storage | None = None
    gpu: list[_Gpu] = []


@dataclass(frozen=True)
class Catalogue:
    """The known GPU types and regions, and their prices."""

    names: tuple[str, ...] = ()
    """The GPU types as they appear in responses."""
    regions: tuple[str, ...] = ()
    """The only known regions. If empty, any region is accepted."""
    storage_price: float | None = None
    """Price of one GB for an hour; None if not configured."""
    cpu_types: frozenset[str] = frozenset()
    """The types, as in `names`, whose workers get no GPU."""
    unreached_regions: frozenset[str] = frozenset()
    """The regions to whose workers the API cannot connect, so that they run no ALB endpoints."""
    offered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The only GPU types of a region, by its name. A region that is missing has all."""
    kubernetes: Mapping[str, KubernetesGpu] = field(default_factory=dict, repr=False)
    """The nodes of the types in Kubernetes, where they are named."""
    _by_lower_name: Mapping[str, str] = field(default_factory=dict, repr=False)
    _prices: Mapping[str, float] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Catalogue:
        """Parse the text of a TOML file. Raises InvalidCatalogue."""
        try:
            content = _File.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InvalidCatalogue(f"is not TOML: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidCatalogue(f"{place_of(first['loc'])}: {first['msg'].removeprefix('Value error, ')}") from None
        spellings = (((gpu.name, *gpu.aliases), f"gpu[{index}]") for index, gpu in enumerate(content.gpu))
        return cls(
            names=tuple(gpu.name for gpu in content.gpu),
            regions=_regions(content.regions or []),
            storage_price=content.storage.price_per_gb_hour if content.storage else None,
            cpu_types=frozenset(gpu.name for gpu in content.gpu if gpu.cpu),
            kubernetes={gpu.name: gpu.kubernetes.gpu for gpu in content.gpu if gpu.kubernetes is not None},
            _by_lower_name=_by_lower_name(spellings),
            _prices={gpu.name: gpu.price_per_hour for gpu in content.gpu if gpu.price_per_hour is not None},
        )

    def extended_by(self, other: Catalogue) -> Catalogue:
        """Return a catalogue with the entries of both. Entries of `other` take precedence."""

        def renamed(name: str) -> str:
            return other._by_lower_name.get(name.lower(), name)

        mine = {lower: renamed(name) for lower, name in self._by_lower_name.items()}
        return Catalogue(
            names=tuple(dict.fromkeys((*map(renamed, self.names), *other.names))),
            regions=other.regions or self.regions,
            storage_price=self.storage_price if other.storage_price is None else other.storage_price,
            cpu_types=frozenset({*map(renamed, self.cpu_types), *other.cpu_types}),
            unreached_regions=self.unreached_regions | other.unreached_regions,
            offered={**self.offered, **other.offered},
            kubernetes={renamed(name): one for name, one in self.kubernetes.items()} | dict(other.kubernetes),
            _by_lower_name=mine | dict(other._by_lower_name),
            _prices={renamed(name): price for name, price in self._prices.items()} | dict(other._prices),
        )

    def within(self, clusters: Clusters) -> Catalogue:
        """Return the catalogue with the regions of the operator's clusters, if there are any, in place of its own.

        Raises InvalidClusters if one of them offers a GPU type that the catalogue does not have.
        """
        if not clusters.regions:
            return self
        offered = {region.name: types for region in clusters.regions if (types := self.offered_in(region)) is not None}
        return replace(self, regions=clusters.names, unreached_regions=clusters.unreached, offered=offered)

    def offered_in(self, region: Region) -> tuple[str, ...] | None:
        """Return the GPU types of a region in the catalogue's spelling; None if it has all. Raises InvalidClusters."""
        if region.gpu_types is None:
            return None
        for name in region.gpu_types:
            if self.canonical(name) is None:
                raise InvalidClusters(f"regions.{region.name}.gpuTypes: the catalogue has no GPU type {name}")
        return tuple(dict.fromkeys(self.canonical(name) or name for name in region.gpu_types))

    def canonical(self, name: str) -> str | None:
        """Return the GPU type in the catalogue's spelling, ignoring case; None if it is unknown."""
        return self._by_lower_name.get(name.lower())

    def canonical_region(self, name: str) -> str | None:
        """Return the region in the catalogue's spelling, ignoring case; None if it is unknown."""
        if not self.regions:
            return name
        return next((region for region in self.regions if region.lower() == name.lower()), None)

    def aliases_of(self, name: str) -> tuple[str, ...]:
        """Return the other names of a GPU type, in lower case."""
        return tuple(
            other for other, canonical in self._by_lower_name.items() if canonical == name and other != name.lower()
        )

    def price_of(self, name: str) -> float | None:
        """Return the price of one GPU of a type, as in `names`, for an hour; None if it is not configured."""
        return self._prices.get(name)

    def cost_per_hour(self, config: EndpointConfig) -> float:
        """Return the price of the desired workers with their storage. If there are several resources, the first counts.

        A GPU type without a price costs nothing. This includes types that were removed from the catalogue.
        """
        gpus = sum(self._price_of(one.gpu_type) * one.gpu_count for one in config.resources[:1])
        storage = (self.storage_price or 0.0) * config.container_volume_in_gb
        return round(config.workers * (gpus + storage), COST_DIGITS)

    def _price_of(self, gpu_type: str) -> float:
        return self._prices.get(self.canonical(gpu_type) or gpu_type, 0.0)


def _by_lower_name(spellings: Iterable[tuple[tuple[str, ...], str]]) -> dict[str, str]:
    """Map each spelling to the canonical name, which is the first of its group."""
    names: dict[str, str] = {}
    for group, where in spellings:
        for spelling in group:
            if _NAME.fullmatch(spelling) is None:
                raise InvalidCatalogue(f"{where}: {spelling!r} is not a name of 1–64 letters, digits, _, . and -")
            if spelling.lower() in names:
                raise InvalidCatalogue(f"{where}: {spelling!r} is given twice")
            names[spelling.lower()] = group[0]
    return names


def _regions(names: list[str]) -> tuple[str, ...]:
    _by_lower_name(((name,), f"regions[{index}]") for index, name in enumerate(names))
    return tuple(names)
