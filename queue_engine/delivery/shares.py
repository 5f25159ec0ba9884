"""Share the slots of a delivery process among tenants, so that none delays the deliveries of another.

The tenant that has used the least slot time is first (`slot_time`), so slow receivers use up the share of their tenant
and nothing else. Slots are shared so that one is always free for a tenant that has none: a tenant may take another slot
while it holds fewer than `SLOTS_BESIDE` times the free slots but one. With 256 slots

    one busy tenant holds 244, and 12 are free;
    two hold 125 each, and 6 are free;
    ten hold about 25 each, and 2 are free.

Inside a tenant, `Lanes` decides. The history of a destination, such as its breaker, is kept per tenant.

Pure: times are monotonic seconds passed in as `now`, which never decreases. Not thread-safe.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from typing import Generic, TypeVar

from queue_engine.delivery.lanes import Deferred, LaneLimits, Lanes, Trouble, Turn
from queue_engine.delivery.slot_time import Account, FairQueue

Item = TypeVar("Item")

SLOTS_BESIDE = 21
"""Number of slots that a tenant may hold for each free slot but one: 95 % of the slots for a tenant that is alone."""
SHORTENED_AT_ONCE = 128
"""Number of items that the tenant with the most items loses when there are too many, so that it is searched rarely."""
FORGOTTEN_AT_ONCE = 64
"""The same for destinations that are remembered without an item or an attempt."""
MAX_IDLE_TENANTS = 1_000
"""Maximum number of tenants that are remembered without an item or an attempt."""


@dataclass(frozen=True)
class ShareLimits:
    """The parameters of `Shares`."""

    slots: int = 256
    """Maximum number of attempts in flight."""
    items: int = 20_000
    """Maximum number of items of all tenants. Beyond it, items of the tenant with the most are deferred."""
    items_each: int = 5_000
    """Maximum number of items of one tenant."""
    histories: int = 20_000
    """Maximum number of destinations known without an item. Beyond it, the tenant with the most forgets some."""
    lanes: LaneLimits = field(default_factory=LaneLimits)
    """The limits of each tenant, whose slots and items follow from those above."""

    @property
    def slots_each(self) -> int:
        """Maximum number of slots of one tenant."""
        return next((held for held in range(self.slots) if not may_take(held, self.slots - held)), self.slots)

    @property
    def of_tenant(self) -> LaneLimits:
        return replace(self.lanes, slots=self.slots_each, items=self.items_each)


def may_take(held: int, free: int) -> bool:
    """Return True if a tenant that holds `held` slots may take another one while `free` are free."""
    return free > 0 and (held == 0 or held < SLOTS_BESIDE * (free - 1))


@dataclass
class _Share(Generic[Item]):
    """A tenant."""

    tenant: str
    lanes: Lanes[Item]
    account: Account = field(default_factory=Account)
    heard_at: float = 0.0
    known: int = 0
    """Number of destinations that `Shares` has counted."""
    waiting: int = 0
    """Number of items that `Shares` has counted."""
    is_idle: bool = False


class Shares(Generic[Item]):
    """The lanes of all tenants of one delivery process. `next` takes a slot, `finished` frees it.

    Call `take_deferred` after every `add` and `finished`. The items that it returns are no longer held here.
    `network_of` returns the network of a destination, None while it is unknown.
    """

    def __init__(self, limits: ShareLimits, *, network_of: Callable[[str], str | None] = lambda _: None) -> None:
        self._limits = limits
        self._of_tenant = limits.of_tenant
        self._network_of = network_of
        self._shares: dict[str, _Share[Item]] = {}
        self._queue: FairQueue[_Share[Item]] = FairQueue()
        """Tenants that may have an item to send. Tenants without one that may be sent now are left out."""
        self._changes: list[tuple[float, str]] = []
        """Times at which a tenant that is left out may have one, the earliest first."""
        self._changes_at: dict[str, float] = {}
        """The earliest of these times of each tenant."""
        self._changed: dict[str, _Share[Item]] = {}
        """Tenants that may have deferred items."""
        self._idle: OrderedDict[str, _Share[Item]] = OrderedDict()
        """Tenants without an item or an attempt, the longest idle first."""
        self._served = 0.0
        """The charge of the tenant that was served last."""
        self._turns = 0
        self._in_flight = 0
        self._waiting = 0
        self._known = 0

    @property
    def waiting(self) -> int:
        """Number of items that are not in flight."""
        return self._waiting

    @property
    def in_flight(self) -> int:
        """Number of slots in use."""
        return self._in_flight

    @property
    def destinations(self) -> int:
        """Number of known destinations of all tenants."""
        return self._known

    @property
    def tenants(self) -> int:
        """Number of known tenants."""
        return len(self._shares)

    def lanes_of(self, tenant: str) -> Lanes[Item] | None:
        """Return the lanes of a tenant; None if nothing is known of it."""
        share = self._shares.get(tenant)
        return None if share is None else share.lanes

    def has_room(self, tenant: str) -> bool:
        """Return True if more items of the tenant should be read, because half of its room is free.

        While little of the room of all is free, the room of a tenant is an equal part of it. So a tenant with few items
        has room whatever the others have, and is not the one that loses them again.
        """
        share = self._shares.get(tenant)
        room = self._limits.items_each
        if self._waiting > self._limits.items * 3 // 4:
            room = min(room, self._limits.items // max(1, len(self._shares) - len(self._idle)))
        return share is None or share.waiting <= room // 2

    def add(self, tenant: str, destination: str, item: Item) -> None:
        """Append an item. If there is no room, an item is deferred (see `take_deferred`)."""
        share = self._shares.get(tenant)
        if share is None:
            lanes: Lanes[Item] = Lanes(self._of_tenant, tenant=tenant, network_of=self._network_of)
            share = self._shares[tenant] = _Share(tenant, lanes)
        share.lanes.add(destination, item)
        self._count(share)
        self._enter(share)
        self._changed[tenant] = share
        if self._waiting > self._limits.items:
            largest = max(self._shares.values(), key=lambda one: one.waiting)
            largest.lanes.shorten(SHORTENED_AT_ONCE)
            self._count(largest)
            self._changed[largest.tenant] = largest

    def next(self, now: float) -> Turn[Item] | None:
        """Return the item whose turn it is, which now holds a slot; None if no item may be sent."""
        self._enter_changed(now)
        free = self._limits.slots - self._in_flight
        while free > 0:
            share = self._queue.first(lambda one: may_take(one.lanes.in_flight, free))
            if share is None:
                return None
            turn = share.lanes.next(now, free)
            if turn is not None:
                self._begin(share, turn)
                return turn
            self._leave(share)
        return None

    def finished(self, turn: Turn[Item], now: float, error_type: str | None, *, hold_seconds: float = 0.0) -> None:
        """Free the slot of a turn. `error_type` is None if the item was delivered.

        `hold_seconds` is the time for which the receiver wants no further requests of this tenant.
        """
        share = self._shares[turn.tenant]
        share.lanes.finished(turn, now, error_type, hold_seconds=hold_seconds)
        share.account.end(turn.charge, now - turn.started_at, served=self._served)
        share.heard_at = now
        self._in_flight -= 1
        self._count(share)
        self._enter(share)
        self._changed[share.tenant] = share
        self._forget_old_ones(now)

    def take_deferred(self, now: float) -> list[Deferred[Item]]:
        """Remove and return the items that should wait in the store: those of parked destinations and of full lanes."""
        changed, self._changed = self._changed, {}
        deferred: list[Deferred[Item]] = []
        for share in changed.values():
            taken = share.lanes.take_deferred(now)
            if taken:
                deferred += taken
                self._count(share)
        return deferred

    def troubles(self, limit: int) -> list[Trouble]:
        """Return up to `limit` of the destinations with which something is wrong.

        The worst of each tenant come first, so that a tenant with many of them does not hide those of another tenant.
        """
        troubled = [share.lanes.troubles(limit) for share in self._shares.values() if share.lanes.is_troubled]
        in_turn = zip_longest(*troubled)
        found = (one for together in in_turn for one in together if one is not None)
        return list(islice(found, limit))

    def resume(self, tenant: str, destination: str, now: float) -> list[Item]:
        """End the pause of a tenant's destination. Return items that were deferred because of it.

        They are no longer held here, and may be sent now.
        """
        share = self._shares.get(tenant)
        if share is None:
            return []
        items = share.lanes.resume(destination, now)
        self._enter(share)
        self._changed[tenant] = share
        return items

    def drain(self) -> list[Item]:
        """Remove and return all items that are not in flight, for the end of the process."""
        items: list[Item] = []
        for share in self._shares.values():
            items += share.lanes.drain()
            self._count(share)
        return items

    def changes_at(self) -> float | None:
        """Return the time when `next` may return an item although none was added or finished; None if there is none."""
        return self._changes[0][0] if self._changes else None

    # Turns

    def _begin(self, share: _Share[Item], turn: Turn[Item]) -> None:
        self._served = share.account.charged
        self._turns += 1
        share.account.charged += turn.charge
        share.account.latest_turn = self._turns
        self._in_flight += 1
        self._waiting -= 1
        share.waiting -= 1
        if share.waiting:
            self._queue.put(share.tenant, share, share.account)
        else:
            self._queue.remove(share.tenant)

    def _enter(self, share: _Share[Item]) -> None:
        """Let a tenant compete for slots, because something about it has changed."""
        if not share.waiting:
            self._queue.remove(share.tenant)
            return
        if share.tenant not in self._queue:
            if not share.lanes.in_flight:
                share.account.catch_up(self._served)
            self._queue.put(share.tenant, share, share.account)

    def _leave(self, share: _Share[Item]) -> None:
        """Leave out a tenant that has nothing to send now, until something about it changes."""
        self._queue.remove(share.tenant)
        at = share.lanes.changes_at()
        if at is not None and at < self._changes_at.get(share.tenant, float("inf")):
            self._changes_at[share.tenant] = at
            heapq.heappush(self._changes, (at, share.tenant))

    def _enter_changed(self, now: float) -> None:
        while self._changes and self._changes[0][0] <= now:
            at, tenant = heapq.heappop(self._changes)
            if self._changes_at.get(tenant) == at:
                del self._changes_at[tenant]
            if (share := self._shares.get(tenant)) is not None:
                self._enter(share)

    # Book-keeping

    def _count(self, share: _Share[Item]) -> None:
        lanes = share.lanes
        waiting, known = lanes.waiting, lanes.destinations
        self._waiting += waiting - share.waiting
        self._known += known - share.known
        share.waiting, share.known = waiting, known
        if waiting or lanes.in_flight:
            if share.is_idle:
                share.is_idle = False
                del self._idle[share.tenant]
            return
        share.is_idle = True
        # It may be forgotten now. Later a tenant of the same name would take its place in the queue for its own.
        self._queue.remove(share.tenant)
        self._idle[share.tenant] = share
        self._idle.move_to_end(share.tenant)

    def _forget_old_ones(self, now: float) -> None:
        while self._idle:
            longest_idle = next(iter(self._idle.values()))
            heard_of = now - longest_idle.heard_at < self._of_tenant.history_seconds
            if (heard_of and len(self._idle) <= MAX_IDLE_TENANTS) or longest_idle.tenant in self._changed:
                break
            self._forget(longest_idle)
        if self._known > self._limits.histories + self._limits.items:
            largest = max(self._shares.values(), key=lambda one: one.known)
            largest.lanes.forget_idle(FORGOTTEN_AT_ONCE)
            self._count(largest)

    def _forget(self, share: _Share[Item]) -> None:
        self._known -= share.known
        del self._shares[share.tenant], self._idle[share.tenant]
