"""The tries of starts that a cluster does not take yet, for example because the quota of its namespace is full.

All workers of an endpoint with the same resource are refused for the same reason. So one of them tries again, with a
backoff, and the others wait for its success. The tries of all endpoints have a small share of the writes to the
cluster, and tenants take turns in it: the refused starts of an endpoint take nothing from the starts of others.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from queue_engine.aio import Backoff, wait_for_event
from queue_engine.backends.docker.explain import Explanation
from queue_engine.backends.kubernetes.budget import Budget
from queue_engine.backends.turns import Party
from queue_engine.domain.endpoints import Resource

CREATE = Backoff(1.0, 30.0)
"""Pauses until a pod that the server does not take yet is created again."""
RETRIES_PER_SECOND = 2.0
RETRIES_BURST = 4
"""The share of the tries after a refusal, a tenth of the writes."""


@dataclass(frozen=True)
class Demand:
    """Workers that a cluster takes or refuses for the same reasons."""

    party: Party
    revision: int
    resource: Resource


@dataclass(eq=False)
class _Refused:
    """The latest refusal of a demand."""

    reason: Explanation
    failures: int = 1
    """Number of consecutive refusals; 0 after a success."""
    not_before: float = 0.0
    """Monotonic time of the next try."""
    starts: int = 0
    """Number of starts that try or wait. The refusal is forgotten with the last of them."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    hastened: asyncio.Event = field(default_factory=asyncio.Event)


class Refusals:
    """The refused starts of a cluster."""

    def __init__(self) -> None:
        self._refused: dict[Demand, _Refused] = {}
        self._share = Budget(RETRIES_PER_SECOND, RETRIES_BURST)

    @contextmanager
    def tries(self, demand: Demand, show: Callable[[Explanation], None]) -> Iterator[Tries]:
        """Let a start try until it is taken. `show` is called with the reason why it waits."""
        made = Tries(self, demand, show)
        try:
            yield made
        finally:
            made.leave()

    def hasten(self) -> None:
        """Let the refused starts try soon, because the namespace may have quota again. Their share stays."""
        for one in self._refused.values():
            one.not_before = -math.inf
            one.hastened.set()

    def refused(self, demand: Demand) -> _Refused | None:
        """Return the latest refusal; None if the demand was not refused."""
        return self._refused.get(demand)

    def note(self, demand: Demand, reason: Explanation) -> _Refused:
        """Return the refusal of a demand, which is a new one if there was none."""
        known = self._refused.get(demand)
        if known is None:
            known = self._refused[demand] = _Refused(reason)
            _put_off(known)
        return known

    def forget(self, demand: Demand) -> None:
        """Forget a refusal for which no start waits."""
        self._refused.pop(demand, None)

    async def pass_of(self, demand: Demand) -> None:
        """Wait for a pass of the share."""
        await self._share.take(demand.party)


class Tries:
    """The tries of one start: `turn` before each of them, and `refused` or `taken` after it."""

    def __init__(self, refusals: Refusals, demand: Demand, show: Callable[[Explanation], None]) -> None:
        self._refusals = refusals
        self._demand = demand
        self._show = show
        self._known: _Refused | None = None
        self._has_turn = False

    async def turn(self) -> None:
        """Wait until this start may try. Returns at once if its demand was not refused."""
        if self._known is None and (known := self._refusals.refused(self._demand)) is not None:
            self._join(known)
        if (known := self._known) is None:
            return
        self._show(known.reason)
        if not self._has_turn:
            await known.turn.acquire()
            self._has_turn = True
        clock = asyncio.get_running_loop().time
        while (wait_seconds := known.not_before - clock()) > 0:
            known.hastened.clear()
            await wait_for_event(known.hastened, wait_seconds)
        if known.failures:
            await self._refusals.pass_of(self._demand)

    def refused(self, reason: Explanation) -> None:
        """Note that the cluster has not taken the start."""
        self._show(reason)
        if self._known is None:  # one of several that tried at the same time
            self._join(self._refusals.note(self._demand, reason))
            return
        self._known.reason = reason
        self._known.failures += 1
        _put_off(self._known)

    def taken(self) -> None:
        """Note that the cluster has taken the start, so that the next one of the demand tries at once."""
        if self._known is not None:
            self._known.failures = 0
            self._known.not_before = -math.inf

    def leave(self) -> None:
        """Let the next start try, because this one has been taken or ended."""
        if (known := self._known) is None:
            return
        self._known = None
        if self._has_turn:
            self._has_turn = False
            known.turn.release()
        known.starts -= 1
        if not known.starts and self._refusals.refused(self._demand) is known:
            self._refusals.forget(self._demand)

    def _join(self, known: _Refused) -> None:
        known.starts += 1
        self._known = known


def _put_off(known: _Refused) -> None:
    now = asyncio.get_running_loop().time()
    known.not_before = now + CREATE.delay_after(known.failures, luck=random.random())
