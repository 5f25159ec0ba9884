"""Requests of a key in use do not wait for its look-up, and a revoked key is refused in time."""

import asyncio
from collections.abc import Mapping, Sequence

from queue_engine.domain.api_keys import ApiKey
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.engine.principals import CACHE_SECONDS, REFRESH_SECONDS, Principals
from queue_engine.store.api_keys import hash_of

KEY = "qe_key"


class Records:
    """A key that can be revoked, in a store that can be away."""

    def __init__(self) -> None:
        self.is_revoked = self.is_away = False
        self.finds = 0

    async def find(self, key_hash: str) -> ApiKey | None:
        self.finds += 1
        if self.is_away:
            raise StoreUnavailable("it is away")
        return None if self.is_revoked else ApiKey(key_hash, "acme", "", 0)

    async def find_all(self, hashes: Sequence[str]) -> Mapping[str, ApiKey | None]:
        return {key_hash: await self.find(key_hash) for key_hash in hashes}

    async def note_use(self, key_hash: str) -> None:
        assert key_hash == hash_of(KEY)


class Cache:
    """The principals of one key that was looked up at time 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.records = Records()
        self.principals = Principals(self.records, monotonic=lambda: self.now)

    async def begin(self) -> None:
        assert await self.principals.of_key(KEY) is not None

    def is_cached_at(self, seconds: float) -> bool:
        self.now = seconds
        return self.principals.cached(KEY) is not None

    async def refreshed(self) -> None:
        await asyncio.gather(*self.principals._refreshing.values())


async def test_a_key_in_use_stays_cached_without_a_wait() -> None:
    cache = Cache()
    await cache.begin()
    for tenths in range(1, 50):
        assert cache.is_cached_at(tenths / 10)
        await cache.refreshed()
    assert cache.records.finds <= 1 + 5 / REFRESH_SECONDS


async def test_a_young_key_is_not_looked_up_again() -> None:
    cache = Cache()
    await cache.begin()
    assert cache.is_cached_at(REFRESH_SECONDS - 0.01)
    await cache.refreshed()
    assert cache.records.finds == 1


async def test_requests_at_the_same_time_share_a_refresh() -> None:
    cache = Cache()
    await cache.begin()
    assert all(cache.is_cached_at(REFRESH_SECONDS + 0.01) for _ in range(10))
    await cache.refreshed()
    assert cache.records.finds == 2


async def test_a_key_that_a_refresh_finds_revoked_is_refused() -> None:
    cache = Cache()
    await cache.begin()
    cache.records.is_revoked = True
    assert cache.is_cached_at(REFRESH_SECONDS + 0.01)
    await cache.refreshed()
    assert not cache.is_cached_at(REFRESH_SECONDS + 0.02)
    assert await cache.principals.of_key(KEY) is None


async def test_a_key_expires_when_its_refresh_fails() -> None:
    cache = Cache()
    await cache.begin()
    cache.records.is_away = True
    assert cache.is_cached_at(REFRESH_SECONDS + 0.01)
    await cache.refreshed()
    assert cache.is_cached_at(CACHE_SECONDS - 0.01)
    await cache.refreshed()
    assert not cache.is_cached_at(CACHE_SECONDS)


async def test_a_key_without_requests_is_not_looked_up() -> None:
    cache = Cache()
    await cache.begin()
    assert not cache.is_cached_at(CACHE_SECONDS)
    assert cache.principals._refreshing == {}
    assert cache.records.finds == 1
