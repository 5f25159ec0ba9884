"""An index knows its gaps after removals in any order, and finds every page among them."""

from collections.abc import Callable, Iterable
from random import Random

import pytest

from queue_engine.store.scripts import load_library, make_script
from tests.store.bench import Bench
from tests.store.consistency import BLOCK, FAN, LEVELS, block_gaps

ENTRIES = BLOCK * FAN * 3
REMOVED_AT_ONCE = 500
ADD = """\
-- Add entries with these numbers.
--
-- keys of an endpoint: created
-- arguments: first integer, last integer
-- replies:
--   OK
for number = first, last do index_add('all', created, 1, 't', text(number)) end
return { 'OK' }
"""
REMOVE = """\
-- Remove entries.
--
-- keys of an endpoint: created
-- arguments: numbers list of text
-- replies:
--   OK
for _, number in ipairs(numbers) do assert(index_remove('all', created, number)) end
return { 'OK' }
"""

Order = Callable[[range, Random], list[int]]


def _shuffled(numbers: Iterable[int], random: Random) -> list[int]:
    order = list(numbers)
    random.shuffle(order)
    return order


def _nearly_sorted(numbers: Iterable[int], random: Random) -> list[int]:
    return sorted(numbers, key=lambda number: number + random.random() * 100)


ORDERS: dict[str, Order] = {
    "oldest first": lambda numbers, random: list(numbers),
    "newest first": lambda numbers, random: list(reversed(numbers)),
    "any": _shuffled,
    "about oldest first": _nearly_sorted,
    "all between, then the oldest": lambda numbers, random: [
        *_shuffled(numbers[1:-1], random),
        numbers[0],
        numbers[-1],
    ],
    "all but a few, then these": lambda numbers, random: [
        *_shuffled((number for number in numbers if number % 700), random),
        *(number for number in numbers if not number % 700),
    ],
    "every other one": lambda numbers, random: [*numbers[::2], *numbers[1::2]],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("before", [0, *(BLOCK * FAN**level - 1500 for level in range(2, LEVELS))])
async def test_gaps_are_known_and_pages_found_whatever_goes(bench: Bench, order: str, before: int) -> None:
    """`before` is the number of entries that were added and removed before."""
    random, numbers = Random(before), range(before + 1, before + ENTRIES + 1)
    await bench.probe.ask("HSET", bench.keys.counts, "seq:all", before)
    await bench.probe.ask("EVAL", _text(ADD), 2, bench.keys.created, bench.keys.counts, numbers[0], numbers[-1])
    left, leaving = set(numbers), ORDERS[order](numbers, random)
    for first in range(0, ENTRIES, REMOVED_AT_ONCE):
        gone = leaving[first : first + REMOVED_AT_ONCE]
        await bench.probe.ask("EVAL", _text(REMOVE), 2, bench.keys.created, bench.keys.counts, *gone)
        left -= set(gone)
        assert await _gaps(bench) == block_gaps("all", left, numbers[-1])
        await _expect_pages(bench, sorted(left, reverse=True), random)
    assert await _gaps(bench) == {}


def _text(source: str) -> str:
    return make_script("example", source, load_library()).text


async def _expect_pages(bench: Bench, newest_first: list[int], random: Random) -> None:
    for _ in range(8):
        offset, size = random.randrange(len(newest_first) + 5), random.choice([1, 20, 100])
        ids, total = await bench.store.tasks._page_ids(bench.keys, None, offset, size)
        assert total == len(newest_first)
        assert [int(name) for name in ids] == newest_first[offset : offset + size], (offset, size)


async def _gaps(bench: Bench) -> dict[str, int]:
    counts = await bench.probe.hash(bench.keys.counts)
    return {name: int(value) for name, value in counts.items() if name.count(":") == 2}
