"""The admission of requests by their key, and its rate."""

import pytest

from queue_engine.api.http.auth import Authenticator
from queue_engine.api.http.failed_keys import MAX_REMEMBERED, UNKNOWN_SECONDS, FailedKeys
from queue_engine.api.http.rate_limit import RateLimiter
from queue_engine.domain.api_keys import ApiKey
from queue_engine.domain.errors import StoreUnavailable, TooManyRequests, Unauthorized
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

        self.noted: list[str] = []

    async def find(self, key_hash: str) -> ApiKey | None:
        self.asked += 1
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


async def test_unknown_keys_of_an_address_are_limited_before_the_store_is_asked() -> None:
    keys, clock = Keys(alice="a", bob="b"), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    await authenticator.principal_of(_headers(b"alice"), "192.0.2.1")
    for number in range(60):
        with pytest.raises(Unauthorized):
            await authenticator.principal_of(_headers(b"guess%d" % number), "192.0.2.1")
    asked = keys.asked
    for key in (b"guess", b"guess59", b"bob"):
        with pytest.raises(TooManyRequests, match="at most 60 requests a minute with an unknown key") as caught:
            await authenticator.principal_of(_headers(key), "192.0.2.1")
        assert (caught.value.scope, caught.value.retry_after_seconds) == ("address", 1)
    assert keys.asked == asked
    assert (await authenticator.principal_of(_headers(b"bob"), "192.0.2.2")).tenant == "b"
    clock.now += 0.5
    assert (await authenticator.principal_of(_headers(b"alice"), "192.0.2.1")).tenant == "a"
    clock.now += 0.5
    with pytest.raises(Unauthorized):
        await authenticator.principal_of(_headers(b"guess"), "192.0.2.1")


async def test_a_key_that_was_revoked_is_limited_like_an_unknown_one() -> None:
    keys, clock = Keys(alice="a"), Clock()
    authenticator = authenticator_of(Principals(keys, monotonic=clock), clock=clock)
    await authenticator.principal_of(_headers(b"alice"), "192.0.2.1")
    keys.tenants.clear()
    clock.now += CACHE_SECONDS
    for _ in range(60):
        with pytest.raises(Unauthorized):
            await authenticator.principal_of(_headers(b"alice"), "192.0.2.1")
    with pytest.raises(TooManyRequests):
        await authenticator.principal_of(_headers(b"alice"), "192.0.2.1")


def test_what_is_remembered_of_failed_keys_is_bounded() -> None:
    failed = FailedKeys(60, monotonic=Clock())
    for number in range(MAX_REMEMBERED + 5):
        failed.note_unknown(str(number), f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert (failed.is_unknown("4"), failed.is_unknown("5")) == (False, True)


async def test_the_limit_of_unknown_keys_can_be_off() -> None:
    failed = FailedKeys(0, monotonic=Clock())
    for _ in range(1000):
        failed.check("guess", "192.0.2.1")
        failed.note_unknown("guess", "192.0.2.1")


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
