"""Items that are gathered while a call is under way are sent in the next one, and fail one by one."""

import asyncio
from collections.abc import Sequence

import pytest

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.gatherer import Gatherer


class Store:
    """Returns the double of each of the first `at_once` numbers of a call, or an exception for one in `refused`."""

    def __init__(self, *, refused: frozenset[int] = frozenset(), at_once: int = 100) -> None:
        self.calls: list[list[int]] = []
        self.replies = asyncio.Event()
        self.error: Exception | None = None
        self._refused = refused
        self._at_once = at_once

    async def send(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.calls.append(list(numbers))
        await self.replies.wait()
        if self.error is not None:
            raise self.error
        return [ValueError() if one in self._refused else 2 * one for one in numbers[: self._at_once]]


async def test_items_that_come_during_a_call_are_sent_in_the_next_one() -> None:
    store = Store()
    gatherer = Gatherer(store.send, limit=3)
    first = [gatherer.add(number) for number in (1, 2)]
    await asyncio.sleep(0)
    later = [gatherer.add(number) for number in (3, 4, 5, 6)]
    store.replies.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8, 10, 12]
    assert store.calls == [[1, 2], [3, 4, 5], [6]]


async def test_an_item_that_is_refused_fails_alone() -> None:
    store = Store(refused=frozenset({2}))
    gatherer = Gatherer(store.send, limit=10)
    store.replies.set()
    results = await asyncio.gather(*map(gatherer.add, (1, 2, 3)), return_exceptions=True)
    assert results[0::2] == [2, 6]
    assert isinstance(results[1], ValueError)


async def test_an_error_of_a_call_is_the_error_of_all_its_items() -> None:
    store = Store()
    store.error = StoreUnavailable("it cannot be reached")
    gatherer = Gatherer(store.send, limit=10)
    store.replies.set()
    results = await asyncio.gather(*map(gatherer.add, (1, 2, 3)), return_exceptions=True)
    assert results == [store.error] * 3
    assert store.calls == [[1, 2, 3]]


async def test_items_without_a_result_are_sent_again() -> None:
    store = Store(at_once=2)
    gatherer = Gatherer(store.send, limit=10)
    store.replies.set()
    assert await asyncio.gather(*map(gatherer.add, range(5))) == [0, 2, 4, 6, 8]
    assert store.calls == [[0, 1, 2, 3, 4], [2, 3, 4], [4]]


async def test_a_cancelled_item_leaves_the_others_their_results() -> None:
    store = Store()
    gatherer = Gatherer(store.send, limit=10)
    cancelled, other = gatherer.add(1), gatherer.add(2)
    cancelled.cancel()
    store.replies.set()
    assert await other == 4
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert store.calls == [[1, 2]]
