"""Choose the resource with which a worker starts. Pure.

The order of an endpoint's `resources` is the priority of its owner. A resource on which workers could not be placed
lately is skipped, so that the next one is used:

    resources    us-east-1/A100, us-west-1/A100
    recent       us-east-1/A100: no free GPU, 12 s ago
    placement    us-west-1/A100
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from queue_engine.aio import Backoff
from queue_engine.domain.endpoints import Resource

SKIPPED = Backoff(60.0, 600.0)
"""Time for which a resource is skipped after a shortage. It doubles with each further one."""


@dataclass(frozen=True)
class Shortage:
    """The latest failure to place a worker on a resource."""

    reason: str
    """In words, such as `waits for 2 × NVIDIA L4: 1 of 4 free`."""
    failures: int
    """Number of consecutive failures."""
    at: float
    """Monotonic time in seconds."""


@dataclass(frozen=True)
class Placement:
    """The choice of a resource."""

    resource: Resource
    waits_for: str | None = None
    """The reason why a worker has to wait for it; None if there is no reason to expect that."""


@dataclass(frozen=True)
class Later:
    """No resource of the list takes a worker now, so its start has to wait and to be decided again."""

    reason: str


@dataclass(frozen=True)
class Refusal:
    """The platform offers no resource of the list."""

    reason: str


def place(
    resources: Sequence[Resource],
    recent: Mapping[Resource, Shortage],
    missing: Mapping[Resource, str],
    now: float,
    full: Mapping[Resource, str] = MappingProxyType({}),
) -> Placement | Later | Refusal:
    """Choose the first resource that exists, takes workers and had no shortage lately.

    `missing` has the reasons why the platform does not offer a resource, for example because its region is not
    configured, and `full` those why it takes no further worker now, such as the operator's limit. If all others had a
    shortage lately, the first of them is chosen, and the worker waits for it.
    """
    offered = [one for one in resources if one not in missing]
    if not offered:
        return Refusal("; ".join(dict.fromkeys(missing[one] for one in resources)) or "resources: must not be empty")
    taking = [one for one in offered if one not in full]
    if not taking:
        return Later(full[offered[0]])
    free = next((one for one in taking if not _is_short(recent.get(one), now)), None)
    return Placement(taking[0], recent[taking[0]].reason) if free is None else Placement(free)


def _is_short(shortage: Shortage | None, now: float) -> bool:
    return shortage is not None and now - shortage.at < SKIPPED.delay_after(shortage.failures, luck=1.0)
