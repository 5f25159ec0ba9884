"""Requests with unknown API keys: limited per address, and refused without asking the store again."""

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
"""Maximum number of unknown keys, of valid keys and of addresses that are remembered, each."""

Name = TypeVar("Name")
Value = TypeVar("Value")


class FailedKeys:
    """Remembers failed authentications: `per_minute` for each address, with a burst of the same size. 0 sets no limit.

    A key that was valid in this process is not limited, so that other clients of its address cannot lock it out. Keys
    are remembered as the interpreter's hashes of them, which are keyed and differ between processes.
    """

    def __init__(self, per_minute: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._unknown: dict[int, float] = {}
        self._valid: dict[int, None] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def is_unknown(self, key: str) -> bool:
        """Return True if the store did not have the key a moment ago."""
        return bool(self._unknown) and self._monotonic() < self._unknown.get(hash(key), 0.0)

    def check(self, key: str, address: str) -> None:
        """Raise TooManyRequests if the address has failed too often, unless the key was valid before."""
        bucket = self._buckets.get(share_of(address)) if self._buckets else None
        if bucket is None or hash(key) in self._valid:
            return
        bucket.fill(self._monotonic())
        seconds = bucket.seconds_until()
        if seconds > 0:
            raise TooManyRequests(
                f"at most {self._per_minute:g} requests a minute with an unknown key are served for an address",
                scope="address",
                retry_after_seconds=math.ceil(seconds),
            )

    def note_unknown(self, key: str, address: str) -> None:
        """Note a request with a key that the store does not have."""
        now = self._monotonic()
        if self._unknown.get(hash(key), 0.0) <= now:  # else the store was not asked again
            _remember(self._unknown, hash(key), now + UNKNOWN_SECONDS)
        self._valid.pop(hash(key), None)
        if self._per_minute <= 0:
            return
        share = share_of(address)
        bucket = self._buckets.pop(share, None) or TokenBucket(self._per_minute / 60, max(1.0, self._per_minute), now)
        bucket.fill(now)
        bucket.take()
        _remember(self._buckets, share, bucket)

    def note_valid(self, key: str) -> None:
        """Note that the key is valid."""
        if hash(key) not in self._valid:
            _remember(self._valid, hash(key), None)


def _remember(entries: dict[Name, Value], name: Name, value: Value) -> None:
    """Add an entry as the newest one, in place of the oldest one if there are too many."""
    entries.pop(name, None)
    if len(entries) >= MAX_REMEMBERED:
        del entries[next(iter(entries))]
    entries[name] = value
