"""Starts that wait for a place in a cluster. Tenants and their endpoints take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from queue_engine.backends.base import BackendError, Phase, WorkerSpec
from queue_engine.backends.docker.explain import Explanation
from queue_engine.backends.kubernetes.sites import Place
from queue_engine.backends.kubernetes.worker import Worker
from queue_engine.backends.placement import Later, Refusal
from queue_engine.backends.turns import Party, Turns

PLACE_SECONDS = 1.0
"""Interval at which starts are offered a place that had none, because shortages and pauses end with the time."""


@dataclass(eq=False)
class _Ask:
    worker: Worker
    spec: WorkerSpec
    answer: asyncio.Future[Place]


class Placing:
    """The starts that wait for a place.

    `decide` returns the place of a worker or why there is none, and `begin` notes a worker that was placed, so that the
    next decision counts it. A decision is for all waiting workers of an endpoint.
    """

    def __init__(
        self, decide: Callable[[WorkerSpec], Place | Later | Refusal], begin: Callable[[Worker, Place], None]
    ) -> None:
        self._decide = decide
        self._begin = begin
        self._waiting: Turns[_Ask] = Turns()
        self._next_look: asyncio.Handle | None = None
        self._is_soon = False

    async def place(self, worker: Worker, spec: WorkerSpec) -> Place:
        """Wait for a place. Raises BackendError if there can be none."""
        ask = _Ask(worker, spec, asyncio.get_running_loop().create_future())
        party = Party(spec.tenant, spec.endpoint_id)
        self._waiting.add(party, ask)
        self.hasten()
        try:
            return await ask.answer
        finally:
            self._waiting.remove(party, ask)

    def hasten(self) -> None:
        """Offer places soon: once for all changes until then."""
        if self._is_soon or not self._waiting:
            return
        if self._next_look is not None:
            self._next_look.cancel()
        self._is_soon = True
        self._next_look = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._next_look, self._is_soon = None, False
        self._waiting.offer(self._take)
        if self._waiting:
            self._next_look = asyncio.get_running_loop().call_later(PLACE_SECONDS, self._look)

    def _take(self, asks: Collection[_Ask]) -> _Ask | None:
        ask = next(iter(asks))
        if ask.answer.done():  # its start was cancelled a moment ago
            return ask
        try:
            found = self._decide(ask.spec)
        except Exception as error:  # noqa: BLE001 - raised where the start waits, because nothing waits for this call
            ask.answer.set_exception(error)
            return ask
        if isinstance(found, Later):
            waiting = Explanation(Phase.WAITING, found.reason)
            for one in asks:
                one.worker.progress = waiting
            return None
        if isinstance(found, Refusal):
            ask.answer.set_exception(BackendError(found.reason))
            return ask
        ask.worker.progress = Explanation(Phase.STARTING)
        self._begin(ask.worker, found)
        ask.answer.set_result(found)
        return ask
