"""Choose the least busy worker of an ALB endpoint."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from queue_engine.engine.upstreams import Listing, Upstream

LEFT_OUT_SECONDS = 1.0
"""Time for which a worker is not chosen after a connection to it failed."""
MAX_REMEMBERED = 10_000


class Balancer:
    """Chooses the worker with the fewest requests in progress from this process; equal ones take turns."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._under_way: Counter[str] = Counter()
        self._left_out: dict[Upstream, float] = {}
        self._last: dict[str, str] = {}

    def candidates(self, listing: Listing) -> Iterator[Upstream]:
        """Yield the workers to try for a request, each once, the least busy one first."""
        left = [one for one in listing.upstreams if not self._is_left_out(one)]
        while left:
            chosen = least_busy(left, self._load, self._last.get(listing.endpoint.endpoint_id))
            self._note_choice(listing.endpoint.endpoint_id, chosen)
            yield chosen
            left.remove(chosen)

    @contextmanager
    def using(self, upstream: Upstream) -> Iterator[None]:
        """Count a request as in progress."""
        self._under_way[upstream.worker_id] += 1
        try:
            yield
        finally:
            self._under_way[upstream.worker_id] -= 1
            if not self._under_way[upstream.worker_id]:
                del self._under_way[upstream.worker_id]

    def leave_out(self, upstream: Upstream) -> None:
        """Leave out a worker for a second because a connection to it failed."""
        now = self._monotonic()
        self._left_out = {one: until for one, until in self._left_out.items() if now < until}
        self._left_out[upstream] = now + LEFT_OUT_SECONDS

    def _load(self, upstream: Upstream) -> int:
        return self._under_way[upstream.worker_id] + upstream.load

    def _is_left_out(self, upstream: Upstream) -> bool:
        return self._monotonic() < self._left_out.get(upstream, 0.0)

    def _note_choice(self, endpoint_id: str, chosen: Upstream) -> None:
        if len(self._last) >= MAX_REMEMBERED:
            self._last.clear()
        self._last[endpoint_id] = chosen.worker_id


def least_busy(upstreams: Sequence[Upstream], load: Callable[[Upstream], int], last: str | None) -> Upstream:
    """Return the upstream with the least load; of equal ones, the next after `last` in a fixed cyclic order."""
    in_turn = sorted(upstreams, key=lambda one: (last is not None and one.worker_id <= last, one.worker_id))
    return min(in_turn, key=load)
