"""Values that are read now and then, so that their use does not wait."""

import asyncio
from collections.abc import Sequence

import pytest

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.engine import refreshed
from queue_engine.engine.refreshed import Refreshed


class Source:
    """A source whose reads wait for `proceed`, with a clock."""

    def __init__(self) -> None:
        self.values: list[int | Exception] = []
        self.names: list[str] = []
        self.proceed = asyncio.Event()
        self.proceed.set()
        self.now = 0.0
        self.kept = Refreshed(self.read, 1.0, monotonic=lambda: self.now)

    async def read(self, name: str) -> int:
        self.names.append(name)
        value = self.values.pop(0)
        await self.proceed.wait()
        if isinstance(value, Exception):
            raise value
        return value

    async def settled(self) -> None:
        """Let reads in the background end."""
        for _ in range(5):
            await asyncio.sleep(0)


def _source(values: Sequence[int | Exception]) -> Source:
    source = Source()
    source.values = list(values)
    return source


async def test_the_first_use_waits_and_simultaneous_uses_share_its_read() -> None:
    source = _source([1])
    assert await asyncio.gather(*(source.kept.get("a") for _ in range(5))) == [1] * 5
    assert source.names == ["a"]


async def test_an_old_value_is_used_while_it_is_read_again() -> None:
    source = _source([1, 2])
    await source.kept.get("a")
    source.now = 0.9
    assert await source.kept.get("a") == 1
    await source.settled()
    assert source.names == ["a"]
    source.now = 1.0
    source.proceed.clear()
    assert [await source.kept.get("a"), await source.kept.get("a")] == [1, 1]
    source.proceed.set()
    await source.settled()
    assert (await source.kept.get("a"), source.names) == (2, ["a", "a"])


async def test_a_recent_value_is_waited_for_when_the_kept_one_is_old() -> None:
    source = _source([1, 2])
    assert [await source.kept.recent("a"), await source.kept.recent("a")] == [1, 1]
    source.now = 1.0
    assert await source.kept.recent("a") == 2


async def test_a_value_stays_while_it_cannot_be_read() -> None:
    source = _source([1, StoreUnavailable("away"), 2])
    await source.kept.get("a")
    for now, expected in ((1.0, 1), (1.0, 1), (1.0, 2)):
        source.now = now
        assert await source.kept.get("a") == expected
        await source.settled()


async def test_the_first_use_raises_the_error_of_its_read_and_the_next_reads_again() -> None:
    source = _source([StoreUnavailable("away"), 1])
    with pytest.raises(StoreUnavailable):
        await source.kept.get("a")
    assert await source.kept.get("a") == 1


async def test_a_forgotten_value_is_read_before_its_next_use() -> None:
    source = _source([1, 2])
    await source.kept.get("a")
    source.kept.forget("a")
    assert await source.kept.get("a") == 2


async def test_a_read_that_began_before_its_name_was_forgotten_is_not_kept() -> None:
    source = _source([1, 2])
    source.proceed.clear()
    first = asyncio.create_task(source.kept.get("a"))
    await source.settled()
    source.kept.forget("a")
    second = asyncio.create_task(source.kept.get("a"))
    await source.settled()
    source.proceed.set()
    assert (await first, await second) == (1, 2)
    assert await source.kept.get("a") == 2


async def test_a_cancelled_use_does_not_end_the_read_of_the_others() -> None:
    source = _source([1])
    source.proceed.clear()
    first, second = (asyncio.create_task(source.kept.get("a")) for _ in range(2))
    await source.settled()
    first.cancel()
    source.proceed.set()
    assert await second == 1


async def test_the_number_of_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refreshed, "MAX_VALUES", 2)
    source = _source([1, 2, 3, 4])
    for name in "abc":
        await source.kept.get(name)
    assert len(source.kept._kept) == 1
