"""Unknown API keys: their look-ups are limited per address, and a key is not looked up twice in a second.

A valid key is admitted whatever its address did before. Over the limit, keys are still looked up, but together with
others and after a short wait (`engine.key_lookups`), and an unknown one gets 429 instead of 401. The limit is no
protection for a key that can be guessed: keys are random, with 256 bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from queue_engine.api.http.client_addresses import share_of
from queue_engine.domain.errors import TooManyRequests
from queue_engine.domain.token_bucket import TokenBucket

UNKNOWN_SECONDS = 1.0
"""How long a key that was tried before it was created may still be refused."""
MAX_REMEMBERED = 10_000
"""Maximum number of unknown keys and of addresses that are remembered, each."""

Name = TypeVar("Name")
Value = TypeVar("Value")


class FailedKeys:
    """Remembers failed authentications: `per_minute` for each address, with a burst of the same size. 0 sets no limit.

    Keys are remembered as the interpreter's hashes of them, which are keyed and differ between processes.
    """

    def __init__(self, per_minute: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._unknown: dict[int, float] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def is_unknown(self, key: str) -> bool:
        """Return True if the store did not have the key a moment ago."""
        return bool(self._unknown) and self._monotonic() < self._unknown.get(hash(key), 0.0)

    def note_unknown(self, key: str) -> None:
        """Note that the store does not have the key."""
        _remember(self._unknown, hash(key), self._monotonic() + UNKNOWN_SECONDS)

    def take(self, address: str) -> bool:
        """Take one of the address's look-ups and return True, or return False if it has none left.

        It is taken before the look-up, so that requests at the same time do not exceed the limit. Return it with
        `give_back` if the key was valid.
        """
        return self._per_minute <= 0 or self._filled(address).take()

    def give_back(self, address: str) -> None:
        """Return a look-up that was taken."""
        if self._per_minute > 0:
            self._filled(address).put()

    def check(self, address: str) -> None:
        """Raise TooManyRequests if the address has no look-up left, with the time until it has one."""
        seconds = self._filled(address).seconds_until() if self._per_minute > 0 else 0.0
        if seconds > 0:
            raise TooManyRequests(
                f"at most {self._per_minute:g} requests a minute with an unknown key are served for an address",
                scope="address",
                retry_after_seconds=math.ceil(seconds),
            )

    def _filled(self, address: str) -> TokenBucket:
        now, share = self._monotonic(), share_of(address)
        bucket = self._buckets.pop(share, None) or TokenBucket(self._per_minute / 60, max(1.0, self._per_minute), now)
        bucket.fill(now)
        _remember(self._buckets, share, bucket)
        return bucket


def _remember(entries: dict[Name, Value], name: Name, value: Value) -> None:
    """Add an entry as the newest one, in place of the oldest one if there are too many."""
    entries.pop(name, None)
    if len(entries) >= MAX_REMEMBERED:
        del entries[next(iter(entries))]
    entries[name] = value
