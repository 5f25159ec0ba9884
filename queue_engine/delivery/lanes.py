"""Choose the delivery that is sent next, so that a slow or dead receiver does not delay those of other receivers.

Deliveries wait in one lane per destination (scheme, host and port). Lanes are served in turn, one item per turn, within
limits that depend on the history of the destination:

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

Pure: times are monotonic seconds passed in as `now`, which never decreases. Not thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from queue_engine.delivery.breaker import Breaker, BreakerLimits

Item = TypeVar("Item")


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
    slow_after_seconds: float = 2.0
    """Duration of an attempt after which its destination is degraded, until the attempt ends."""
    breaker: BreakerLimits = field(default_factory=BreakerLimits)
    items: int = 20_000
    """Maximum number of items in all lanes. Beyond it, items of the longest lanes are deferred."""
    unproven_items_each: int = 1000
    """Maximum number of items of a destination that is not trusted."""
    full_lane_seconds: float = 1.0
    """Delay of an item that is deferred because there is no room."""
    spread_seconds: float = 0.001
    """Additional delay of each further deferred item of an unproven destination, so that a large number of items does
    not become due at the same time."""
    history_seconds: float = 900.0
    """Time without an attempt after which the history of a destination is forgotten."""
    histories: int = 10_000
    """Maximum number of destinations remembered without an item or an attempt. The longest idle is forgotten first."""

    @property
    def kept_slots(self) -> int:
        """Number of slots reserved for fresh destinations, and the same number for trusted ones."""
        return self.slots // 8


class Kind(StrEnum):
    """The kinds of destinations, which differ in their limits.

    Strings, because a kind is looked up in dictionaries forty times for each delivery, and the hash of an Enum is a
    function in Python: it took a sixth of the time of this module.
    """

    TRUSTED = "trusted"
    FRESH = "fresh"
    DEGRADED = "degraded"
    PARKED = "parked"


@dataclass(frozen=True)
class Turn(Generic[Item]):
    """An item that may be sent now. It holds a slot until `finished` is called with it."""

    number: int
    destination: str
    item: Item
    started_at: float
    kind: Kind
    """The kind of the destination when the turn began; PARKED for a probe."""


@dataclass(frozen=True)
class Deferred(Generic[Item]):
    """An item that should wait in the store. No attempt was made for it."""

    destination: str
    item: Item
    delay_seconds: float
    parked: bool = False
    """True if the item waits because its destination is parked."""


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
    filed_length: int = 0
    """The length under which the lane is found in `_by_length`."""
    heard_at: float = 0.0

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

    @property
    def worth_remembering(self) -> bool:
        return self.breaker.has_succeeded or self.breaker.is_recovering


class Lanes(Generic[Item]):
    """The lanes of one delivery process. `next` takes a slot, `finished` frees it.

    Call `take_deferred` after every `add` and `finished`. The items that it returns are no longer held here.
    """

    def __init__(self, limits: LaneLimits | None = None) -> None:
        self._limits = limits or LaneLimits()
        self._lanes: dict[str, _Lane[Item]] = {}
        self._rings: dict[Kind, OrderedDict[str, _Lane[Item]]] = {kind: OrderedDict() for kind in Kind}
        """Lanes that have items, in the order of their turns."""
        self._filed: dict[str, tuple[Kind, int]] = {}
        """The kind and the number of slots under which a lane is counted in `_held`."""
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

    def add(self, destination: str, item: Item) -> None:
        """Append an item to its destination's lane. If there is no room, an item is deferred (see `take_deferred`)."""
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = _Lane(destination, Breaker(self._limits.breaker))
        lane.items.append(item)
        self._waiting += 1
        self._file(lane)
        if lane.kind is not Kind.TRUSTED and len(lane.items) > self._limits.unproven_items_each:
            self._shorten(lane)
        elif self._waiting > self._limits.items:
            self._shorten(self._longest_lane())

    def next(self, now: float) -> Turn[Item] | None:
        """Return the item whose turn it is, which now holds a slot; None if no item may be sent."""
        self._now = now
        self._note_slow_ones(now)
        for _ in range(len(self._kinds_in_turn)):
            kind = self._kinds_in_turn[0]
            self._kinds_in_turn.rotate(-1)
            lane = self._admissible(kind, now)
            if lane is not None:
                return self._start(lane, now)
        return None

    def finished(self, turn: Turn[Item], now: float, error_type: str | None) -> None:
        """Free the slot of a turn. `error_type` is None if the item was delivered."""
        lane = self._lanes[turn.destination]
        lane.in_flight -= 1
        if self._young.pop(turn.number, None) is None:
            self._slow.remove(turn.number)
            lane.slow -= 1
        self._began[turn.kind] -= 1
        if lane.breaker.record(error_type, now, is_probe=turn.kind is Kind.PARKED):
            lane.deferrals = 0
        lane.heard_at = now
        self._file(lane)
        self._forget_old_ones(now)

    def take_deferred(self, now: float) -> list[Deferred[Item]]:
        """Remove and return the items that should wait in the store: those of parked destinations and of full lanes."""
        deferred, self._overflow = self._overflow, []
        for lane in list(self._rings[Kind.PARKED].values()):
            probe_at = lane.breaker.next_probe_at
            if probe_at is not None and probe_at > now:
                delay_seconds = probe_at - now
                deferred.extend(self._deferred(lane, item, delay_seconds, parked=True) for item in self._emptied(lane))
        self._forget_old_ones(now)
        return deferred

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
        probes = (lane.breaker.next_probe_at for lane in self._rings[Kind.PARKED].values())
        times = [at for at in probes if at is not None and at > self._now]
        if self._young:
            oldest = next(iter(self._young.values()))
            times.append(oldest.started_at + self._limits.slow_after_seconds)
        return min(times, default=None)

    # Choosing

    def _admissible(self, kind: Kind, now: float) -> _Lane[Item] | None:
        """Return the lane of this kind whose turn it is. Lanes that have to wait keep their place at the front."""
        ring = self._rings[kind]
        if not ring:  # most often there are lanes of one kind only, and the limits of the others need no look
            return None
        spare = self._spare(kind)
        if spare <= 0:
            return None
        return next((lane for lane in ring.values() if self._may_start(lane, kind, spare, now)), None)

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

    def _may_start(self, lane: _Lane[Item], kind: Kind, spare: int, now: float) -> bool:
        match kind:
            case Kind.TRUSTED:
                return lane.in_flight < min(self._limits.trusted_slots_each, spare)
            case Kind.PARKED:
                return lane.breaker.may_probe(now)
            case Kind.FRESH | Kind.DEGRADED:
                return lane.in_flight < self._limits.unproven_slots_each

    def _start(self, lane: _Lane[Item], now: float) -> Turn[Item]:
        self._turns += 1
        turn = Turn(self._turns, lane.destination, lane.items.popleft(), now, lane.kind)
        self._waiting -= 1
        self._young[turn.number] = turn
        self._began[turn.kind] += 1
        lane.in_flight += 1
        if turn.kind is Kind.PARKED:
            lane.breaker.start_probe()
        self._rings[turn.kind].move_to_end(lane.destination)
        self._file(lane)
        return turn

    # Holding items

    def _shorten(self, lane: _Lane[Item]) -> None:
        """Defer the newest item of a lane."""
        item = lane.items.pop()
        self._waiting -= 1
        self._overflow.append(self._deferred(lane, item, self._limits.full_lane_seconds))
        self._file(lane)

    def _longest_lane(self) -> _Lane[Item]:
        while not self._by_length[self._longest]:
            del self._by_length[self._longest]
            self._longest -= 1
        return next(reversed(self._by_length[self._longest].values()))

    def _deferred(self, lane: _Lane[Item], item: Item, delay_seconds: float, *, parked: bool = False) -> Deferred[Item]:
        spread = 0.0 if lane.kind is Kind.TRUSTED else lane.deferrals * self._limits.spread_seconds
        lane.deferrals += 1
        return Deferred(lane.destination, item, delay_seconds + spread, parked)

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

    # Book-keeping

    def _file(self, lane: _Lane[Item]) -> None:
        """Update ring, counts and indexes after the lane has changed; forget it if it has neither items nor history."""
        kind = lane.kind
        held = lane.in_flight if kind is Kind.TRUSTED else min(lane.in_flight, self._limits.unproven_slots_each)
        was, held_before = self._filed.get(lane.destination, (kind, 0))
        self._held[was] -= held_before
        self._held[kind] += held
        self._filed[lane.destination] = (kind, held)
        if was is not kind or not lane.items:
            self._rings[was].pop(lane.destination, None)
        if lane.items:
            self._rings[kind].setdefault(lane.destination, lane)
        self._file_by_length(lane)
        self._idle.pop(lane.destination, None)
        if lane.idle:
            self._idle[lane.destination] = lane
            if not lane.worth_remembering:
                self._forget(lane)

    def _file_by_length(self, lane: _Lane[Item]) -> None:
        length = len(lane.items)
        if length != lane.filed_length:
            self._by_length[lane.filed_length].pop(lane.destination, None)
            lane.filed_length = length
        if length:
            self._by_length[length].setdefault(lane.destination, lane)
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
        del self._lanes[lane.destination], self._filed[lane.destination]
        self._idle.pop(lane.destination, None)
