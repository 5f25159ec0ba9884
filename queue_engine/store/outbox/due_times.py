"""When the deliveries that wait in the store are due, as far as this process knows.

A process notes the time of each delivery that it defers itself, and of the next one at each look into the store. So it
looks into the store when something is due, and not at intervals.

Pure: times are monotonic seconds passed in. Not thread-safe.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Place = TypeVar("Place")

MAX_STALE = 64
"""Number of entries beyond two for each place at which the heap is made again, without the times that were replaced."""


class DueTimes(Generic[Place]):
    """The earliest known time of each place. There are few places, and any number of deliveries in each."""

    def __init__(self) -> None:
        self._at: dict[Place, float] = {}
        self._heap: list[tuple[float, int, Place]] = []
        self._notes = 0

    @property
    def next_at(self) -> float | None:
        """The earliest of all times; None without one."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def note(self, place: Place, at: float) -> bool:
        """Note that something is due at a place. Return True if it is the earliest of all."""
        if at >= self._at.get(place, float("inf")):
            return False
        self._notes += 1
        self._at[place] = at
        heapq.heappush(self._heap, (at, self._notes, place))
        if len(self._heap) > 2 * len(self._at) + MAX_STALE:
            self._heap = [(time, number, one) for number, (one, time) in enumerate(self._at.items())]
            heapq.heapify(self._heap)
        return self.next_at == at

    def take(self, now: float) -> list[Place]:
        """Remove and return the places where something is due."""
        taken = []
        while (at := self.next_at) is not None and at <= now:
            place = heapq.heappop(self._heap)[2]
            del self._at[place]
            taken.append(place)
        return taken
