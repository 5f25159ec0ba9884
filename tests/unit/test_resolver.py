"""The caching resolver, on scripted look-ups and a clock of its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from queue_engine.net.resolver import CachingResolver, NameNotResolved, NoAnswer, ResolverLimits
from tests.waiting import wait_until_async

LOOKUPS_EACH = ResolverLimits().lookups_each


class ScriptedLookup:
    """Answers with the next entry of the name's script; the last one repeats. An empty entry is a failure."""

    def __init__(self, scripts: dict[str, list[list[str]]]) -> None:
        self.scripts = scripts
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = 0

    async def addresses(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        await self.gate.wait()
        script = self.scripts.get(name, [[]])
        answer = script.pop(0) if len(script) > 1 else script[0]
        if not answer:
            raise OSError("no such name")
        return answer

    async def close(self) -> None:
        self.closed += 1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    def __init__(self, lookup_seconds: float = 30.0) -> None:
        self.clock = Clock()
        self.lookup = ScriptedLookup(
            {"a.example": [["192.0.2.1"], ["192.0.2.2"]], "both.example": [["192.0.2.1", "2001:db8::1"]]}
        )
        self.resolver = CachingResolver(
            self.lookup, ResolverLimits(lookup_seconds=lookup_seconds, names=3), monotonic=self.clock
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.resolver.close()


async def test_an_address_is_cached_for_thirty_seconds(bench: Bench) -> None:
    assert await bench.resolver.addresses("a.example") == ("192.0.2.1",)
    bench.clock.now += 29.9
    assert await bench.resolver.addresses("A.Example.") == ("192.0.2.1",)
    bench.clock.now += 0.1
    assert await bench.resolver.addresses("a.example") == ("192.0.2.2",)
    assert bench.lookup.asked == ["a.example", "a.example"]


async def test_a_failure_is_remembered_for_five_seconds(bench: Bench) -> None:
    for pause in (0, 4.9, 0.1):
        bench.clock.now += pause
        with pytest.raises(NameNotResolved):
            await bench.resolver.addresses("nowhere.example")
    assert len(bench.lookup.asked) == 2


async def test_a_look_up_that_takes_too_long_is_a_failure() -> None:
    bench = Bench(lookup_seconds=0.02)
    bench.lookup.gate.clear()
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(NoAnswer):
            await bench.resolver.addresses("a.example")


async def test_a_name_without_an_address_is_distinguished_from_a_server_that_does_not_respond(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(NameNotResolved) as refused:
            await bench.resolver.addresses("nowhere.example")
        assert not isinstance(refused.value, NoAnswer)


async def test_many_waiters_ask_once(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.resolver.addresses("a.example") for _ in range(50)))
    assert set(answers) == {("192.0.2.1",)}
    assert bench.lookup.asked == ["a.example"]


async def test_a_waiter_that_leaves_does_not_end_the_look_up_of_the_others(bench: Bench) -> None:
    bench.lookup.gate.clear()
    first, second = (asyncio.create_task(bench.resolver.addresses("a.example")) for _ in range(2))
    await wait_until_async(lambda: bench.lookup.asked)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    bench.lookup.gate.set()
    assert await second == ("192.0.2.1",)


async def test_one_slow_name_does_not_delay_another(bench: Bench) -> None:
    bench.lookup.gate.clear()
    slow = asyncio.create_task(bench.resolver.addresses("a.example"))
    await wait_until_async(lambda: bench.lookup.asked)
    bench.lookup.gate = asyncio.Event()
    bench.lookup.gate.set()
    assert await bench.resolver.addresses("both.example")
    assert not slow.done()
    slow.cancel()


async def test_cached_names_never_exceed_the_limit(bench: Bench) -> None:
    for name in ("a.example", "b.example", "c.example", "d.example", "e.example"):
        await asyncio.gather(bench.resolver.addresses(name), return_exceptions=True)
    for name, times in (("b.example", 2), ("e.example", 1)):
        with pytest.raises(NameNotResolved):
            await bench.resolver.addresses(name)
        assert bench.lookup.asked.count(name) == times, "the oldest is forgotten"
    for number in range(4):
        bench.lookup.scripts[f"{number}.example"] = [["192.0.2.9"]]
        await bench.resolver.addresses(f"{number}.example")
    await bench.resolver.addresses("a.example")
    assert bench.lookup.asked.count("a.example") == 2


async def test_names_without_an_address_displace_no_addresses(bench: Bench) -> None:
    await bench.resolver.addresses("a.example")
    for number in range(20):
        with pytest.raises(NameNotResolved):
            await bench.resolver.addresses(f"nowhere{number}.example")
    await bench.resolver.addresses("a.example")
    assert bench.lookup.asked.count("a.example") == 1


async def test_names_of_one_owner_that_hang_do_not_delay_those_of_another(bench: Bench) -> None:
    bench.lookup.gate.clear()
    hanging = [
        asyncio.create_task(bench.resolver.addresses(f"hangs{number}.example", "a tenant")) for number in range(100)
    ]
    await wait_until_async(lambda: len(bench.lookup.asked) >= LOOKUPS_EACH)
    other = asyncio.create_task(bench.resolver.addresses("a.example", "another tenant"))
    await wait_until_async(lambda: "a.example" in bench.lookup.asked)
    assert len(bench.lookup.asked) == LOOKUPS_EACH + 1, "the others wait for their turn"
    bench.lookup.gate.set()
    assert await other == ("192.0.2.1",)
    results = await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(one) for one in results} == {NameNotResolved}
    assert len(bench.lookup.asked) == 101


async def test_callers_that_leave_free_the_turns_of_their_owner(bench: Bench) -> None:
    bench.lookup.gate.clear()
    hanging = [asyncio.create_task(bench.resolver.addresses(f"hangs{number}.example", "t")) for number in range(100)]
    await wait_until_async(lambda: len(bench.lookup.asked) >= LOOKUPS_EACH)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    bench.lookup.gate.set()
    assert await bench.resolver.addresses("a.example", "t") == ("192.0.2.1",)
    assert len(bench.lookup.asked) == LOOKUPS_EACH + 1
    await wait_until_async(lambda: not bench.resolver._owners)


async def test_a_lookup_of_a_busy_owner_ends_like_one_without_a_response() -> None:
    bench = Bench(lookup_seconds=0.02)
    bench.lookup.gate.clear()
    bench.lookup.scripts.clear()
    results = await asyncio.gather(
        *(bench.resolver.addresses(f"hangs{n}.example", "t") for n in range(10 * LOOKUPS_EACH)), return_exceptions=True
    )
    assert {type(one) for one in results} == {NoAnswer}
    assert len(bench.lookup.asked) < 10 * LOOKUPS_EACH
    assert not bench.resolver._owners


async def test_a_name_that_several_callers_of_a_busy_owner_wait_for_is_asked_once(bench: Bench) -> None:
    bench.lookup.gate.clear()
    hanging = [asyncio.create_task(bench.resolver.addresses(f"hangs{n}.example", "t")) for n in range(LOOKUPS_EACH)]
    waiting = [asyncio.create_task(bench.resolver.addresses("a.example", "t")) for _ in range(5)]
    await wait_until_async(lambda: len(bench.lookup.asked) >= LOOKUPS_EACH)
    bench.lookup.gate.set()
    assert await asyncio.gather(*waiting) == [("192.0.2.1",)] * 5
    assert bench.lookup.asked.count("a.example") == 1
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_the_latest_addresses_are_known_without_a_lookup(bench: Bench) -> None:
    assert bench.resolver.seen("a.example") == ()
    await bench.resolver.addresses("a.example")
    bench.clock.now += 1000.0
    assert bench.resolver.seen("A.example.") == ("192.0.2.1",)
    assert bench.resolver.seen("192.0.2.7") == ("192.0.2.7",)
    assert bench.lookup.asked == ["a.example"]


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "a.localhost"])
async def test_localhost_is_not_looked_up(bench: Bench, name: str) -> None:
    assert await bench.resolver.addresses(name) == ("127.0.0.1", "::1")
    assert bench.lookup.asked == []


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
async def test_an_address_is_not_looked_up(bench: Bench, address: str) -> None:
    assert await bench.resolver.addresses(address) == (address,)
    assert bench.lookup.asked == []


async def test_closing_stops_what_is_under_way(bench: Bench) -> None:
    bench.lookup.gate.clear()
    waiter = asyncio.create_task(bench.resolver.addresses("a.example"))
    await wait_until_async(lambda: bench.lookup.asked)
    await bench.resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert bench.lookup.closed == 1
