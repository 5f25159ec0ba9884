"""Watch the API keys of what outlasts its request, such as a WebSocket.

The watched keys are looked up together every CHECK_SECONDS, however much each of them has in progress. Without a
watched key there is no look-up:

    00.0  key a begins a WebSocket: a round looks up a
    00.3  key b begins two WebSockets
    00.5  a round looks up a and b
    00.7  b is revoked
    01.0  a round does not find b: both of its WebSockets are notified
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from queue_engine.aio import run_forever
from queue_engine.domain.principals import Principal
from queue_engine.engine.key_lookups import MAX_BATCH, KeyLookup
from queue_engine.engine.patience import from_store
from queue_engine.store.redis.client import unavailability

CHECK_SECONDS = 0.5
"""Time between two rounds. A key that was revoked is accepted for CACHE_SECONDS at most, so the next round begins
REVOCATION_SECONDS after the revocation at the latest, with time left to end what the key has in progress."""


@dataclass
class _Watched:
    """A key that has something in progress."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    users: int = 0


class KeyWatch:
    """Notifies the users of keys that were revoked or have expired.

    While the store is unavailable, keys stay valid, because their state is unknown.
    """

    def __init__(self, keys: KeyLookup[str, object], *, check_seconds: float = CHECK_SECONDS) -> None:
        self._keys = keys
        self._check_seconds = check_seconds
        self._watched: dict[str, _Watched] = {}
        """By the hash of the key."""
        self._rounds: asyncio.Task[None] | None = None

    @contextmanager
    def watched(self, principal: Principal) -> Iterator[asyncio.Event]:
        """Watch the principal's key in the block. The event is set when the key has ended."""
        key_hash = principal.key_hash
        watched = self._watched.setdefault(key_hash, _Watched())
        watched.users += 1
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._run(), name="watch keys")
        try:
            yield watched.ended
        finally:
            watched.users -= 1
            if not watched.users:
                del self._watched[key_hash]
            if not self._watched and self._rounds is not None:
                self._rounds.cancel()
                self._rounds = None

    async def _run(self) -> None:
        await run_forever(self._round, idle_seconds=self._check_seconds, name="key watch", passing=unavailability)

    async def _round(self) -> int:
        """Look up all watched keys, and notify the users of those that are not found. Raises StoreUnavailable."""
        hashes = list(self._watched)
        for start in range(0, len(hashes), MAX_BATCH):
            found = await from_store(self._keys.find_all(hashes[start : start + MAX_BATCH]))
            for key_hash, key in found.items():
                if key is None and key_hash in self._watched:
                    self._watched[key_hash].ended.set()
        return 0
