"""Choose which delivery of a tenant is sent next, so that no receiver delays the deliveries of another receiver.

Deliveries wait in one lane per destination (scheme, host and port). The lane that has used the least slot time is first
(`slot_time`), within limits that depend on the history of the destination:

    FRESH ──success──► TRUSTED          no history yet; a few slots
      │                  │ ▲
      │ timeout, connection error, an attempt in flight for long
      ▼                  ▼ │ consecutive HTTP responses
     DEGRADED ◄────────────┘            a few slots, and few for all degraded destinations together
      │     ▲
      │     │ any HTTP response to the probe, or to an attempt still in flight
      ▼     │
     PARKED ┘                           while the breaker is open: one probe at a time

Slots are shared so that no kind of destination can block another: some are reserved for trusted destinations and some
for fresh ones, and a single trusted destination never holds more slots than it leaves for the others. A destination
with an attempt that has been in flight for long is degraded, so that fresh destinations that hang block other fresh
ones only until then.

Destinations in one network (a /24 or a /48) share limits too, so that 400 ports of one host are not 400 shares. The
network of a name is known after its first lookup.

`shares` has the lanes of all tenants, and gives each of them its slots.

Pure: times are monotonic seconds passed in as `now`, which never decreases. Not thread-safe.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from queue_engine.delivery.breaker import Breaker, BreakerLimits
from queue_engine.delivery.slot_time import Account, FairQueue

Item = TypeVar("Item")

SLOTS_BESIDE = 8
"""Number of slots that a trusted destination may hold for each slot that it leaves to the others."""
RELEASED_AT_ONCE = 8
"""Number of lanes of a full network that may compete for a slot that one of its attempts has freed."""


@dataclass(frozen=True)
class LaneLimits:
    """The parameters of `Lanes`."""

    slots: int = 256
    """Maximum number of attempts in flight."""
    degraded_slots: int = 64
    """Maximum number of slots of all degraded destinations together. The slots beyond `unproven_slots_each` that a
    destination holds when it becomes degraded do not count, so that it does not block other degraded destinations."""
    fresh_slots: int = 64
    """The same for fresh destinations."""
    unproven_slots_each: int = 8
    """Maximum number of slots of one fresh or degraded destination."""
    trusted_slots_each: int = 128
    """Maximum number of slots of one trusted destination."""
    unproven_slots_of_network: int = 32
    """Maximum number of slots of all fresh destinations in one network, and of all degraded ones."""
    slow_after_seconds: float = 2.0
    """Duration of an attempt after which its destination is degraded, until the attempt ends."""
    breaker: BreakerLimits = field(default_factory=BreakerLimits)
    items: int = 20_000
    """Maximum number of items in all lanes. Beyond it, items of the longest lanes are returned by `take_deferred`."""
    unproven_items_each: int = 1000
    """Maximum number of items of a destination that is not trusted."""
    spread_seconds: float = 0.001
    """Additional delay of each further item of a parked destination, so that many items do not become due at the same
    time."""
    history_seconds: float = 900.0
    """Time without an attempt after which the history of a destination is forgotten."""
    histories: int = 10_000
    """Maximum number of destinations remembered without an item or an attempt. The longest idle is forgotten first."""

    @property
    def kept_slots(self) -> int:
        """Number of slots reserved for fresh destinations, and the same number for trusted ones."""
        return self.slots // 32

    @property
    def network_slots(self) -> int:
        """Maximum number of slots of all destinations in one network. It leaves some for trusted ones elsewhere."""
        return max(1, self.slots - self.kept_slots - self.slots // 64)


class Kind(StrEnum):
    """The kinds of destinations, which differ in their limits.

    Strings, because a kind is looked up in dictionaries forty times for each delivery, and the hash of an Enum is a
    function in Python: it took a sixth of the time of this module.
    """

    TRUSTED = "trusted"
    FRESH = "fresh"
    DEGRADED = "degraded"
    PARKED = "parked"


TROUBLED = frozenset({Kind.DEGRADED, Kind.PARKED})
"""The kinds of destinations with which something is wrong."""
POSTPONED_EACH = 32
"""Number of deferred items of a parked destination that are remembered, so that they can be sent early."""
MAX_LOOKED_AT = 2000
"""Number of a tenant's destinations of which the worst are chosen: those with which something is wrong for longest."""
MAX_POSTPONED = 256
"""The same for all destinations of a tenant. Items beyond it wait until they are due."""


@dataclass(frozen=True)
class Trouble:
    """A destination with which something is wrong. Times are monotonic seconds."""

    tenant: str
    destination: str
    kind: Kind
    """DEGRADED or PARKED."""
    since: float
    waiting: int
    """Number of items here, and of those that were deferred since the pause began. Items that wait in the store for
    their own next attempt are not counted, because another process may have taken them."""
    in_flight: int
    errors: int
    """Number of consecutive timeouts and connection errors, or of consecutive 410 responses."""
    next_probe_at: float | None
    """None while the destination is not parked, or a probe is in flight."""
    error_type: str | None
    """The error type of the latest attempt that has failed."""
    failed_at: float | None


class Turn(NamedTuple, Generic[Item]):
    """An item that may be sent now. It holds a slot until `finished` is called with it."""

    number: int
    destination: str
    item: Item
    started_at: float
    kind: Kind
    """The kind of the destination when the turn began; PARKED for a probe."""
    charge: float
    """Slot time that the destination was charged with in advance."""
    tenant: str = ""


@dataclass(frozen=True)
class Deferred(Generic[Item]):
    """An item that should wait in the store. No attempt was made for it."""

    destination: str
    item: Item
    delay_seconds: float = 0.0
    """Time until the destination is probed. 0 if the item waits until there is room for it here."""
    parked: bool = False
    """True if the item waits because its destination is parked."""
    tenant: str = ""


@dataclass
class _Network(Generic[Item]):
    """The destinations of one network."""

    name: str
    lanes: int = 0
    in_flight: int = 0
    held: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    """Number of slots by the kind of the lane, counted as for `Lanes._held`."""
    blocked: dict[str, _Lane[Item]] = field(default_factory=dict)
    """Lanes that wait until another attempt in this network ends."""


@dataclass
class _Lane(Generic[Item]):
    destination: str
    breaker: Breaker
    items: deque[Item] = field(default_factory=deque)
    in_flight: int = 0
    slow: int = 0
    """Number of attempts in flight that have exceeded `slow_after_seconds`."""
    deferrals: int = 0
    """Number of items deferred since the latest response or the beginning of the pause."""
    heard_at: float = 0.0
    troubled_since: float = 0.0
    error_type: str | None = None
    failed_at: float | None = None
    postponed: deque[Item] = field(default_factory=lambda: deque(maxlen=POSTPONED_EACH))
    """The items deferred last while the destination is parked."""
    account: Account = field(default_factory=Account)
    network: _Network[Item] | None = None
    # The state in the indexes, which `_file` brings up to date
    filed_kind: Kind = Kind.FRESH
    filed_held: int = 0
    filed_in_flight: int = 0
    filed_length: int = 0
    is_filed_idle: bool = False
    queued_as: Kind | None = None
    """The queue in which the lane waits for its turn, unless its network is full."""
    queued_at: tuple[float, int] = (0.0, 0)

    @property
    def kind(self) -> Kind:
        if self.breaker.is_open:
            return Kind.PARKED
        if self.slow or self.breaker.is_recovering:
            return Kind.DEGRADED
        return Kind.TRUSTED if self.breaker.has_succeeded else Kind.FRESH

    @property
    def idle(self) -> bool:
        return not self.items and not self.in_flight


def _no_network(_destination: str) -> str | None:
    return None


class Lanes(Generic[Item]):
    """The lanes of one tenant in one delivery process. `next` takes a slot, `finished` frees it.

    Call `take_deferred` after every `add` and `finished`. The items that it returns are no longer held here.
    `network_of` returns the network of a destination, None while it is unknown.
    """

    def __init__(
        self,
        limits: LaneLimits | None = None,
        *,
        tenant: str = "",
        network_of: Callable[[str], str | None] = _no_network,
    ) -> None:
        self._limits = limits or LaneLimits()
        self._tenant = tenant
        self._network_of = network_of
        self._lanes: dict[str, _Lane[Item]] = {}
        self._networks: dict[str, _Network[Item]] = {}
        self._queues: dict[Kind, FairQueue[_Lane[Item]]] = {kind: FairQueue() for kind in Kind}
        """Lanes that have items and may hold another slot."""
        self._served: dict[Kind, float] = dict.fromkeys(Kind, 0.0)
        """The charge of the lane that was served last, by its kind."""
        self._parked: dict[str, _Lane[Item]] = {}
        """Parked lanes that have items."""
        self._ready: dict[Kind, Mapping[str, object]] = {kind: self._queues[kind].members for kind in Kind}
        self._ready[Kind.PARKED] = self._parked
        """The lanes that may be chosen, by kind and destination."""
        self._held: dict[Kind, int] = dict.fromkeys(Kind, 0)
        """Number of slots held, by the kind that the lane has now."""
        self._began: dict[Kind, int] = dict.fromkeys(Kind, 0)
        """Number of attempts in flight, by the kind that the lane had when the attempt began."""
        self._young: OrderedDict[int, Turn[Item]] = OrderedDict()
        """Attempts in flight that have not exceeded `slow_after_seconds`, the oldest first."""
        self._slow: set[int] = set()
        self._idle: OrderedDict[str, _Lane[Item]] = OrderedDict()
        """Destinations without an item or an attempt, the longest idle first."""
        self._by_length: defaultdict[int, OrderedDict[str, _Lane[Item]]] = defaultdict(OrderedDict)
        """Lanes by their number of items."""
        self._longest = 0
        """Upper bound of the number of items in a lane."""
        self._overflow: list[Deferred[Item]] = []
        self._troubled: dict[str, _Lane[Item]] = {}
        self._remembered = 0
        """Number of items that lanes have as `postponed`."""
        self._kinds_in_turn = deque(Kind)
        self._turns = 0
        self._waiting = 0
        self._now = float("-inf")
        """The time of the latest call of `next`."""

    @property
    def waiting(self) -> int:
        """Number of items that are not in flight."""
        return self._waiting

    @property
    def in_flight(self) -> int:
        """Number of slots in use."""
        return len(self._young) + len(self._slow)

    @property
    def destinations(self) -> int:
        """Number of known destinations. It is bounded by the number of items, the slots and `histories`."""
        return len(self._lanes)

    def kind_of(self, destination: str) -> Kind:
        """Return the kind that a destination has now."""
        lane = self._lanes.get(destination)
        return Kind.FRESH if lane is None else lane.kind

    @property
    def is_troubled(self) -> bool:
        """True if something is wrong with a destination."""
        return bool(self._troubled)

    def troubles(self, limit: int) -> list[Trouble]:
        """Return up to `limit` of the destinations with which something is wrong, the worst first."""
        looked_at = islice(self._troubled.values(), MAX_LOOKED_AT)
        return heapq.nsmallest(limit, map(self._trouble, looked_at), key=_badness)

    def resume(self, destination: str, now: float) -> list[Item]:
        """End the pause of a destination. Return items that were deferred because of it, which may be sent now."""
        lane = self._lanes.get(destination)
        if lane is None or not lane.breaker.is_open:
            return []
        lane.breaker.end_pause(now)
        postponed = list(lane.postponed)
        self._forget_postponed(lane)
        return postponed

    def add(self, destination: str, item: Item) -> None:
        """Append an item to its destination's lane. If there is no room, an item is deferred (see `take_deferred`)."""
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = _Lane(destination, Breaker(self._limits.breaker))
            self._find_network(lane)
        lane.items.append(item)
        self._waiting += 1
        self._file(lane)
        if len(lane.items) > self._limits.unproven_items_each and lane.kind is not Kind.TRUSTED:
            self._shorten(lane)
        elif self._waiting > self._limits.items:
            self._shorten(self._longest_lane())

    def next(self, now: float, allowed: int | None = None) -> Turn[Item] | None:
        """Return the item whose turn it is, which now holds a slot; None if no item may be sent.

        `allowed` is the number of slots that the tenant may still take, if that is less than its limits.
        """
        self._now = now
        self._note_slow_ones(now)
        if not self._waiting or (allowed is not None and allowed <= 0):
            return None
        kinds = self._kinds_in_turn
        for _ in range(len(kinds)):
            kind = kinds[0]
            kinds.rotate(-1)
            # Most often there are lanes of one kind only, and the limits of the others need no look.
            if self._ready[kind]:
                lane = self._admissible(kind, now)
                if lane is not None:
                    return self._start(lane, now)
        return None

    def finished(self, turn: Turn[Item], now: float, error_type: str | None, *, hold_seconds: float = 0.0) -> None:
        """Free the slot of a turn. `error_type` is None if the item was delivered.

        `hold_seconds` is the time for which the receiver wants no further requests.
        """
        lane = self._lanes[turn.destination]
        lane.in_flight -= 1
        if self._young.pop(turn.number, None) is None:
            self._slow.remove(turn.number)
            lane.slow -= 1
        self._began[turn.kind] -= 1
        is_probe = turn.kind is Kind.PARKED
        if lane.breaker.record(error_type, now, is_probe=is_probe, hold_seconds=hold_seconds):
            lane.deferrals = 0
        if error_type is not None:
            lane.error_type, lane.failed_at = error_type, now
        if lane.postponed and not lane.breaker.is_open:
            self._forget_postponed(lane)
        lane.account.end(turn.charge, now - turn.started_at, served=self._served[turn.kind])
        lane.heard_at = now
        if lane.network is None:
            self._find_network(lane)
        self._file(lane)
        self._forget_old_ones(now)

    def take_deferred(self, now: float) -> list[Deferred[Item]]:
        """Remove and return the items that should wait in the store: those of parked destinations and of full lanes."""
        deferred, self._overflow = self._overflow, []
        for lane in list(self._parked.values()):
            probe_at = lane.breaker.next_probe_at
            if probe_at is not None and probe_at > now:
                deferred.extend(self._postponed(lane, item, probe_at - now) for item in self._emptied(lane))
        self._forget_old_ones(now)
        return deferred

    def shorten(self, count: int) -> None:
        """Defer `count` items of the longest lanes, or all if there are fewer, to make room for other tenants."""
        for _ in range(min(count, self._waiting)):
            self._shorten(self._longest_lane())

    def drain(self) -> list[Item]:
        """Remove and return all items that are not in flight, for the end of the process."""
        items = [deferred.item for deferred in self._overflow]
        self._overflow = []
        for lane in list(self._lanes.values()):
            items.extend(self._emptied(lane))
        return items

    def changes_at(self) -> float | None:
        """Return the time when `next` may return an item although none was added or finished; None if there is none."""
        if not self._waiting:
            return None
        probes = (lane.breaker.next_probe_at for lane in self._parked.values())
        times = [at for at in probes if at is not None and at > self._now]
        if self._young:
            oldest = next(iter(self._young.values()))
            times.append(oldest.started_at + self._limits.slow_after_seconds)
        return min(times, default=None)

    def forget_idle(self, count: int) -> None:
        """Forget the history of the `count` destinations that have been idle for the longest time."""
        for lane in list(self._idle.values())[:count]:
            self._forget(lane)

    # Choosing

    def _admissible(self, kind: Kind, now: float) -> _Lane[Item] | None:
        """Return the lane of this kind whose turn it is. Lanes that have to wait keep their places."""
        spare = self._spare(kind)
        if spare <= 0:
            return None
        if kind is Kind.PARKED:
            return next((lane for lane in self._parked.values() if lane.breaker.may_probe(now)), None)
        return self._first(kind, spare)

    def _first(self, kind: Kind, spare: int) -> _Lane[Item] | None:
        queue = self._queues[kind]
        each = self._slots_each(kind)
        most = min(each, SLOTS_BESIDE * spare) if kind is Kind.TRUSTED else each
        while True:
            lane = queue.first(lambda one: one.in_flight < most)
            if lane is None or not self._is_network_full(lane, kind):
                return lane
            self._leave_queue(lane)
            lane.network.blocked[lane.destination] = lane  # type: ignore[union-attr]

    def _spare(self, kind: Kind) -> int:
        """Return the number of slots that lanes of this kind may still take."""
        limits, held = self._limits, self._held
        free = limits.slots - self.in_flight
        kept_for_trusted = max(0, limits.kept_slots - self._began[Kind.TRUSTED])
        kept_for_fresh = max(0, limits.kept_slots - self._began[Kind.FRESH])
        match kind:
            case Kind.TRUSTED:
                return free - kept_for_fresh
            case Kind.FRESH:
                return min(free - kept_for_trusted, limits.fresh_slots - held[Kind.FRESH])
            case Kind.DEGRADED | Kind.PARKED:
                degraded = held[Kind.DEGRADED] + held[Kind.PARKED]
                return min(free - kept_for_trusted - kept_for_fresh, limits.degraded_slots - degraded)

    def _slots_each(self, kind: Kind) -> int:
        return self._limits.trusted_slots_each if kind is Kind.TRUSTED else self._limits.unproven_slots_each

    def _is_network_full(self, lane: _Lane[Item], kind: Kind) -> bool:
        network = lane.network
        if network is None:
            return False
        if kind is Kind.TRUSTED:
            return network.in_flight >= self._limits.network_slots
        return network.held[kind] >= self._limits.unproven_slots_of_network

    def _start(self, lane: _Lane[Item], now: float) -> Turn[Item]:
        self._turns += 1
        kind = lane.filed_kind
        self._served[kind] = lane.account.charged
        charge = lane.account.begin(self._turns)
        turn = Turn(self._turns, lane.destination, lane.items.popleft(), now, kind, charge, self._tenant)
        self._waiting -= 1
        self._young[turn.number] = turn
        self._began[kind] += 1
        lane.in_flight += 1
        if kind is Kind.PARKED:
            lane.breaker.start_probe()
        self._file(lane)
        return turn

    # Holding items

    def _shorten(self, lane: _Lane[Item]) -> None:
        """Defer the newest item of a lane."""
        item = lane.items.pop()
        self._waiting -= 1
        self._overflow.append(Deferred(lane.destination, item, tenant=self._tenant))
        self._file(lane)

    def _longest_lane(self) -> _Lane[Item]:
        while not self._by_length[self._longest]:
            del self._by_length[self._longest]
            self._longest -= 1
        return next(reversed(self._by_length[self._longest].values()))

    def _postponed(self, lane: _Lane[Item], item: Item, delay_seconds: float) -> Deferred[Item]:
        spread = lane.deferrals * self._limits.spread_seconds
        lane.deferrals += 1
        if len(lane.postponed) == POSTPONED_EACH:
            lane.postponed.append(item)
        elif self._remembered < MAX_POSTPONED:
            lane.postponed.append(item)
            self._remembered += 1
        return Deferred(lane.destination, item, delay_seconds + spread, parked=True, tenant=self._tenant)

    # Slow attempts

    def _note_slow_ones(self, now: float) -> None:
        while self._young:
            oldest = next(iter(self._young.values()))
            if now - oldest.started_at < self._limits.slow_after_seconds:
                return
            del self._young[oldest.number]
            self._slow.add(oldest.number)
            lane = self._lanes[oldest.destination]
            lane.slow += 1
            self._file(lane)

    # Networks

    def _find_network(self, lane: _Lane[Item]) -> None:
        name = self._network_of(lane.destination)
        if name is None:
            return
        lane.network = self._networks.get(name)
        if lane.network is None:
            lane.network = self._networks[name] = _Network(name)
        lane.network.lanes += 1
        lane.network.in_flight += lane.filed_in_flight
        lane.network.held[lane.filed_kind] += lane.filed_held

    def _release(self, network: _Network[Item]) -> None:
        """Let some lanes compete for the slot that another one has freed."""
        for lane in list(network.blocked.values())[:RELEASED_AT_ONCE]:
            del network.blocked[lane.destination]
            self._file(lane)

    # Book-keeping

    def _file(self, lane: _Lane[Item]) -> None:
        """Update queues, counts and indexes after a lane has changed; forget one with neither items nor history.

        Called three times for each delivery, so it changes only what differs.
        """
        kind, before = lane.kind, lane.filed_kind
        if kind is not before:
            self._file_trouble(lane, kind)
        has_room = (kind is not before or lane.in_flight != lane.filed_in_flight) and self._file_slots(lane, kind)
        if len(lane.items) != lane.filed_length:
            self._file_by_length(lane)
        if kind is Kind.PARKED and lane.items:
            self._parked[lane.destination] = lane
        elif before is Kind.PARKED:
            self._parked.pop(lane.destination, None)
        self._queue(lane, kind)
        if has_room and lane.network is not None and lane.network.blocked:
            self._release(lane.network)
        if not lane.idle:
            if lane.is_filed_idle:
                lane.is_filed_idle = False
                del self._idle[lane.destination]
            return
        self._idle[lane.destination] = lane
        self._idle.move_to_end(lane.destination)
        lane.is_filed_idle = True
        if not lane.breaker.has_history:
            self._forget(lane)

    def _file_trouble(self, lane: _Lane[Item], kind: Kind) -> None:
        if kind not in TROUBLED:
            self._troubled.pop(lane.destination, None)
        elif lane.destination not in self._troubled:
            lane.troubled_since = max(self._now, lane.heard_at)
            self._troubled[lane.destination] = lane

    def _trouble(self, lane: _Lane[Item]) -> Trouble:
        return Trouble(
            self._tenant,
            lane.destination,
            lane.kind,
            since=lane.troubled_since,
            waiting=len(lane.items) + lane.deferrals,
            in_flight=lane.in_flight,
            errors=lane.breaker.errors,
            next_probe_at=lane.breaker.next_probe_at,
            error_type=lane.error_type,
            failed_at=lane.failed_at,
        )

    def _forget_postponed(self, lane: _Lane[Item]) -> None:
        self._remembered -= len(lane.postponed)
        lane.postponed.clear()

    def _file_slots(self, lane: _Lane[Item], kind: Kind) -> bool:
        """Update the counts of slots. Return True if another lane in the lane's network may have room now."""
        before, held_before, in_flight_before = lane.filed_kind, lane.filed_held, lane.filed_in_flight
        held = lane.in_flight if kind is Kind.TRUSTED else min(lane.in_flight, self._limits.unproven_slots_each)
        self._held[before] -= held_before
        self._held[kind] += held
        lane.filed_kind, lane.filed_held, lane.filed_in_flight = kind, held, lane.in_flight
        network = lane.network
        if network is None:
            return False
        network.held[before] -= held_before
        network.held[kind] += held
        network.in_flight += lane.in_flight - in_flight_before
        return held_before > (held if before is kind else 0) or in_flight_before > lane.in_flight

    def _queue(self, lane: _Lane[Item], kind: Kind) -> None:
        """Put a lane into the queue of its kind, if it may take a slot, and into no other."""
        is_ready = bool(lane.items) and kind is not Kind.PARKED and lane.in_flight < self._slots_each(kind)
        if lane.network is not None and lane.network.blocked:
            if is_ready and lane.destination in lane.network.blocked and self._is_network_full(lane, kind):
                return
            lane.network.blocked.pop(lane.destination, None)
        if lane.queued_as is not None and not (is_ready and lane.queued_as is kind):
            self._leave_queue(lane)
        if not is_ready:
            return
        account = lane.account
        if lane.queued_as is None:
            account.catch_up(self._served[kind])
        elif lane.queued_at == (account.charged, account.latest_turn):
            return
        lane.queued_as, lane.queued_at = kind, (account.charged, account.latest_turn)
        self._queues[kind].put(lane.destination, lane, account)

    def _leave_queue(self, lane: _Lane[Item]) -> None:
        if lane.queued_as is not None:
            self._queues[lane.queued_as].remove(lane.destination)
            lane.queued_as = None

    def _file_by_length(self, lane: _Lane[Item]) -> None:
        length = len(lane.items)
        self._by_length[lane.filed_length].pop(lane.destination, None)
        lane.filed_length = length
        if length:
            self._by_length[length][lane.destination] = lane
            self._longest = max(self._longest, length)

    def _emptied(self, lane: _Lane[Item]) -> Iterator[Item]:
        items, lane.items = lane.items, deque()
        self._waiting -= len(items)
        self._file(lane)
        return iter(items)

    def _forget_old_ones(self, now: float) -> None:
        while self._idle:
            longest_idle = next(iter(self._idle.values()))
            heard_of = now - longest_idle.heard_at < self._limits.history_seconds
            if heard_of and len(self._idle) <= self._limits.histories:
                return
            self._forget(longest_idle)

    def _forget(self, lane: _Lane[Item]) -> None:
        del self._lanes[lane.destination]
        self._idle.pop(lane.destination, None)
        self._troubled.pop(lane.destination, None)
        self._forget_postponed(lane)
        if lane.network is not None:
            lane.network.lanes -= 1
            if not lane.network.lanes:
                del self._networks[lane.network.name]


def _badness(trouble: Trouble) -> tuple[bool, int, str]:
    """Return the sort key of a trouble, which is lowest for the worst one."""
    return (trouble.kind is not Kind.PARKED, -trouble.waiting, trouble.destination)
