"""The admission of requests by their key, and its rate."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from queue_engine.api.http.auth import Authenticator
from queue_engine.api.http.failed_keys import MAX_REMEMBERED, UNKNOWN_SECONDS, FailedKeys
from queue_engine.api.http.rate_limit import RateLimiter
from queue_engine.domain.api_keys import ApiKey
from queue_engine.domain.errors import StoreUnavailable, TooManyRequests, Unauthorized
from queue_engine.engine.key_lookups import MAX_BATCH
from queue_engine.engine.principals import CACHE_SECONDS, MAX_CACHED_KEYS, USE_NOTE_SECONDS, Principals
from queue_engine.store.api_keys import hash_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Keys:
    def __init__(self, **tenants: str) -> None:
        self.tenants = {hash_of(key): tenant for key, tenant in tenants.items()}
        self.asked = 0
        self.batches: list[int] = []
        """The number of keys of each call with several keys."""
        self.noted: list[str] = []

    async def find(self, key_hash: str) -> ApiKey | None:
        self.asked += 1
        await asyncio.sleep(0)  # as a call of the store does
        return self._key(key_hash)

    async def find_all(self, hashes: Sequence[str]) -> Mapping[str, ApiKey | None]:
        self.batches.append(len(hashes))
        await asyncio.sleep(0)
        return {key_hash: self._key(key_hash) for key_hash in hashes}

    def _key(self, key_hash: str) -> ApiKey | None:
        tenant = self.tenants.get(key_hash)
        return None if tenant is None else ApiKey(key_hash, tenant, "", 0)

    async def note_use(self, key_hash: str) -> None:
        self.noted.append(key_hash)


def authenticator_of(principals: Principals, *, clock: Clock | None = None) -> Authenticator:
    return Authenticator(principals, FailedKeys(60, monotonic=clock or Clock()))


def _headers(*keys: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), *((b"x-api-key", key) for key in keys)]


async def test_a_key_opens_for_its_tenant() -> None:
    authenticator = authenticator_of(Principals(Keys(alice="a", bob="b")))
    assert (await authenticator.principal_of(_headers(b"alice"))).tenant == "a"
    assert (await authenticator.principal_of(_headers(b"bob"))).tenant == "b"


@pytest.mark.parametrize(
    "keys",
    [
        (),
        (b"",),
        (b"nobody",),
        (b"alice", b"alice"),
        (b"alice", b"other"),
        (b"alice ",),
        (b"al\tice",),
        ("alicé".encode(),),
        (b"x" * 256,),
        (b"x" * 10_240,),
        (b"ALICE",),
    ],
)
async def test_every_other_key_is_refused_in_the_same_words(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(Unauthorized) as caught:
        await authenticator_of(Principals(Keys(alice="a"))).principal_of(_headers(*keys))
    assert str(caught.value) == str(Unauthorized())


async def test_a_key_that_cannot_be_one_is_not_looked_up() -> None:
    keys = Keys()
    for bad in (b"", b"x" * 256, b"a b"):
        with pytest.raises(Unauthorized):
            await authenticator_of(Principals(keys)).principal_of(_headers(bad))
    assert keys.asked == 0


async def test_a_revoked_key_stops_working_within_a_second() -> None:
    keys, clock = Keys(alice="a"), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock))
    await authenticator.principal_of(_headers(b"alice"))
    keys.tenants.clear()
    clock.now += CACHE_SECONDS - 0.01
    assert (await authenticator.principal_of(_headers(b"alice"))).tenant == "a"
    assert keys.asked == 1
    clock.now += 0.01
    with pytest.raises(Unauthorized):
        await authenticator.principal_of(_headers(b"alice"))


async def test_a_key_works_as_soon_as_it_is_made() -> None:
    keys = Keys()
    authenticator = authenticator_of(Principals(keys))
    with pytest.raises(Unauthorized):
        await authenticator.principal_of(_headers(b"bob"))
    keys.tenants[hash_of("alice")] = "a"
    assert (await authenticator.principal_of(_headers(b"alice"))).tenant == "a"


async def test_an_unknown_key_is_refused_for_a_second_without_asking_the_store() -> None:
    keys, clock = Keys(), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await authenticator.principal_of(_headers(b"alice"))
        clock.now += UNKNOWN_SECONDS / 4
    assert keys.asked == 1
    keys.tenants[hash_of("alice")] = "a"
    clock.now += UNKNOWN_SECONDS / 4
    assert (await authenticator.principal_of(_headers(b"alice"))).tenant == "a"


async def outcome_of(authenticator: Authenticator, key: str, address: str = "192.0.2.1") -> str:
    """Return the tenant of the key, or the name of the error."""
    try:
        return (await authenticator.principal_of(_headers(key.encode()), address)).tenant
    except (Unauthorized, TooManyRequests) as error:
        return type(error).__name__


async def test_unknown_keys_beyond_the_limit_of_an_address_get_429_and_the_time_that_is_left() -> None:
    keys, clock = Keys(), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    for number in range(60):
        assert await outcome_of(authenticator, f"guess{number}") == "Unauthorized"
    clock.now += 0.5
    for key in (b"guess", b"guess59"):
        with pytest.raises(TooManyRequests, match="at most 60 requests a minute with an unknown key") as caught:
            await authenticator.principal_of(_headers(key), "192.0.2.1")
        assert (caught.value.scope, caught.value.retry_after_seconds) == ("address", 1)
    assert await outcome_of(authenticator, "guess", "192.0.2.2") == "Unauthorized"
    clock.now += 0.5
    assert await outcome_of(authenticator, "another") == "Unauthorized"


async def test_valid_keys_are_admitted_beside_a_thousand_unknown_ones_of_their_address() -> None:
    keys, clock = Keys(known="a"), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    assert await outcome_of(authenticator, "known") == "a"
    clock.now += CACHE_SECONDS
    guesses = [asyncio.create_task(outcome_of(authenticator, f"guess{number}")) for number in range(500)]
    await asyncio.sleep(0)
    keys.tenants[hash_of("fresh")] = "b"
    valid = [asyncio.create_task(outcome_of(authenticator, key)) for key in ("known", "fresh")]
    guesses += [asyncio.create_task(outcome_of(authenticator, f"guess{number}")) for number in range(500, 1000)]
    assert await asyncio.gather(*valid) == ["a", "b"]
    refused = await asyncio.gather(*guesses)
    assert (refused.count("Unauthorized"), refused.count("TooManyRequests")) == (60, 940)
    assert keys.asked == 60 + 2  # the limit, and the known key twice
    assert sum(keys.batches) <= MAX_BATCH


async def test_a_key_that_is_created_again_is_admitted_although_its_requests_used_up_the_limit() -> None:
    keys, clock = Keys(), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    for number in range(60):
        assert await outcome_of(authenticator, f"other{number}") == "Unauthorized"
    assert await outcome_of(authenticator, "again") == "TooManyRequests"
    keys.tenants[hash_of("again")] = "a"
    clock.now += UNKNOWN_SECONDS
    assert await outcome_of(authenticator, "guess") == "Unauthorized"  # takes the second's look-up
    assert await outcome_of(authenticator, "again") == "a"


async def test_valid_keys_use_up_no_look_ups_of_their_address() -> None:
    keys, clock = Keys(**{f"k{number}": "a" for number in range(100)}), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    for number in range(100):
        assert await outcome_of(authenticator, f"k{number}") == "a"
    assert await outcome_of(authenticator, "guess") == "Unauthorized"


async def test_look_ups_that_fail_with_the_store_use_up_none_of_their_address() -> None:
    class Broken(Keys):
        async def find(self, key_hash: str) -> ApiKey | None:
            raise StoreUnavailable("it cannot be reached")

    clock = Clock()
    failed = FailedKeys(60, monotonic=clock)
    broken = Authenticator(Principals(Broken(), monotonic=clock), failed)
    for number in range(60):
        with pytest.raises(StoreUnavailable):
            await outcome_of(broken, f"k{number}")
    recovered = Authenticator(Principals(Keys(), monotonic=clock), failed)
    assert await outcome_of(recovered, "guess") == "Unauthorized"


async def test_a_batch_of_look_ups_is_bounded() -> None:
    keys = Keys()
    authenticator = authenticator_of(Principals(keys))
    found = await asyncio.gather(*(outcome_of(authenticator, f"guess{number}") for number in range(60 + MAX_BATCH + 5)))
    assert found.count("TooManyRequests") == MAX_BATCH + 5
    assert (keys.asked, keys.batches) == (60, [MAX_BATCH])


async def test_a_store_that_fails_fails_all_requests_of_a_batch() -> None:
    class Broken(Keys):
        async def find_all(self, hashes: Sequence[str]) -> Mapping[str, ApiKey | None]:
            raise StoreUnavailable("it cannot be reached")

    principals = Principals(Broken())
    results = await asyncio.gather(
        *(principals.of_key(key, may_wait=True) for key in ("a", "b")), return_exceptions=True
    )
    assert [type(one) for one in results] == [StoreUnavailable] * 2


@pytest.mark.parametrize("key", ["alice", "guess"])
async def test_simultaneous_requests_with_one_key_share_a_look_up(key: str) -> None:
    keys = Keys(alice="a")
    authenticator = authenticator_of(Principals(keys))
    found = await asyncio.gather(*(outcome_of(authenticator, key) for _ in range(50)))
    assert set(found) == ({"a"} if key == "alice" else {"Unauthorized"})
    assert keys.asked == 1
    assert keys.noted == [hash_of("alice")] * (key == "alice")


async def test_a_client_that_disconnects_does_not_end_the_look_up_of_others() -> None:
    keys = Keys(alice="a")
    authenticator = authenticator_of(Principals(keys))
    first = asyncio.create_task(outcome_of(authenticator, "alice"))
    second = asyncio.create_task(outcome_of(authenticator, "alice"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "a"
    assert keys.asked == 1


async def test_a_key_that_was_revoked_is_limited_like_an_unknown_one() -> None:
    keys, clock = Keys(alice="a"), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    assert await outcome_of(authenticator, "alice") == "a"
    keys.tenants.clear()
    clock.now += CACHE_SECONDS
    for number in range(59):
        assert await outcome_of(authenticator, f"guess{number}") == "Unauthorized"
    assert await outcome_of(authenticator, "alice") == "Unauthorized"
    assert await outcome_of(authenticator, "alice") == "TooManyRequests"
    assert keys.batches == []


def test_what_is_remembered_of_failed_keys_is_bounded() -> None:
    failed = FailedKeys(1, monotonic=Clock())
    for number in range(MAX_REMEMBERED + 5):
        failed.note_unknown(str(number))
        assert failed.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert (failed.is_unknown("4"), failed.is_unknown("5")) == (False, True)
    assert (failed.take("10.0.0.4"), failed.take("10.0.0.10")) == (True, False)


async def test_the_limit_of_unknown_keys_can_be_off() -> None:
    failed = FailedKeys(0, monotonic=Clock())
    for _ in range(1000):
        assert failed.take("192.0.2.1")
        failed.check("192.0.2.1")


async def test_the_use_of_a_key_is_noted_once_a_minute() -> None:
    keys, clock = Keys(alice="a", bob="b"), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    for _ in range(int(USE_NOTE_SECONDS / CACHE_SECONDS)):
        await authenticator.principal_of(_headers(b"alice"))
        clock.now += CACHE_SECONDS
    assert keys.noted == [hash_of("alice")]
    for key in (b"alice", b"bob", b"alice", b"bob"):
        await authenticator.principal_of(_headers(key))
    assert keys.noted == [hash_of("alice"), hash_of("alice"), hash_of("bob")]


async def test_a_key_is_valid_while_its_use_cannot_be_noted() -> None:
    class ReadOnly(Keys):
        async def note_use(self, key_hash: str) -> None:
            raise StoreUnavailable("it is a read-only replica")

    authenticator = authenticator_of(Principals(ReadOnly(alice="a")))
    assert (await authenticator.principal_of(_headers(b"alice"))).tenant == "a"


async def test_what_is_remembered_is_bounded() -> None:
    keys, clock = Keys(**{f"k{index}": "t" for index in range(MAX_CACHED_KEYS + 5)}), Clock()
    principals = Principals(keys, monotonic=clock)
    authenticator = authenticator_of(principals)
    for index in range(MAX_CACHED_KEYS + 5):
        await authenticator.principal_of(_headers(b"k%d" % index))
    assert len(principals._valid) <= MAX_CACHED_KEYS


def test_a_tenant_gets_exactly_its_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(10, monotonic=clock)
    for _ in range(10):
        limiter.take("a")
    with pytest.raises(TooManyRequests) as caught:
        limiter.take("a")
    assert (caught.value.scope, caught.value.retry_after_seconds) == ("tenant", 1)
    clock.now += 0.5
    for _ in range(5):
        limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("a")


def test_one_tenant_does_not_use_up_anothers_rate() -> None:
    limiter = RateLimiter(1, monotonic=Clock())
    limiter.take("a")
    limiter.take("b")
    with pytest.raises(TooManyRequests):
        limiter.take("a")


def test_a_slow_rate_says_how_long_to_wait() -> None:
    clock = Clock()
    limiter = RateLimiter(0.1, monotonic=clock)
    limiter.take("a")
    with pytest.raises(TooManyRequests) as caught:
        limiter.take("a")
    assert caught.value.retry_after_seconds == 10
    clock.now += 10
    limiter.take("a")


def test_without_a_rate_nothing_is_counted() -> None:
    limiter = RateLimiter(0, monotonic=Clock())
    for _ in range(1000):
        limiter.take("a")
