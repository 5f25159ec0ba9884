"""Shelves: deliveries in the outbox that a process has read, and that no process has room for.

A process reads the whole outbox without delay, so that the deliveries of one tenant hide none of another tenant. It
keeps a limited number of each tenant's in memory, and puts the rest onto shelves of the tenant: consumers of the
outbox's group that no process has. Any process that has room for the tenant takes some from there.

For example, 10,000 results of tenant A are due, and one of tenant B comes after them. The process reads all of them,
keeps 5,000 of A's, puts 5,000 onto shelves with a few commands, and sends B's at once. As A's are sent, the process
takes the others back.

A tenant has a few shelves, chosen by the destination, so that those of one destination rarely hide those of another.
The deliveries on a shelf keep their order.

Pure: times are monotonic seconds passed in. Not thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from queue_engine.store.constants import SHELF
from queue_engine.store.keys import Partition

SHELVES_OF_TENANT = 32
"""Number of shelves of a tenant in a partition. Each takes about 200 bytes of the store while it has deliveries."""
FIRST_REST_SECONDS = 0.1
MAX_REST_SECONDS = 2.0
"""Pause before more is taken from a shelf whose deliveries were put back, doubling up to the maximum."""
START = "0"


@dataclass(frozen=True)
class Shelf:
    """A shelf of a tenant in one partition."""

    partition: Partition
    name: str

    @property
    def tenant(self) -> str:
        return self.name.removeprefix(SHELF).rpartition(":")[0]


def shelf_of(partition: Partition, tenant: str, destination: str) -> Shelf:
    """Return the shelf for deliveries of a tenant to a destination."""
    return Shelf(partition, f"{SHELF}{tenant}:{crc32(destination.encode()) % SHELVES_OF_TENANT}")


@dataclass
class _Known:
    after: str = START
    """The id of the entry that was taken last, so that entries that are put back do not hide the next ones."""
    rest_seconds: float = 0.0
    ready_at: float = float("-inf")
    was_returned: bool = False
    """True if deliveries taken from the shelf were put back since."""


@dataclass
class _Tenant:
    shelves: OrderedDict[Shelf, _Known] = field(default_factory=OrderedDict)
    ready_at: float = float("-inf")
    """No shelf is ready before."""


class Shelves:
    """The shelves that have deliveries, as far as this process knows, and the order in which it takes some."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(one.shelves) for one in self._tenants.values())

    @property
    def tenants(self) -> int:
        """Number of tenants with a shelf."""
        return len(self._tenants)

    @property
    def ready_at(self) -> float | None:
        """The time before which no shelf is ready; None without a shelf."""
        return min((one.ready_at for one in self._tenants.values()), default=None)

    def note(self, shelf: Shelf, *, was_returned: bool = False) -> None:
        """Note that a shelf has deliveries. `was_returned` if some of them had been taken from there."""
        tenant = self._tenants.setdefault(shelf.tenant, _Tenant())
        if shelf not in tenant.shelves:
            tenant.ready_at = float("-inf")
        known = tenant.shelves.setdefault(shelf, _Known())
        known.was_returned = known.was_returned or was_returned

    def next(self, now: float, has_room: Callable[[str], bool]) -> tuple[Shelf, str] | None:
        """Return a shelf of a tenant that has room, and the id of the entry after which to take; None without one.

        Tenants, and the shelves of each, are chosen in turn.
        """
        for name, tenant in self._tenants.items():
            if tenant.ready_at > now or not has_room(name):
                continue
            shelf = next((one for one, known in tenant.shelves.items() if known.ready_at <= now), None)
            if shelf is not None:
                tenant.shelves.move_to_end(shelf)
                self._tenants.move_to_end(name)
                return shelf, tenant.shelves[shelf].after
            tenant.ready_at = min(known.ready_at for known in tenant.shelves.values())
        return None

    def took(self, shelf: Shelf, now: float, *, last: str | None, is_empty: bool) -> None:
        """Note that deliveries were taken, up to the entry `last`; None when there were none after it."""
        tenant = self._tenants.get(shelf.tenant)
        if tenant is None or shelf not in tenant.shelves:
            return
        if is_empty:
            del tenant.shelves[shelf]
            if not tenant.shelves:
                del self._tenants[shelf.tenant]
            return
        known = tenant.shelves[shelf]
        known.after = last or START
        doubled = min(MAX_REST_SECONDS, max(FIRST_REST_SECONDS, 2 * known.rest_seconds))
        known.rest_seconds = doubled if known.was_returned else 0.0
        known.was_returned = False
        known.ready_at = now + known.rest_seconds
