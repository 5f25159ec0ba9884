"""Look up API keys in the store, with few calls for many requests.

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
from typing import Protocol

from queue_engine.domain.api_keys import ApiKey
from queue_engine.domain.errors import TooManyRequests
from queue_engine.engine.patience import from_store

BATCH_SECONDS = 0.1
"""Time for which keys are collected. A client does not notice it, and the store gets at most ten calls a second."""
MAX_BATCH = 500
"""Maximum number of keys in a call: more than a process serves requests with unknown keys in BATCH_SECONDS, and few
enough that the replies are parsed in some milliseconds."""


class KeyLookup(Protocol):
    """Finds keys by their hash. None means an unknown, revoked or expired key."""

    async def find(self, key_hash: str) -> ApiKey | None: ...

    async def find_all(self, hashes: Sequence[str]) -> Mapping[str, ApiKey | None]: ...


@dataclass(frozen=True)
class Answer:
    """The result of a look-up."""

    key: ApiKey | None
    asked_at: float
    """The monotonic time at which the store was asked. Later changes of the key may be missing."""


class KeyLookups:
    """Look-ups of this process. Each method raises StoreUnavailable."""

    def __init__(self, keys: KeyLookup, monotonic: Callable[[], float]) -> None:
        self._keys = keys
        self._monotonic = monotonic
        self._single: dict[str, asyncio.Task[Answer]] = {}
        self._collected: dict[str, None] | None = None
        """Keys of the batch that is being collected; None if there is none."""
        self._batch: asyncio.Task[Mapping[str, Answer]]

    async def at_once(self, key_hash: str) -> Answer:
        """Look up a key, or wait for the look-up of the same key that is in progress."""
        task = self._single.get(key_hash)
        if task is None:
            task = self._single[key_hash] = asyncio.create_task(self._find(key_hash), name="look up a key")
            task.add_done_callback(lambda _: self._single.pop(key_hash))
        return await asyncio.shield(task)  # a client that disconnects does not end the look-up of the others

    async def in_batch(self, key_hash: str) -> Answer:
        """Look up a key with the next batch. Raises TooManyRequests if the batch is full."""
        if key_hash in self._single:
            return await self.at_once(key_hash)
        if self._collected is None:
            self._collected = {}
            self._batch = asyncio.create_task(self._find_batch(self._collected), name="look up keys")
        elif len(self._collected) >= MAX_BATCH and key_hash not in self._collected:
            raise TooManyRequests("too many requests with unknown keys", scope="address", retry_after_seconds=1)
        self._collected[key_hash] = None
        return (await asyncio.shield(self._batch))[key_hash]

    async def _find(self, key_hash: str) -> Answer:
        asked_at = self._monotonic()
        return Answer(await from_store(self._keys.find(key_hash)), asked_at)

    async def _find_batch(self, collected: Mapping[str, None]) -> Mapping[str, Answer]:
        await asyncio.sleep(BATCH_SECONDS)
        self._collected = None
        asked_at = self._monotonic()
        found = await from_store(self._keys.find_all(list(collected)))
        return {key_hash: Answer(key, asked_at) for key_hash, key in found.items()}
