"""Choose where a pod runs: the cluster of a region, and the nodes of a GPU type. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from queue_engine.backends.placement import Later, Placement, Refusal, Shortage, place
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.clusters import NOT_OFFERED, UNREACHED, Clusters, Region
from queue_engine.domain.endpoints import Resource, ServiceMode
from queue_engine.domain.field_errors import listing
from queue_engine.domain.kubernetes import KubernetesGpu

MAX_WAITING = 20
"""Number of pods that wait for a node of a cluster from which on starts are slowed down, because each further one costs
the scheduler work in every round, and an autoscaler needs a few only to see that nodes are missing."""
SLOWED_SECONDS = 1.0
"""Minimum time between two starts in such a cluster."""
MAX_LISTED_CHARACTERS = 300
"""Length limit of a list of names in a reason."""
AWAY = "waits for the cluster of {region}, which {outage}"
"""The reason of a worker whose cluster is away, or has not listed its pods since the controller leads."""
DEFAULT_CONTEXT = "default"
"""The name of the cluster without a context."""


@dataclass(frozen=True)
class ClusterPlace:
    """A cluster, and the namespace of the workers in it."""

    context: str | None
    """Context of the kubeconfig; None means its current one, or the cluster in which the controller runs."""
    namespace: str

    @property
    def name(self) -> str:
        """The cluster's name in metrics and logs."""
        return f"{self.context or DEFAULT_CONTEXT}/{self.namespace}"


@dataclass(frozen=True)
class Load:
    """The pods of this installation in a cluster."""

    pods: int = 0
    waiting: int = 0
    """Number of pods that wait for a node."""
    last_start: float = 0.0
    """Monotonic time at which the latest pod was created."""
    outage: str | None = None
    """The outage of the cluster as a predicate, such as `does not respond`; None while it serves."""


@dataclass(frozen=True)
class Place:
    """The choice for a pod."""

    resource: Resource
    cluster: str
    """The name of the cluster."""
    region: Region
    gpu: KubernetesGpu | None = None
    """The nodes of the GPU type; None for a type without GPUs."""
    waits_for: str | None = None
    """The reason why the worker has to wait for a node; None if there is no reason to expect that."""

    @property
    def gpu_count(self) -> int:
        """Number of the pod's GPUs."""
        return 0 if self.gpu is None else self.resource.gpu_count

    @property
    def cards(self) -> int:
        """The factor of the minimums for each card. A worker without GPUs counts as one with one card."""
        return max(1, self.gpu_count)


class Sites:
    """The regions and GPU types of an installation.

    `default` is the cluster where the operator names no regions, and has the namespace of regions without one. Raises
    InvalidClusters if a region offers a GPU type that the catalogue does not have.
    """

    def __init__(self, clusters: Clusters, catalogue: Catalogue, default: ClusterPlace) -> None:
        self._clusters = clusters
        self._catalogue = catalogue
        self._default = default
        self._offered = {region.name: catalogue.offered_in(region) for region in clusters.regions}

    @property
    def clusters(self) -> dict[str, ClusterPlace]:
        """All clusters, by their names."""
        places = [self._place_of(region) for region in self._clusters.regions] or [self._default]
        return {one.name: one for one in places}

    def place(
        self, resources: Sequence[Resource], recent: Mapping[Resource, Shortage], load: Mapping[str, Load], now: float
    ) -> Place | Later | Refusal:
        """Choose the first resource that is configured, takes workers and had no shortage lately.

        `recent` has the latest shortages of resources, `load` the pods of each cluster, `now` the monotonic time.
        """
        full = {one: reason for one in resources if (reason := self._full(one, load, now)) is not None}
        chosen = place(resources, recent, self._missing(resources), now, full)
        return self._placed(chosen) if isinstance(chosen, Placement) else chosen

    def at(self, resource: Resource) -> str | None:
        """Return the name of the cluster of a resource; None if its region is not configured any longer."""
        region = self._clusters.region(resource.region)
        return None if region is None else self._place_of(region).name

    def refusal(self, resources: Sequence[Resource], mode: ServiceMode) -> str | None:
        """Return the reason why no cluster can run a worker of this mode with any of the resources; else None."""
        missing = self._missing(resources)
        if not resources or len(missing) == len(set(resources)):
            chosen = place(resources, {}, missing, 0.0)
            return chosen.reason if isinstance(chosen, Refusal) else None
        if mode is not ServiceMode.ALB:
            return None
        return next(iter(self._unreached(resources)), None)

    def _missing(self, resources: Sequence[Resource]) -> dict[Resource, str]:
        found: dict[Resource, str] = {}
        for one in resources:
            region, gpu_type = self._clusters.region(one.region), self._catalogue.canonical(one.gpu_type)
            offered = None if region is None else self._offered.get(region.name)
            if region is None:
                found[one] = f"resources: no cluster is configured for the region {one.region}: there are {self._names}"
            elif gpu_type is None:
                found[one] = f"resources: the catalogue has no GPU type {one.gpu_type}"
            elif offered is not None and gpu_type not in offered:
                names = listing(offered, ", ", MAX_LISTED_CHARACTERS)
                reason = NOT_OFFERED.format(region=one.region, gpu_type=one.gpu_type, offered=names)
                found[one] = f"resources: {reason}"
        return found

    def _unreached(self, resources: Sequence[Resource]) -> Iterator[str]:
        for one in resources:
            if (region := self._clusters.region(one.region)) is not None and not region.is_reached:
                yield f"resources: {UNREACHED.format(region=one.region)}"

    @property
    def _names(self) -> str:
        return listing(self._clusters.names, ", ", MAX_LISTED_CHARACTERS)

    def _full(self, resource: Resource, load: Mapping[str, Load], now: float) -> str | None:
        """Return the reason why the cluster of a resource takes no worker now; None if it does."""
        region = self._clusters.region(resource.region)
        if region is None:
            return None
        name = self._place_of(region).name
        found = load.get(name, Load())
        if found.outage is not None:
            return AWAY.format(region=region.name, outage=found.outage)
        if region.max_workers is not None and found.pods >= region.max_workers:
            return f"waits for its turn: the cluster of {region.name} has its limit of {region.max_workers} workers"
        if found.waiting >= MAX_WAITING and now - found.last_start < SLOWED_SECONDS:
            return f"waits for its turn: {found.waiting} workers wait for a node in the cluster of {region.name}"
        return None

    def _placed(self, chosen: Placement) -> Place:
        resource = chosen.resource
        region = self._clusters.region(resource.region)
        if region is None:
            raise ValueError("a resource without a cluster was placed")
        return Place(resource, self._place_of(region).name, region, self._gpu(resource), chosen.waits_for)

    def _place_of(self, region: Region) -> ClusterPlace:
        if not self._clusters.regions:
            return self._default
        return ClusterPlace(region.context, region.namespace or self._default.namespace)

    def _gpu(self, resource: Resource) -> KubernetesGpu | None:
        name = self._catalogue.canonical(resource.gpu_type)
        if name is None or name in self._catalogue.cpu_types:
            return None
        return self._catalogue.kubernetes.get(name, KubernetesGpu())
