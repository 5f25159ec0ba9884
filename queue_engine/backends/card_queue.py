"""Hand the GPUs of this host to workers. Tenants take turns, and the endpoints of a tenant.

A worker that finds too few free cards waits, and is started by the end of another one. A later worker that needs fewer
cards does not wait for it, because workers run for days, and free cards would be unused for as long.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from queue_engine.backends.turns import Party, Turns
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.gpus import Card, Decision, Gpus, HandedOut, Waits

Begin = Callable[[HandedOut], None]
"""Function that starts a worker with its cards. Must not raise."""


@dataclass(eq=False)
class _Ask:
    """A worker that waits. `reason` says for what."""

    party: Party
    worker_id: str
    resources: Sequence[Resource]
    begin: Begin
    reason: str


class CardQueue:
    """The cards of this host, and the workers that hold or wait for some.

    `elsewhere` returns the UUIDs of the cards that processes hold which are not in this queue.
    """

    def __init__(self, gpus: Gpus, elsewhere: Callable[[], Collection[str]] = frozenset) -> None:
        self._gpus = gpus
        self._elsewhere = elsewhere
        self._held: dict[str, tuple[Card, ...]] = {}
        self._waiting: dict[str, _Ask] = {}
        self._turns: Turns[_Ask] = Turns()

    def ask(self, party: Party, worker_id: str, resources: Sequence[Resource], begin: Begin) -> Decision:
        """Ask for the cards of a worker. `begin` is called later, and only if the worker must wait."""
        decision = self._decide(resources)
        if isinstance(decision, HandedOut):
            self._hold(worker_id, decision)
        elif isinstance(decision, Waits):
            ask = self._waiting[worker_id] = _Ask(party, worker_id, resources, begin, decision.reason)
            self._turns.add(party, ask)
        return decision

    def release(self, worker_id: str) -> None:
        """Take back the cards of a worker that has ended, or its place in the queue, and begin others that can start.

        Safe to call twice.
        """
        if (ask := self._waiting.pop(worker_id, None)) is not None:
            self._turns.remove(ask.party, ask)
        if self._held.pop(worker_id, None):
            self.offer()

    def offer(self) -> None:
        """Begin the waiting workers for which enough cards are free now."""
        self._turns.offer(self._take)
        self._update_reasons()

    def reason(self, worker_id: str) -> str | None:
        """Return what a worker waits for; None if it does not wait."""
        ask = self._waiting.get(worker_id)
        return ask.reason if ask is not None else None

    def _take(self, asks: Collection[_Ask]) -> _Ask | None:
        """Begin the first worker for which enough cards are free, of those of an endpoint."""
        refused: set[tuple[Resource, ...]] = set()
        for ask in asks:
            resources = tuple(ask.resources)
            if resources in refused:  # workers of one endpoint ask for the same, unless it was changed
                continue
            decision = self._decide(resources)
            if isinstance(decision, HandedOut):
                del self._waiting[ask.worker_id]
                self._hold(ask.worker_id, decision)
                ask.begin(decision)
                return ask
            refused.add(resources)
        return None

    def _decide(self, resources: Sequence[Resource]) -> Decision:
        own = {card.uuid for cards in self._held.values() for card in cards}
        return self._gpus.hand_out(resources, own.union(self._elsewhere()))

    def _hold(self, worker_id: str, decision: HandedOut) -> None:
        if decision.cards:
            self._held[worker_id] = decision.cards
            self._update_reasons()

    def _update_reasons(self) -> None:
        for ask in self._waiting.values():
            decision = self._decide(ask.resources)
            if isinstance(decision, Waits):
                ask.reason = decision.reason
