"""The order of what waits: tenants take turns, and the endpoints of a tenant take turns within those. Pure.

    waiting    a: 500 workers of endpoint 1, 1 of endpoint 2;  b: 1 of endpoint 3
    order      1, 3, 2, 1, 1, 1, …

So the number of one tenant's workers does not delay another tenant's, and the same holds for the endpoints of a tenant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Party:
    """The endpoint for which something waits. Both are empty for the work of the engine itself."""

    tenant: str = ""
    endpoint_id: str = ""


ENGINE = Party()


class Turns(Generic[T]):
    """Items that wait. Items of an endpoint keep the order in which they were added."""

    def __init__(self) -> None:
        self._tenants: dict[str, dict[str, dict[T, None]]] = {}
        """Items by endpoint by tenant. The first of each is the next one."""

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, party: Party, item: T) -> None:
        """Add an item. A tenant or endpoint without others gets its turn after those that wait."""
        self._tenants.setdefault(party.tenant, {}).setdefault(party.endpoint_id, {})[item] = None

    def remove(self, party: Party, item: T) -> None:
        """Remove an item, if it waits."""
        items = self._tenants.get(party.tenant, {}).get(party.endpoint_id, {})
        if item in items:
            del items[item]
            self._drop_empty(party)

    def pop(self) -> T:
        """Remove and return the next item. Raises StopIteration if there is none."""
        tenant = next(iter(self._tenants))
        party = Party(tenant, next(iter(self._tenants[tenant])))
        return self._take(party, next(iter(self._tenants[tenant][party.endpoint_id])))

    def items(self) -> Iterator[T]:
        """Return all items, in no order of turns."""
        return (item for endpoints in self._tenants.values() for items in endpoints.values() for item in items)

    def offer(self, take: Callable[[Collection[T]], T | None]) -> None:
        """Offer what waits in turns, until `take` has refused each endpoint once.

        `take` gets the items of an endpoint in their order, and returns the one that it has taken, or None.
        """
        rounds = deque((tenant, deque(endpoints)) for tenant, endpoints in self._tenants.items())
        while rounds:
            tenant, endpoints = rounds.popleft()
            while endpoints:
                party = Party(tenant, endpoints.popleft())
                items = self._tenants.get(tenant, {}).get(party.endpoint_id, {})
                if not items or (item := take(items.keys())) is None:
                    continue
                self._take(party, item)
                if party.endpoint_id in self._tenants.get(tenant, {}):
                    endpoints.append(party.endpoint_id)
                if endpoints:
                    rounds.append((tenant, endpoints))
                break

    def _take(self, party: Party, item: T) -> T:
        """Remove and return an item of an endpoint, whose next turn is after those of the others."""
        endpoints = self._tenants.pop(party.tenant)
        items = endpoints.pop(party.endpoint_id)
        del items[item]
        endpoints[party.endpoint_id] = items
        self._tenants[party.tenant] = endpoints
        self._drop_empty(party)
        return item

    def _drop_empty(self, party: Party) -> None:
        endpoints = self._tenants[party.tenant]
        if not endpoints[party.endpoint_id]:
            del endpoints[party.endpoint_id]
        if not endpoints:
            del self._tenants[party.tenant]
