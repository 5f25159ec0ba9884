"""Deliveries in simulated time: delivery processes that share an outbox, and receivers with a fixed time to respond.

The processes decide with the real `Shares`. The outbox is simple: what is due goes to the processes in turn, and a
process takes back what it had no room for as soon as it has room.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from queue_engine.delivery.lanes import Turn
from queue_engine.delivery.shares import ShareLimits, Shares

RETRY_SECONDS = (5.0, 15.0, 45.0, 135.0)
TAKEN_AT_ONCE = 256


@dataclass(frozen=True)
class Receiver:
    """How a receiver treats each request."""

    seconds: float
    error_type: str | None = None
    network: str | None = None


@dataclass
class Sent:
    """A delivery."""

    tenant: str
    destination: str
    due_at: float
    attempts: int = 0


@dataclass
class Simulation:
    """Runs events until a time. `waits` has, by tenant, the time from due to the first attempt of each delivery."""

    receivers: Mapping[str, Receiver]
    processes: int = 2
    limits: ShareLimits = field(default_factory=ShareLimits)
    now: float = 0.0
    waits: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    delivered: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self.shares = [
            Shares[Sent](self.limits, network_of=lambda name: self.receivers[name].network)
            for _ in range(self.processes)
        ]
        self._shelves: list[dict[str, deque[Sent]]] = [{} for _ in self.shares]
        self._events: list[tuple[float, int, Callable[[], int]]] = []
        self._numbers = 0
        self._turn = 0

    def submit(self, tenant: str, destination: str, at: float, count: int = 1) -> None:
        """Let deliveries become due."""
        for _ in range(count):
            self._at(at, self._arrival(Sent(tenant, destination, at)))

    def run(self, until: float) -> None:
        """Run all events up to a time."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            self._start(event())

    def _arrival(self, sent: Sent) -> Callable[[], int]:
        def arrive() -> int:
            self._turn = (self._turn + 1) % self.processes
            self.shares[self._turn].add(sent.tenant, sent.destination, sent)
            return self._turn

        return arrive

    def _start(self, process: int) -> None:
        """Let a process do what it can do now."""
        shares = self.shares[process]
        self._refill(process)
        while (turn := shares.next(self.now)) is not None:
            sent = turn.item
            if not sent.attempts:
                self.waits[sent.tenant].append(self.now - sent.due_at)
            sent.attempts += 1
            self._at(self.now + self.receivers[sent.destination].seconds, self._end(process, turn))
        self.most_in_flight = max(self.most_in_flight, shares.in_flight)
        for deferred in shares.take_deferred(self.now):
            if deferred.parked:
                self._at(self.now + deferred.delay_seconds, self._arrival(deferred.item))
            else:
                self._shelves[process].setdefault(deferred.tenant, deque()).append(deferred.item)
        changes_at = shares.changes_at()
        if changes_at is not None and changes_at > self.now:
            self._at(changes_at, lambda: process)

    def _refill(self, process: int) -> None:
        for tenant, shelf in self._shelves[process].items():
            while shelf and self.shares[process].has_room(tenant):
                for _ in range(min(TAKEN_AT_ONCE, len(shelf))):
                    sent = shelf.popleft()
                    self.shares[process].add(sent.tenant, sent.destination, sent)

    def _end(self, process: int, turn: Turn[Sent]) -> Callable[[], int]:
        def end() -> int:
            sent, error_type = turn.item, self.receivers[turn.destination].error_type
            self.shares[process].finished(turn, self.now, error_type)
            if error_type is None:
                self.delivered[sent.tenant] += 1
            elif sent.attempts <= len(RETRY_SECONDS):
                self._at(self.now + RETRY_SECONDS[sent.attempts - 1], self._arrival(sent))
            return process

        return end

    def _at(self, time: float, event: Callable[[], int]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (time, self._numbers, event))


@dataclass(frozen=True)
class Crowd:
    """The receivers of another tenant while a healthy receiver gets its deliveries."""

    name: str
    receivers: Mapping[str, Receiver]
    each: int
    """Number of deliveries that are due at the beginning, for each receiver."""


CROWDS = (
    Crowd("100 tarpits", {f"tarpit{n}": Receiver(15.0, "read_timeout", "net") for n in range(100)}, 100),
    Crowd("400 slow receivers", {f"slow{n}": Receiver(1.9, None, "net") for n in range(400)}, 40),
    Crowd("5000 names that hang", {f"name{n}": Receiver(5.0, "connect_timeout") for n in range(5000)}, 2),
)
"""The three crowds that the benchmarks and the fault suite have in reality."""
HEALTHY = Receiver(0.01)


def beside(crowd: Crowd, *, rate: float = 50.0, seconds: float = 30.0, limits: ShareLimits | None = None) -> Simulation:
    """Simulate a healthy receiver of one tenant beside the crowd of another, and return the simulation at its end."""
    world = Simulation({**crowd.receivers, "healthy": HEALTHY}, limits=limits or ShareLimits())
    for name in crowd.receivers:
        world.submit("crowd", name, 0.0, crowd.each)
    for number in range(int(rate * seconds)):
        world.submit("good", "healthy", number / rate)
    world.run(seconds + 5)
    return world


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed. Needs at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
