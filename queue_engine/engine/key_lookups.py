"""Look up API keys, and agent tokens, in the store, with few calls for many requests.

Requests that need the same key at the same time share one look-up. Requests that can wait are collected for
BATCH_SECONDS, and their keys are looked up in one pipelined call. So a flood of unknown keys costs the store a few
calls a second, and a valid key among them is found as soon as any other:

    00.000  an unknown key, its address is over its limit: begins a batch
    00.004  a key that was created a moment ago, from the same address: joins the batch
    00.100  one call with both keys: the first is refused, the second is admitted

A limit that refuses look-ups instead could not work, because a valid key looks like a guess until it is looked up:
anybody could use the limit up for all clients behind the same proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from queue_engine.domain.errors import TooManyRequests
from queue_engine.engine.patience import from_store

BATCH_SECONDS = 0.1
"""Time for which keys are collected. A client does not notice it, and the store gets at most ten calls a second."""
MAX_BATCH = 500
"""Maximum number of keys in a call: more than a process serves requests with unknown keys in BATCH_SECONDS, and few
enough that the replies are parsed in some milliseconds."""


Place = TypeVar("Place")
"""The type of the places of keys in the store, such as their hashes."""
Key = TypeVar("Key")
"""The type of the stored keys."""
Found = TypeVar("Found", covariant=True)


class KeyLookup(Protocol[Place, Found]):
    """Finds keys by their place. None means an unknown, revoked or expired key."""

    async def find(self, place: Place, /) -> Found | None: ...

    async def find_all(self, places: Sequence[Place], /) -> Mapping[Place, Found | None]: ...


@dataclass(frozen=True)
class Answer(Generic[Key]):
    """The result of a look-up."""

    key: Key | None
    asked_at: float
    """The monotonic time at which the store was asked. Later changes of the key may be missing."""


class KeyLookups(Generic[Place, Key]):
    """Look-ups of this process. Each method raises StoreUnavailable."""

    def __init__(self, keys: KeyLookup[Place, Key], monotonic: Callable[[], float]) -> None:
        self._keys = keys
        self._monotonic = monotonic
        self._single: dict[Place, asyncio.Task[Answer[Key]]] = {}
        self._collected: dict[Place, None] | None = None
        """Keys of the batch that is being collected; None if there is none."""
        self._batch: asyncio.Task[Mapping[Place, Answer[Key]]]

    async def at_once(self, place: Place) -> Answer[Key]:
        """Look up a key, or wait for the look-up of the same key that is in progress."""
        task = self._single.get(place)
        if task is None:
            task = self._single[place] = asyncio.create_task(self._find(place), name="look up a key")
            task.add_done_callback(lambda _: self._single.pop(place))
        return await asyncio.shield(task)  # a client that disconnects does not end the look-up of the others

    async def in_batch(self, place: Place) -> Answer[Key]:
        """Look up a key with the next batch. Raises TooManyRequests if the batch is full."""
        if place in self._single:
            return await self.at_once(place)
        if self._collected is None:
            self._collected = {}
            self._batch = asyncio.create_task(self._find_batch(self._collected), name="look up keys")
        elif len(self._collected) >= MAX_BATCH and place not in self._collected:
            raise TooManyRequests("too many requests with unknown keys", scope="address", retry_after_seconds=1)
        self._collected[place] = None
        return (await asyncio.shield(self._batch))[place]

    async def _find(self, place: Place) -> Answer[Key]:
        asked_at = self._monotonic()
        return Answer(await from_store(self._keys.find(place)), asked_at)

    async def _find_batch(self, collected: Mapping[Place, None]) -> Mapping[Place, Answer[Key]]:
        await asyncio.sleep(BATCH_SECONDS)
        self._collected = None
        asked_at = self._monotonic()
        found = await from_store(self._keys.find_all(list(collected)))
        return {place: Answer(key, asked_at) for place, key in found.items()}
